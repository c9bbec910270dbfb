"""Cloud Monitoring: how often each deployed model was asked, after examples/vertex_ai.py."""

from __future__ import annotations

import os
import time

import grpc
from google.cloud import monitoring_v3
from google.cloud.monitoring_v3.services.metric_service.transports import MetricServiceGrpcTransport


def main() -> None:
    channel = grpc.insecure_channel(os.environ["MONITORING_EMULATOR_HOST"])
    client = monitoring_v3.MetricServiceClient(transport=MetricServiceGrpcTransport(channel=channel))
    now = int(time.time())
    series = client.list_time_series(
        name=f"projects/{os.environ['GOOGLE_CLOUD_PROJECT']}",
        filter='metric.type = "aiplatform.googleapis.com/prediction/online/prediction_count"',
        interval={"start_time": {"seconds": now - 600}, "end_time": {"seconds": now + 60}},
    )
    asked = sum(point.value.int64_value for each in series for point in each.points)
    channel.close()
    print("predictions:", asked)


if __name__ == "__main__":
    main()
