"""Endpoints, deployments and predictions, as Google's generated clients see them."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from google.api_core import exceptions
from google.cloud import aiplatform_v1
from google.protobuf import field_mask_pb2, json_format

from local_cloud.vertex import Image


def predict(cloud: Any, endpoint: str, *instances: Any) -> aiplatform_v1.PredictResponse:
    return cloud.predictions.predict(endpoint=endpoint, instances=list(instances))


def told(answer: aiplatform_v1.PredictResponse) -> dict[str, Any]:
    return json_format.MessageToDict(answer._pb)["predictions"][0]


def split_of(cloud: Any, endpoint: str) -> dict[str, int]:
    return dict(cloud.endpoints.get_endpoint(name=endpoint).traffic_split)


def shift(cloud: Any, endpoint: str, split: dict[str, int], etag: str = "") -> aiplatform_v1.Endpoint:
    return cloud.endpoints.update_endpoint(
        endpoint=aiplatform_v1.Endpoint(name=endpoint, traffic_split=split, etag=etag),
        update_mask=field_mask_pb2.FieldMask(paths=["traffic_split"]),
    )


@pytest.fixture(scope="module")
def served(cloud: Any) -> str:
    """An endpoint that serves one model; tests that change deployments make their own."""
    endpoint = cloud.endpoint("served", dedicated_endpoint_enabled=True, labels={"dataset": "flowers"})
    cloud.deploy(endpoint, cloud.upload("served", label="one"), "11", {"0": 100})
    return endpoint


def test_a_deployed_model_answers_predictions_by_its_own_server(cloud: Any, served: str) -> None:
    answer = predict(cloud, served, "daisy", "rose")
    assert answer.deployed_model_id == "11"
    assert answer.model == f"{cloud.answered_parent}/models/served"
    assert answer.model_version_id == "1"
    assert answer.model_display_name == "toy"
    assert len(answer.predictions) == 2
    expected = {"MODEL_LABEL": "one", "AIP_STORAGE_URI": "gs://models/toy"}
    expected |= {"AIP_DEPLOYED_MODEL_ID": "11", "AIP_ENDPOINT_ID": "served", "instance": "daisy"}
    assert told(answer) == expected


def test_a_dedicated_endpoint_is_called_at_its_own_dns_name(cloud: Any, served: str) -> None:
    endpoint = cloud.endpoints.get_endpoint(name=served)
    url = f"http://{endpoint.dedicated_endpoint_dns}/v1/{served}:predict"
    answer = requests.post(url, json={"instances": ["daisy"]}, timeout=10).json()
    assert answer["deployedModelId"] == "11"


def test_raw_predict_passes_the_body_through_and_says_which_model_answered(cloud: Any, served: str) -> None:
    # Over HTTP, as the SDK sends it: the generated REST client wraps the body in JSON instead.
    url = f"http://{cloud.vertex.address}/v1/{served}:rawPredict"
    response = requests.post(url, json={"instances": ["tulip"]}, timeout=10)
    assert response.json()["predictions"][0]["instance"] == "tulip"
    assert response.headers["X-Vertex-AI-Deployed-Model-Id"] == "11"


def test_the_model_server_s_errors_keep_their_kind(cloud: Any, served: str) -> None:
    for status, expected in (
        (400, exceptions.BadRequest),
        (404, exceptions.BadRequest),
        (429, exceptions.TooManyRequests),
        (500, exceptions.InternalServerError),
        (503, exceptions.ServiceUnavailable),
    ):
        with pytest.raises(expected, match="as told"):
            predict(cloud, served, {"status": status})


def test_a_request_without_instances_is_refused(cloud: Any, served: str) -> None:
    response = requests.post(f"http://{cloud.vertex.address}/v1/{served}:predict", json={}, timeout=10)
    assert response.status_code == 400
    assert response.json()["error"]["status"] == "INVALID_ARGUMENT"


def test_a_request_may_be_larger_on_a_dedicated_endpoint(cloud: Any, served: str) -> None:
    shared = cloud.endpoint("shared")
    with pytest.raises(exceptions.BadRequest, match=r"exceeds 1\.500MB limit"):
        predict(cloud, shared, "x" * 1_600_000)
    assert predict(cloud, served, "x" * 1_600_000).deployed_model_id == "11"
    with pytest.raises(exceptions.BadRequest, match=r"exceeds 10\.000MB limit"):
        predict(cloud, served, "x" * 10_000_001)


def test_an_endpoint_without_traffic_cannot_predict(cloud: Any) -> None:
    with pytest.raises(exceptions.BadRequest, match="doesn't have traffic_split"):
        predict(cloud, cloud.endpoint(), "daisy")


def test_an_endpoint_id_can_be_taken_only_once(cloud: Any) -> None:
    request = aiplatform_v1.CreateEndpointRequest(
        parent=cloud.parent, endpoint_id="taken", endpoint={"display_name": "toy"}
    )
    first = cloud.endpoints.create_endpoint(request=request)
    with pytest.raises(exceptions.Conflict):
        cloud.endpoints.create_endpoint(request=request)
    cloud.finish(first)
    with pytest.raises(exceptions.Conflict):
        cloud.endpoints.create_endpoint(request=request)
    for malformed in ("Flowers", "flowers-", "0123", "f" * 64):
        with pytest.raises(exceptions.BadRequest, match="endpoint_id"):
            cloud.endpoint(malformed)


def test_endpoints_are_listed_by_label_and_id(cloud: Any, served: str) -> None:
    request = {"parent": cloud.parent, "filter": "labels.dataset=flowers AND endpoint=served"}
    assert [endpoint.name for endpoint in cloud.endpoints.list_endpoints(request=request)] == [served]


def test_a_canary_shifts_traffic_step_by_step_and_the_old_model_leaves(cloud: Any) -> None:
    endpoint = cloud.endpoint("canary", dedicated_endpoint_enabled=True)
    first = cloud.upload("canary", label="old")
    second = cloud.upload(parent_model=first.partition("@")[0], label="new")
    cloud.deploy(endpoint, first, "1", {"0": 100})
    cloud.deploy(endpoint, second, "2", {"1": 100, "0": 0})
    assert split_of(cloud, endpoint) == {"1": 100, "2": 0}
    shift(cloud, endpoint, {"1": 75, "2": 25})
    drawn = collections.Counter(told(predict(cloud, endpoint, "x"))["MODEL_LABEL"] for _ in range(120))
    assert 15 <= drawn["new"] <= 45, drawn
    with pytest.raises(exceptions.BadRequest, match="traffic assigned"):
        cloud.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id="1", traffic_split={})
    shift(cloud, endpoint, {"2": 100})
    cloud.finish(cloud.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id="1", traffic_split={}))
    assert [model.id for model in cloud.endpoints.get_endpoint(name=endpoint).deployed_models] == ["2"]
    assert predict(cloud, endpoint, "x").model_version_id == "2"


def test_undeploying_can_move_the_traffic_in_the_same_request(cloud: Any) -> None:
    endpoint, model = cloud.endpoint(), cloud.upload()
    cloud.deploy(endpoint, model, "1", {"0": 100})
    cloud.deploy(endpoint, model, "2", {"1": 50, "0": 50})
    with pytest.raises(exceptions.BadRequest, match=r"\[3\] do not exist"):
        cloud.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id="1", traffic_split={"3": 100})
    cloud.finish(cloud.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id="1", traffic_split={"2": 100}))
    assert split_of(cloud, endpoint) == {"2": 100}
    # The last one may leave with all the traffic.
    cloud.finish(cloud.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id="2", traffic_split={}))
    assert split_of(cloud, endpoint) == {}
    with pytest.raises(exceptions.NotFound):
        cloud.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id="2", traffic_split={})


def test_a_traffic_split_must_add_up_and_name_what_is_deployed(cloud: Any, served: str) -> None:
    for split, named in (({"11": 90}, "add up to 100"), ({"11": 50, "9": 50}, r"\[9\] do not exist")):
        with pytest.raises(exceptions.BadRequest, match=named):
            shift(cloud, served, split)
    for split in ({"0": 50}, {"0": 50, "11": 51}):
        with pytest.raises(exceptions.BadRequest, match="add up to 100"):
            cloud.deploy(served, f"{cloud.parent}/models/served@1", "12", split)


def test_a_split_decided_on_an_old_reading_is_refused_by_its_etag(cloud: Any, served: str) -> None:
    read = cloud.endpoints.get_endpoint(name=served)
    changed = shift(cloud, served, {"11": 100}, etag=read.etag)
    assert changed.etag != read.etag
    with pytest.raises(exceptions.Conflict, match="etag"):
        shift(cloud, served, {"11": 100}, etag=read.etag)


def test_a_deployed_model_id_is_one_to_ten_digits_and_taken_once(cloud: Any, served: str) -> None:
    model = f"{cloud.parent}/models/served@1"
    for malformed in ("x1", "12345678901"):
        with pytest.raises(exceptions.BadRequest, match=r"deployed_model\.id"):
            cloud.deploy(served, model, malformed)
    with pytest.raises(exceptions.Conflict):
        cloud.deploy(served, model, "11")


def test_an_endpoint_has_one_operation_at_a_time(cloud: Any) -> None:
    endpoint, model = cloud.endpoint(), cloud.upload()
    first = cloud.endpoints.deploy_model(
        endpoint=endpoint, deployed_model=cloud.deployment(model, "1"), traffic_split={"0": 100}
    )
    with pytest.raises(exceptions.Conflict):
        cloud.deploy(endpoint, model, "1")
    with pytest.raises(exceptions.BadRequest, match="other operations running"):
        cloud.deploy(endpoint, model, "2")
    cloud.finish(first)
    with pytest.raises(exceptions.BadRequest, match="being-deployed"):
        cloud.endpoints.delete_endpoint(name=endpoint)
    with pytest.raises(exceptions.BadRequest, match="undeploy"):
        cloud.models.delete_model(name=model.partition("@")[0])


def test_a_server_that_dies_at_once_fails_its_deployment_with_its_last_words(cloud: Any) -> None:
    endpoint = cloud.endpoint()
    with pytest.raises(exceptions.FailedPrecondition, match=r"Model server exited unexpectedly[\s\S]*no weights"):
        cloud.deploy(endpoint, cloud.upload(health="crash"), "1", {"0": 100})
    read = cloud.endpoints.get_endpoint(name=endpoint)
    assert (list(read.deployed_models), dict(read.traffic_split)) == ([], {})


def test_a_server_that_never_gets_healthy_fails_its_deployment(new_cloud: Callable[..., Any]) -> None:
    cloud = new_cloud(server_start_seconds=1.0)
    with pytest.raises(exceptions.FailedPrecondition, match="never became ready"):
        cloud.deploy(cloud.endpoint(), cloud.upload(health="never"), "1", {"0": 100})


def test_an_image_whose_folder_is_missing_fails_its_deployment_and_its_job(
    new_cloud: Callable[..., Any], tmp_path: Path
) -> None:
    missing = Image(tmp_path / "missing", ("python", "-m", "nothing"))
    cloud = new_cloud(images={"predictor": missing, "trainer": missing})
    with pytest.raises(exceptions.FailedPrecondition, match="could not be started"):
        cloud.deploy(cloud.endpoint(), cloud.upload(), "1", {"0": 100})
    assert "could not be started" in cloud.ended(cloud.submit()).error.message


def test_a_server_that_dies_later_is_started_again(cloud: Any) -> None:
    endpoint = cloud.endpoint()
    cloud.deploy(endpoint, cloud.upload(label="phoenix"), "1", {"0": 100})
    with pytest.raises(exceptions.ServiceUnavailable):
        predict(cloud, endpoint, "die")
    deadline = time.monotonic() + 30
    while True:
        try:
            answer = predict(cloud, endpoint, "x")
            break
        except exceptions.ServiceUnavailable:
            assert time.monotonic() < deadline, "the server did not come back"
            time.sleep(0.05)
    assert told(answer)["MODEL_LABEL"] == "phoenix"


def test_what_is_deployed_shows_on_the_model_and_its_status(cloud: Any, served: str) -> None:
    model = cloud.models.get_model(name=f"{cloud.parent}/models/served")
    assert [(ref.endpoint, ref.deployed_model_id) for ref in model.deployed_models] == [(served, "11")]
    deployed = cloud.endpoints.get_endpoint(name=served).deployed_models[0]
    assert deployed.model == f"{cloud.answered_parent}/models/served@1"
    assert deployed.model_version_id == "1"
    assert deployed.status.available_replica_count == 1


def test_replica_counts_can_be_mutated_and_the_machine_not(cloud: Any, served: str) -> None:
    deployed = cloud.deployment("", "11")
    deployed.dedicated_resources.max_replica_count = 3
    mask = field_mask_pb2.FieldMask(paths=["dedicated_resources.max_replica_count"])
    operation = cloud.endpoints.mutate_deployed_model(endpoint=served, deployed_model=deployed, update_mask=mask)
    assert cloud.finish(operation).deployed_model.dedicated_resources.max_replica_count == 3
    read = cloud.endpoints.get_endpoint(name=served).deployed_models[0].dedicated_resources
    assert (read.min_replica_count, read.machine_spec.machine_type) == (1, "n1-standard-2")
    mask = field_mask_pb2.FieldMask(paths=["model"])
    with pytest.raises(exceptions.BadRequest, match="redeploy"):
        cloud.endpoints.mutate_deployed_model(endpoint=served, deployed_model=deployed, update_mask=mask)


def test_an_empty_endpoint_can_be_deleted(cloud: Any) -> None:
    endpoint = cloud.endpoint()
    cloud.finish(cloud.endpoints.delete_endpoint(name=endpoint))
    with pytest.raises(exceptions.NotFound):
        cloud.endpoints.get_endpoint(name=endpoint)


def test_a_lost_response_of_a_deployment_is_safe_to_repeat(cloud: Any) -> None:
    endpoint, model = cloud.endpoint(), cloud.upload()
    with (
        cloud.faults.plan({"aiplatform.endpoints.deployModel": ["lost-response"]}),
        pytest.raises(exceptions.ServiceUnavailable),
    ):
        cloud.deploy(endpoint, model, "1", {"0": 100})
    with pytest.raises(exceptions.Conflict):
        cloud.deploy(endpoint, model, "1", {"0": 100})


def test_how_a_model_is_deployed_is_kept_as_it_was_asked_for(cloud: Any) -> None:
    online = "aiplatform.googleapis.com/prediction/online"
    deployed = cloud.deployment(cloud.upload(), "1")
    resources = deployed.dedicated_resources
    resources.machine_spec = {"machine_type": "g2-standard-8", "accelerator_type": "NVIDIA_L4", "accelerator_count": 1}
    resources.max_replica_count, resources.spot = 3, True
    resources.autoscaling_metric_specs = [
        {"metric_name": f"{online}/cpu/utilization", "target": 70},
        {"metric_name": f"{online}/accelerator/duty_cycle", "target": 80},
    ]
    deployed.service_account = "predictor@demo.iam.gserviceaccount.com"
    deployed.disable_container_logging = deployed.enable_access_logging = True
    endpoint = cloud.endpoint()
    cloud.finish(cloud.endpoints.deploy_model(endpoint=endpoint, deployed_model=deployed, traffic_split={"0": 100}))
    kept = cloud.endpoints.get_endpoint(name=endpoint).deployed_models[0]
    assert kept.dedicated_resources == resources
    assert kept.service_account == deployed.service_account
    assert (kept.disable_container_logging, kept.enable_access_logging) == (True, True)


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        ([("memory/utilization", 50)], "unsupported metric_name"),
        ([("cpu/utilization", 101)], "from 1 to 100"),
        ([("cpu/utilization", 50), ("cpu/utilization", 60)], "at most one entry"),
        ([("accelerator/duty_cycle", 50)], "needs a machine with accelerators"),
    ],
)
def test_autoscaling_metrics_are_known_bounded_and_named_once(
    cloud: Any, served: str, metrics: list[tuple[str, int]], why: str
) -> None:
    deployed = cloud.deployment(f"{cloud.parent}/models/served@1", "12")
    deployed.dedicated_resources.autoscaling_metric_specs = [
        {"metric_name": f"aiplatform.googleapis.com/prediction/online/{name}", "target": target}
        for name, target in metrics
    ]
    with pytest.raises(exceptions.BadRequest, match=why):
        cloud.endpoints.deploy_model(endpoint=served, deployed_model=deployed)


def test_a_request_log_needs_a_share_and_a_table_of_bigquery(cloud: Any) -> None:
    for log, why in (
        ({"enabled": True, "sampling_rate": 2, "bigquery_destination": {"output_uri": "bq://demo"}}, "sampling_rate"),
        ({"enabled": True, "sampling_rate": 0.5}, "output_uri"),
    ):
        with pytest.raises(exceptions.BadRequest, match=why):
            cloud.endpoint(predict_request_response_logging_config=log)


def test_what_is_deployed_takes_from_its_quota_with_all_the_replicas_that_it_may_come_to(new_cloud: Any) -> None:
    cloud = new_cloud(quotas=lambda: {"aiplatform.googleapis.com/custom_model_serving_cpus": 12})
    model, endpoint = cloud.upload(), cloud.endpoint()
    first = cloud.deployment(model, "1")
    first.dedicated_resources.machine_spec.machine_type = "n1-standard-4"
    first.dedicated_resources.max_replica_count = 2
    cloud.finish(cloud.endpoints.deploy_model(endpoint=endpoint, deployed_model=first, traffic_split={"0": 100}))
    second = cloud.deployment(model, "2")
    second.dedicated_resources.machine_spec.machine_type = "n1-standard-4"
    second.dedicated_resources.max_replica_count = 2
    with pytest.raises(exceptions.TooManyRequests, match=r"quota limits: .*custom_model_serving_cpus"):
        cloud.endpoints.deploy_model(endpoint=endpoint, deployed_model=second)
    second.dedicated_resources.max_replica_count = 1
    cloud.finish(cloud.endpoints.deploy_model(endpoint=endpoint, deployed_model=second))
