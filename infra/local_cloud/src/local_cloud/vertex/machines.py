"""The machines of Vertex AI with their accelerators, and the quotas that a job on them takes from.

The table is the product's own, which a test holds equal: neither may import the other.
"""

from __future__ import annotations

import collections
import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from local_cloud.api import ApiError
from local_cloud.vertex.bodies import whole_number
from local_cloud.vertex.errors import invalid_argument, invalid_field
from local_cloud.vertex.names import seconds

_TABLE = Path(__file__).with_name("machines.json")
_TRAINING = "aiplatform.googleapis.com/custom_model_training_"
_SERVING = "aiplatform.googleapis.com/custom_model_serving_"
_NO_ACCELERATOR = frozenset({None, "ACCELERATOR_TYPE_UNSPECIFIED"})


def check(machine: Mapping[str, Any], field: str) -> None:
    """Refuse a MachineSpec that Vertex AI does not have. `field` is its path in the request. Raises ApiError 400."""
    name, accelerator = machine.get("machineType"), machine.get("acceleratorType")
    if not name:
        raise invalid_argument(f"{field}.machine_type is required.")
    count = whole_number(machine.get("acceleratorCount"), f"{field}.accelerator_count")
    if (accelerator not in _NO_ACCELERATOR) != (count > 0):
        raise invalid_argument(f"{field}: accelerator_type and accelerator_count belong together.")
    if name not in _machines():
        raise invalid_field(f"{field}.machine_type", f'Machine type "{name}" is not supported.')
    fitting = _machines()[name]
    if not count and fitting and not _is_plain(name):
        raise invalid_field(f"{field}.machine_type", f'Machine type "{name}" must have accelerators.')
    if not count:
        return
    if accelerator not in fitting:
        raise invalid_field(f"{field}.accelerator_type", f'"{accelerator}" is not supported for machine type "{name}".')
    if count not in fitting[accelerator]:
        raise invalid_field(
            f"{field}.accelerator_count",
            f'{count} of accelerator "{accelerator}" is not supported for machine type "{name}".',
        )


def check_strategy(spec: Mapping[str, Any]) -> None:
    """Refuse FLEX_START for machines that Vertex AI does not offer it for. Raises ApiError 400; its words are ours."""
    scheduling = spec.get("scheduling") or {}
    # 0 is for ever.
    if scheduling.get("maxWaitDuration", "0s") != "0s":
        seconds(scheduling["maxWaitDuration"], "job_spec.scheduling.max_wait_duration")
    if scheduling.get("strategy") != "FLEX_START":
        return
    for pool in spec["workerPoolSpecs"]:
        accelerator = (pool.get("machineSpec") or {}).get("acceleratorType")
        if pool and accelerator not in _table()["flex_start"]:
            raise invalid_field(
                "job_spec.scheduling.strategy", f'FLEX_START is not supported for accelerator "{accelerator or ""}".'
            )


def demand(spec: Mapping[str, Any]) -> dict[str, int]:
    """What a CustomJobSpec takes of each quota, by metric."""
    preemptible = "preemptible_" if (spec.get("scheduling") or {}).get("strategy") in {"SPOT", "FLEX_START"} else ""
    needs = collections.Counter[str]()
    for pool in spec["workerPoolSpecs"]:
        if machine := pool.get("machineSpec"):
            replicas = whole_number(pool.get("replicaCount"), "replica_count", default=1)
            needs.update(_taken(machine, replicas, f"{_TRAINING}{preemptible}"))
    return dict(needs)


def served_demand(deployed: Mapping[str, Any]) -> dict[str, int]:
    """What a DeployedModel takes of each quota, by metric: so much for each replica that it may come to.

    Source: `DedicatedResources.max_replica_count` in the API.
    """
    resources = deployed.get("dedicatedResources") or {}
    if not resources.get("machineSpec"):
        return {}
    smallest = whole_number(resources.get("minReplicaCount"), "min_replica_count", default=1)
    replicas = whole_number(resources.get("maxReplicaCount"), "max_replica_count", default=smallest)
    return _taken(resources["machineSpec"], replicas, _SERVING)


def require_quota(needs: Mapping[str, int], others: Iterable[Mapping[str, int]], limits: Mapping[str, int]) -> None:
    """Refuse what, with all others, needs more than a quota has; a quota without a limit, or with -1, refuses nothing.

    Raises ApiError 429. Source: GoogleCloudPlatform/vertex-ai-samples#3479.
    """
    taken = collections.Counter[str]()
    for other in others:
        taken.update(other)
    exceeded = [metric for metric, need in needs.items() if 0 <= limits.get(metric, -1) < taken[metric] + need]
    if exceeded:
        metrics = ", ".join(sorted(exceeded))
        raise ApiError(429, "RESOURCE_EXHAUSTED", f"The following quota metrics exceed quota limits: {metrics}")


def _taken(machine: Mapping[str, Any], replicas: int, quota: str) -> dict[str, int]:
    series = machine["machineType"].partition("-")[0]
    # N1 and E2 count together, every other series by itself.
    family = "" if series in {"n1", "e2"} else f"{series}_"
    taken = {f"{quota}{family}cpus": replicas * _vcpus(machine["machineType"])}
    if count := whole_number(machine.get("acceleratorCount"), "accelerator_count"):
        card = machine["acceleratorType"].lower().replace("_tesla_", "_")
        taken[f"{quota}{card}_gpus"] = replicas * count
    return taken


#: vCPUs of machines whose names count accelerators instead; of the others, the name ends with them.
#: Source: https://docs.cloud.google.com/compute/docs/accelerator-optimized-machines
_VCPUS = {
    "a2-megagpu-16g": 96,
    "a3-highgpu-1g": 26,
    "a3-highgpu-2g": 52,
    "a3-highgpu-4g": 104,
    "a3-highgpu-8g": 208,
    "a3-megagpu-8g": 208,
    "a3-ultragpu-8g": 224,
    "a4-highgpu-8g": 224,
}
_VCPUS_PER_A100 = 12


def _vcpus(machine: str) -> int:
    last = machine.rpartition("-")[2]
    return _VCPUS.get(machine) or (int(last) if last.isdigit() else _VCPUS_PER_A100 * int(last.removesuffix("g")))


def _is_plain(machine: str) -> bool:
    return any(machine.startswith(f"{series['series']}-") for series in _table()["plain"])


@functools.cache
def _machines() -> dict[str, dict[str, list[int]]]:
    """Numbers that can be had, by accelerator, by machine."""
    machines: dict[str, dict[str, list[int]]] = {
        f"{series['series']}-{kind}-{count}": {}
        for series in _table()["plain"]
        for kind in series["kinds"]
        for count in series["vcpus"]
    }
    for pairing in _table()["accelerators"]:
        for machine in pairing["machines"]:
            machines.setdefault(machine, {})[pairing["accelerator"]] = pairing["counts"]
    return machines


@functools.cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(_TABLE.read_bytes())
    return table
