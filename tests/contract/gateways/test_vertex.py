"""Vertex AI as the services see it: the same behaviour of the fake and of Google's client at the local cloud."""

from __future__ import annotations

import base64
import dataclasses
import json
import subprocess
import sys
import urllib.request
from typing import Any

import pytest

from cloud_deployer.console_metrics import SCHEMA_URI
from dualdeploy.errors import RejectedByGoogle, ResourceConflict, ResourceMissing, ServiceUnavailable
from dualdeploy.google.vertex import Evaluation, JobOutcome, RequestLogging, ScaleToZero, VertexGateway
from local_cloud.faults import Faults as CloudFaults

from .conftest import PROJECT, REGION, CloudVertexSide

# Jobs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("replicas", "pools"), [(1, [1]), (2, [1, 1]), (4, [1, 3])])
def test_several_replicas_are_a_chief_and_a_pool_of_workers_that_start_again_together(
    replicas: int, pools: list[int], vertex_emulator: Any, specs: Any
) -> None:
    gateway = VertexGateway(project=PROJECT, region=REGION, emulator_host=vertex_emulator.address)
    created = gateway.create_custom_job(specs.job(replicas=replicas))
    with urllib.request.urlopen(f"http://{vertex_emulator.address}/v1/{created.name}", timeout=30) as answer:
        spec = json.load(answer)["jobSpec"]
    assert [int(pool["replicaCount"]) for pool in spec["workerPoolSpecs"]] == pools
    assert len({json.dumps(pool["containerSpec"]) for pool in spec["workerPoolSpecs"]}) == 1
    assert len({json.dumps(pool["machineSpec"]) for pool in spec["workerPoolSpecs"]}) == 1
    assert spec["scheduling"].get("restartJobOnWorkerRestart", False) is (replicas > 1)


def test_a_job_is_found_by_its_name_its_number_and_its_labels(vertex_side: Any, specs: Any) -> None:
    created = vertex_side.vertex.create_custom_job(specs.job(labels={"dualdeploy_target": "cloud"}))

    labels = {"dualdeploy_run": specs.unique, "dualdeploy_target": "cloud"}
    assert created.labels == labels
    assert created.created is not None
    assert created.outcome is JobOutcome.UNFINISHED
    number = created.name.rsplit("/", 1)[-1]
    assert vertex_side.vertex.get_custom_job(number).name == created.name
    assert vertex_side.vertex.get_custom_job(created.name).labels == labels
    assert [job.name for job in vertex_side.vertex.find_custom_jobs(labels)] == [created.name]


def test_a_job_is_not_found_by_labels_that_it_does_not_have(vertex_side: Any, specs: Any) -> None:
    vertex_side.vertex.create_custom_job(specs.job(labels={"dualdeploy_target": "cloud"}))

    for labels in (
        {"dualdeploy_run": specs.unique, "dualdeploy_target": "mobile"},
        {"dualdeploy_run": f"{specs.unique}-r2"},
        {"dualdeploy_run": specs.unique[:-1]},
    ):
        assert vertex_side.vertex.find_custom_jobs(labels) == []


def test_several_jobs_of_the_same_labels_are_told_oldest_first(vertex_side: Any, specs: Any) -> None:
    names = [vertex_side.vertex.create_custom_job(specs.job()).name for _ in range(3)]

    assert [job.name for job in vertex_side.vertex.find_custom_jobs({"dualdeploy_run": specs.unique})] == names


def test_a_job_that_does_not_exist_is_missing(vertex_side: Any) -> None:
    with pytest.raises(ResourceMissing):
        vertex_side.vertex.get_custom_job("4821053374188847104")


@pytest.mark.parametrize(("exit_code", "outcome"), [("0", JobOutcome.SUCCEEDED), ("3", JobOutcome.FAILED)])
def test_a_job_that_has_ended_tells_how(exit_code: str, outcome: JobOutcome, vertex_side: Any, specs: Any) -> None:
    created = vertex_side.vertex.create_custom_job(specs.job(exit_code))

    vertex_side.end_job(created.name)

    job = vertex_side.vertex.get_custom_job(created.name)
    assert job.outcome is outcome
    assert job.ended is not None
    assert job.ended >= job.created
    assert bool(job.error) is (outcome is JobOutcome.FAILED)
    if job.error:
        assert exit_code in job.error


