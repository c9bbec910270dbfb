"""From requests to time series, as `timeSeries.list` gives them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from google.api.metric_pb2 import MetricDescriptor
from google.cloud.monitoring_v3 import types

from local_cloud.api import ApiError
from local_cloud.monitoring.requests import Request

PREFIX = "aiplatform.googleapis.com/prediction/online/"
SUBSCRIPTION = "pubsub.googleapis.com/subscription/"
RESOURCE = "aiplatform.googleapis.com/Endpoint"
PUBSUB_RESOURCE = "pubsub_subscription"

_TERM = re.compile(r'\s*(metric|resource)\.(?:(type)|labels?\.(\w+))\s*=\s*"([^"]*)"\s*')

TimeSeries: Any = types.TimeSeries.pb()
ListRequest: Any = types.ListTimeSeriesRequest.pb()
ListResponse: Any = types.ListTimeSeriesResponse.pb()
Aligner: Any = types.Aggregation.Aligner
Reducer: Any = types.Aggregation.Reducer
_PERCENTILES = {Aligner.ALIGN_PERCENTILE_99: 0.99, Aligner.ALIGN_PERCENTILE_95: 0.95, Aligner.ALIGN_PERCENTILE_50: 0.5}


def invalid(message: str) -> ApiError:
    return ApiError(400, "INVALID_ARGUMENT", message)


def parse_filter(text: str) -> dict[str, str]:
    """`metric.type = "…" AND resource.labels.x = "…"` as a mapping; a metric.type is required.

    Raises ApiError for everything else that Google's filters can say.
    """
    terms: dict[str, str] = {}
    for part in text.split(" AND "):
        match = _TERM.fullmatch(part)
        if not match:
            raise invalid(f"The local cloud does not understand the filter at {part!r}.")
        terms[f"{match[1]}.{match[2] or match[3]}"] = match[4]
    if "metric.type" not in terms:
        raise invalid('Field filter had an invalid value: must specify a single metric.type="…".')
    return terms


def series_of(requests: Sequence[Request], terms: dict[str, str], request: Any, *, project: str) -> list[Any]:
    """One series for each deployed model that matches; those without a point are left out, as Google does."""
    metric = terms["metric.type"].removeprefix(PREFIX)
    if metric not in ("prediction_count", "error_count", "prediction_latencies"):
        raise ApiError(404, "NOT_FOUND", f"Cannot find metric(s) that match type = {terms['metric.type']!r}.")
    if terms.get("resource.type", RESOURCE) != RESOURCE:
        return []
    by_model: dict[tuple[str, str], list[Request]] = {}
    for each in requests:
        is_wanted = terms.get("resource.endpoint_id", each.endpoint) == each.endpoint
        is_wanted = is_wanted and terms.get("metric.deployed_model_id", each.deployed) == each.deployed
        if is_wanted and (metric != "error_count" or each.is_error):
            by_model.setdefault((each.endpoint, each.deployed), []).append(each)
    return [_series(metric, key, group, request, project=project) for key, group in sorted(by_model.items()) if group]


def waiting_of(
    waiting: Mapping[str, tuple[int, float]], terms: dict[str, str], request: Any, *, project: str
) -> list[Any]:
    """What waits in each subscription now, as the one point of the interval: messages, or seconds of the oldest."""
    metric = terms["metric.type"].removeprefix(SUBSCRIPTION)
    if metric not in ("num_undelivered_messages", "oldest_unacked_message_age"):
        raise ApiError(404, "NOT_FOUND", f"Cannot find metric(s) that match type = {terms['metric.type']!r}.")
    found: list[Any] = []
    if terms.get("resource.type", PUBSUB_RESOURCE) != PUBSUB_RESOURCE:
        return found
    for name, (count, age) in waiting.items():
        subscription = name.rsplit("/", 1)[-1]
        if terms.get("resource.subscription_id", subscription) != subscription:
            continue
        series = TimeSeries()
        series.metric.type = terms["metric.type"]
        series.metric_kind, series.value_type = MetricDescriptor.GAUGE, MetricDescriptor.INT64
        series.resource.type = PUBSUB_RESOURCE
        series.resource.labels.update({"project_id": project, "subscription_id": subscription})
        point = series.points.add()
        point.interval.CopyFrom(request.interval)
        point.value.int64_value = count if metric == "num_undelivered_messages" else int(age)
        found.append(series)
    return found


def _series(metric: str, key: tuple[str, str], group: Sequence[Request], request: Any, *, project: str) -> Any:
    series = TimeSeries()
    series.metric.type = PREFIX + metric
    series.metric.labels["deployed_model_id"] = key[1]
    series.resource.type = RESOURCE
    series.resource.labels.update({"project_id": project, "endpoint_id": key[0]})
    point = series.points.add()
    point.interval.CopyFrom(request.interval)
    aligner = request.aggregation.per_series_aligner
    series.metric_kind = MetricDescriptor.DELTA
    if metric == "prediction_latencies":
        _put_latency(series, point, sorted(each.milliseconds for each in group), aligner)
    elif aligner in (Aligner.ALIGN_NONE, Aligner.ALIGN_SUM, Aligner.ALIGN_DELTA):
        series.value_type = MetricDescriptor.INT64
        point.value.int64_value = len(group)
    else:
        raise invalid(f"The local cloud does not align counts by {Aligner(aligner).name}.")
    return series


def _put_latency(series: Any, point: Any, milliseconds: Sequence[float], aligner: int) -> None:
    if aligner in _PERCENTILES:
        series.metric_kind, series.value_type = MetricDescriptor.GAUGE, MetricDescriptor.DOUBLE
        # Exact, where Google interpolates between the bounds of a distribution's buckets.
        rank = math.ceil(_PERCENTILES[aligner] * len(milliseconds)) - 1
        point.value.double_value = milliseconds[rank]
    elif aligner in (Aligner.ALIGN_NONE, Aligner.ALIGN_DELTA):
        series.value_type = MetricDescriptor.DISTRIBUTION
        point.value.distribution_value.count = len(milliseconds)
        point.value.distribution_value.mean = sum(milliseconds) / len(milliseconds)
    else:
        raise invalid(f"The local cloud does not align distributions by {Aligner(aligner).name}.")


def reduced(series: Sequence[Any], reducer: int) -> list[Any]:
    """All series as one, by the reducers that make sense of a count or of a percentile."""
    if reducer == Reducer.REDUCE_NONE or not series:
        return list(series)
    if reducer not in (Reducer.REDUCE_SUM, Reducer.REDUCE_MAX):
        raise invalid(f"The local cloud does not reduce series by {Reducer(reducer).name}.")
    combine = sum if reducer == Reducer.REDUCE_SUM else max
    one = TimeSeries()
    one.CopyFrom(series[0])
    one.metric.labels.clear()
    one.resource.labels.pop("endpoint_id", None)
    field = one.points[0].value.WhichOneof("value")
    if field == "distribution_value":
        raise invalid("Distributions must be aligned to a percentile before they are reduced.")
    setattr(one.points[0].value, field, combine(getattr(each.points[0].value, field) for each in series))
    return [one]
