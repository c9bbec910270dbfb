"""Cloud Monitoring as the local cloud runs it: one gRPC port, fed by what the model servers answered."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from local_cloud.api import Operation
from local_cloud.faults import Faults
from local_cloud.http import LOOPBACK
from local_cloud.monitoring import series
from local_cloud.monitoring.requests import Requests
from local_cloud.pubsub.rpc import RpcTable

_THREADS = 8


class Monitoring:
    """Cloud Monitoring for MONITORING_EMULATOR_HOST. Raises OSError when the port is taken.

    `note` of `requests` is what the Vertex AI of the local cloud calls for each answer of a model server;
    `waiting()` is Pub/Sub's unacknowledged messages and the age of the oldest, by subscription.
    """

    def __init__(
        self,
        *,
        faults: Faults,
        project: str,
        requests: Requests,
        waiting: Callable[[], Mapping[str, tuple[int, float]]] = dict,
        port: int = 0,
    ) -> None:
        self._waiting = waiting
        self._project = project
        self._requests = requests
        self._table = RpcTable(faults=faults, package="google.monitoring.v3", api="monitoring")
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
        self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="monitoring-rpc")
        self._server = grpc.server(self._threads, handlers=(self._table,), options=(("grpc.so_reuseport", 0),))
        try:
            self.port: int = self._server.add_insecure_port(f"{LOOPBACK}:{port}")
        except RuntimeError as exc:
            raise OSError(f"Monitoring cannot listen on {LOOPBACK}:{port}: is another local cloud running?") from exc
        self.address = f"{LOOPBACK}:{self.port}"

    @property
    def operations(self) -> list[Operation]:
        """One row for COVERAGE.md per gRPC method."""
        return self._table.operations

    def start(self) -> Monitoring:
        self._server.start()
        return self

    def close(self) -> None:
        self._table.stop()
        self._server.stop(grace=0).wait(timeout=5)
        self._threads.shutdown(wait=True, cancel_futures=True)

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