# Model Registry ------------------------------------------------------------------------------------------------------


def test_a_model_that_was_never_uploaded_has_no_version(vertex_side: Any, specs: Any) -> None:
    assert vertex_side.vertex.find_model_version(specs.unique, "run-1") is None


def test_an_uploaded_version_is_found_by_its_alias_when_the_operation_is_done(vertex_side: Any, specs: Any) -> None:
    operation = vertex_side.vertex.start_upload(specs.model())

    vertex_side.finish(operation)

    version = vertex_side.vertex.find_model_version(specs.unique, "run-1")
    assert version.name.endswith(f"/models/{specs.unique}")
    assert version.versioned_name == f"{version.name}@1"
    assert "run-1" in version.aliases
    assert version.artifact_uri.endswith("/one")
    assert vertex_side.vertex.find_model_version(specs.unique, "run-2") is None


def test_a_second_upload_is_a_second_version_of_the_same_model(vertex_side: Any, specs: Any) -> None:
    for number in ("1", "2"):
        vertex_side.finish(vertex_side.vertex.start_upload(specs.model(alias=f"run-{number}", artifact=number)))

    first, second = (vertex_side.vertex.find_model_version(specs.unique, f"run-{number}") for number in ("1", "2"))
    assert (first.version, second.version) == ("1", "2")
    assert first.name == second.name
    assert second.artifact_uri.endswith("/2")


def test_an_alias_moves_to_its_newest_taker(vertex_side: Any, specs: Any) -> None:
    for artifact in ("one", "two"):
        vertex_side.finish(vertex_side.vertex.start_upload(specs.model(artifact=artifact)))

    assert vertex_side.vertex.find_model_version(specs.unique, "run-1").version == "2"


def test_aliases_are_given_taken_and_put_away(vertex_side: Any, specs: Any) -> None:
    for number in ("1", "2"):
        vertex_side.finish(vertex_side.vertex.start_upload(specs.model(alias=f"run-{number}", artifact=number)))
    first, second = (vertex_side.vertex.find_model_version(specs.unique, f"run-{number}") for number in ("1", "2"))

    vertex_side.vertex.change_aliases(first, add=["live", "candidate"])
    vertex_side.vertex.change_aliases(second, add=["live"], remove=["candidate", "run-2"])

    # Only what the second version had was taken from it: `candidate` is the first one's.
    assert vertex_side.vertex.find_model_version(specs.unique, "live").version == "2"
    assert vertex_side.vertex.find_model_version(specs.unique, "candidate").version == "1"
    assert vertex_side.vertex.find_model_version(specs.unique, "run-2") is None
    assert vertex_side.vertex.find_model_version(specs.unique, "run-1").version == "1"


def test_an_evaluation_is_imported_for_one_version_and_found_there_by_its_name(vertex_side: Any, specs: Any) -> None:
    for number in ("1", "2"):
        vertex_side.finish(vertex_side.vertex.start_upload(specs.model(alias=f"run-{number}", artifact=number)))
    first, second = (vertex_side.vertex.find_model_version(specs.unique, f"run-{number}") for number in ("1", "2"))
    assert not vertex_side.vertex.has_evaluation(first, "run-1")

    metrics = {"logLoss": 0.5, "confusionMatrix": {"annotationSpecs": [{"id": "0", "displayName": "a"}], "rows": [[4]]}}
    vertex_side.vertex.import_evaluation(first, Evaluation("run-1", SCHEMA_URI, metrics))

    assert vertex_side.vertex.has_evaluation(first, "run-1")
    assert not vertex_side.vertex.has_evaluation(first, "run-2")
    assert not vertex_side.vertex.has_evaluation(second, "run-1")


# Operations ----------------------------------------------------------------------------------------------------------


def test_an_operation_is_seen_running_and_done(vertex_side: Any, specs: Any) -> None:
    vertex_side.hold_next_operation()
    name = vertex_side.vertex.start_upload(specs.model())

    before = vertex_side.vertex.operation(name)
    assert (before.name, before.done, before.error) == (name, False, "")
    vertex_side.finish(name)
    after = vertex_side.vertex.operation(name)
    assert (after.name, after.done, after.error) == (name, True, "")


