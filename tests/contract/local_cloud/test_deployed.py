"""What the local cloud tells of itself is what it does: a part that is said to be gone is gone."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest
import requests
from google.cloud import pubsub_v1, storage

from local_cloud.cloud import LocalCloud

PROJECT, REGION = "demo-dualdeploy", "us-central1"
LOCATION = f"projects/{PROJECT}/locations/{REGION}"


@pytest.fixture
def ask(cloud: LocalCloud) -> Any:
    """GET a path; the status and the document."""

    def ask(path: str, **parameters: Any) -> tuple[int, Any]:
        answer = requests.get(f"http://{cloud.deployed.address}{path}", params=parameters, timeout=5)
        return answer.status_code, answer.json()

    return ask


@pytest.fixture
def bucket(cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    return storage.Client(project=PROJECT).bucket(f"{PROJECT}-data")


def upload(bucket: Any, name: str) -> None:
    bucket.blob(name).upload_from_string("x")


def test_a_deleted_trigger_is_not_found_and_announces_nothing(
    cloud: LocalCloud, ask: Any, bucket: Any, service: Any
) -> None:
    cloud.register_service("training_launcher", service.address)
    path = f"/v1/{LOCATION}/triggers/data-object-finalized"
    destination = ask(path)[1]["destination"]["cloudRun"]
    assert destination == {"service": "training-launcher", "region": REGION, "path": "/events/object-finalized"}

    cloud.eventarc.deleted.add("data-object-finalized")
    assert ask(path)[0] == 404
    upload(bucket, "flowers/while-it-was-gone")
    time.sleep(0.5)
    cloud.eventarc.deleted.clear()
    upload(bucket, "flowers/afterwards")

    service.wait_for("/events/object-finalized", lambda body: b"afterwards" in body)
    assert not any(b"while-it-was-gone" in body for _, _, body in service.requests)


def test_a_paused_schedule_is_said_to_be_and_does_not_tick(cloud: LocalCloud, ask: Any) -> None:
    path = f"/v1/{LOCATION}/jobs/dualdeploy-tick"
    job = cloud.scheduler.jobs["dualdeploy-tick"]
    job.is_paused = True
    try:
        time.sleep(0.5)
        before = ask(path)[1]
        time.sleep(0.5)
        after = ask(path)[1]
    finally:
        job.is_paused = False
    assert before["state"] == "PAUSED"
    assert before == after
    time.sleep(0.5)
    ticking = ask(path)[1]
    assert ticking["state"] == "ENABLED"
    assert ticking["lastAttemptTime"] > before.get("lastAttemptTime", "")
    assert "status" not in ticking


def test_a_disabled_sink_lets_nothing_through(cloud: LocalCloud, ask: Any, service: Any) -> None:
    cloud.register_service("job_notifier", service.address)
    before = cloud.sinks.find("dualdeploy-training-job-logs")
    assert before
    entry = {"resource": {"type": "ml_job", "labels": {"task_name": "service"}}}
    cloud.sinks.put(dataclasses.replace(before, is_disabled=True))
    shown = ask(f"/v2/projects/{PROJECT}/sinks/{before.name}")[1]
    cloud.sinks.route({**entry, "textPayload": "Job failed. Nobody hears of it."})
    cloud.sinks.put(before)
    cloud.sinks.route({**entry, "textPayload": "Job failed."})

    service.wait_for("/events/training-job-log")
    assert shown["disabled"] is True
    assert shown["filter"] == before.filter
    assert len([at for at, _, _ in service.requests if at == "/events/training-job-log"]) == 1


def test_a_service_is_not_found_then_registered_then_silent(cloud: LocalCloud, ask: Any, service: Any) -> None:
    path = f"/v2/{LOCATION}/services/mobile-publisher"
    assert ask(path)[0] == 404
    cloud.register_service("mobile_publisher", service.address)
    listening = ask(path)[1]
    cloud.register_service("mobile_publisher", "127.0.0.1:9")
    silent = ask(path)[1]
    cloud.services.pop("mobile_publisher")

    assert listening["uri"] == f"http://{service.address}"
    assert listening["terminalCondition"]["state"] == "CONDITION_SUCCEEDED"
    assert silent["terminalCondition"]["state"] == "CONDITION_FAILED"
    assert "nothing listens on 127.0.0.1:9" in silent["terminalCondition"]["message"]


def test_policies_are_those_of_the_permissions_page_by_each_api_s_own_call(
    cloud: LocalCloud, ask: Any, bucket: Any
) -> None:
    caller = f"serviceAccount:job-notifier-caller@{PROJECT}.iam.gserviceaccount.com"
    service = ask(f"/v2/{LOCATION}/services/job-notifier:getIamPolicy")[1]
    assert service["bindings"] == [{"role": "roles/run.invoker", "members": [caller]}]

    on_topic = pubsub_v1.PublisherClient().get_iam_policy(
        request={"resource": f"projects/{PROJECT}/topics/training-completed"}
    )
    [binding] = on_topic.bindings
    assert (binding.role, len(binding.members)) == ("roles/pubsub.publisher", 1)

    on_bucket = storage.Client(project=PROJECT).bucket(f"{PROJECT}-models").get_iam_policy(requested_policy_version=3)
    trainer = f"serviceAccount:trainer@{PROJECT}.iam.gserviceaccount.com"
    written = {
        each["condition"]["expression"]
        for each in on_bucket.bindings
        if trainer in each["members"] and each["role"] == "roles/storage.objectUser"
    }
    # One for what every training writes, one for what it prepares for AutoML.
    assert [sum(f"/objects/{folder}/" in each for each in written) for folder in ("results", "automl")] == [1, 1]

    answer = requests.post(
        f"http://{cloud.deployed.address}/v1/projects/{PROJECT}:getIamPolicy", json={}, timeout=5
    ).json()
    assert f"projects/{PROJECT}/roles/dualdeploy_job_notifier" in {each["role"] for each in answer["bindings"]}


def test_what_waits_is_a_metric(cloud: LocalCloud) -> None:
    cloud.pubsub.publish(cloud.topology.topic_path("deployment-completed"), b"{}", {})
    count, age = cloud.pubsub.waiting()[cloud.topology.subscription_path("deployment-completed-log")]
    assert count >= 1
    assert 0 <= age < 60


def test_the_state_of_the_project_is_changed_over_the_control_api(cloud: LocalCloud, ask: Any) -> None:
    control = f"http://{cloud.control.address}/project"
    account = f"trainer@{PROJECT}.iam.gserviceaccount.com"
    changes = {"apis_off": ["run.googleapis.com"], "quotas": {"m": 1}, "accounts": {account: None}}
    changed = requests.patch(control, json=changes, timeout=5).json()
    names = [f"projects/{PROJECT}/services/{api}.googleapis.com" for api in ("run", "pubsub")]
    states = [each["state"] for each in ask(f"/v1/projects/{PROJECT}/services:batchGet", names=names)[1]["services"]]
    gone = ask(f"/v1/projects/{PROJECT}/serviceAccounts/{account}")[0]
    requests.patch(control, json={"apis_off": [], "accounts": {account: False}}, timeout=5).raise_for_status()

    assert changed["quotas"]["m"] == 1
    assert states == ["DISABLED", "ENABLED"]
    assert gone == 404
    assert ask(f"/v1/projects/{PROJECT}/serviceAccounts/{account}")[1].get("disabled") is None


@pytest.mark.parametrize(
    "changes",
    [{"quota": {}}, {"quotas": {"m": "many"}}, {"grant": [{"role": "r"}]}, {"accounts": ["a"]}, {"apis_off": 3}],
)
def test_a_change_that_is_not_understood_changes_nothing(cloud: LocalCloud, changes: dict[str, object]) -> None:
    control = f"http://{cloud.control.address}/project"
    before = requests.get(control, timeout=5).json()
    answer = requests.patch(control, json={**changes, "runs_as": {"x": "y"}}, timeout=5)
    assert answer.status_code == 400
    assert requests.get(control, timeout=5).json() == before
