"""A process that cannot do its work any more ends, and the container with it; anything else is no reason to."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import flask
import pytest
from google.auth.exceptions import DefaultCredentialsError, RefreshError

from dualdeploy import health as healths
from dualdeploy.errors import CredentialsUnavailable, RejectedByGoogle, ServiceUnavailable
from dualdeploy.google.calls import call
from dualdeploy.health import CREDENTIALS_SECONDS, EXIT_STATUS, Health
from dualdeploy.http.entrypoint import Receiver
from dualdeploy.ledger import Ledger
from support.fakes import MemoryObjectStore
from support.fakes.callers import CALLER_ENVIRONMENT, cloud_run_callers, from_sender

REPOSITORY = Path(__file__).parents[3]
PROCFILES = {
    service: (REPOSITORY / "services" / service / "Procfile").read_text().removeprefix("web: ").strip()
    for service in ("training_launcher", "cloud_deployer")
}


class Process:
    """A process that notes that it ended, and a clock that a test moves."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.now = 1000.0
        self.health = Health(end=self.ended.append, clock=lambda: self.now)


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    process = Process()
    monkeypatch.setattr(healths, "PROCESS", process.health)
    return process


def raised_from(cause: Exception) -> Exception:
    outer = RejectedByGoogle("what became of it")
    outer.__cause__ = cause
    return outer


@pytest.mark.parametrize(
    ("exc", "ends"),
    [
        (ImportError("cannot import name 'x' from partially initialized module 'y'"), True),
        (ModuleNotFoundError("No module named 'x'"), True),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EMFILE, "Too many open files"), True),
        (raised_from(OSError(errno.ENOSPC, "No space left on device")), True),
        (FileNotFoundError(errno.ENOENT, "No such file"), False),
        (ConnectionResetError(errno.ECONNRESET, "reset"), False),
        (ServiceUnavailable("503"), False),
        (CredentialsUnavailable("for the first time"), False),
        (KeyError("a bug of ours"), False),
        (MemoryError(), False),
    ],
    ids=repr,
)
def test_what_a_retry_meets_again_ends_the_process_after_one_line_in_the_log(
    process: Process, exc: Exception, ends: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        process.health.judge(exc)

    assert process.ended == ([EXIT_STATUS] if ends else [])
    assert [record.levelno for record in caplog.records] == ([logging.CRITICAL] if ends else [])
    assert bool(process.health.fault) == ends


def without_credentials() -> None:
    raise DefaultCredentialsError("Your default credentials were not found.")


def test_credentials_that_cannot_be_had_are_waited_for_during_five_minutes(process: Process) -> None:
    for _ in range(5):
        with pytest.raises(CredentialsUnavailable):
            call("Pub/Sub, a message", without_credentials)
        process.now += (CREDENTIALS_SECONDS - 1) / 5
    assert process.ended == []
    assert "no credentials" in process.health.fault

    process.now += 60
    with pytest.raises(CredentialsUnavailable):
        call("Pub/Sub, a message", without_credentials)
    assert process.ended == [EXIT_STATUS]


def test_one_call_that_succeeds_between_them_begins_the_five_minutes_anew(process: Process) -> None:
    def refused() -> None:
        raise RefreshError("the metadata server is away")

    for _ in range(4):
        with pytest.raises(CredentialsUnavailable):
            call("Cloud Storage, a", refused)
        assert process.health.fault
        assert call("Cloud Storage, a", lambda: 7) == 7
        assert process.health.fault == ""
        process.now += CREDENTIALS_SECONDS
    assert process.ended == []


def ask(receiver: Receiver, method: str, path: str) -> flask.Response:
    body = {"message": {"messageId": "1"}} if method == "POST" else None
    with flask.Flask("tester").test_request_context(path, method=method, json=body, headers=from_sender()):
        return receiver(flask.request)


def test_healthz_is_not_green_while_the_process_cannot_do_its_work(process: Process) -> None:
    def handle(_: object) -> None:
        call("Cloud Storage, a", without_credentials)

    receiver = Receiver(
        "tester",
        {"tick": handle},  # type: ignore[dict-item]  # it never returns
        ledger=Ledger(MemoryObjectStore()),
        project="demo",
        callers=cloud_run_callers(),
        health=process.health,
    )
    assert ask(receiver, "GET", "/healthz").status_code == 200
    assert ask(receiver, "POST", "/events/tick").status_code == 503
    answer = ask(receiver, "GET", "/healthz")
    assert answer.status_code == 503
    assert "no credentials" in answer.get_data(as_text=True)


# The real server ---------------------------------------------------------------------------------------------------

#: Stands in the place of a service: its disk is full from the first event on.
FULL_DISK = """
import errno, flask
from dualdeploy import logs
from dualdeploy.http.entrypoint import Receiver
from dualdeploy.ledger import Ledger
from support.fakes import MemoryObjectStore
from support.fakes.callers import cloud_run_callers

def handle(envelope):
    raise OSError(errno.ENOSPC, "No space left on device")

logs.configure()
receiver = Receiver("x", {"tick": handle}, ledger=Ledger(MemoryObjectStore()), project="p", callers=cloud_run_callers())

def on_event(request):
    return receiver(request)

def create_app():
    app = flask.Flask("x")
    app.add_url_rule("/healthz", "healthz", lambda: receiver(flask.request))
    app.add_url_rule("/events/<name>", "event", lambda name: receiver(flask.request), methods=["POST"])
    return app
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("service", PROCFILES)
def test_the_container_of_a_process_that_ends_itself_ends_too(service: str, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(FULL_DISK)
    port = free_port()
    environment = {
        **CALLER_ENVIRONMENT,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(str(REPOSITORY / part) for part in ("shared/src", "tests")),
        "HOST": "127.0.0.1",
        "PORT": str(port),
    }
    log = tmp_path / "log"
    command = ["bash", "-c", f"exec {PROCFILES[service]}"]
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output, stderr=output)
    try:
        wait_until_well(f"http://127.0.0.1:{port}/healthz", server)
        event = urllib.request.Request(
            f"http://127.0.0.1:{port}/events/tick",
            data=json.dumps({"message": {"messageId": "1"}}).encode(),
            headers={"Content-Type": "application/json", **from_sender()},
        )
        # Nothing answers, so Pub/Sub delivers the event again, to another instance.
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            urllib.request.urlopen(event, timeout=20)  # noqa: S310  # of this machine
        assert server.wait(timeout=20) == EXIT_STATUS
    finally:
        server.kill()
        server.wait()
    assert log.read_text().count('"severity": "CRITICAL"') == 1


def wait_until_well(url: str, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert server.poll() is None, "the server ended at its start"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  # of this machine
                assert answer.status == 200
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise AssertionError("the server did not start")
