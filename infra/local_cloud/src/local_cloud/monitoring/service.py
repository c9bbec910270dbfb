"""Cloud Monitoring as the local cloud runs it: one gRPC port, fed by what the model servers answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc

from local_cloud.api import Operation
from local_cloud.faults import Faults
from local_cloud.iam import Iam, refusals
from local_cloud.iam.gate import of_project
from local_cloud.monitoring import series
from local_cloud.monitoring.requests import Requests
from local_cloud.pubsub.rpc import RpcServers, RpcTable

_THREADS = 8


class Monitoring:
    """Cloud Monitoring for MONITORING_EMULATOR_HOST. Raises OSError when the port is taken.

    `note` of `requests` is what the Vertex AI of the local cloud calls for each answer of a model server;
    `waiting()` is Pub/Sub's unacknowledged messages and the age of the oldest, by subscription; `iam` judges callers
    (default: there is the owner alone).
    """

    def __init__(
        self,
        *,
        faults: Faults,
        project: str,
        requests: Requests,
        waiting: Callable[[], Mapping[str, tuple[int, float]]] = dict,
        port: int = 0,
        iam: Iam | None = None,
    ) -> None:
        iam = iam or Iam.of_one_owner()
        self._waiting = waiting
        self._project = project
        self._requests = requests
        self._table = RpcTable(
            faults=faults,
            gate=of_project(iam),
            deny=refusals.of_monitoring,
            package="google.monitoring.v3",
            api="monitoring",
        )
        self._table.unary(
            "MetricService",
            "ListTimeSeries",
            series.ListRequest,
            self._list,
            differs=(
                "three metrics of online prediction and two of subscriptions, seen at once; filters are equalities"
                " joined by AND; one point for the whole interval; order_by and paging are ignored; what was served"
                " before a restart is forgotten"
            ),
        )
        self._servers = RpcServers("Monitoring", (self._table,), callers=iam.callers, port=port, threads=_THREADS)
        self.address, self.addresses = self._servers.address, self._servers.addresses

    @property
    def operations(self) -> list[Operation]:
        """One row for COVERAGE.md per gRPC method."""
        return self._table.operations

    def start(self) -> Monitoring:
        self._servers.start()
        return self

    def close(self) -> None:
        self._table.stop()
        self._servers.stop()
        self._servers.close()

    def _list(self, request: Any, _context: grpc.ServicerContext) -> Any:
        if request.name != f"projects/{self._project}":
            raise series.invalid(f"Name {request.name!r} is not projects/{self._project}.")
        if not request.interval.HasField("end_time"):
            raise series.invalid("Field interval.end_time is required.")
        if request.aggregation.per_series_aligner and request.aggregation.alignment_period.seconds < 60:
            raise series.invalid("Field aggregation.alignmentPeriod must be at least 60 seconds.")
        end = _seconds(request.interval.end_time)
        start = _seconds(request.interval.start_time) if request.interval.HasField("start_time") else end - 60
        terms = series.parse_filter(request.filter)
        if terms["metric.type"].startswith(series.SUBSCRIPTION):
            answer = series.ListResponse()
            answer.time_series.extend(series.waiting_of(self._waiting(), terms, request, project=self._project))
            return answer
        found = series.series_of(self._requests.between(start, end), terms, request, project=self._project)
        answer = series.ListResponse()
        answer.time_series.extend(series.reduced(found, request.aggregation.cross_series_reducer))
        return answer


def _seconds(moment: Any) -> float:
    return float(moment.seconds + moment.nanos / 1e9)
