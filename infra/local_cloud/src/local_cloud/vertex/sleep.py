"""Scale to zero (Preview): a deployed model without a machine, which the first request wakes and is dropped by.

Source: "Scale To Zero" in Vertex AI's documentation of autoscaling, and DedicatedResources of v1beta1.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from local_cloud.api import ApiError
from local_cloud.vertex.bodies import whole_number
from local_cloud.vertex.errors import failed_precondition, invalid_argument
from local_cloud.vertex.names import last_segment, seconds

_SHORTEST, _LONGEST = 300.0, 28800.0
_PERIODS = ("idleScaledownPeriod", "minScaleupPeriod")
_NOT_READY = "Model is not yet ready for inference. Please wait and then try your request again."


def written_out(deployed: Mapping[str, Any]) -> dict[str, Any]:
    """A DeployedModel with its least number of replicas, which JSON leaves out when it is 0."""
    resources = deployed.get("dedicatedResources")
    return dict(deployed) | ({"dedicatedResources": {"minReplicaCount": 0, **resources}} if resources else {})


def sleeps(deployed: Mapping[str, Any]) -> bool:
    """Whether a DeployedModel may have no replica."""
    resources = deployed.get("dedicatedResources") or {}
    return whole_number(resources.get("minReplicaCount"), "min_replica_count", default=1) == 0


def check(resources: Mapping[str, Any]) -> None:
    """Refuse dedicated resources without a least replica that Vertex AI refuses.

    Raises:
        ApiError: 400 for replica counts or periods out of their ranges.
    """
    largest = whole_number(resources.get("maxReplicaCount"), "max_replica_count", default=1)
    first = whole_number(resources.get("initialReplicaCount"), "initial_replica_count", default=1)
    if not 1 <= first <= largest:
        raise invalid_argument(f"initial_replica_count must be from 1 to max_replica_count {largest}, got {first}.")
    for period in _PERIODS:
        length = _period(resources, period)
        if not _SHORTEST <= length <= _LONGEST:
            raise invalid_argument(f"scale_to_zero_spec.{period} must be from 300s to 28800s, got {length:g}s.")


def refuse_company(endpoint: Mapping[str, Any], deployed: Mapping[str, Any]) -> None:
    """Refuse what sleeps anywhere but alone on a dedicated endpoint, and everything beside it.

    Raises:
        ApiError: 400 naming who is there.
    """
    others = endpoint["deployedModels"]
    if sleeps(deployed) and not endpoint.get("dedicatedEndpointEnabled"):
        raise failed_precondition(f"Scale to zero is not supported on the shared Endpoint {endpoint['name']}.")
    if others and any(map(sleeps, [deployed, *others])):
        there = ", ".join(other["id"] for other in others)
        raise failed_precondition(
            f"Scale to zero allows one DeployedModel on an Endpoint; {endpoint['name']} has [{there}]."
        )


class Sleepers:
    """Who was asked when: one request after `idleScaledownPeriod` is dropped, and those of `wake_seconds` after it.

    In memory: after a restart of the local cloud everybody is awake. The process of the model server stays.
    """

    def __init__(self, *, wake_seconds: float, clock: Callable[[], float]) -> None:
        self._wake_seconds = wake_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._asked: dict[tuple[str, str], float] = {}
        self._awake_from: dict[tuple[str, str], float] = {}

    def deployed(self, key: tuple[str, str]) -> None:
        """A deployment begins with its replicas up."""
        with self._lock:
            self._asked[key] = self._awake_from[key] = self._clock()

    def ask(self, endpoint: Mapping[str, Any], deployed: Mapping[str, Any]) -> None:
        """Count a request.

        Raises:
            ApiError: 429 while the model has no replica.
        """
        if not sleeps(deployed):
            return
        key, now = (endpoint["name"], deployed["id"]), self._clock()
        idle, warm = (_period(deployed["dedicatedResources"], period) for period in _PERIODS)
        with self._lock:
            asked, awake_from = self._asked.get(key, now), self._awake_from.get(key, now)
            self._asked[key] = now
            if now - asked >= idle and now - awake_from >= warm:
                awake_from = self._awake_from[key] = now + self._wake_seconds
        if now < awake_from:
            raise ApiError(429, "RESOURCE_EXHAUSTED", f"{_NOT_READY} ({last_segment(endpoint['name'])})")


def _period(resources: Mapping[str, Any], period: str) -> float:
    given = (resources.get("scaleToZeroSpec") or {}).get(period)
    return seconds(given, f"scale_to_zero_spec.{period}") if given else 3600.0
