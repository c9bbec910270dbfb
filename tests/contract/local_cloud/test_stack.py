"""The services beside the local cloud: started by their Procfiles, reported when they do not start, started again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from dualdeploy_demo.stack import Stack
from local_cloud import cloud as clouds
from local_cloud import topology
from local_cloud.stack import ServiceDidNotStart

#: A service that says which process it is.
HEALTHY = """
import http.server, os

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.send_response(204)
        self.end_headers()

http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""
#: One that listens and never answers, as a server does that still loads.
LOADING = """
import os, socket, sys, time

print("still loading", file=sys.stderr, flush=True)
listener = socket.create_server((os.environ["HOST"], int(os.environ["PORT"])))
time.sleep(600)
"""
BROKEN = """
import sys

sys.exit("RESULTS_TOPIC is not set")
"""

NAMES = ("training_launcher", "job_notifier", "cloud_deployer", "mobile_publisher")


@pytest.fixture
def stack_of(tmp_path: Path, repository: Path) -> Iterator[Callable[..., Stack]]:
    """A stack whose services are toys in a folder of their own; the local cloud is the real one."""
    described = topology.load(repository / "infra" / "topology.json", project="demo-dualdeploy", region="us-central1")
    with contextlib.ExitStack() as opened:

        def make(*, others: str, start_limit_seconds: float = 60.0, **programs: str) -> Stack:
            for name, service in described.services.items():
                folder = tmp_path / "checkout" / service.folder
                folder.mkdir(parents=True)
                (folder / "Procfile").write_text("web: python service.py\n")
                (folder / "service.py").write_text(programs.get(name, others))
            stack = Stack(
                clouds.load(repository / "infra" / "topology.json", state_dir=tmp_path / "cloud"),
                repository=tmp_path / "checkout",
                log_folder=tmp_path / "logs",
                start_limit_seconds=start_limit_seconds,
            )
            opened.callback(stack.close)
            return stack

        yield make


def process_of(stack: Stack, name: str) -> str:
    """The process that answers for a service, or nothing."""
    try:
        return requests.get(f"http://{stack.services[name].address}/healthz", timeout=5).text
    except requests.ConnectionError:
        return ""


def test_a_service_that_ends_before_it_is_healthy_is_reported_at_once_with_its_last_words(
    stack_of: Callable[..., Stack],
) -> None:
    stack = stack_of(others=LOADING, mobile_publisher=BROKEN)
    begun = time.monotonic()
    with pytest.raises(ServiceDidNotStart, match=r"mobile_publisher ended with exit code 1(.|\n)*RESULTS_TOPIC is not"):
        stack.start()

    assert time.monotonic() - begun < 30, "it waited for those that were still loading"


def test_all_services_share_one_time_to_start(stack_of: Callable[..., Stack]) -> None:
    stack = stack_of(others=LOADING, training_launcher=HEALTHY, start_limit_seconds=2.0)
    begun = time.monotonic()
    with pytest.raises(ServiceDidNotStart, match=r"did not become healthy in time(.|\n)*still loading") as caught:
        stack.start()

    assert time.monotonic() - begun < 2.0 * len(NAMES), "each had a time of its own"
    assert "training_launcher" not in str(caught.value)


def test_a_service_that_was_healthy_is_started_again_behind_the_same_address(stack_of: Callable[..., Stack]) -> None:
    stack = stack_of(others=HEALTHY).start()
    before = {name: process_of(stack, name) for name in NAMES}
    address = stack.services["job_notifier"].address
    stack.services["job_notifier"].kill()
    deadline = time.monotonic() + 20
    while process_of(stack, "job_notifier") in {"", before["job_notifier"]}:
        assert time.monotonic() < deadline, "it was not started again"
        time.sleep(0.05)

    assert stack.cloud.services == {name: stack.services[name].address for name in NAMES}
    assert stack.services["job_notifier"].address == address
    others = [name for name in NAMES if name != "job_notifier"]
    assert [process_of(stack, name) for name in others] == [before[name] for name in others]


#: HEALTHY, but for a revision that is told to break.
TOUCHY = "import os, sys\nif 'BREAK' in os.environ: sys.exit('BREAK is set')\n" + HEALTHY


def test_a_new_revision_replaces_the_old_one_and_one_that_does_not_start_leaves_it(
    stack_of: Callable[..., Stack],
) -> None:
    stack = stack_of(others=TOUCHY, start_limit_seconds=30).start()
    first = process_of(stack, "job_notifier")
    stack.deploy("job_notifier", LEDGER_BUCKET="another")
    second = process_of(stack, "job_notifier")
    with pytest.raises(ServiceDidNotStart, match="BREAK is set"):
        stack.deploy("job_notifier", BREAK="1")

    revision = stack.cloud.revisions["job_notifier"]()
    assert second not in {"", first}
    assert process_of(stack, "job_notifier") == second
    assert revision.environment["LEDGER_BUCKET"] == "another"
    assert revision.number == 2
    assert revision.problem == ""
    assert "BREAK is set" in revision.failed
    assert "PATH" not in revision.environment, "what this machine gives every process is nobody's business"

    stack.delete("job_notifier")
    assert "job_notifier" not in stack.cloud.services | stack.cloud.revisions
