"""A deployed model without a machine, as Google's generated clients of v1beta1 see it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import aiplatform_v1beta1
from google.protobuf import duration_pb2


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def deployment(model: str, deployed_id: str, **resources: Any) -> aiplatform_v1beta1.DeployedModel:
    periods = {
        "idle_scaledown_period": duration_pb2.Duration(seconds=resources.pop("idle", 600)),
        "min_scaleup_period": duration_pb2.Duration(seconds=resources.pop("warm", 300)),
    }
    return aiplatform_v1beta1.DeployedModel(
        id=deployed_id,
        model=model,
        dedicated_resources={
            "machine_spec": {"machine_type": "n1-standard-2"},
            "min_replica_count": 0,
            "initial_replica_count": 1,
            "max_replica_count": 1,
            "scale_to_zero_spec": periods,
            **resources,
        },
    )


def deploy(cloud: Any, endpoint: str, deployed: aiplatform_v1beta1.DeployedModel) -> Any:
    client = cloud.client(aiplatform_v1beta1.EndpointServiceClient)
    split = {"0": 100}
    return cloud.finish(client.deploy_model(endpoint=endpoint, deployed_model=deployed, traffic_split=split))


def ask(cloud: Any, endpoint: str) -> str:
    return str(cloud.predictions.predict(endpoint=endpoint, instances=["daisy"]).deployed_model_id)


def test_the_first_request_after_the_idle_period_is_dropped_and_wakes_the_model(
    new_cloud: Callable[..., Any],
) -> None:
    clock = Clock()
    cloud = new_cloud(idle_clock=clock, operation_seconds=0.2)
    endpoint = cloud.endpoint("sleepy", dedicated_endpoint_enabled=True)
    made = deploy(cloud, endpoint, deployment(cloud.upload("sleepy"), "11"))
    assert isinstance(made, aiplatform_v1beta1.DeployModelResponse)
    assert ask(cloud, endpoint) == "11"
    clock.now += 599
    assert ask(cloud, endpoint) == "11"
    clock.now += 600
    for _ in range(2):
        with pytest.raises(exceptions.TooManyRequests, match="not yet ready for inference"):
            ask(cloud, endpoint)
        clock.now += 0.1
    clock.now += 0.1
    assert ask(cloud, endpoint) == "11"


def test_a_model_stays_up_for_its_shortest_time_however_idle_it_is(new_cloud: Callable[..., Any]) -> None:
    clock = Clock()
    cloud = new_cloud(idle_clock=clock)
    endpoint = cloud.endpoint("warm", dedicated_endpoint_enabled=True)
    deploy(cloud, endpoint, deployment(cloud.upload("warm"), "11", idle=300, warm=7200))
    clock.now += 7199
    assert ask(cloud, endpoint) == "11"
    clock.now += 300
    with pytest.raises(exceptions.TooManyRequests):
        ask(cloud, endpoint)


def test_an_operation_is_of_the_version_that_it_was_begun_through(cloud: Any) -> None:
    endpoint = cloud.endpoint(dedicated_endpoint_enabled=True)
    client = cloud.client(aiplatform_v1beta1.EndpointServiceClient)
    operation = client.deploy_model(endpoint=endpoint, deployed_model=deployment(cloud.upload(), "11"))
    for _ in range(100):
        seen = client.transport.operations_client.get_operation(name=operation.operation.name)
        if seen.done:
            break
        time.sleep(0.02)
    assert seen.metadata.type_url.endswith(".v1beta1.DeployModelOperationMetadata")
    assert seen.response.type_url.endswith(".v1beta1.DeployModelResponse")


@pytest.mark.parametrize(
    ("resources", "why"),
    [
        ({"idle": 299}, "idleScaledownPeriod must be from 300s to 28800s, got 299s"),
        ({"warm": 28801}, "minScaleupPeriod must be from 300s to 28800s"),
        ({"initial_replica_count": 2}, "initial_replica_count must be from 1 to max_replica_count 1, got 2"),
    ],
)
def test_what_google_documents_as_out_of_range_is_refused(cloud: Any, resources: dict[str, Any], why: str) -> None:
    endpoint = cloud.endpoint(dedicated_endpoint_enabled=True)
    with pytest.raises(exceptions.BadRequest, match=why):
        deploy(cloud, endpoint, deployment(cloud.upload(), "11", **resources))


def test_v1_has_no_such_deployment(cloud: Any) -> None:
    endpoint = cloud.endpoint(dedicated_endpoint_enabled=True)
    deployed = cloud.deployment(cloud.upload(), "11")
    body = type(deployed).to_dict(deployed, preserving_proto_field_name=False)
    body["dedicatedResources"]["minReplicaCount"] = 0
    import requests

    answer = requests.post(
        f"http://{cloud.vertex.address}/v1/{endpoint}:deployModel", json={"deployedModel": body}, timeout=30
    )
    assert answer.status_code == 400
    assert "min_replica_count must be at least 1" in answer.json()["error"]["message"]
