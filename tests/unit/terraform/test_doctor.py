"""Whatever Terraform makes, `make doctor` looks at, or it is named here with the reason why not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from doctor import checks
from doctor.chain import APIS, NOT_IN_THE_CHAIN, OPTIONAL_APIS, Chain
from doctor.checks import access
from doctor.examination import Look
from doctor.findings import Place
from doctor.reads import Google
from dualdeploy.clock import utc_now

REPOSITORY = Path(__file__).resolve().parents[3]
PROJECT = "demo-dualdeploy"
BINDINGS = json.loads((REPOSITORY / "infra" / "bindings.json").read_text(encoding="utf-8"))

#: Types of resources whose every member the doctor looks at, and where; the tests below compare their names.
LOOKED_AT: Mapping[str, Place] = {
    "google_cloud_run_v2_service": Place.SERVICE,
    "google_cloud_scheduler_job": Place.CLOCK,
    # Each has a Cloud Run service of its name.
    "google_cloudfunctions2_function": Place.SERVICE,
    "google_eventarc_trigger": Place.TRIGGER,
    "google_logging_project_sink": Place.HINT,
    "google_project_service": Place.PROJECT,
    "google_pubsub_subscription": Place.SUBSCRIPTION,
    "google_pubsub_topic": Place.TOPIC,
    "google_service_account": Place.IDENTITY,
    "google_storage_bucket": Place.BUCKET,
    "google_storage_notification": Place.HINT,
}
#: Grants, which infra/bindings.json lists; test_access.py compares that file with the plan.
GRANTS = {
    "google_cloud_run_v2_service_iam_member",
    "google_project_iam_member",
    "google_pubsub_subscription_iam_member",
    "google_pubsub_topic_iam_member",
    "google_service_account_iam_member",
    "google_storage_bucket_iam_member",
}
NOT_LOOKED_AT: Mapping[str, str] = {
    "google_artifact_registry_repository": "images are needed when something is deployed, which then says so",
    "google_artifact_registry_repository_iam_member": "the same",
    "google_billing_budget": "it tells of money; nothing stands still without it, and few may read it",
    "google_cloudbuild_trigger": "it deploys a commit on main, and nobody needs it while events flow",
    "google_monitoring_alert_policy": "it tells of faults, as the doctor does",
    "google_monitoring_dashboard": "it shows, and nothing more",
    "google_monitoring_notification_channel": "the same as the alerts",
    "google_project_iam_custom_role": "its grant is looked at; a permission that it lacks is named by Google's error",
}
#: APIs that nobody calls while events flow.
FOR_DEPLOYING = {
    "artifactregistry.googleapis.com",
    "billingbudgets.googleapis.com",
    "cloudbilling.googleapis.com",
    "cloudbuild.googleapis.com",
    # Apps call it, not the gateway.
    "firebaseappcheck.googleapis.com",
    "firebaserules.googleapis.com",
}
#: On where the bucket that phones read is linked to Firebase, which the plan of these tests leaves out.
RULES = "firebaserules.googleapis.com"
#: A bucket for packages, which functions and images are built of.
FOR_BUILDING = f"{PROJECT}-dualdeploy-sources"


@pytest.fixture(scope="module")
def looked_at() -> Mapping[Place, set[str]]:
    """The names of all that the doctor looks at, without looking."""
    chain = Chain.load(REPOSITORY / "infra" / "topology.json", project=PROJECT, region="us-central1")
    look = Look(chain, Google(PROJECT, environ={}), utc_now(), BINDINGS)
    found: dict[Place, set[str]] = {}
    for check in checks.of(look):
        found.setdefault(check.place, set()).add(check.about)
    return found


def names(plan: Any, *types: str, key: str = "name") -> set[str]:
    return {each.values[key] for each in plan.of(*types)}


@pytest.mark.slow
def test_every_type_of_resource_is_looked_at_or_named_with_a_reason(plan: Any) -> None:
    planned = {each.type for each in plan.resources}
    assert planned == {*LOOKED_AT, *GRANTS, *NOT_LOOKED_AT}


@pytest.mark.slow
def test_every_trigger_topic_subscription_and_job_is_looked_at(plan: Any, looked_at: Mapping[Place, set[str]]) -> None:
    assert names(plan, "google_eventarc_trigger") == looked_at[Place.TRIGGER]
    assert names(plan, "google_pubsub_topic") == looked_at[Place.TOPIC]
    assert names(plan, "google_pubsub_subscription") == looked_at[Place.SUBSCRIPTION] - {"what waits"}
    assert names(plan, "google_cloud_scheduler_job") == looked_at[Place.CLOCK]


@pytest.mark.slow
def test_every_service_and_its_account_is_looked_at(plan: Any, looked_at: Mapping[Place, set[str]]) -> None:
    services = names(plan, "google_cloud_run_v2_service", "google_cloudfunctions2_function")
    assert services == {name.replace("_", "-") for name in looked_at[Place.SERVICE]}
    accounts = names(plan, "google_service_account", key="email")
    seen = {name for name in looked_at[Place.IDENTITY] if "@" in name}
    assert accounts - seen == {f"{name}@{PROJECT}.iam.gserviceaccount.com" for name in NOT_IN_THE_CHAIN}
    assert seen <= accounts


@pytest.mark.slow
def test_every_bucket_notification_and_sink_is_looked_at(plan: Any, looked_at: Mapping[Place, set[str]]) -> None:
    buckets = {name.removeprefix("gs://") for name in looked_at[Place.BUCKET] if not name.endswith("/")}
    assert names(plan, "google_storage_bucket") - buckets == {FOR_BUILDING}
    notified = {f"notification of gs://{name}" for name in names(plan, "google_storage_notification", key="bucket")}
    assert notified | names(plan, "google_logging_project_sink") == looked_at[Place.HINT]


@pytest.mark.slow
def test_every_api_that_events_need_is_looked_at(plan: Any) -> None:
    enabled = names(plan, "google_project_service", key="service")
    assert enabled | {RULES} == {*APIS, *OPTIONAL_APIS} | FOR_DEPLOYING


@pytest.mark.slow
def test_the_sink_says_what_the_topology_says(plan: Any, topology: Mapping[str, Any]) -> None:
    (sink,) = plan.of("google_logging_project_sink")
    (said,) = topology["log_sinks"].values()
    assert sink.values["filter"] == "\n".join(said["filter"])


def test_every_grant_is_looked_at_but_those_of_people_and_builds(looked_at: Mapping[Place, set[str]]) -> None:
    rows = [row for section in BINDINGS["bindings"].values() for row in section]
    seen = {(each.account, each.role, each.on, each.objects) for each in access.grants(BINDINGS)}
    left = {
        row["account"]
        for row in rows
        if (row["account"], row["role"], row["on"], tuple(row.get("objects", ()))) not in seen
    }
    assert left == {"an operator", *NOT_IN_THE_CHAIN}
    places = {place for place in looked_at[Place.IDENTITY] if "@" not in place}
    assert {on for _, _, on, _ in seen} - {"its subscriptions"} <= places


def test_the_publisher_skips_firebase_ml_from_the_day_that_the_doctor_names(topology: Mapping[str, Any]) -> None:
    from mobile_publisher.settings import PublisherSettings

    default = PublisherSettings.__dataclass_fields__["firebase_ml_ends"].default
    assert default == topology["ends"]["firebase_ml_hosting"]["ends"]
