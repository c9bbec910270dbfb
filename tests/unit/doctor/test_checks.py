"""What the doctor says of a project on Google Cloud, where the local cloud has nothing like it."""

from __future__ import annotations

from typing import Any

import pytest
from google.pubsub_v1 import Subscription

from doctor.checks import ends, messages, project, quota, services
from doctor.examination import Check, Look
from doctor.findings import Finding, State
from dualdeploy.contracts.dataset_config import parse

RUN = "/v2/projects/my-project/locations/us-central1/services"
TRIGGER = "/v1/projects/my-project/locations/us-central1/triggers/data-object-finalized"
VERTEX = "/v1/projects/my-project/locations/us-central1"
QUOTAS = "/v1/projects/my-project/locations/global/services/aiplatform.googleapis.com/quotaInfos"
T4 = "custom_model_training_preemptible_nvidia_t4_gpus"
CPUS = "custom_model_training_preemptible_cpus"
USUAL_T4, USUAL_CPUS = T4.replace("preemptible_", ""), CPUS.replace("preemptible_", "")


def found(checks: Any, about: str) -> list[Finding]:
    """What one check finds."""
    [check] = [each for each in checks if each.about == about]
    assert isinstance(check, Check)
    return check.run()


# A service on Cloud Run ----------------------------------------------------------------------------------------


def notifier(**changes: str | None) -> dict[str, Any]:
    """job_notifier as Terraform leaves it and Cloud Run v2 shows it; None takes a variable away."""
    variables: dict[str, str | None] = {
        "GOOGLE_CLOUD_PROJECT": "my-project",
        "GOOGLE_CLOUD_REGION": "us-central1",
        "LEDGER_BUCKET": "my-project-ledger",
        "CONFIG_BUCKET": "my-project-config",
        "MODELS_BUCKET": "my-project-models",
        "PUSH_AUDIENCES": "https://job-notifier-123.us-central1.run.app,https://job-notifier-*.a.run.app",
        "PUSH_SERVICE_ACCOUNTS": "job-notifier-caller@my-project.iam.gserviceaccount.com",
        "CLOUD_RUN_CHECKS_TOKENS": "true",
        **changes,
    }
    return {
        "uri": "https://job-notifier-x7kq2mzuaa-uc.a.run.app",
        "urls": [
            "https://job-notifier-123.us-central1.run.app",
            "https://job-notifier-x7kq2mzuaa-uc.a.run.app",
        ],
        "template": {
            "serviceAccount": "job-notifier@my-project.iam.gserviceaccount.com",
            "containers": [{"env": [{"name": key, "value": value} for key, value in variables.items() if value]}],
        },
        "latestReadyRevision": f"{RUN[1:]}/job-notifier/revisions/job-notifier-00002-abc",
        "latestCreatedRevision": f"{RUN[1:]}/job-notifier/revisions/job-notifier-00002-abc",
        "terminalCondition": {"type": "Ready", "state": "CONDITION_SUCCEEDED"},
    }


def test_a_service_as_terraform_leaves_it_is_in_order(look: Look, google: Any) -> None:
    google.documents[f"{RUN}/job-notifier"] = notifier()
    [finding] = found(services.checks(look), "job_notifier")
    assert (finding.state, finding.says) == (State.OK, "ready, as job-notifier-00002-abc")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"CLOUD_RUN_CHECKS_TOKENS": None}, "CLOUD_RUN_CHECKS_TOKENS is not true: it refuses every event with 401"),
        ({"PUSH_AUDIENCES": "https://job-notifier-123.us-central1.run.app"}, "it refuses every event with 401"),
        ({"GOOGLE_CLOUD_REGION": "europe-west4"}, "GOOGLE_CLOUD_REGION is europe-west4, not us-central1"),
    ],
)
def test_a_variable_that_shuts_the_service_is_named(
    look: Look, google: Any, changes: dict[str, str | None], says: str
) -> None:
    google.documents[f"{RUN}/job-notifier"] = notifier(**changes)
    [finding] = found(services.checks(look), "job_notifier")
    assert finding.state is State.BROKEN
    assert says in finding.says


