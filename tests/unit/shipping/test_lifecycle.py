"""Real Terraform through the life of a deployment: made, taken down, taken over, changed in part, killed, refused."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from lifecycle import REPOSITORY, named

from shipping import release
from support import google_says

CONFIRMED = "--confirm=demo-dualdeploy"
SERVICES = ["training_launcher", "job_notifier", "cloud_deployer", "mobile_publisher", "trainer", "predictor"]
TOPOLOGY = json.loads((REPOSITORY / "infra" / "topology.json").read_text(encoding="utf-8"))
BUCKETS = {f"demo-dualdeploy-{name}" for name in ("data", "config", "ledger", "models", "mobile")}

#: A value for everything that somebody may write into terraform.tfvars, each another one than the default.
SETTINGS: dict[str, Any] = {
    "operators": ["group:ml@example.com"],
    "repository": "projects/demo-dualdeploy/locations/us-central1/connections/github/repositories/dual-deploy",
    "monitoring": False,
    "alert_emails": ["alerts@example.com"],
    "billing_account": "012345-6789AB-CDEF01",
    "monthly_budget": 300,
    "delete_data": True,
    "firebase_ml": True,
    "firebase_key_secret": "firebase-key",
    "firebase_bucket_linked": True,
    "staged_rollouts": False,
    "automl": True,
    "browser_origins": ["https://app.example.com"],
    "console": {"iap_audience": "/projects/1/locations/us-central1/services/console", "simulator": None},
    "gateway": {
        "apps": ["1:1:web:1"],
        "origins": ["https://app.example.com"],
        "require_user": True,
        "user_per_second": 1,
        "user_burst": 10,
        "user_per_day": 100,
        "app_per_second": 10,
        "max_instances": 2,
    },
}
#: What a deployment names itself.
GIVEN = {"project", "region", "images", "sources", "revision"}

#: A thing of each product that the chain can do without, and the settings with which it is made.
OPTIONAL: dict[str, tuple[str, dict[str, Any]]] = {
    "automl": ("google_project_iam_custom_role", {"automl": True}),
    "budget": ("google_billing_budget", {"billing_account": "012345-6789AB-CDEF01"}),
    "console": ("google_project_iam_member", {"console": {}}),
    "delivery": ("google_cloudbuild_trigger", {"repository": SETTINGS["repository"]}),
    "firebase_ml": ("google_project_service", {"firebase_ml": True}),
    "gateway": ("google_project_service", {"gateway": {}}),
    "monitoring": ("google_monitoring_dashboard", {}),
    "remote_config": ("google_project_service", {}),
    "security_rules": ("google_firebaserules_release", {"firebase_bucket_linked": True}),
}
APIS = {
    "firebase_ml": "firebaseml.googleapis.com",
    "gateway": "firebaseappcheck.googleapis.com",
    "remote_config": "firebaseremoteconfig.googleapis.com",
}

# Every test deploys, some of them several times.
pytestmark = pytest.mark.slow


def deploy(real: Any, *options: str, command: str = "deploy") -> str:
    ran = real.run(command, "--region=us-central1", *options)
    assert ran.code == 0, ran.said
    return str(ran.said)


#: What the default deployment left: Google's things, the state, and what gcloud sees. It is made once.
_DEPLOYED: list[tuple[dict[str, Any], dict[str, Any]]] = []


@pytest.fixture
def deployed(real: Any) -> Any:
    """A project that everything is deployed to, with every setting as it comes."""
    if not _DEPLOYED:
        deploy(real)
        _DEPLOYED.append((real.terraform.state(), real.facts))
    state, facts = _DEPLOYED[0]
    real.terraform.begin_with(state)
    real.facts = facts
    return real


def test_the_same_again_changes_nothing(deployed: Any) -> None:
    assert "nothing changes" in deploy(deployed)
    assert deployed.cloud.made == []


def test_data_and_roles_outlive_a_removal_and_are_taken_over_by_the_next_deployment(deployed: Any) -> None:
    before = named(deployed.cloud)
    roles = deployed.cloud.names("google_project_iam_custom_role")
    assert roles
    deployed.cloud.filled |= BUCKETS
    assert deployed.run("destroy", CONFIRMED).code == 0
    assert named(deployed.cloud) == {("google_storage_bucket", name) for name in BUCKETS} | {
        ("google_project_iam_custom_role", name) for name in roles
    }
    said = deploy(deployed)
    assert said.count("is taken over") == len(BUCKETS) + len(roles)
    assert named(deployed.cloud) == before
    assert not {name for _, name in deployed.cloud.made} & {*BUCKETS, *roles}
    # It is Terraform's again, and nothing is imported twice.
    assert "nothing changes" in deploy(deployed)


def test_data_is_deleted_when_that_is_meant(deployed: Any) -> None:
    deployed.cloud.filled |= BUCKETS
    ran = deployed.run("destroy", CONFIRMED, "--delete-data")
    assert ran.code == 0, ran.said
    assert {kind for kind, _ in named(deployed.cloud)} == {"google_project_iam_custom_role"}


def test_one_service_is_deployed_alone(deployed: Any) -> None:
    # What somebody has written for the next deployment of everything is not of this one.
    deployed.environment = deployed.terraform.checkout({"operators": ["group:new@example.com"]})
    for service in SERVICES:
        for each in SERVICES:
            # The others have changed too, and nobody asked for them.
            deployed.change_code(each, f"as {service} is deployed")
        built = len(deployed.facts["images"]) + len(deployed.facts["objects"])
        said = deploy(deployed, f"--service={service}")
        changed = re.findall(r"^    (\w.*): module\.(\w+)\.", said, re.MULTILINE)
        assert set(changed) == {("update", owner) for owner in release.deployables(TOPOLOGY, {})[service].owners}
        assert len(deployed.facts["images"]) + len(deployed.facts["objects"]) == built + 1


def test_every_setting_stays_when_someone_without_terraform_tfvars_deploys(real: Any) -> None:
    variables = (REPOSITORY / "infra/terraform/environments/example/variables.tf").read_text(encoding="utf-8")
    assert {*SETTINGS, *GIVEN} == set(re.findall(r'^variable "(\w+)"', variables, re.MULTILINE))
    real.environment = real.terraform.checkout(SETTINGS)
    deploy(real)
    things = set(real.cloud.things)
    real.environment = real.terraform.checkout()
    for way in (["--service=job_notifier"], ["--code-only"], []):
        real.change_code("job_notifier", f"code for {way}")
        before = real.terraform.state()["outputs"]["configuration"]["value"]
        assert "delete" not in deploy(real, *way)
        assert set(real.cloud.things) == things
        after = real.terraform.state()["outputs"]["configuration"]["value"]
        assert {name: after[name] for name in SETTINGS} == SETTINGS
        assert after["sources"]["job_notifier"] != before["sources"]["job_notifier"]


def test_a_file_of_settings_says_all_of_them(real: Any) -> None:
    real.environment = real.terraform.checkout({"firebase_bucket_linked": True, "operators": ["group:ml@example.com"]})
    deploy(real)
    real.environment = real.terraform.checkout({"operators": ["group:ml@example.com"]})
    assert "delete: module.mobile_publisher.google_firebaserules_release.security_rules[0]" in deploy(real)
    assert not real.cloud.names("google_firebaserules_release")


@pytest.mark.parametrize("changes", [25, 100])
def test_an_apply_that_was_killed_is_gone_on_with_and_makes_nothing_twice(real: Any, changes: int) -> None:
    real.terraform.kill_after(changes)
    assert real.run("deploy", "--region=us-central1").code == 1
    ran = real.run("deploy", "--region=us-central1")
    assert ran.code == 1
    unlock = shlex.split(next(line for line in ran.said.splitlines() if "force-unlock" in line))
    assert unlock[:2] == ["terraform", f"-chdir={real.environment}"]
    real.terraform.run(Path(real.environment), *unlock[2:-1], "-force", unlock[-1])
    deploy(real)
    assert [key for key in named(real.cloud) if real.cloud.made.count(key) > 1] == []
    assert "nothing changes" in deploy(real)


def test_what_someone_else_made_is_left_alone(deployed: Any) -> None:
    key = ("google_pubsub_topic", "projects/demo-dualdeploy/topics/training-completed")
    strange = {**deployed.cloud.things[key], "labels": {"team": "another"}}
    assert deployed.run("destroy", CONFIRMED).code == 0
    deployed.cloud.change(key[0], None, strange)
    ran = deployed.run("deploy", "--region=us-central1")
    assert ran.code == 1
    assert "do not look like ours" in ran.said
    assert f"  {key[1]}" in ran.said
    assert deployed.cloud.things[key] == strange


def test_a_bucket_in_another_place_is_not_taken_over_to_be_made_anew(deployed: Any) -> None:
    key = ("google_storage_bucket", "demo-dualdeploy-data")
    elsewhere = {**deployed.cloud.things[key], "location": "EUROPE-WEST4"}
    assert deployed.run("destroy", CONFIRMED).code == 0
    deployed.cloud.things[key] = elsewhere
    ran = deployed.run("deploy", "--region=us-central1")
    assert ran.code == 1
    assert "  demo-dualdeploy-data" in ran.said
    assert deployed.cloud.things[key] == elsewhere


def test_what_google_refuses_of_optional_products_stops_nothing_else(real: Any) -> None:
    assert set(OPTIONAL) == set(release.OPTIONAL)
    settings = {name: value for _, wanted in OPTIONAL.values() for name, value in wanted.items()}
    real.environment = real.terraform.checkout(settings)
    says = google_says.FINAL["a permission that a person lacks"].says

    def is_of_one(thing: Any) -> bool:
        named = "console" in thing.get("member", "console") and "automl" in thing.get("role_id", "automl")
        return thing.get("service", "") in {"", *APIS.values()} and named

    for kind in {kind for kind, _ in OPTIONAL.values()}:
        real.cloud.refuse(kind, says, times=99, when=is_of_one)
    ran = real.run("deploy", "--region=us-central1")
    assert ran.code == 1
    assert "Deployed, and ready. Google refused these" in ran.said
    assert "job_notifier: ready" in ran.said
    switches = {}
    for name, switch in release.OPTIONAL.values():
        assert name in ran.said
        assert f"in terraform.tfvars: {switch}" in ran.said
        key, value = switch.split(" = ")
        switches[key] = json.loads(value)
    # As the message says: without them, everything is in order.
    real.environment = real.terraform.checkout({**settings, **switches})
    deploy(real)


def test_a_deployment_goes_on_from_the_first_state_of_this_edition(real: Any) -> None:
    """`first_state.json` is what a deployment left when this edition began, without what was empty in it."""
    first = json.loads(Path(__file__).with_name("first_state.json").read_text(encoding="utf-8"))
    real.terraform.begin_with(first)
    real.environment = real.terraform.checkout()
    kept = {key for key in named(real.cloud) if key[0] in ("google_storage_bucket", "google_service_account")}
    real.cloud.filled |= BUCKETS
    said = deploy(real)
    assert kept <= set(real.cloud.things)
    assert not kept & set(real.cloud.made)
    assert not re.findall(r"delete.*google_storage_bucket\..*|delete.*google_service_account\..*", said)
    settings = first["outputs"]["configuration"]["value"]
    after = real.terraform.state()["outputs"]["configuration"]["value"]
    assert {name: after[name] for name in settings if name not in GIVEN} == {
        name: value for name, value in settings.items() if name not in GIVEN
    }
    assert "nothing changes" in deploy(real)
    real.change_code("job_notifier", "second")
    deploy(real, "--service=job_notifier")


def test_what_everything_stands_on_stops_the_deployment(real: Any) -> None:
    real.cloud.refuse("google_pubsub_topic", google_says.FINAL["a permission that a person lacks"].says, times=99)
    ran = real.run("deploy", "--region=us-central1")
    assert ran.code == 1
    assert "module.messaging.google_pubsub_topic.topic" in ran.said
    assert "Verification" not in ran.said
    assert "\x1b" not in ran.said


def test_what_passes_is_waited_for_beside_something_optional_that_is_refused_for_good(real: Any) -> None:
    real.environment = real.terraform.checkout({"firebase_ml": True})
    # Two triggers, for data and for configurations, are refused twice each.
    real.cloud.refuse("google_eventarc_trigger", google_says.WAIT["Eventarc's agent"].says, times=4)
    real.cloud.refuse(
        "google_project_service",
        google_says.FINAL["a permission that a person lacks"].says,
        times=99,
        when=lambda thing: thing["service"] == APIS["firebase_ml"],
    )
    ran = real.run("deploy", "--region=us-central1")
    assert ran.said.count("Google is not ready yet") == 2
    assert "Deployed, and ready. Google refused these" in ran.said
    assert real.cloud.names("google_eventarc_trigger")
