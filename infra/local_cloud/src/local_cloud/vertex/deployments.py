"""Deployed models: which can be deployed, what their server is started with, what can be changed later."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from local_cloud.vertex import automl, machines, sleep
from local_cloud.vertex.bodies import whole_number
from local_cloud.vertex.errors import failed_precondition, invalid_argument
from local_cloud.vertex.images import Image, command_line, resolve
from local_cloud.vertex.job_spec import SERVICE_ACCOUNT
from local_cloud.vertex.models import Models
from local_cloud.vertex.names import last_segment
from local_cloud.vertex.searches import MODEL_VARIABLE, search_environment
from local_cloud.vertex.servers import ServerSpec

_ONLINE = "aiplatform.googleapis.com/prediction/online"
_DUTY_CYCLE = f"{_ONLINE}/accelerator/duty_cycle"
_METRICS = frozenset({_DUTY_CYCLE, f"{_ONLINE}/cpu/utilization", f"{_ONLINE}/request_count"})
_MUTABLE_PREFIXES = ("dedicatedResources", "automaticResources", "disableContainerLogging")

Document = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Host:
    """What every model server of the location runs on; `automl` is what serves models of AutoML."""

    images: Mapping[str, Image]
    automl: Image | None
    python: str
    environment: Callable[[], Mapping[str, str]]
    project_number: str


def deployable(
    endpoint: Mapping[str, Any], deployed: Mapping[str, Any], models: Models, *, may_sleep: bool = False
) -> Document:
    """The Model version that `deployed` names, if it can be deployed on `endpoint` as asked; to no replica only if it

    `may_sleep`.

    Raises:
        ApiError: 400 naming what is missing, 404 when there is no such model or version.
    """
    if not deployed.get("model"):
        raise invalid_argument("deployed_model.model is required.")
    model = models.resolve(deployed["model"])
    if "automl" in model:
        automl.refuse_endpoint(model, endpoint)
    elif not (model.get("containerSpec") or {}).get("imageUri"):
        raise failed_precondition(f"The Model {model['name']} has no container_spec and cannot be deployed.")
    resources = deployed.get("dedicatedResources") or deployed.get("automaticResources")
    if not resources:
        raise invalid_argument("deployed_model needs dedicated_resources or automatic_resources.")
    kind = "dedicated_resources" if "dedicatedResources" in deployed else "automatic_resources"
    if kind.upper() not in model["supportedDeploymentResourcesTypes"]:
        # Source: https://github.com/googleapis/python-aiplatform/issues/773
        raise invalid_argument(f"'{kind}' is not supported for Model {model['name']}.")
    if "dedicatedResources" in deployed:
        machines.check(resources.get("machineSpec") or {}, "deployed_model.dedicated_resources.machine_spec")
    if may_sleep and sleep.sleeps(deployed):
        sleep.check(resources)
    else:
        _check_replicas(resources)
    _check_autoscaling(resources)
    account = deployed.get("serviceAccount", "")
    if account and not SERVICE_ACCOUNT.fullmatch(account):
        raise invalid_argument(f"deployed_model.service_account {account!r} is not the email of a service account.")
    return model


def _check_autoscaling(resources: Mapping[str, Any]) -> None:
    """ "At most one entry is allowed per metric", of those that Vertex AI has, with 1 to 100 per cent."""
    specs = resources.get("autoscalingMetricSpecs") or []
    names = [spec.get("metricName", "") for spec in specs]
    if len(set(names)) != len(names):
        raise invalid_argument("autoscaling_metric_specs: at most one entry is allowed per metric.")
    for spec in specs:
        name = spec.get("metricName", "")
        if name not in _METRICS:
            raise invalid_argument(f"autoscaling_metric_specs: unsupported metric_name {name!r}.")
        target = whole_number(spec.get("target"), "target", default=60)
        if not 1 <= target <= 100:
            raise invalid_argument(f"autoscaling_metric_specs: target must be from 1 to 100, got {target}.")
    accelerators = (resources.get("machineSpec") or {}).get("acceleratorCount")
    if _DUTY_CYCLE in names and not whole_number(accelerators, "accelerator_count"):
        raise invalid_argument(f"autoscaling_metric_specs: {_DUTY_CYCLE} needs a machine with accelerators.")


def _check_replicas(resources: Mapping[str, Any]) -> None:
    smallest = whole_number(resources.get("minReplicaCount"), "min_replica_count", default=1)
    largest = whole_number(resources.get("maxReplicaCount"), "max_replica_count", default=smallest)
    if smallest < 1:
        raise invalid_argument(f"min_replica_count must be at least 1, got {smallest}.")
    if largest < smallest:
        raise invalid_argument(f"max_replica_count {largest} is smaller than min_replica_count {smallest}.")


def server_spec(
    endpoint: Mapping[str, Any], deployed: Mapping[str, Any], model: Mapping[str, Any], host: Host, folder: Path
) -> ServerSpec:
    """How the server of a deployed model is started.

    Raises:
        ApiError: NOT_FOUND when the image is not known here, FAILED_PRECONDITION where nothing stands for AutoML.

    Source: "Custom container requirements", environment variables available in the container.
    """
    container = model.get("containerSpec") or {}
    image = _image(model, host)
    endpoint_id, deployed_id = last_segment(endpoint["name"]), deployed["id"]
    default_route = f"/v1/endpoints/{endpoint_id}/deployedModels/{deployed_id}"
    health_route = container.get("healthRoute") or default_route
    predict_route = container.get("predictRoute") or f"{default_route}:predict"
    machine = (deployed.get("dedicatedResources") or {}).get("machineSpec") or {}
    variables = {
        "AIP_MODE": "PREDICTION",
        "AIP_HEALTH_ROUTE": health_route,
        "AIP_PREDICT_ROUTE": predict_route,
        "AIP_STORAGE_URI": model.get("artifactUri", ""),
        "AIP_ENDPOINT_ID": endpoint_id,
        "AIP_DEPLOYED_MODEL_ID": deployed_id,
        "AIP_MODEL_NAME": last_segment(model["name"]),
        "AIP_VERSION_NAME": model["versionId"],
        "AIP_PROJECT_NUMBER": host.project_number,
        "AIP_MACHINE_TYPE": machine.get("machineType", ""),
        **_declared(container),
        **({MODEL_VARIABLE: model["automl"]["folder"]} if "automl" in model else {}),
    }
    return ServerSpec(
        command=command_line(
            image,
            python=host.python,
            command=list(container.get("command") or ()),
            arguments=list(container.get("args") or ()),
        ),
        folder=image.folder,
        environment=search_environment(image, host.environment(), variables),
        health_route=health_route,
        predict_route=predict_route,
        log=folder / endpoint_id / deployed_id / "log",
    )


def _image(model: Mapping[str, Any], host: Host) -> Image:
    """What serves a model."""
    if "automl" not in model:
        return resolve(model["containerSpec"]["imageUri"], host.images)
    if host.automl is None:
        raise failed_precondition("The topology of this local cloud names nothing that serves models of AutoML.")
    return host.automl


def _declared(container: Mapping[str, Any]) -> dict[str, str]:
    """The model's own variables; a later one may refer to an earlier one as $(NAME)."""
    declared: dict[str, str] = {}
    for variable in container.get("env") or ():
        value = str(variable.get("value", ""))
        for name, known in declared.items():
            value = value.replace(f"$({name})", known)
        declared[variable["name"]] = value
    return declared


def check_mutation(deployed: Mapping[str, Any], paths: Sequence[str]) -> None:
    """Refuse a mutation of what Google lets nobody change after deployment."""
    if not paths:
        raise invalid_argument("update_mask is required.")
    for path in paths:
        if path.split(".")[0] not in _MUTABLE_PREFIXES:
            raise invalid_argument(f"update_mask: {path} cannot be changed; redeploy the model instead.")
    _check_replicas(deployed.get("dedicatedResources") or deployed.get("automaticResources") or {})


def copy_path(path: str, *, source: Mapping[str, Any], target: Document) -> None:
    """Copy the field at a dotted `path` from `source` into `target`; a field that is missing is cleared."""
    *parents, leaf = path.split(".")
    inner: Mapping[str, Any] = source
    for parent in parents:
        inner = inner.get(parent) or {}
        target = target.setdefault(parent, {})
    if leaf in inner:
        target[leaf] = inner[leaf]
    else:
        target.pop(leaf, None)