def test_a_service_that_never_was_ready_is_broken_with_cloud_run_s_words(look: Look, google: Any) -> None:
    condition = {"type": "Ready", "state": "CONDITION_FAILED", "message": "Image 'x' not found."}
    google.documents[f"{RUN}/job-notifier"] = {**notifier(), "latestReadyRevision": "", "terminalCondition": condition}
    [finding] = found(services.checks(look), "job_notifier")
    assert finding.state is State.BROKEN
    assert "Image 'x' not found." in finding.says


def test_a_revision_that_is_being_started_has_not_failed(look: Look, google: Any) -> None:
    google.documents[f"{RUN}/job-notifier"] = {
        **notifier(),
        "latestCreatedRevision": f"{RUN[1:]}/job-notifier/revisions/job-notifier-00003-xyz",
        "terminalCondition": {"type": "Ready", "state": "CONDITION_RECONCILING"},
    }
    [finding] = found(services.checks(look), "job_notifier")
    assert finding.state is State.WARNING
    assert "job-notifier-00003-xyz is being started" in finding.says


@pytest.mark.parametrize("address", ["job-notifier-123.us-central1.run.app", "job-notifier-x7kq2mzuaa-uc.a.run.app"])
def test_a_subscription_may_use_either_address_of_a_service(look: Look, google: Any, address: str) -> None:
    google.documents[f"{RUN}/job-notifier"] = notifier()
    google.subscriptions["projects/my-project/subscriptions/notifier-tick"] = Subscription(
        topic="projects/my-project/topics/tick",
        ack_deadline_seconds=60,
        push_config={
            "push_endpoint": f"https://{address}/events/tick",
            "oidc_token": {
                "service_account_email": "job-notifier-caller@my-project.iam.gserviceaccount.com",
                "audience": f"https://{address}",
            },
        },
        dead_letter_policy={"dead_letter_topic": "projects/my-project/topics/dead-letters"},
        retry_policy={"minimum_backoff": {"seconds": 10}},
        expiration_policy={},
    )
    [finding] = found(messages.checks(look), "notifier-tick")
    assert finding.state is State.OK, finding.says


# Eventarc ------------------------------------------------------------------------------------------------------


def trigger(**changes: Any) -> dict[str, Any]:
    """As Eventarc v1 shows what Terraform makes."""
    return {
        "eventFilters": [
            {"attribute": "type", "value": "google.cloud.storage.object.v1.finalized"},
            {"attribute": "bucket", "value": "my-project-data"},
        ],
        "serviceAccount": "projects/my-project/serviceAccounts/"
        "training-launcher-caller@my-project.iam.gserviceaccount.com",
        "destination": {
            "cloudRun": {"service": "training-launcher", "path": "/events/object-finalized", "region": "us-central1"}
        },
        "transport": {"pubsub": {"subscription": "projects/my-project/subscriptions/eventarc-us-central1-7"}},
        **changes,
    }


def test_a_trigger_with_its_subscription_is_in_order(look: Look, google: Any) -> None:
    google.documents[TRIGGER] = trigger()
    google.subscriptions["projects/my-project/subscriptions/eventarc-us-central1-7"] = Subscription()
    [finding] = found(services.checks(look), "data-object-finalized")
    assert finding.state is State.OK, finding.says


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "its subscription eventarc-us-central1-7 was deleted"),
        (
            {
                "transport": {},
                "conditions": {"PERMISSIONS": {"code": "PERMISSION_DENIED", "message": "no run.invoker"}},
            },
            "Google says of PERMISSIONS: no run.invoker",
        ),
        (
            {"transport": {}, "eventFilters": [{"attribute": "bucket", "value": "other"}]},
            "its type is missing, not google.cloud.storage.object.v1.finalized; its bucket is other, not my-",
        ),
        ({"transport": {}, "destination": {"cloudRun": {"service": "x"}}}, "its service is x, not training-launcher"),
    ],
)
def test_a_trigger_that_leads_nowhere_is_named_with_why(
    look: Look, google: Any, changes: dict[str, Any], says: str
) -> None:
    google.documents[TRIGGER] = trigger(**changes)
    [finding] = found(services.checks(look), "data-object-finalized")
    assert finding.state is State.BROKEN
    assert finding.says.startswith("events of gs://my-project-data do not reach training_launcher: ")
    assert says in finding.says