def test_an_operation_that_failed_says_why_and_leaves_nothing(vertex_side: Any, specs: Any) -> None:
    vertex_side.fail_next_operation()
    name = vertex_side.vertex.start_upload(specs.model())

    vertex_side.finish(name)

    operation = vertex_side.vertex.operation(name)
    assert operation.done
    assert "planned" in operation.error
    assert vertex_side.vertex.find_model_version(specs.unique, "run-1") is None


def test_an_operation_that_is_not_known_is_none(vertex_side: Any) -> None:
    name = "projects/demo-dualdeploy/locations/us-central1/endpoints/flowers/operations/17"

    assert vertex_side.vertex.operation(name) is None


# Endpoints -----------------------------------------------------------------------------------------------------------


def endpoint_of(side: Any, specs: Any, *, dedicated: bool = True) -> Any:
    """A new endpoint, and the model version to put on it."""
    labels = {"dualdeploy_dataset": "flowers"}
    create = side.vertex.start_create_endpoint(
        specs.unique, display_name=specs.unique, labels=labels, dedicated=dedicated
    )
    upload = side.vertex.start_upload(specs.model())
    side.finish(create)
    side.finish(upload)
    return side.vertex.find_model_version(specs.unique, "run-1").versioned_name


def test_an_endpoint_exists_when_its_operation_is_done(vertex_side: Any, specs: Any) -> None:
    assert vertex_side.vertex.find_endpoint(specs.unique) is None

    endpoint_of(vertex_side, specs)

    endpoint = vertex_side.vertex.find_endpoint(specs.unique)
    assert endpoint.name.endswith(f"/endpoints/{specs.unique}")
    assert (list(endpoint.deployed), dict(endpoint.traffic)) == ([], {})
    assert endpoint.labels == {"dualdeploy_dataset": "flowers"}
    assert endpoint.dns


def test_an_endpoint_is_created_once_while_it_is_made_and_afterwards(vertex_side: Any, specs: Any) -> None:
    def create() -> str:
        name: str = vertex_side.vertex.start_create_endpoint(specs.unique, display_name=specs.unique, labels={})
        return name

    vertex_side.hold_next_operation()
    operation = create()
    with pytest.raises(ResourceConflict):
        create()
    vertex_side.finish(operation)
    with pytest.raises(ResourceConflict):
        create()


def test_a_deployed_model_serves_all_traffic_and_is_told_with_its_version(vertex_side: Any, specs: Any) -> None:
    model = endpoint_of(vertex_side, specs)

    operation = vertex_side.vertex.start_deploy(specs.unique, specs.deployment("17", model), traffic={"17": 100})
    vertex_side.finish(operation)

    endpoint = vertex_side.vertex.find_endpoint(specs.unique)
    [deployed] = endpoint.deployed
    assert (deployed.id, deployed.version, deployed.display_name) == ("17", "1", f"{specs.unique}-17")
    assert deployed.model.partition("@")[0] == model.partition("@")[0]
    assert dict(endpoint.traffic) == {"17": 100}


def test_a_model_that_scales_to_zero_is_alone_on_its_endpoint(vertex_side: Any, specs: Any) -> None:
    model, vertex = endpoint_of(vertex_side, specs), vertex_side.vertex
    to_zero = dataclasses.replace(specs.deployment("17", model), scale_to_zero=ScaleToZero(idle=600, warm=300))

    vertex_side.finish(vertex.start_deploy(specs.unique, to_zero, traffic={"17": 100}))

    endpoint = vertex.find_endpoint(specs.unique)
    assert dict(endpoint.traffic) == {"17": 100}
    assert vertex.predict(endpoint, picture("rose")).deployed_id == "17"
    for other in (specs.deployment("18", model), dataclasses.replace(to_zero, id="19")):
        with pytest.raises(RejectedByGoogle, match=r"(?i)scale to zero allows one"):
            vertex.start_deploy(specs.unique, other, traffic={"17": 100, other.id: 0})
    vertex_side.finish(vertex.start_undeploy(specs.unique, "17", traffic={}))
    vertex_side.finish(vertex.start_deploy(specs.unique, specs.deployment("18", model), traffic={"18": 100}))
    with pytest.raises(RejectedByGoogle, match=r"(?i)scale to zero allows one"):
        vertex.start_deploy(specs.unique, to_zero, traffic={"17": 0, "18": 100})


