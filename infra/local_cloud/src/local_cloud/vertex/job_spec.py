"""The specification of a custom job: what is refused, and what each replica gets to run and to know."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from local_cloud.api import ApiError
from local_cloud.vertex import machines
from local_cloud.vertex.bodies import whole_number
from local_cloud.vertex.errors import invalid_argument, invalid_field
from local_cloud.vertex.images import repository_name
from local_cloud.vertex.names import check_display_name, check_labels, seconds

#: The default of scheduling.timeout: seven days.
DEFAULT_TIMEOUT = 7 * 24 * 3600.0
#: Who wants more has to ask Google for it.
LONGEST_TIMEOUT = DEFAULT_TIMEOUT

#: The pools by position, as TF_CONFIG names them; an evaluator is no member of the cluster.
_TASK_TYPES = ("chief", "worker", "ps", "evaluator")
#: Variables that describe the whole job to each of its replicas.
CLUSTER_VARIABLES = ("CLUSTER_SPEC", "TF_CONFIG")
SERVICE_ACCOUNT = re.compile(r"[a-z0-9-]+@[a-z0-9.-]+\.gserviceaccount\.com")
#: How CustomJobSpec says that a network and a TensorBoard are named.
_FORMS = {
    "network": re.compile(r"projects/[^/]+/global/networks/[^/]+"),
    "tensorboard": re.compile(r"projects/[^/]+/locations/[^/]+/tensorboards/[^/]+"),
}
#: Source: DiskSpec, and https://docs.cloud.google.com/vertex-ai/docs/training/configure-compute
_DISKS = frozenset({"pd-ssd", "pd-standard", "hyperdisk-balanced"})
_DISK_GB = (100, 64000)
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Document = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Replica:
    """One container of a job: its pool, its index there, and the pool's containerSpec."""

    pool: int
    index: int
    container: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"workerpool{self.pool}-{self.index}"


def check(job: Mapping[str, Any]) -> None:
    """Refuse a CustomJob that Vertex AI refuses at creation.

    Raises:
        ApiError: 400 INVALID_ARGUMENT naming the field; 501 for what is not emulated.
    """
    check_display_name(job)
    check_labels(job.get("labels"))
    spec = job.get("jobSpec") or {}
    pools = spec.get("workerPoolSpecs")
    if not isinstance(pools, list) or not pools or not pools[0]:
        raise invalid_argument("job_spec.worker_pool_specs is required: the first pool must not be empty.")
    if len(pools) > len(_TASK_TYPES):
        raise invalid_argument(f"job_spec.worker_pool_specs has {len(pools)} pools; at most 4 are allowed.")
    for position, pool in enumerate(pools):
        if pool:
            _check_pool(pool, f"job_spec.worker_pool_specs[{position}]", is_primary=position == 0)
    timeout(spec)
    machines.check_strategy(spec)
    for name, form in _FORMS.items():
        if spec.get(name) and not form.fullmatch(spec[name]):
            raise invalid_field(f"job_spec.{name}", f"Invalid resource name: {spec[name]}")
    prefix = (spec.get("baseOutputDirectory") or {}).get("outputUriPrefix")
    if prefix is not None and not re.match("gs://[^/]", str(prefix)):
        raise invalid_argument(f"job_spec.base_output_directory must be a gs:// URI, got {prefix!r}.")
    account = spec.get("serviceAccount", "")
    if account and not SERVICE_ACCOUNT.fullmatch(account):
        raise invalid_field("job_spec.service_account", f"{account!r} is not the e-mail of a service account.")


def _check_pool(pool: Mapping[str, Any], field: str, *, is_primary: bool) -> None:
    if "pythonPackageSpec" in pool:
        raise ApiError(501, "UNIMPLEMENTED", f"{field}.python_package_spec: only container_spec is emulated.")
    container = pool.get("containerSpec") or {}
    if not container.get("imageUri"):
        raise invalid_argument(f"{field}.container_spec.image_uri is required.")
    repository_name(container["imageUri"])
    machines.check(pool.get("machineSpec") or {}, f"{field}.machine_spec")
    replicas = whole_number(pool.get("replicaCount"), f"{field}.replica_count", default=1)
    if replicas < 1 or (is_primary and replicas != 1):
        expected = "1 for the primary replica" if is_primary else "at least 1"
        raise invalid_argument(f"{field}.replica_count must be {expected}, got {replicas}.")
    _check_disk(pool.get("diskSpec") or {}, f"{field}.disk_spec")
    for variable in container.get("env") or ():
        if not _ENVIRONMENT_NAME.fullmatch(str(variable.get("name", ""))):
            raise invalid_argument(f"{field}.container_spec.env: {variable.get('name')!r} is not a variable name.")


