"""Every environment variable that a service reads is set or has a default, and every variable that is set is read."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dualdeploy import settings
from dualdeploy.http.callers import CallerRefused, Callers
from dualdeploy.http.certificates import Certificates
from support.fakes.callers import from_sender

SETTINGS = {
    "training_launcher": "LauncherSettings",
    "job_notifier": "NotifierSettings",
    "cloud_deployer": "DeployerSettings",
    "mobile_publisher": "PublisherSettings",
}
WEB_SETTINGS = {"console": "ConsoleSettings", "gateway": "GatewaySettings"}
ALL_SETTINGS = {**SETTINGS, **WEB_SETTINGS}

#: Read by Google's libraries.
OF_LIBRARIES = {"DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"}

#: Never asked: behind Cloud Run, tokens come without signature.
CERTIFICATES = Certificates("http://127.0.0.1:9")

pytestmark = pytest.mark.slow


def environment(plan: Any, service: str) -> Mapping[str, str]:
    """What is set on the planned service."""
    for found in plan.of("google_cloudfunctions2_function"):
        if found.owner == service:
            return dict(found.values["service_config"][0]["environment_variables"])
    (found,) = [found for found in plan.of("google_cloud_run_v2_service") if found.owner == service]
    return {each["name"]: each["value"] for each in found.values["template"][0]["containers"][0]["env"]}


@pytest.mark.parametrize("service", ALL_SETTINGS)
def test_every_variable_is_set_or_has_a_default_and_none_is_set_in_vain(service: str, plan: Any) -> None:
    read = settings.variables(getattr(importlib.import_module(f"{service}.settings"), ALL_SETTINGS[service]))
    given = set(environment(plan, service))
    assert {variable for variable, is_required in read.items() if is_required} <= given
    assert given <= {*read, *OF_LIBRARIES}
    # An emulator in production would be an open door.
    assert not [variable for variable in given if "EMULATOR" in variable]


@pytest.mark.parametrize("service", ALL_SETTINGS)
def test_a_service_starts_with_what_is_set(service: str, plan: Any, topology: Mapping[str, Any]) -> None:
    kind = getattr(importlib.import_module(f"{service}.settings"), ALL_SETTINGS[service])
    loaded = settings.load(kind, environment(plan, service))
    buckets = {
        field.name: getattr(loaded, field.name) for field in dataclasses.fields(loaded) if "bucket" in field.name
    }
    assert buckets == {
        f"{key.removesuffix('_bucket')}_bucket": topology["buckets"][key.removesuffix("_bucket")]["name"]
        for key in buckets
    }
    assert loaded.project == "demo-dualdeploy"
    assert loaded.region == "us-central1"


@pytest.mark.parametrize("service", SETTINGS)
def test_a_service_takes_events_from_exactly_the_account_that_delivers_them(service: str, plan: Any) -> None:
    given = environment(plan, service)
    accounts = {
        found.values["push_config"][0]["oidc_token"][0]["service_account_email"]
        for found in plan.of("google_pubsub_subscription")
        if found.owner == service and found.values["push_config"]
    }
    accounts |= {
        found.values["service_account"] for found in plan.of("google_eventarc_trigger") if found.owner == service
    }
    assert accounts == {given["PUSH_SERVICE_ACCOUNTS"]}
    # Nobody gets in unchecked: Terraform lets in only who may invoke, as test_access.py shows.
    assert given["CLOUD_RUN_CHECKS_TOKENS"] == "true"
    host = service.replace("_", "-")
    callers = Callers(
        audiences=given["PUSH_AUDIENCES"].split(","),
        event_senders=list(accounts),
        certificates=CERTIFICATES,
        cloud_run_checks_tokens=True,
    )
    for address in (f"https://{host}-123456789012.us-central1.run.app", f"https://{host}-x7kq2mzuaa-uc.a.run.app"):
        for audience in (address, f"{address}/events/tick"):
            assert callers.require_event_sender(from_sender(*accounts, aud=audience)) in accounts
    for audience in (
        "https://other-x7kq2mzuaa-uc.a.run.app",
        f"https://{host}-uc.evil.a.run.app",
        f"https://{host}-1.a.run.app.evil",
    ):
        with pytest.raises(CallerRefused, match="the token is for"):
            callers.require_event_sender(from_sender(*accounts, aud=audience))


def test_images_are_named_by_digest_and_training_runs_as_its_own_account(plan: Any) -> None:
    launcher = environment(plan, "training_launcher")
    assert "/trainer@sha256:" in launcher["TRAINER_IMAGE"]
    assert launcher["TRAINING_SERVICE_ACCOUNT"] == "trainer@demo-dualdeploy.iam.gserviceaccount.com"
    assert "/predictor@sha256:" in environment(plan, "cloud_deployer")["PREDICTOR_IMAGE"]


def test_a_conversion_fits_into_its_instance_and_its_lease_into_a_request(plan: Any) -> None:
    (publisher,) = [found for found in plan.of("google_cloud_run_v2_service") if found.owner == "mobile_publisher"]
    template = publisher.values["template"][0]
    kind = importlib.import_module("mobile_publisher.settings").PublisherSettings
    loaded = settings.load(kind, environment(plan, "mobile_publisher"))
    memory = template["containers"][0]["resources"][0]["limits"]["memory"]
    assert loaded.conversion_memory_mb * 1_000_000 < int(memory.removesuffix("Gi")) * 1024**3 * 0.75
    assert template["max_instance_request_concurrency"] == 1
    # Whoever is cut off must have lost its lease only a moment before, or nobody goes on for minutes.
    assert loaded.lease_seconds <= int(template["timeout"].removesuffix("s"))
    assert loaded.conversion_timeout_seconds < loaded.lease_seconds


def test_the_debug_token_of_the_simulator_comes_from_its_secret_which_the_console_alone_may_read(
    workplace: Callable[[], Path], terraform: Callable[..., Any], variables: Mapping[str, Any]
) -> None:
    name = "simulator-debug-token"
    simulator = {"app": "1:1:web:a", "api_key": "AIza", "debug_token_secret": name}
    changes = terraform(workplace()).plan({**variables, "console": {"simulator": simulator}})["resource_changes"]
    (container,) = [
        change["change"]["after"]["template"][0]["containers"][0]
        for change in changes
        if change["address"].startswith("module.console") and change["type"] == "google_cloud_run_v2_service"
    ]
    given = {each["name"]: each for each in container["env"]}
    assert (given["APP_CHECK_APP"]["value"], given["FIREBASE_API_KEY"]["value"]) == ("1:1:web:a", "AIza")
    (reference,) = given["APP_CHECK_DEBUG_TOKEN"]["value_source"][0]["secret_key_ref"]
    assert reference["secret"] == name
    (grant,) = [change for change in changes if change["type"] == "google_secret_manager_secret_iam_member"]
    assert grant["address"].startswith("module.console")
    assert grant["change"]["after"]["secret_id"] == name


def test_a_key_for_firebase_is_mounted_from_its_secret_which_the_publisher_alone_may_read(
    workplace: Callable[[], Path], terraform: Callable[..., Any], variables: Mapping[str, Any], plan: Any
) -> None:
    assert not plan.of("google_secret_manager_secret_iam_member")
    name = "firebase-key"
    changes = terraform(workplace()).plan({**variables, "firebase_key_secret": name})["resource_changes"]
    (publisher,) = [
        change["change"]["after"]["template"][0]
        for change in changes
        if change["address"].startswith("module.mobile_publisher") and change["type"] == "google_cloud_run_v2_service"
    ]
    (volume,) = publisher["volumes"]
    (mount,) = publisher["containers"][0]["volume_mounts"]
    assert volume["secret"][0]["secret"] == name
    assert mount["name"] == volume["name"]
    given = {each["name"]: each.get("value") for each in publisher["containers"][0]["env"]}
    assert given["FIREBASE_KEY_FILE"] == f"{mount['mount_path']}/{volume['secret'][0]['items'][0]['path']}"
    (grant,) = [change for change in changes if change["type"] == "google_secret_manager_secret_iam_member"]
    assert grant["address"].startswith("module.mobile_publisher.")
    assert grant["change"]["after"]["secret_id"] == name
    assert grant["change"]["after"]["role"] == "roles/secretmanager.secretAccessor"


def test_a_project_that_does_without_an_optional_service_plans_nothing_of_it(
    workplace: Callable[[], Path], terraform: Callable[..., Any], variables: Mapping[str, Any]
) -> None:
    without = {name: value for name, value in variables.items() if name not in WEB_SETTINGS}
    changes = terraform(workplace()).plan(without)["resource_changes"]
    assert [each["address"] for each in changes if any(name in each["address"] for name in WEB_SETTINGS)] == []
