"""What Cloud Monitoring saw of a deployed model: all of its traffic, not only what we sent.

Google's client over gRPC, imported on first use. Vertex AI writes these metrics every minute and shows them up to three
minutes later, so an empty answer means "nothing yet".
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import math
from typing import Any, Protocol

from dualdeploy import lazily
from dualdeploy.google.calls import call

#: Seconds that one call may take.
CALL_TIMEOUT = 15.0

#: The shortest period that Cloud Monitoring aligns to, and the interval at which Vertex AI writes.
SHORTEST_PERIOD = 60.0

#: Source: https://cloud.google.com/monitoring/api/metrics_gcp_a_b#gcp-aiplatform
_METRICS = "aiplatform.googleapis.com/prediction/online"


@dataclasses.dataclass(frozen=True)
class Served:
    """Requests of a period, those that failed, and the 95th percentile in seconds (None: nothing was timed)."""

    requests: int
    errors: int
    p95_seconds: float | None = None

    @property
    def error_rate(self) -> float:
        """Whether failures count as predictions too is not documented: of both readings the stricter one."""
        return self.errors / max(self.requests, self.errors, 1)


class Monitoring(Protocol):
    """`FakeMonitoring` of the tests is the other implementation. Raises what `google.errors` makes of the answer."""

    def served(
        self, endpoint_id: str, deployed_id: str, *, since: datetime.datetime, until: datetime.datetime
    ) -> Served: ...


class MonitoringGateway:
    """The real thing, or an emulator of it at `emulator_host` (`host:port`, plain gRPC, no credentials)."""

    def __init__(self, *, project: str, emulator_host: str = "", call_timeout: float = CALL_TIMEOUT) -> None:
        self._project = project
        self._emulator_host = emulator_host
        self._call_timeout = call_timeout

    def served(
        self, endpoint_id: str, deployed_id: str, *, since: datetime.datetime, until: datetime.datetime
    ) -> Served:
        """All traffic of one deployed model between two moments, a period of at least a minute."""
        types = lazily.load("google.cloud.monitoring_v3.types")

        def ask(metric: str, aligner: Any, reducer: Any) -> list[float]:
            aggregation = types.Aggregation(
                # Whole minutes; one more than the period has, so that all of it falls into one.
                alignment_period=datetime.timedelta(seconds=SHORTEST_PERIOD * _minutes(since, until)),
                per_series_aligner=aligner,
                cross_series_reducer=reducer,
            )
            series = self._list(metric, endpoint_id, deployed_id, aggregation, since=since, until=until)
            return [_number(point.value) for each in series for point in each.points]

        aligners, reducers = types.Aggregation.Aligner, types.Aggregation.Reducer
        # Latencies come in kinds (of the model, of what is around it): the slowest kind counts, in milliseconds.
        latencies = ask("prediction_latencies", aligners.ALIGN_PERCENTILE_95, reducers.REDUCE_MAX)
        return Served(
            requests=round(sum(ask("prediction_count", aligners.ALIGN_SUM, reducers.REDUCE_SUM))),
            errors=round(sum(ask("error_count", aligners.ALIGN_SUM, reducers.REDUCE_SUM))),
            p95_seconds=max(latencies) / 1000 if latencies else None,
        )

    def waiting(self, subscription: str, *, at: datetime.datetime) -> int:
        """How many messages of a subscription nobody has taken, as Pub/Sub last said it in the ten minutes before `at`.

        Source: https://cloud.google.com/monitoring/api/metrics_gcp_p_z#gcp-pubsub
        """
        types = lazily.load("google.cloud.monitoring_v3.types")
        metric = "pubsub.googleapis.com/subscription/num_undelivered_messages"
        wanted = f'metric.type = "{metric}" AND resource.labels.subscription_id = "{subscription}"'
        request = types.ListTimeSeriesRequest(
            name=f"projects/{self._project}",
            filter=wanted,
            interval=types.TimeInterval(start_time=at - datetime.timedelta(minutes=10), end_time=at),
            view=types.ListTimeSeriesRequest.TimeSeriesView.FULL,
        )
        found = self._call(f"list {metric} of {subscription}", request)
        return round(sum(_number(each.points[0].value) for each in found if each.points))

    def _list(
        self,
        metric: str,
        endpoint_id: str,
        deployed_id: str,
        aggregation: Any,
        *,
        since: datetime.datetime,
        until: datetime.datetime,
    ) -> list[Any]:
        types = lazily.load("google.cloud.monitoring_v3.types")
        wanted = (
            f'metric.type = "{_METRICS}/{metric}" AND resource.type = "aiplatform.googleapis.com/Endpoint"'
            f' AND resource.labels.endpoint_id = "{endpoint_id}" AND metric.labels.deployed_model_id = "{deployed_id}"'
        )
        request = types.ListTimeSeriesRequest(
            name=f"projects/{self._project}",
            filter=wanted,
            interval=types.TimeInterval(start_time=since, end_time=until),
            aggregation=aggregation,
            view=types.ListTimeSeriesRequest.TimeSeriesView.FULL,
        )
        return self._call(f"list {metric} of {deployed_id}", request)

    def _call(self, what: str, request: Any) -> list[Any]:
        def listed() -> list[Any]:
            # Not repeated: whoever asks does so again at the next tick.
            return list(self._client.list_time_series(request=request, timeout=self._call_timeout, retry=None))

        return call(f"Cloud Monitoring, {what}", listed)

    @functools.cached_property
    def _client(self) -> Any:
        monitoring = lazily.load("google.cloud.monitoring_v3")
        if not self._emulator_host:
            return monitoring.MetricServiceClient()
        transports = lazily.load("google.cloud.monitoring_v3.services.metric_service.transports")
        channel = lazily.load("grpc").insecure_channel(self._emulator_host)
        return monitoring.MetricServiceClient(transport=transports.MetricServiceGrpcTransport(channel=channel))


def _minutes(since: datetime.datetime, until: datetime.datetime) -> int:
    return math.ceil(max((until - since).total_seconds(), 0.0) / SHORTEST_PERIOD) + 1


def _number(value: Any) -> float:
    """Sums of counts are integers, percentiles are not; of the one that is not set, 0 is read."""
    return float(value.int64_value or value.double_value)