def _check_disk(disk: Mapping[str, Any], field: str) -> None:
    kind, (least, most) = disk.get("bootDiskType") or "pd-ssd", _DISK_GB
    if kind not in _DISKS:
        raise invalid_field(f"{field}.boot_disk_type", f'"{kind}" is not supported.')
    size = whole_number(disk.get("bootDiskSizeGb"), f"{field}.boot_disk_size_gb") or least
    if not least <= size <= most:
        raise invalid_field(f"{field}.boot_disk_size_gb", f"{size} must be from {least} to {most}.")


def fill(spec: Document) -> None:
    """Set what Vertex AI sets where the request says nothing, in place."""
    for pool in spec["workerPoolSpecs"]:
        if pool:
            pool.setdefault("replicaCount", "1")
            pool["diskSpec"] = {"bootDiskType": "pd-ssd", "bootDiskSizeGb": 100, **pool.get("diskSpec", {})}


def timeout(spec: Mapping[str, Any]) -> float:
    """scheduling.timeout in seconds."""
    given = (spec.get("scheduling") or {}).get("timeout")
    limit = DEFAULT_TIMEOUT if given is None else seconds(given, "job_spec.scheduling.timeout")
    if limit > LONGEST_TIMEOUT:
        raise invalid_field("job_spec.scheduling.timeout", f"timeout must be at most {LONGEST_TIMEOUT:g} seconds.")
    return limit


def may_restart(spec: Mapping[str, Any]) -> bool:
    return not (spec.get("scheduling") or {}).get("disableRetries", False)


def restarts_as_one(spec: Mapping[str, Any]) -> bool:
    """Whether all replicas start again when one has to."""
    return bool((spec.get("scheduling") or {}).get("restartJobOnWorkerRestart", False))


def replicas(spec: Mapping[str, Any]) -> Iterator[Replica]:
    """Every replica of the job, the primary first."""
    for position, pool in enumerate(spec["workerPoolSpecs"]):
        if pool:
            for index in range(whole_number(pool.get("replicaCount"), "replica_count", default=1)):
                yield Replica(position, index, pool["containerSpec"])


def environment(
    spec: Mapping[str, Any], replica: Replica, *, job_id: str, project: str, addresses: Mapping[str, str]
) -> dict[str, str]:
    """What Vertex AI sets in a replica's container, and then the job's own variables.

    Args:
        addresses: host:port by replica name, of every replica of the job.

    Source: CustomJobSpec.base_output_directory (AIP_*), "Distributed training" (CLUSTER_SPEC, TF_CONFIG),
    "Prepare training code" (CLOUD_ML_PROJECT_ID).
    """
    variables = {"CLOUD_ML_JOB_ID": job_id, "CLOUD_ML_PROJECT_ID": project}
    prefix = (spec.get("baseOutputDirectory") or {}).get("outputUriPrefix")
    if prefix:
        directory = prefix.rstrip("/")
        variables |= {
            "AIP_MODEL_DIR": f"{directory}/model/",
            "AIP_CHECKPOINT_DIR": f"{directory}/checkpoints/",
            "AIP_TENSORBOARD_LOG_DIR": f"{directory}/logs/",
        }
    variables["CLUSTER_SPEC"] = json.dumps(_cluster_spec(spec, replica, addresses))
    if len(addresses) > 1:
        # Vertex AI sets TF_CONFIG only for distributed training.
        variables["TF_CONFIG"] = json.dumps(_tf_config(spec, replica, addresses))
    for variable in replica.container.get("env") or ():
        variables[variable["name"]] = str(variable.get("value", ""))
    return variables


def _cluster_spec(spec: Mapping[str, Any], replica: Replica, addresses: Mapping[str, str]) -> Document:
    cluster: dict[str, list[str]] = {}
    for name, address in addresses.items():
        cluster.setdefault(name.partition("-")[0], []).append(address)
    task = {"type": f"workerpool{replica.pool}", "index": replica.index}
    # Documented as a dictionary; the values that people show of real jobs have a string with JSON here.
    return {"cluster": cluster, "environment": "cloud", "task": task, "job": json.dumps(spec)}


def _tf_config(spec: Mapping[str, Any], replica: Replica, addresses: Mapping[str, str]) -> Document:
    cluster: dict[str, list[str]] = {}
    for name, address in addresses.items():
        task_type = _TASK_TYPES[int(name.partition("-")[0].removeprefix("workerpool"))]
        if task_type != "evaluator":
            cluster.setdefault(task_type, []).append(address)
    task = {"type": _TASK_TYPES[replica.pool], "index": replica.index}
    return {"cluster": cluster, "environment": "cloud", "job": dict(spec), "task": task}


def arguments(container: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
    """containerSpec's command and args."""
    return list(container.get("command") or ()), list(container.get("args") or ())