# What waits ----------------------------------------------------------------------------------------------------


def test_events_that_wait_for_half_an_hour_are_broken_and_fresh_ones_are_not(look: Look, google: Any) -> None:
    google.metrics = {
        "num_undelivered_messages": {"deployer-tick": 12, "launcher-tick": 1},
        # Nobody has to read what people pull.
        "oldest_unacked_message_age": {
            "deployer-tick": 1860,
            "launcher-tick": 1799,
            "deployment-completed-log": 9999,
        },
    }
    [finding] = found(messages.checks(look), "what waits")
    assert (finding.about, finding.state) == ("deployer-tick", State.BROKEN)
    assert finding.says == "12 messages wait, the oldest for 31 minutes: cloud_deployer does not take them"
    assert finding.remedy.startswith("gcloud run services logs read cloud-deployer --region=us-central1")


# Quota ---------------------------------------------------------------------------------------------------------


def config(text: str) -> Any:
    return parse("{dataset: flowers, labels: [a, b], training: " + text + "}", source="flowers.yaml")


@pytest.mark.parametrize(
    ("training", "demand"),
    [
        ("{}", {T4: (1, 2), CPUS: (8, 16), USUAL_T4: (1, 2), USUAL_CPUS: (8, 16)}),
        (
            "{cloud: {capacity: [{}], machine: n1-standard-4}, mobile: {capacity: [{strategy: spot}]}}",
            {USUAL_T4: (1, 1), USUAL_CPUS: (4, 4), T4: (1, 1), CPUS: (8, 8)},
        ),
        (
            """{cloud: {accelerator: {type: NVIDIA_L4, count: 2}, machine: g2-standard-24, replicas: 3,
               capacity: [{strategy: flex_start}]}, mobile: {capacity: [{strategy: spot}]}}""",
            {T4.replace("t4", "l4"): (6, 6), CPUS.replace("cpus", "g2_cpus"): (72, 72), T4: (1, 1), CPUS: (8, 8)},
        ),
        (
            """{cloud: {accelerator: null, machine: e2-standard-8, capacity: [{}]},
                mobile: {accelerator: null, machine: n2-standard-4, capacity: [{}, {machine: e2-standard-16}]}}""",
            {USUAL_CPUS: (16, 24), USUAL_CPUS.replace("cpus", "n2_cpus"): (4, 4)},
        ),
    ],
)
def test_what_a_data_set_asks_of_each_quota(training: str, demand: dict[str, tuple[int, int]]) -> None:
    assert {need.metric: (need.largest, need.both) for need in quota.needs_of(config(training))} == {
        f"aiplatform.googleapis.com/{name}": need for name, need in demand.items()
    }


def quotas(infos: dict[str, Any]) -> dict[str, Any]:
    return {
        "quotaInfos": [
            {"metric": f"aiplatform.googleapis.com/{metric}", "quotaId": "Id", "dimensionsInfos": each}
            for metric, each in infos.items()
        ]
    }


@pytest.mark.parametrize(
    ("dimensions", "state"),
    [
        ([({"region": "us-central1"}, "4"), ({}, "0")], State.OK),
        ([({"region": "europe-west4"}, "8"), ({}, "0")], State.BROKEN),
        ([({}, "1")], State.WARNING),
        ([({}, "-1")], State.OK),
        ([], State.UNSEEN),
    ],
)
def test_the_limit_of_the_region_counts_before_that_of_all_others(
    look: Look, google: Any, dimensions: list[tuple[dict[str, str], str]], state: State
) -> None:
    infos = [
        {"dimensions": each, "details": {"value": value}, "applicableLocations": [each.get("region", "us-central1")]}
        for each, value in dimensions
    ]
    none = [{"dimensions": {}, "details": {"value": "0"}}]
    google.documents[QUOTAS] = quotas({T4: infos, CPUS: [{"details": {"value": "-1"}}], USUAL_T4: none})
    of_cards = next(each for each in found(quota.checks(look), "training") if T4 in each.says)
    assert of_cards.state is state, of_cards.says


