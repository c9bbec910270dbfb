"""Cloud Monitoring v3 (gRPC), as far as it tells what was served."""

from local_cloud.monitoring.service import Monitoring

ABSENT = (
    "every metric but `prediction_count`, `error_count` and `prediction_latencies` of online prediction",
    "writing time series, metric descriptors, alerts, MQL and PromQL",
)

__all__ = ["ABSENT", "Monitoring"]
