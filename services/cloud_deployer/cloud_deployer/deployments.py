"""What `serving` of a data set's configuration asks for, in Vertex AI's words."""

from __future__ import annotations

from dualdeploy.contracts.dataset_config import Serving
from dualdeploy.errors import RejectedByGoogle
from dualdeploy.google.vertex import Deployment, Endpoint, RequestLogging, ScaleToZero

#: `AutoscalingMetricSpec.metric_name`, by our key: all that v1 of the API has for online prediction.
METRICS = {
    "cpu": "aiplatform.googleapis.com/prediction/online/cpu/utilization",
    "accelerator": "aiplatform.googleapis.com/prediction/online/accelerator/duty_cycle",
    "requests": "aiplatform.googleapis.com/prediction/online/request_count",
}


class OtherKindOfEndpoint(RejectedByGoogle):
    """Whether an endpoint is dedicated is decided when it is made."""


def deployment(serving: Serving, *, deployed_id: str, model: str, run_id: str) -> Deployment:
    """How a version (`…/models/<id>@<version>`) is deployed; named after its run, which is how the cleanup knows it."""
    targets = serving.autoscaling.model_dump(exclude_none=True)
    to_zero = serving.scale_to_zero
    return Deployment(
        id=deployed_id,
        model=model,
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
