"""What `serving` of a data set's configuration asks for, in Vertex AI's words."""

from __future__ import annotations

from dualdeploy.contracts.dataset_config import Serving
from dualdeploy.errors import RejectedByGoogle
from dualdeploy.google.vertex import Deployment, Endpoint, ModelVersion, RequestLogging, ScaleToZero

#: `AutoscalingMetricSpec.metric_name`, by our key: all that v1 of the API has for online prediction.
METRICS = {
    "cpu": "aiplatform.googleapis.com/prediction/online/cpu/utilization",
    "accelerator": "aiplatform.googleapis.com/prediction/online/accelerator/duty_cycle",
    "requests": "aiplatform.googleapis.com/prediction/online/request_count",
}


class OtherKindOfEndpoint(RejectedByGoogle):
    """Whether an endpoint is dedicated is decided when it is made."""


class NotDeployable(RejectedByGoogle):
    """Vertex AI says of a version that no endpoint can serve it."""


def deployment(serving: Serving, *, deployed_id: str, version: ModelVersion, run_id: str) -> Deployment:
    """How a version is deployed; named after its run, which is how the cleanup knows it.

    On machines that the configuration names, or, if the version takes no others, on those that Google chooses: what
    kind of model it is decides, and not how the data set is trained by now. Raises NotDeployable.
    """
    if version.is_automatic:
        return Deployment(
            id=deployed_id,
            model=version.versioned_name,
            display_name=run_id,
            machine="",
            min_replicas=serving.min_replicas,
            max_replicas=serving.max_replicas,
            automatic=True,
        )
    if version.resources and "DEDICATED_RESOURCES" not in version.resources:
        raise NotDeployable(
            f"{version.versioned_name} can be deployed with {', '.join(version.resources)} alone, which no endpoint of"
            " ours has"
        )
    targets = serving.autoscaling.model_dump(exclude_none=True)
    to_zero = serving.scale_to_zero
    return Deployment(
        id=deployed_id,
        model=version.versioned_name,
        display_name=run_id,
        machine=serving.machine,
        min_replicas=serving.min_replicas,
        max_replicas=serving.max_replicas,
        accelerator_type=serving.accelerator.type if serving.accelerator else "",
        accelerator_count=serving.accelerator.count if serving.accelerator else 0,
        targets={METRICS[key]: target for key, target in targets.items()},
        spot=serving.spot,
        service_account=serving.service_account,
        container_log=serving.container_log,
        access_log=serving.access_log,
        scale_to_zero=ScaleToZero(idle=to_zero.idle, warm=to_zero.warm) if to_zero else None,
    )


def request_logging(serving: Serving) -> RequestLogging | None:
    return RequestLogging(serving.request_log.table, serving.request_log.sampling) if serving.request_log else None


def check_kind(serving: Serving, endpoint: Endpoint) -> None:
    """Raises OtherKindOfEndpoint when the endpoint that is there is not of the kind that is asked for."""
    if endpoint.dedicated != serving.dedicated:
        is_one = "dedicated" if endpoint.dedicated else "shared"
        raise OtherKindOfEndpoint(
            f"endpoint {endpoint.id} is {is_one}, which cannot be changed: set serving.dedicated:"
            f" {str(endpoint.dedicated).lower()}, or give the data set another serving.endpoint"
        )


def check_managed(serving: Serving) -> None:
    """Raises OtherKindOfEndpoint where a model that AutoML trained would go to an endpoint that cannot serve it.

    Source: "Choose an endpoint type" of Vertex AI's documentation, row "AutoML models".
    """
    if serving.dedicated:
        raise OtherKindOfEndpoint(
            f"AutoML trained the model, and endpoint {serving.endpoint} is to be dedicated, where Vertex AI serves no"
            " such model: set serving.dedicated: false, and, if that endpoint is there already, give the data set"
            " another serving.endpoint"
        )
