"""What Vertex AI answers, or does not answer, becomes one of our errors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dualdeploy.errors import PermissionSpreads, RejectedByGoogle, ResourceConflict, ResourceMissing, ServiceUnavailable
from dualdeploy.google.vertex import JobOutcome, VertexGateway
from local_cloud.api import Api
from local_cloud.faults import Faults as CloudFaults
from local_cloud.http import HttpServer

#: One call of each sort: a reading one, which is repeated, and a writing one, which is not.
READ = "aiplatform.customJobs.list"
WRITE = "aiplatform.customJobs.create"
OPERATION = "aiplatform.operations.get"
UNKNOWN_OPERATION = "projects/demo-dualdeploy/locations/us-central1/endpoints/flowers/operations/17"


@pytest.fixture
def gateway_of(vertex_emulator: Any) -> Callable[..., VertexGateway]:
    def make(address: str = "", **patience: float) -> VertexGateway:
        return VertexGateway(
            project="demo-dualdeploy",
            region="us-central1",
            emulator_host=address or vertex_emulator.address,
            **patience,
        )

    return make


def calls_of(gateway: VertexGateway, specs: Any) -> dict[str, Callable[[], Any]]:
    return {
        READ: lambda: gateway.find_custom_jobs({"dualdeploy_run": specs.unique}),
        WRITE: lambda: gateway.create_custom_job(specs.job()),
        OPERATION: lambda: gateway.operation(UNKNOWN_OPERATION),
    }


@pytest.fixture
def faults(cloud_faults: CloudFaults) -> Iterator[CloudFaults]:
    yield cloud_faults
    cloud_faults.clear()


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("return-400", RejectedByGoogle),
        ("return-403", PermissionSpreads),
        ("return-404", ResourceMissing),
        ("return-408", ServiceUnavailable),
        ("return-409", ResourceConflict),
        ("return-412", RejectedByGoogle),
        ("return-429", ServiceUnavailable),
        ("return-500", ServiceUnavailable),
        ("return-502", ServiceUnavailable),
        ("return-503", ServiceUnavailable),
        ("return-504", ServiceUnavailable),
        ("reset-connection", ServiceUnavailable),
        ("lost-response", ServiceUnavailable),
        ("hang:1", ServiceUnavailable),
    ],
)
@pytest.mark.parametrize("operation", [READ, WRITE])
def test_an_answer_becomes_an_error(
    operation: str, fault: str, error: type[Exception], *, gateway_of: Any, faults: CloudFaults, specs: Any
) -> None:
    gateway = gateway_of(call_timeout=0.4, retry_deadline=0.3)
    faults.add({operation: [fault] * (1 if operation == WRITE else 30)})

    with pytest.raises(error) as caught:
        calls_of(gateway, specs)[operation]()

    assert type(caught.value) is error
    assert "Vertex AI" in str(caught.value)


@pytest.mark.parametrize("fault", ["return-429", "return-502", "return-503"])
@pytest.mark.parametrize("operation", [READ, OPERATION])
def test_one_transient_failure_of_a_reading_call_is_not_even_noticed(
    operation: str, fault: str, gateway_of: Any, faults: CloudFaults, specs: Any
) -> None:
    with faults.plan({operation: [fault, fault]}):
        assert not calls_of(gateway_of(), specs)[operation]()


def test_a_writing_call_is_never_repeated_by_itself(gateway_of: Any, faults: CloudFaults, specs: Any) -> None:
    gateway = gateway_of()
    with faults.plan({WRITE: ["return-503"]}), pytest.raises(ServiceUnavailable):
        gateway.create_custom_job(specs.job())

    assert gateway.find_custom_jobs({"dualdeploy_run": specs.unique}) == []


def test_a_job_whose_answer_was_lost_is_found_by_its_labels(gateway_of: Any, faults: CloudFaults, specs: Any) -> None:
    gateway = gateway_of()
    with faults.plan({WRITE: ["lost-response"]}), pytest.raises(ServiceUnavailable):
        gateway.create_custom_job(specs.job())

    assert len(gateway.find_custom_jobs({"dualdeploy_run": specs.unique})) == 1


def test_a_deployment_whose_answer_was_lost_conflicts_with_itself(
    gateway_of: Any, faults: CloudFaults, specs: Any
) -> None:
    gateway = gateway_of()

    def create() -> str:
        name: str = gateway.start_create_endpoint(specs.unique, display_name="x", labels={})
        return name

    with faults.plan({"aiplatform.endpoints.create": ["lost-response"]}), pytest.raises(ServiceUnavailable):
        create()
    with pytest.raises(ResourceConflict):
        create()


def test_a_connection_that_is_refused_is_a_reason_to_retry_later(gateway_of: Any, unheard: str, specs: Any) -> None:
    began = time.monotonic()
    for call in calls_of(gateway_of(unheard), specs).values():
        with pytest.raises(ServiceUnavailable):
            call()

    assert time.monotonic() - began < 10


def test_an_accelerator_that_does_not_exist_is_refused_with_those_that_do(gateway_of: Any, specs: Any) -> None:
    with pytest.raises(RejectedByGoogle, match=r"no accelerator 'NVIDIA_TESLA_T5'; it has .*NVIDIA_TESLA_T4"):
        gateway_of().create_custom_job(specs.job(accelerator_type="NVIDIA_TESLA_T5"))


def test_a_job_without_an_accelerator_has_none(gateway_of: Any, specs: Any) -> None:
    gateway = gateway_of()

    created = gateway.create_custom_job(specs.job(accelerator_count=0, accelerator_type=""))

    machine = gateway._jobs.get_custom_job(name=created.name).job_spec.worker_pool_specs[0].machine_spec
    assert (machine.machine_type, machine.accelerator_count) == ("n1-standard-8", 0)


def test_a_job_is_created_as_its_spec_says(gateway_of: Any, specs: Any) -> None:
    gateway = gateway_of()

    created = gateway.create_custom_job(
        specs.job("0", "--fast", service_account="trainer@demo.iam.gserviceaccount.com")
    )

    job = gateway._jobs.get_custom_job(name=created.name)
    [pool] = job.job_spec.worker_pool_specs
    assert list(pool.container_spec.args) == ["0", "--fast"]
    assert {variable.name: variable.value for variable in pool.container_spec.env} == {"TARGET": "cloud"}
    assert pool.machine_spec.accelerator_type.name == "NVIDIA_TESLA_T4"
    assert job.job_spec.scheduling.timeout.total_seconds() == 600
    assert job.job_spec.scheduling.strategy.name == "SPOT"
    assert job.job_spec.service_account == "trainer@demo.iam.gserviceaccount.com"
    assert job.job_spec.base_output_directory.output_uri_prefix.endswith(specs.unique)


def test_a_job_for_which_vertex_ai_itself_waits_says_for_how_long(gateway_of: Any, specs: Any) -> None:
    gateway = gateway_of()
    l4 = {"machine": "g2-standard-8", "accelerator_type": "NVIDIA_L4"}
    created = gateway.create_custom_job(specs.job("0", strategy="flex_start", wait=5400.0, **l4))
    scheduling = gateway._jobs.get_custom_job(name=created.name).job_spec.scheduling
    assert scheduling.strategy.name == "FLEX_START"
    assert scheduling.max_wait_duration.total_seconds() == 5400
    with pytest.raises(RejectedByGoogle, match="FLEX_START is not supported"):
        gateway.create_custom_job(specs.job("0", strategy="flex_start"))


def test_a_state_that_this_client_does_not_know_is_unfinished(
    gateway_of: Any, recwarn: pytest.WarningsRecorder
) -> None:
    """Google adds states; a reader of today must wait for what it does not understand, and not fall over."""
    api = Api("future", faults=CloudFaults())
    api.operation("future.get", "GET", "/v1/<path:name>")(lambda name: {"name": name, "state": 99})
    server = HttpServer(api.app, name="future").start()
    try:
        job = gateway_of(server.address).get_custom_job("17")
    finally:
        server.close()

    assert job.state == "99"
    assert job.outcome is JobOutcome.UNFINISHED
