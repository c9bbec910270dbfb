"""The local cloud's Cloud Monitoring, judged by Google's unmodified client and by our gateway on top of it."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import monitoring_v3
from google.cloud.monitoring_v3.services.metric_service.transports import MetricServiceGrpcTransport

from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable
from dualdeploy.google.monitoring import MonitoringGateway, Served
from local_cloud.faults import Faults
from local_cloud.monitoring import Monitoring
from local_cloud.monitoring.requests import Requests

PROJECT = "demo-dualdeploy"
NOON = datetime.datetime(2026, 11, 25, 12, 0, tzinfo=datetime.UTC)
METRIC = "aiplatform.googleapis.com/prediction/online"
Aligner, Reducer = monitoring_v3.Aggregation.Aligner, monitoring_v3.Aggregation.Reducer


class Side:
    """A running Cloud Monitoring, and what it was fed with: seconds after noon."""

    def __init__(self) -> None:
        self.second = 0.0
        self.faults = Faults()
        self.requests = Requests(lambda: NOON.timestamp() + self.second)
        self.waiting: dict[str, tuple[int, float]] = {}
        self.server = Monitoring(
            faults=self.faults, project=PROJECT, requests=self.requests, waiting=lambda: self.waiting
        ).start()
        self.gateway = MonitoringGateway(project=PROJECT, emulator_host=self.server.address)
        transport = MetricServiceGrpcTransport(channel=grpc.insecure_channel(self.server.address))
        self.client = monitoring_v3.MetricServiceClient(transport=transport)

    def serve(self, deployed: str, milliseconds: float, *, at: float, is_error: bool = False) -> None:
        self.second = at
        self.requests.note("flowers", deployed, seconds=milliseconds / 1000, is_error=is_error)

    def list(self, metric: str, *, seconds: float = 120.0, more: str = "", **aggregation: object) -> list[object]:
        request = {
            "name": f"projects/{PROJECT}",
            "filter": f'metric.type = "{METRIC}/{metric}"{more}',
            "interval": {"start_time": NOON, "end_time": NOON + datetime.timedelta(seconds=seconds)},
            "aggregation": aggregation,
        }
        return list(self.client.list_time_series(request=request, timeout=10))


@pytest.fixture
def side() -> Iterator[Side]:
    side = Side()
    yield side
    side.server.close()


def served(side: Side, deployed: str = "1", seconds: float = 120.0) -> Served:
    return side.gateway.served("flowers", deployed, since=NOON, until=NOON + datetime.timedelta(seconds=seconds))


def test_requests_are_counted_by_deployed_model_within_the_interval(side: Side) -> None:
    for second in (10, 20, 130):
        side.serve("1", 40, at=second)
    side.serve("2", 40, at=30)
    counts = {
        series.metric.labels["deployed_model_id"]: series.points[0].value.int64_value
        for series in side.list("prediction_count")
    }
    assert counts == {"1": 2, "2": 1}
    (series,) = side.list("prediction_count", more=' AND metric.labels.deployed_model_id = "2"')
    assert series.resource.type == "aiplatform.googleapis.com/Endpoint"
    assert series.resource.labels["endpoint_id"] == "flowers"
    assert side.list("prediction_count", more=' AND resource.labels.endpoint_id = "other"') == []


def test_latencies_are_a_distribution_unless_they_are_aligned_to_a_percentile(side: Side) -> None:
    for second in range(1, 101):
        side.serve("1", second, at=second)
    (series,) = side.list("prediction_latencies")
    assert series.points[0].value.distribution_value.count == 100
    assert series.points[0].value.distribution_value.mean == 50.5
    period = datetime.timedelta(seconds=120)
    (series,) = side.list(
        "prediction_latencies", alignment_period=period, per_series_aligner=Aligner.ALIGN_PERCENTILE_95
    )
    assert series.points[0].value.double_value == 95


def test_counts_of_several_models_are_reduced_to_one(side: Side) -> None:
    side.serve("1", 40, at=10)
    side.serve("2", 40, at=20)
    (series,) = side.list(
        "prediction_count",
        alignment_period=datetime.timedelta(seconds=60),
        per_series_aligner=Aligner.ALIGN_SUM,
        cross_series_reducer=Reducer.REDUCE_SUM,
    )
    assert series.points[0].value.int64_value == 2


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"filter": 'resource.type = "x"'}, exceptions.InvalidArgument),
        ({"filter": f'metric.type = "{METRIC}/prediction_count" OR x'}, exceptions.InvalidArgument),
        ({"filter": 'metric.type = "made.up/metric"'}, exceptions.NotFound),
        ({"interval": {}}, exceptions.InvalidArgument),
        ({"name": "projects/another"}, exceptions.InvalidArgument),
        (
            {
                "aggregation": {
                    "alignment_period": datetime.timedelta(seconds=59),
                    "per_series_aligner": Aligner.ALIGN_SUM,
                }
            },
            exceptions.InvalidArgument,
        ),
    ],
)
def test_what_cannot_be_answered_is_refused(
    side: Side, changes: dict[str, object], error: type[exceptions.GoogleAPICallError]
) -> None:
    request = {
        "name": f"projects/{PROJECT}",
        "filter": f'metric.type = "{METRIC}/prediction_count"',
        "interval": {"start_time": NOON, "end_time": NOON + datetime.timedelta(minutes=1)},
        **changes,
    }
    with pytest.raises(error):
        list(side.client.list_time_series(request=request, timeout=10))


# Our gateway ---------------------------------------------------------------------------------------------------


def test_what_a_model_served_is_told_with_its_failures_and_its_latency(side: Side) -> None:
    for second in range(1, 21):
        side.serve("1", second * 10, at=second, is_error=second == 20)
    side.serve("2", 9000, at=21, is_error=True)
    assert served(side) == Served(requests=20, errors=1, p95_seconds=0.19)
    assert served(side).error_rate == 0.05


def test_of_a_model_that_served_nothing_there_is_nothing(side: Side) -> None:
    side.serve("2", 10, at=1)
    assert served(side) == Served(requests=0, errors=0, p95_seconds=None)


def test_what_waits_is_counted_for_the_subscription_that_is_named_alone(side: Side) -> None:
    side.waiting = {"projects/p/subscriptions/dead-letters": (2, 5.0), "projects/p/subscriptions/tick": (7, 1.0)}
    assert side.gateway.waiting("dead-letters", at=NOON) == 2
    assert side.gateway.waiting("nobody", at=NOON) == 0


def test_an_unavailable_monitoring_and_one_that_refuses_are_told_apart(side: Side) -> None:
    side.faults.add({"monitoring.listTimeSeries": ["return-503", "return-400"]})
    with pytest.raises(ServiceUnavailable):
        served(side)
    with pytest.raises(RejectedByGoogle):
        served(side)


def test_where_nothing_listens_it_is_unavailable(side: Side) -> None:
    side.server.close()
    with pytest.raises(ServiceUnavailable):
        MonitoringGateway(project=PROJECT, emulator_host=side.server.address, call_timeout=2).served(
            "flowers", "1", since=NOON, until=NOON + datetime.timedelta(minutes=1)
        )
