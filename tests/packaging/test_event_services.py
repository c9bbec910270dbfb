"""Each service that answers HTTP, installed alone and started by its Procfile, answers real payloads."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

from dualdeploy import settings
from local_cloud.cloud import LocalCloud
from support.fakes.callers import AUDIENCE, SENDER

# Installing needs uv's cache or PyPI, and each service boots in its own processes.
pytestmark = pytest.mark.slow

LOOK_AT_IMPORTS = Path(__file__).with_name("look_at_imports.py")


@dataclasses.dataclass(frozen=True)
class Case:
    """`events` are (path, file, reason of the rejection or nothing for an event that is simply handled)."""

    settings: str
    events: tuple[tuple[str, str, str], ...]


CASES: Mapping[str, Case] = {
    "training_launcher": Case(
        "LauncherSettings",
        (
            ("/events/object-finalized", "storage_finalized_binary.json", "UnknownDataset"),
            ("/events/retrain-requested", "pubsub_push_retrain_requested_unknown_key.json", "MalformedEvent"),
            ("/events/tick", "pubsub_push_tick.json", ""),
        ),
    ),
    "job_notifier": Case(
        "NotifierSettings",
        (
            ("/events/training-result", "pubsub_push_training_result.json", "UnknownRun"),
            # Asks Vertex AI, which knows no such job: an entry about somebody else's.
            ("/events/training-job-log", "pubsub_push_training_job_text.json", ""),
            ("/events/tick", "pubsub_push_tick.json", ""),
        ),
    ),
    "cloud_deployer": Case(
        "DeployerSettings",
        (
            # Of the other target: the subscription's filter is a saving, not a safeguard.
            ("/events/training-completed", "pubsub_push_training_completed.json", ""),
            ("/events/training-completed", "pubsub_push_not_json.json", "MalformedEvent"),
            ("/events/tick", "pubsub_push_tick.json", ""),
        ),
    ),
    "mobile_publisher": Case(
        "PublisherSettings",
        (
            ("/events/training-completed", "pubsub_push_training_completed.json", "UnknownRun"),
            ("/events/tick", "pubsub_push_tick.json", ""),
        ),
    ),
    # No event reaches these.
    "console": Case("ConsoleSettings", ()),
    "gateway": Case("GatewaySettings", ()),
}


#: Whom a packaged service takes events from; conftest signs as this account.
CALLERS = {"PUSH_AUDIENCES": AUDIENCE, "PUSH_SERVICE_ACCOUNTS": SENDER}


def deployed_environment(cloud: LocalCloud) -> dict[str, str]:
    """What Terraform sets, and where the emulators are."""
    # The console calls these two when a button is pressed.
    deployers = {f"{name}_URL": "http://127.0.0.1:9" for name in ("CLOUD_DEPLOYER", "MOBILE_PUBLISHER")}
    return {
        **cloud.environment(),
        **deployers,
        "TRAINER_IMAGE": "local/trainer",
        "PREDICTOR_IMAGE": "local/predictor",
        **CALLERS,
    }


@pytest.fixture(params=CASES)
def service(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_packaged_service_answers_real_events(
    service: str,
    install: Callable[..., Any],
    boot: Callable[..., Any],
    cloud: LocalCloud,
    rejected_by: Callable[..., Any],
) -> None:
    server = boot(install(service), deployed_environment(cloud))
    server.wait_until_it_listens()
    assert requests.get(server.base + "/healthz", timeout=60).json() == {"status": "ok", "service": service}
    for path, file, reason in CASES[service].events:
        answer = server.post_event(path, file)
        assert answer.status_code == 204, f"{path}: {answer.text}\n{server.log.read_text()}"
        reasons = [record["reason"] for record in rejected_by(service)]
        assert any(reason in known for known in reasons) if reason else "ERROR" not in server.log.read_text()[-400:]
    expected = sum(1 for *_, reason in CASES[service].events if reason)
    assert len(rejected_by(service)) == expected


def test_a_packaged_service_does_not_start_without_its_settings_and_names_them_all(
    service: str, install: Callable[..., Any], boot: Callable[..., Any]
) -> None:
    server = boot(install(service), {})
    assert server.process.wait(timeout=60) != 0
    kind = getattr(importlib.import_module(f"{service}.settings"), CASES[service].settings)
    required = [variable for variable, is_required in settings.variables(kind).items() if is_required]
    log = server.log.read_text()
    assert [variable for variable in required if f"{variable} is not set" not in log] == []


def test_everything_that_a_packaged_service_may_import_is_installed(service: str, install: Callable[..., Any]) -> None:
    installed = install(service)
    done = subprocess.run(
        [str(installed.python), str(LOOK_AT_IMPORTS), "main.py"],
        cwd=installed.folder,
        env=installed.environment({}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    looked_at, *missing = done.stdout.splitlines()
    assert int(looked_at.split()[0]) > 10
    assert missing == []