@pytest.mark.parametrize(
    ("limits", "states"),
    [
        ({T4: 2, USUAL_T4: 2}, {T4: State.OK, USUAL_T4: State.OK}),
        # The run gets its machines all the same, later and dearer than it might.
        ({T4: 0, USUAL_T4: 2}, {T4: State.WARNING, USUAL_T4: State.OK}),
        ({T4: 2, USUAL_T4: 0}, {T4: State.OK, USUAL_T4: State.WARNING}),
        ({T4: 0, USUAL_T4: 0}, {T4: State.BROKEN, USUAL_T4: State.BROKEN}),
        # Cards without processors are no way either.
        ({T4: 0, USUAL_T4: 2, USUAL_CPUS: 1}, {T4: State.BROKEN, USUAL_T4: State.OK}),
    ],
)
def test_a_quota_is_missing_for_good_only_if_no_other_way_of_asking_has_its_own(
    look: Look, google: Any, limits: dict[str, int], states: dict[str, State]
) -> None:
    infos = {metric: [{"details": {"value": str(limit)}}] for metric, limit in limits.items()}
    google.documents[QUOTAS] = quotas(infos)
    judged = found(quota.checks(look), "training")
    for metric, state in states.items():
        assert next(each for each in judged if metric in each.says).state is state, metric


@pytest.mark.parametrize(
    ("serving", "served"),
    [
        ("{}", {"cpus": 4}),
        ("{max_replicas: 5}", {"cpus": 20}),
        (
            "{machine: g2-standard-8, accelerator: {type: NVIDIA_L4, count: 1}, max_replicas: 3}",
            {"g2_cpus": 24, "nvidia_l4_gpus": 3},
        ),
    ],
)
def test_what_a_model_that_serves_asks_of_each_quota(serving: str, served: dict[str, int]) -> None:
    found = quota.served(parse(f"{{dataset: flowers, labels: [a, b], serving: {serving}}}", source="flowers.yaml"))
    assert found == {f"aiplatform.googleapis.com/custom_model_serving_{name}": need for name, need in served.items()}


@pytest.mark.parametrize(
    ("limit", "state"), [(-1, State.OK), (8, State.OK), (7, State.WARNING), (4, State.WARNING), (3, State.BROKEN)]
)
def test_a_release_needs_room_for_the_new_model_beside_the_old(
    look: Look, google: Any, limit: int, state: State
) -> None:
    google.documents[QUOTAS] = quotas({"custom_model_serving_cpus": [{"details": {"value": str(limit)}}]})
    (finding,) = found(quota.checks(look), "serving")
    assert finding.state is state, finding.says


# Firebase -------------------------------------------------------------------------------------------------------


def test_a_project_without_firebase_is_a_warning_while_no_data_set_needs_firebase_ml(look: Look) -> None:
    [finding] = found(project.checks(look), "Firebase project")
    assert finding.state is State.WARNING
    assert "phones cannot read the bucket" in finding.says


# Images --------------------------------------------------------------------------------------------------------


def test_a_model_that_is_served_by_googles_image_is_found_at_its_endpoint(look: Look, google: Any) -> None:
    models = "projects/my-project/locations/us-central1/models"
    google.documents[f"{VERTEX}/endpoints"] = {
        "endpoints": [
            {
                "name": f"{VERTEX[4:]}/endpoints/flowers",
                "deployedModels": [
                    {"model": f"{models}/old", "modelVersionId": "3"},
                    {"model": f"{models}/ours@1", "modelVersionId": "1"},
                    {"model": f"{models}/deleted", "modelVersionId": "1"},
                ],
            }
        ]
    }
    image = "europe-docker.pkg.dev/vertex-ai/prediction/tf2-gpu.2-15:latest"
    google.documents[f"/v1/{models}/old@3"] = {"containerSpec": {"imageUri": image}}
    ours = "us-central1-docker.pkg.dev/my-project/dualdeploy/predictor@sha256:1"
    google.documents[f"/v1/{models}/ours@1"] = {"containerSpec": {"imageUri": ours}}
    [finding] = found(ends.checks(look), "images in use")
    assert finding.state is State.WARNING
    assert finding.says.startswith(f"endpoint flowers uses {image}. Google's prebuilt TensorFlow images")
    assert "49 days are left, until 2027-01-14" in finding.says
