"""The architecture as data (infra/topology.json) and the services say the same."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import flask
import pytest

from cloud_deployer.settings import DeployerSettings
from dualdeploy.contracts import events
from dualdeploy.release.worker import DEPLOYMENT_COMPLETED_TOPIC
from dualdeploy.settings import variables
from job_notifier.handler import TRAINING_COMPLETED_TOPIC
from job_notifier.settings import NotifierSettings
from mobile_publisher.settings import PublisherSettings
from support.fakes.callers import CALLER_ENVIRONMENT, from_sender
from training_launcher.settings import LauncherSettings

REPOSITORY = Path(__file__).parents[2]
TOPOLOGY: dict[str, Any] = json.loads((REPOSITORY / "infra" / "topology.json").read_text(encoding="utf-8"))
SERVICES = TOPOLOGY["services"]
PUSHES = {name: s for name, s in TOPOLOGY["subscriptions"].items() if not s.get("pull")}
PULLS = {name: s for name, s in TOPOLOGY["subscriptions"].items() if s.get("pull")}
TRIGGERS = [trigger for bucket in TOPOLOGY["buckets"].values() for trigger in bucket.get("triggers", [])]
NOTIFICATIONS = [n for bucket in TOPOLOGY["buckets"].values() for n in bucket.get("notifications", [])]

SETTINGS = {
    "training_launcher": LauncherSettings,
    "job_notifier": NotifierSettings,
    "cloud_deployer": DeployerSettings,
    "mobile_publisher": PublisherSettings,
}
#: What every deployment gives a service: the project, and a name for each bucket and image of the topology.
PROVIDED = {
    "GOOGLE_CLOUD_PROJECT",
    "GOOGLE_CLOUD_REGION",
    *(f"{key.upper()}_BUCKET" for key in TOPOLOGY["buckets"]),
    *(f"{key.upper()}_IMAGE" for key in TOPOLOGY["images"]),
    "PUSH_AUDIENCES",
    "PUSH_SERVICE_ACCOUNTS",
    "CLOUD_RUN_CHECKS_TOKENS",
}
#: What the local cloud gives besides.
EMULATORS = {
    "STORAGE_EMULATOR_HOST",
    "PUBSUB_EMULATOR_HOST",
    "VERTEX_EMULATOR_HOST",
    "FIREBASE_ML_EMULATOR_HOST",
    "REMOTE_CONFIG_EMULATOR_HOST",
    "MONITORING_EMULATOR_HOST",
    "IAM_CREDENTIALS_EMULATOR_HOST",
    "GOOGLE_CERTS_URL",
}
#: What may be set to tune a service, and has a default.
TUNABLE = {
    "CLEANUP",
    "CONSOLE_SERVICE_ACCOUNT",
    "GIT_REVISION",
    "LAUNCH_LIMIT_SECONDS",
    "CONVERSION_MEMORY_MB",
    "CONVERSION_TIMEOUT_SECONDS",
    "FIREBASE_ML_ENDS",
    "FIREBASE_SIGNER",
    "FIREBASE_KEY_FILE",
    "FIREBASE_CREDENTIAL_URI",
    "LEASE_SECONDS",
    "OPERATION_LIMIT_SECONDS",
    "REQUEST_SLOTS",
    "TICK_SECONDS",
    "TRAINING_SERVICE_ACCOUNT",
}


# Topics and subscriptions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", TOPOLOGY["topics"])
def test_every_topic_has_a_publisher_and_a_reader(topic: str) -> None:
    assert TOPOLOGY["topics"][topic]["publishers"]
    assert [name for name, subscription in TOPOLOGY["subscriptions"].items() if subscription["topic"] == topic]


@pytest.mark.parametrize("name", TOPOLOGY["subscriptions"])
def test_every_subscription_is_of_a_topic_that_exists(name: str) -> None:
    assert TOPOLOGY["subscriptions"][name]["topic"] in TOPOLOGY["topics"]


@pytest.mark.parametrize("name", PULLS)
def test_every_pull_subscription_says_who_reads_it(name: str) -> None:
    assert PULLS[name]["reader"]


@pytest.mark.parametrize("name", PUSHES)
def test_every_push_subscription_retries_and_gives_up_to_a_topic_that_is_read(name: str) -> None:
    subscription = PUSHES[name]
    retry = subscription["retry_policy"]
    assert 0 < retry["minimum_backoff_seconds"] <= retry["maximum_backoff_seconds"] <= 600
    if subscription["topic"] == "advance":
        # Always acknowledged, and published again by the next tick: a dead letter would bring back what is over.
        assert "dead_letter_policy" not in subscription
        assert subscription["message_retention_seconds"] == 600
    else:
        # Pub/Sub takes 5 to 100.
        assert 5 <= subscription["dead_letter_policy"]["max_delivery_attempts"] <= 100
        assert subscription["dead_letter_policy"]["topic"] in {pull["topic"] for pull in PULLS.values()}
    # Pub/Sub takes 10 to 600.
    assert 10 <= subscription["ack_deadline_seconds"] <= 600


@pytest.mark.parametrize("name", [name for name in PUSHES if "filter" in PUSHES[name]])
def test_a_filter_asks_for_attributes_that_the_topic_has(name: str) -> None:
    asked = set(re.findall(r"attributes\.(\w+)", PUSHES[name]["filter"]))
    assert asked
    assert asked <= set(TOPOLOGY["topics"][PUSHES[name]["topic"]]["attributes"])


def test_the_two_deploying_services_share_the_messages_without_gap_or_overlap() -> None:
    filters = {s["service"]: s["filter"] for s in PUSHES.values() if s["topic"] == TRAINING_COMPLETED_TOPIC}
    assert filters == {
        "cloud_deployer": 'attributes.target = "cloud"',
        "mobile_publisher": 'attributes.target = "mobile"',
    }


@pytest.mark.parametrize(
    ("topic", "publishers", "event"),
    [
        (TRAINING_COMPLETED_TOPIC, ["job_notifier"], events.TrainingCompleted("r", "d", "cloud", "succeeded")),
        (
            DEPLOYMENT_COMPLETED_TOPIC,
            ["cloud_deployer", "mobile_publisher"],
            events.DeploymentCompleted("r", "d", "cloud", "live"),
        ),
    ],
)
def test_our_messages_go_to_topics_of_the_topology_with_the_attributes_that_it_states(
    topic: str, publishers: list[str], event: events.TrainingCompleted | events.DeploymentCompleted
) -> None:
    assert TOPOLOGY["topics"][topic]["publishers"] == publishers
    assert sorted(TOPOLOGY["topics"][topic]["attributes"]) == sorted(event.attributes)


@pytest.mark.parametrize("notification", NOTIFICATIONS, ids=lambda notification: notification["topic"])
def test_bucket_notifications_and_sinks_and_schedules_go_to_topics_that_exist(notification: dict[str, Any]) -> None:
    senders = [notification, *TOPOLOGY["log_sinks"].values(), *TOPOLOGY["schedules"].values()]
    assert {sender["topic"] for sender in senders} <= set(TOPOLOGY["topics"])


def test_results_are_notified_by_the_prefix_that_they_are_written_under() -> None:
    from dualdeploy.contracts.training import result_name

    (prefix,) = [n["object_name_prefix"] for n in TOPOLOGY["buckets"]["models"]["notifications"]]
    assert result_name("flowers-0123456789ab", "cloud").startswith(prefix)


@pytest.mark.parametrize("topic", ["tick", "advance"])
def test_every_event_service_hears_each_tick_and_what_it_is_to_advance(topic: str) -> None:
    assert {s["service"] for s in PUSHES.values() if s["topic"] == topic} == set(SERVICES)


# Services ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_its_folder_with_a_main_and_a_package_of_its_name(service: str) -> None:
    folder = REPOSITORY / SERVICES[service]["folder"]
    assert (folder / "main.py").is_file()
    assert (folder / service / "__init__.py").is_file()
    assert SERVICES[service]["kind"] in ("function", "service")


@pytest.mark.parametrize("image", TOPOLOGY["images"])
def test_every_image_has_its_folder_with_the_module_that_it_runs(image: str) -> None:
    folder, command = REPOSITORY / TOPOLOGY["images"][image]["folder"], TOPOLOGY["images"][image]["command"]
    assert command[:2] == ["python", "-m"]
    assert (folder / command[2] / "__main__.py").is_file()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Just what a deployment provides; logging is put back as it was."""
    for name in PROVIDED:
        monkeypatch.setenv(name, f"value-of-{name.lower().replace('_', '-')}")
    for name, value in CALLER_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def main_of(service: str) -> ModuleType:
    """The service's main.py, under a name of its own: all of them are called `main`."""
    path = REPOSITORY / SERVICES[service]["folder"] / "main.py"
    spec = importlib.util.spec_from_file_location(f"main_of_{service}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def paths_of(service: str) -> set[str]:
    """The event paths that the booted service knows, asked as a misdirected subscription would find out."""
    main = main_of(service)
    headers = {"ce-id": "1", "ce-source": "test", "ce-type": "test", **from_sender()}
    if SERVICES[service]["kind"] == "service":
        response = main.create_app().test_client().post("/events/nothing-of-ours", headers=headers)
    else:
        with flask.Flask("test").test_request_context("/events/nothing-of-ours", method="POST", headers=headers):
            response = main.on_event(flask.request)
    assert response.status_code == 404
    return set(re.findall(r"/events/[\w-]+", response.get_json()["error"].split("known: ")[1]))


@pytest.mark.parametrize("service", SERVICES)
def test_every_path_that_the_topology_pushes_to_has_a_handler_and_every_handler_is_pushed_to(
    service: str, environment: None
) -> None:
    pushed = {sender["path"] for sender in [*PUSHES.values(), *TRIGGERS] if sender["service"] == service}
    assert paths_of(service) == pushed


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_boots_with_just_what_a_deployment_provides_and_answers_its_health(
    service: str, environment: None
) -> None:
    main = main_of(service)
    if SERVICES[service]["kind"] == "service":
        response = main.create_app().test_client().get("/healthz")
    else:
        with flask.Flask("test").test_request_context("/healthz"):
            response = main.on_event(flask.request)
    assert response.status_code == 200
    assert response.get_json() == {"status": "ok", "service": service}


# The environment -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_every_variable_that_a_service_needs_is_provided(service: str) -> None:
    needed = {name for name, required in variables(SETTINGS[service]).items() if required}
    assert needed <= PROVIDED


@pytest.mark.parametrize("service", SERVICES)
def test_every_variable_that_a_service_reads_is_known(service: str) -> None:
    assert set(variables(SETTINGS[service])) <= PROVIDED | EMULATORS | TUNABLE


def test_no_variable_is_listed_that_is_not_read() -> None:
    read = {name for kind in SETTINGS.values() for name in variables(kind)}
    assert read >= TUNABLE
    # Google's own libraries read these two by themselves.
    assert read | {"STORAGE_EMULATOR_HOST", "PUBSUB_EMULATOR_HOST"} >= EMULATORS


def test_a_lease_does_not_outlast_the_time_that_pubsub_waits_for_a_deploying_service_by_much() -> None:
    for service in ("cloud_deployer", "mobile_publisher"):
        deadlines = {s["ack_deadline_seconds"] for s in PUSHES.values() if s["service"] == service}
        lease = SETTINGS[service].__dataclass_fields__["lease_seconds"].default
        assert lease <= min(deadlines), service
