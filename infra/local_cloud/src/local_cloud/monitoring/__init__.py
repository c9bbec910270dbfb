"""Cloud Monitoring v3 (gRPC), as far as it tells what was served and what waits."""

from local_cloud.monitoring.service import Monitoring

ABSENT = (
    "every metric but three of online prediction (`prediction_count`, `error_count`, `prediction_latencies`)",
    "every metric but two of subscriptions (`num_undelivered_messages`, `oldest_unacked_message_age`)",
    "writing time series, metric descriptors, alerts, MQL and PromQL",
)

__all__ = ["ABSENT", "Monitoring"]
