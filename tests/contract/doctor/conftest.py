"""A stack with services that only take their events, and the doctor's look at it."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from google.cloud import pubsub_v1, storage

from dualdeploy import clock as clocks
from dualdeploy_cli.session import Session
from dualdeploy_demo.stack import Stack
from local_cloud import cloud as clouds
from local_cloud import topology as topologies
from local_cloud.cloud import LocalCloud
from local_cloud.stack import ServiceDidNotStart
from support.command_line import call

REPOSITORY = Path(__file__).parents[3]
PROJECT, REGION = "demo-dualdeploy", "us-central1"
#: Takes every event; ends at once where BREAK is set, as one does whose settings are wrong.
SERVICE = """
import http.server, os, sys

if "BREAK" in os.environ:
    sys.exit("BREAK is set")

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""
CONFIG = "{dataset: flowers, labels: [daisy, roses], publishing: {channels: [firebase-ml, firebase-storage]}}"


class Ward:
    """The stack, Google's clients at it, and the doctor."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.environment = {**os.environ, **stack.environment()}
        os.environ.update(stack.environment())
        self.subscriber: Any = pubsub_v1.SubscriberClient()
        self.publisher: Any = pubsub_v1.PublisherClient()
        self.storage: Any = storage.Client(project=PROJECT)

    @property
    def cloud(self) -> LocalCloud:
        return self.stack.cloud

    def topic(self, name: str) -> str:
        return f"projects/{PROJECT}/topics/{name}"

    def subscription(self, name: str) -> str:
        return f"projects/{PROJECT}/subscriptions/{name}"

    def account(self, name: str) -> str:
        return f"{name}@{PROJECT}.iam.gserviceaccount.com"

    def run(self, *arguments: str, now: datetime.datetime | None = None, width: int = 100) -> tuple[int, str]:
        """The command's exit status and what it printed."""
        given = Session(environment_file=Path("/nowhere"), environ=self.environment)
        given.clock = lambda: lambda: now or clocks.utc_now()
        result = call("doctor", *arguments, given=given, width=width)
        return result.exit_code, result.stdout if "--json" in arguments else result.output

    def look(self, *arguments: str, now: datetime.datetime | None = None) -> list[Mapping[str, str]]:
        """Everything that is not in order."""
        _, printed = self.run("--json", *arguments, now=now)
        return [each for each in json.loads(printed) if each["state"] != "ok"]

    def deploy(self, service: str, **variables: str | None) -> None:
        """A new revision; one that does not start leaves the old one serving."""
        with contextlib.suppress(ServiceDidNotStart):
            self.stack.deploy(service, **variables)

    def provision(self) -> None:
        """As `make deploy`: make again what is missing, and put the rest back."""
        topology = self.cloud.topology
        for name in topology.topics:
            self.cloud.pubsub.ensure_topic(topology.topic_path(name))
        for each in self.subscriber.list_subscriptions(project=f"projects/{PROJECT}"):
            wanted = topology.subscriptions.get(each.name.rsplit("/", 1)[-1])
            if wanted is None:
                continue  # Eventarc's own
            if (each.topic, each.filter) != (topology.topic_path(wanted.topic), wanted.filter):
                self.subscriber.delete_subscription(subscription=each.name)
        self.cloud.provision()

    def configure(self, dataset: str, text: str) -> None:
        bucket = self.storage.bucket(f"{PROJECT}-config")
        bucket.blob(f"datasets/{dataset}.yaml").upload_from_string(text)


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    folder = tmp_path_factory.mktemp("ward")
    described = topologies.load(REPOSITORY / "infra" / "topology.json", project=PROJECT, region=REGION)
    for service in described.services.values():
        place = folder / "checkout" / service.folder
        place.mkdir(parents=True)
        (place / "Procfile").write_text("web: python service.py\n")
        (place / "service.py").write_text(SERVICE)
    before = dict(os.environ)
    cloud = clouds.load(REPOSITORY / "infra" / "topology.json", state_dir=folder / "cloud", clock_seconds=0.2)
    stack = Stack(cloud, repository=folder / "checkout", log_folder=folder / "logs", start_limit_seconds=20)
    try:
        ward = Ward(stack.start())
        ward.configure("flowers", CONFIG)
        yield ward
        ward.subscriber.close()
        ward.publisher.stop()
        ward.publisher.transport.close()
    finally:
        stack.close()
        os.environ.clear()
        os.environ.update(before)