def test_no_model_scales_to_zero_on_a_shared_endpoint(vertex_side: Any, specs: Any) -> None:
    model, vertex = endpoint_of(vertex_side, specs, dedicated=False), vertex_side.vertex
    to_zero = dataclasses.replace(specs.deployment("17", model), scale_to_zero=ScaleToZero(idle=600, warm=300))

    with pytest.raises(RejectedByGoogle, match=r"(?i)scale to zero is not supported"):
        vertex.start_deploy(specs.unique, to_zero, traffic={"17": 100})


LOOKS_AT_AN_OPERATION = """
import sys
from dualdeploy.google.vertex import VertexGateway
project, region, address, operation = sys.argv[1:]
found = VertexGateway(project=project, region=region, emulator_host=address).operation(operation)
print(found.done, found.error, "google.cloud.aiplatform_v1beta1" in sys.modules)
"""


def test_another_instance_can_look_at_an_operation_that_was_begun_through_v1beta1(
    vertex_emulator: Any, specs: Any
) -> None:
    gateway = VertexGateway(project=PROJECT, region=REGION, emulator_host=vertex_emulator.address)
    side = CloudVertexSide(vertex_emulator, CloudFaults())
    model = endpoint_of(side, specs)
    to_zero = dataclasses.replace(specs.deployment("17", model), scale_to_zero=ScaleToZero(idle=600, warm=300))
    operation = gateway.start_deploy(specs.unique, to_zero, traffic={"17": 100})
    side.finish(operation)

    arguments = [PROJECT, REGION, vertex_emulator.address, operation]
    done = subprocess.run(
        [sys.executable, "-c", LOOKS_AT_AN_OPERATION, *arguments], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["True", "True"]


def test_an_operation_of_v1_is_looked_at_without_the_second_package(vertex_emulator: Any, specs: Any) -> None:
    side = CloudVertexSide(vertex_emulator, CloudFaults())
    operation = side.vertex.start_upload(specs.model())
    side.finish(operation)

    arguments = [PROJECT, REGION, vertex_emulator.address, operation]
    done = subprocess.run(
        [sys.executable, "-c", LOOKS_AT_AN_OPERATION, *arguments], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["True", "False"]


def test_what_vertex_ai_is_asked_for_has_both_periods_and_no_least_replica(vertex_emulator: Any, specs: Any) -> None:
    side = CloudVertexSide(vertex_emulator, CloudFaults())
    model = endpoint_of(side, specs)
    asked = dataclasses.replace(
        specs.deployment("17", model),
        max_replicas=3,
        machine="g2-standard-8",
        accelerator_type="NVIDIA_L4",
        accelerator_count=1,
        targets={"aiplatform.googleapis.com/prediction/online/cpu/utilization": 70},
        spot=True,
        scale_to_zero=ScaleToZero(idle=600, warm=300),
    )
    side.finish(side.vertex.start_deploy(specs.unique, asked, traffic={"17": 100}))
    name = f"projects/{PROJECT}/locations/{REGION}/endpoints/{specs.unique}"
    with urllib.request.urlopen(f"http://{vertex_emulator.address}/v1beta1/{name}", timeout=30) as answer:
        resources = json.load(answer)["deployedModels"][0]["dedicatedResources"]
    assert resources.pop("machineSpec")["acceleratorCount"] == 1
    assert resources.pop("autoscalingMetricSpecs")[0]["target"] == 70
    assert resources == {  # a least number of 0 is left out
        "initialReplicaCount": 1,
        "maxReplicaCount": 3,
        "spot": True,
        "scaleToZeroSpec": {"minScaleupPeriod": "300s", "idleScaledownPeriod": "600s"},
    }


def test_a_deployment_is_made_once_while_it_runs_and_afterwards(vertex_side: Any, specs: Any) -> None:
    model = endpoint_of(vertex_side, specs)

    def deploy() -> str:
        deployment = specs.deployment("17", model)
        name: str = vertex_side.vertex.start_deploy(specs.unique, deployment, traffic={"17": 100})
        return name

    vertex_side.hold_next_operation()
    operation = deploy()
    with pytest.raises(ResourceConflict):
        deploy()
    vertex_side.finish(operation)
    with pytest.raises(ResourceConflict):
        deploy()


def test_an_endpoint_takes_one_change_at_a_time(vertex_side: Any, specs: Any) -> None:
    """400 FAILED_PRECONDITION of Vertex AI, and yet no verdict on the change: it can be made later."""
    model = endpoint_of(vertex_side, specs)
    vertex_side.hold_next_operation()
    first = vertex_side.vertex.start_deploy(specs.unique, specs.deployment("17", model), traffic={"17": 100})

    with pytest.raises(ResourceConflict):
        vertex_side.vertex.start_deploy(specs.unique, specs.deployment("18", model), traffic={"18": 100})

    vertex_side.finish(first)
    split = {"17": 0, "18": 100}
    vertex_side.finish(vertex_side.vertex.start_deploy(specs.unique, specs.deployment("18", model), traffic=split))
    assert len(vertex_side.vertex.find_endpoint(specs.unique).deployed) == 2


def test_traffic_moves_to_the_new_model_and_the_old_one_is_taken_down(vertex_side: Any, specs: Any) -> None:
    model = endpoint_of(vertex_side, specs)
    vertex = vertex_side.vertex
    vertex_side.finish(vertex.start_deploy(specs.unique, specs.deployment("17", model), traffic={"17": 100}))

    vertex_side.finish(vertex.start_deploy(specs.unique, specs.deployment("18", model), traffic={"17": 0, "18": 100}))
    endpoint = vertex.find_endpoint(specs.unique)
    assert sorted(deployed.id for deployed in endpoint.deployed) == ["17", "18"]
    assert {key: share for key, share in endpoint.traffic.items() if share} == {"18": 100}

    vertex_side.finish(vertex.start_undeploy(specs.unique, "17", traffic={"18": 100}))
    endpoint = vertex.find_endpoint(specs.unique)
    assert [deployed.id for deployed in endpoint.deployed] == ["18"]
    assert dict(endpoint.traffic) == {"18": 100}


def test_without_a_split_of_their_own_deployments_and_undeployments_leave_the_one_that_is_there(
    vertex_side: Any, specs: Any
) -> None:
    model, vertex = endpoint_of(vertex_side, specs), vertex_side.vertex
    vertex_side.finish(vertex.start_deploy(specs.unique, specs.deployment("17", model), traffic={"17": 100}))

    vertex_side.finish(vertex.start_deploy(specs.unique, specs.deployment("18", model), traffic={}))
    endpoint = vertex.find_endpoint(specs.unique)
    assert sorted(deployed.id for deployed in endpoint.deployed) == ["17", "18"]
    assert {key: share for key, share in endpoint.traffic.items() if share} == {"17": 100}

    with pytest.raises(RejectedByGoogle):
        vertex.start_undeploy(specs.unique, "17", traffic={})
    vertex_side.finish(vertex.start_undeploy(specs.unique, "18", traffic={}))
    assert dict(vertex.find_endpoint(specs.unique).traffic) == {"17": 100}


def two_deployed(side: Any, specs: Any) -> Any:
    """An endpoint with 17, which has all traffic, and 18, which has none."""
    model = endpoint_of(side, specs)
    for number, split in (("17", {"17": 100}), ("18", {"17": 100, "18": 0})):
        side.finish(side.vertex.start_deploy(specs.unique, specs.deployment(number, model), traffic=split))
    return side.vertex.find_endpoint(specs.unique)


def picture(label: str) -> dict[str, str]:
    return {"b64": base64.b64encode(label.encode()).decode()}


def test_a_split_is_changed_at_once_and_an_answer_names_the_model_that_gave_it(vertex_side: Any, specs: Any) -> None:
    endpoint = two_deployed(vertex_side, specs)
    assert vertex_side.vertex.predict(endpoint, picture("rose")).deployed_id == "17"

    vertex_side.vertex.set_traffic(endpoint, {"17": 0, "18": 100})

    changed = vertex_side.vertex.find_endpoint(specs.unique)
    assert {key: share for key, share in changed.traffic.items() if share} == {"18": 100}
    answer = vertex_side.vertex.predict(changed, picture("rose"))
    assert (answer.deployed_id, answer.prediction["label"]) == ("18", "rose")
    assert 0 < answer.seconds < 10


def test_a_split_that_was_decided_on_an_older_state_is_refused(vertex_side: Any, specs: Any) -> None:
    before = two_deployed(vertex_side, specs)
    vertex_side.vertex.set_traffic(before, {"17": 50, "18": 50})

    with pytest.raises(ResourceConflict):
        vertex_side.vertex.set_traffic(before, {"17": 0, "18": 100})

    assert dict(vertex_side.vertex.find_endpoint(specs.unique).traffic) == {"17": 50, "18": 50}


def test_a_split_that_does_not_sum_to_100_is_refused(vertex_side: Any, specs: Any) -> None:
    endpoint = two_deployed(vertex_side, specs)
    with pytest.raises(RejectedByGoogle):
        vertex_side.vertex.set_traffic(endpoint, {"17": 50, "18": 49})


def test_a_model_server_that_falls_over_is_a_failed_prediction(vertex_side: Any, specs: Any) -> None:
    endpoint = two_deployed(vertex_side, specs)
    with pytest.raises(ServiceUnavailable):
        vertex_side.vertex.predict(endpoint, picture("fall over"))


def test_what_is_not_there_cannot_be_changed(vertex_side: Any, specs: Any) -> None:
    with pytest.raises(ResourceMissing):
        vertex_side.vertex.start_deploy("no-endpoint", specs.deployment("17", "m@1"), traffic={"17": 100})
    with pytest.raises(ResourceMissing):
        vertex_side.vertex.start_undeploy("no-endpoint", "17", traffic={})
    endpoint_of(vertex_side, specs)
    with pytest.raises(ResourceMissing):
        vertex_side.vertex.start_undeploy(specs.unique, "17", traffic={})


def test_results_are_values_that_can_be_compared(vertex_side: Any, specs: Any) -> None:
    created = vertex_side.vertex.create_custom_job(specs.job("0"))
    vertex_side.end_job(created.name)

    assert vertex_side.vertex.get_custom_job(created.name) == vertex_side.vertex.get_custom_job(created.name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        created.state = "JOB_STATE_SUCCEEDED"


# Tidying -------------------------------------------------------------------------------------------------------------


def test_the_versions_of_a_model_are_told_with_labels_and_aliases_and_can_be_deleted(
    vertex_side: Any, specs: Any
) -> None:
    vertex, finish = vertex_side.vertex, vertex_side.finish
    assert vertex.find_model_versions(specs.unique) == []
    for number in ("1", "2", "3"):
        finish(vertex.start_upload(specs.model(alias=f"run-{number}", artifact=number)))
    first, second, third = vertex.find_model_versions(specs.unique)
    assert [found.version for found in (first, second, third)] == ["1", "2", "3"]
    assert [set(found.aliases) for found in (first, third)] == [{"run-1", "default"}, {"run-3"}]
    assert {found.labels["dualdeploy_dataset"] for found in (first, second, third)} == {"flowers"}
    assert first.name == vertex.find_model_version(specs.unique, "2").name

    finish(vertex.start_delete_version(second))

    assert [found.version for found in vertex.find_model_versions(specs.unique)] == ["1", "3"]
    assert vertex.find_model_version(specs.unique, "2") is None
    with pytest.raises(ResourceMissing):
        vertex.start_delete_version(second)


def test_the_default_version_stays_until_another_one_is_the_default(vertex_side: Any, specs: Any) -> None:
    vertex, finish = vertex_side.vertex, vertex_side.finish
    for number in ("1", "2"):
        finish(vertex.start_upload(specs.model(alias=f"run-{number}", artifact=number)))
    first, second = vertex.find_model_versions(specs.unique)
    with pytest.raises(RejectedByGoogle, match="default"):
        vertex.start_delete_version(first)
    vertex.change_aliases(second, add=["default"])
    finish(vertex.start_delete_version(first))
    assert [found.version for found in vertex.find_model_versions(specs.unique)] == ["2"]


def test_a_model_is_deleted_with_all_of_its_versions_once_none_is_deployed(vertex_side: Any, specs: Any) -> None:
    vertex, finish = vertex_side.vertex, vertex_side.finish
    for number in ("1", "2"):
        finish(vertex.start_upload(specs.model(alias=f"run-{number}")))
    finish(vertex.start_create_endpoint(specs.unique, display_name=specs.unique, labels={}))
    _, version = vertex.find_model_versions(specs.unique)
    finish(vertex.start_deploy(specs.unique, specs.deployment("1", version.versioned_name), traffic={}))
    # The first model of an endpoint that is deployed without a split has no traffic.
    assert dict(vertex.find_endpoint(specs.unique).traffic) == {}
    with pytest.raises(RejectedByGoogle, match="deployed"):
        vertex.start_delete_model(specs.unique)
    finish(vertex.start_undeploy(specs.unique, "1", traffic={}))

    finish(vertex.start_delete_model(specs.unique))

    assert vertex.find_model_versions(specs.unique) == []
    with pytest.raises(ResourceMissing):
        vertex.start_delete_model(specs.unique)


def test_endpoints_are_found_by_our_label_and_an_empty_one_can_be_deleted(vertex_side: Any, specs: Any) -> None:
    vertex, finish = vertex_side.vertex, vertex_side.finish
    label = f"label_{specs.unique.replace('-', '_')}"
    for name, labels in (("a", {label: "one"}), ("b", {label: "two", "team": "x"}), ("c", {"team": "x"})):
        finish(vertex.start_create_endpoint(f"{specs.unique}-{name}", display_name=name, labels=labels))

    found = {endpoint.id: endpoint.labels[label] for endpoint in vertex.find_endpoints(label)}

    assert found == {f"{specs.unique}-a": "one", f"{specs.unique}-b": "two"}
    assert [endpoint.id for endpoint in vertex.find_endpoints(label, "two")] == [f"{specs.unique}-b"]
    finish(vertex.start_delete_endpoint(f"{specs.unique}-a"))
    assert [endpoint.id for endpoint in vertex.find_endpoints(label)] == [f"{specs.unique}-b"]
    with pytest.raises(ResourceMissing):
        vertex.start_delete_endpoint(f"{specs.unique}-a")


def test_nothing_that_has_traffic_or_is_deployed_can_be_removed_by_mistake(vertex_side: Any, specs: Any) -> None:
    vertex, finish = vertex_side.vertex, vertex_side.finish
    for number in ("1", "2"):
        finish(vertex.start_upload(specs.model(alias=f"run-{number}")))
    finish(vertex.start_create_endpoint(specs.unique, display_name="x", labels={}))
    _, version = vertex.find_model_versions(specs.unique)
    for number, traffic in (("1", {"1": 100}), ("2", {"1": 100, "2": 0})):
        deployment = specs.deployment(number, version.versioned_name)
        finish(vertex.start_deploy(specs.unique, deployment, traffic=traffic))

    with pytest.raises(RejectedByGoogle, match="traffic"):
        vertex.start_undeploy(specs.unique, "1", traffic={})
    with pytest.raises(RejectedByGoogle, match="deployed"):
        vertex.start_delete_version(version)
    with pytest.raises(RejectedByGoogle, match="deployed"):
        vertex.start_delete_endpoint(specs.unique)
    finish(vertex.start_undeploy(specs.unique, "2", traffic={}))
    assert dict(vertex.find_endpoint(specs.unique).traffic) == {"1": 100}
    finish(vertex.start_undeploy(specs.unique, "1", traffic={}))
    assert vertex.find_endpoint(specs.unique).traffic == {}


def test_the_requests_of_an_endpoint_are_logged_from_now_on_and_no_longer(vertex_side: Any, specs: Any) -> None:
    vertex, finish = vertex_side.vertex, vertex_side.finish
    finish(vertex.start_create_endpoint(specs.unique, display_name="x", labels={"team": "x"}, dedicated=False))
    made = vertex.find_endpoint(specs.unique)
    assert (made.request_logging, made.dns) == (None, "")

    vertex.set_request_logging(made, RequestLogging("bq://demo.logs.flowers", 0.1))

    changed = vertex.find_endpoint(specs.unique)
    assert changed.request_logging == RequestLogging("bq://demo.logs.flowers", 0.1)
    assert changed.labels == {"team": "x"}
    vertex.set_request_logging(changed, None)
    assert vertex.find_endpoint(specs.unique).request_logging is None
