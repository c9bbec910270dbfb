"""The control API of a running cloud."""

from __future__ import annotations

import pytest
import requests

from local_cloud.cloud import LocalCloud


@pytest.fixture
def control(cloud: LocalCloud) -> str:
    return f"http://{cloud.control.address}"


def test_it_is_healthy_and_tells_its_environment(cloud: LocalCloud, control: str) -> None:
    assert requests.get(f"{control}/healthz", timeout=5).json() == {"status": "ok"}
    assert requests.get(f"{control}/environment", timeout=5).json() == cloud.environment()


def test_services_are_registered(cloud: LocalCloud, control: str) -> None:
    answer = requests.post(f"{control}/services", json={"cloud_deployer": "127.0.0.1:9"}, timeout=5)

    assert answer.json()["cloud_deployer"] == "127.0.0.1:9"
    assert requests.get(f"{control}/services", timeout=5).json() == cloud.services


@pytest.mark.parametrize("services", [{"nobody": "127.0.0.1:9"}, {"cloud_deployer": "http://x"}, {"cloud_deployer": 9}])
def test_a_wrong_registration_is_refused_and_named(control: str, services: dict[str, object]) -> None:
    answer = requests.post(f"{control}/services", json=services, timeout=5)

    assert answer.status_code == 400
    assert next(iter(services)) in answer.json()["error"]["message"]


def test_faults_are_planned_shown_and_cleared(cloud: LocalCloud, control: str) -> None:
    plan = {"storage.buckets.list": ["return-503"], "delivery.data-object-finalized": ["duplicate"]}
    requests.post(f"{control}/faults", json=plan, timeout=5).raise_for_status()
    shown = requests.get(f"{control}/faults", timeout=5).json()
    failing = requests.get(f"http://{cloud.storage.address}/storage/v1/b", timeout=5)

    assert shown["pending"] == plan
    assert "aiplatform.customJobs.create" in shown["operations"]
    assert failing.status_code == 503
    assert requests.delete(f"{control}/faults", timeout=5).json() == {"pending": {}}
    assert cloud.faults.pending() == {}


@pytest.mark.parametrize(
    "plan",
    [
        {"storage.buckets.eat": ["return-503"]},
        {"storage.buckets.list": ["explode"]},
        {"storage.buckets.list": "x"},
        {"storage.buckets.list": ["duplicate"]},
        {"delivery.data-object-finalized": ["reorder"]},
        {"delivery.deployer-training-completed": ["crash"]},
        {"aiplatform.jobs.run": ["return-503"]},
        {"aiplatform.operations.run": ["lost-response"]},
        {"pubsub.publish": ["drop"]},
    ],
)
def test_a_plan_that_cannot_happen_is_refused(cloud: LocalCloud, control: str, plan: dict[str, object]) -> None:
    assert requests.post(f"{control}/faults", json=plan, timeout=5).status_code == 400
    assert cloud.faults.pending() == {}


def test_the_status_page_shows_what_there_is_and_runs_nothing_that_someone_wrote(cloud: LocalCloud) -> None:
    project = cloud.topology.project
    template = {"parameters": {"greeting": {"defaultValue": {"value": "<script>alert(1)</script>"}}}}
    url = f"http://{cloud.remote_config.address}/v1/projects/{project}/remoteConfig"
    requests.put(url, json=template, headers={"If-Match": "*"}, timeout=5).raise_for_status()
    answer = requests.get(f"http://{cloud.control.address}/", timeout=5)

    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "<script" not in answer.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in answer.text
    for text in (f"{project}-data", "training-completed", "publisher-tick", "dualdeploy-tick", "python -m trainer"):
        assert text in answer.text


def test_an_account_has_addresses_of_its_own(cloud: LocalCloud) -> None:
    url = f"http://{cloud.control.address}/environment"
    owner = requests.get(url, timeout=5).json()
    trainer = requests.get(url, params={"account": "trainer"}, timeout=5).json()
    assert trainer["STORAGE_EMULATOR_HOST"] == f"http://{cloud.storage.addresses[cloud.iam.member('trainer')]}"
    assert trainer["STORAGE_EMULATOR_HOST"] != owner["STORAGE_EMULATOR_HOST"]

    unknown = requests.get(url, params={"account": "stranger"}, timeout=5)
    assert unknown.status_code == 404
    assert "no account 'stranger'; the bindings and services have " in unknown.json()["error"]["message"]
