"""console composed with a ledger in memory, services that answer as told, and a clock."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import pytest

from console.deployers import Answer
from console.service import compose
from console.settings import ConsoleSettings
from dualdeploy.ledger import names
from dualdeploy.object_store import ABSENT
from dualdeploy.testing import ManualClock, MemoryObjectStore

OLD, NEW = "flowers-0123456789ab", "flowers-ba9876543210"
#: What a browser sends with a form of the console's own page.
OWN = {"Sec-Fetch-Site": "same-origin"}


class FakeDeployers:
    """Remembers what was asked, and answers `answer`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Mapping[str, Any], str, str]] = []
        self.answer = Answer(202, {"status": "/status/flowers"})

    def ask(self, target: str, command: str, body: Mapping[str, Any], *, person: str, key: str) -> Answer:
        self.asked.append((target, command, body, person, key))
        return self.answer


@dataclasses.dataclass
class World:
    store: MemoryObjectStore
    deployers: FakeDeployers
    clock: ManualClock
    settings: ConsoleSettings

    @property
    def client(self) -> Any:
        service = compose(
            ledger=self.store,
            deployers=self.deployers,
            monitoring=None,
            settings=self.settings,
            clock=self.clock,
        )
        return service.app().test_client()

    def write(self, name: str, document: Any) -> None:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        there = name in self.store.names()
        self.store.put(name, data, expect=self.store.read(name).generation if there else ABSENT)

    def run(self, run_id: str, at: str) -> None:
        snapshot = {"bucket": "data", "prefix": "flowers/", "shards": []}
        document = {"run_id": run_id, "dataset": "flowers", "created_at": at, "reason": "new data", "claim": "c"}
        self.write(names.run(run_id), {**document, "snapshot": snapshot, "config": {}})

    def launch(self, run_id: str, target: str, at: str) -> None:
        history = [{"at": at, "state": "trained", "note": ""}]
        document = {"run_id": run_id, "dataset": "flowers", "target": target, "state": "trained", "since": at}
        self.write(names.launch(run_id, target), {**document, "history": history})

    def release(self, run_id: str, target: str, at: str, **more: Any) -> None:
        document = {"run_id": run_id, "dataset": "flowers", "target": target, "n": 1, "run_created_at": at, "since": at}
        moment = {"at": at, "state": more.get("state", "live"), "note": "because of a test"}
        self.write(names.release(run_id, target, 1), {**document, "state": "live", "history": [moment], **more})

    def serve(self, target: str, run_id: str, **more: Any) -> None:
        served = {"run_id": run_id, "run_created_at": "2026-11-27T10:00:00Z", "since": "2026-11-28T08:00:00Z"}
        of_target = (
            {"accuracy": 0.84, "endpoint": "projects/p/locations/l/endpoints/flowers", "model_version": "3"}
            if target == "cloud"
            else {
                "version": "0123456789ab-cafe",
                "published_as": "flowers",
                "file": {"variant": "dynamic", "figures": {"accuracy": 0.94, "size_bytes": 1_130_000}},
            }
        )
        document = {"dataset": "flowers", "target": target, "current": {**served, **of_target}}
        self.write(names.serving(target, "flowers"), {**document, **more})


@pytest.fixture
def world() -> World:
    clock = ManualClock("2026-11-28T10:00:00Z")
    settings = ConsoleSettings(
        project="demo-project",
        region="us-central1",
        ledger_bucket="ledger",
        cloud_deployer_url="https://cloud-deployer.example",
        mobile_publisher_url="https://mobile-publisher.example",
        person="jo@example.com",
    )
    return World(MemoryObjectStore(clock=clock), FakeDeployers(), clock, settings)


@pytest.fixture
def live(world: World) -> World:
    """Both models of one run serve, and another served before."""
    for run_id, at in ((OLD, "2026-11-26T10:00:00Z"), (NEW, "2026-11-27T10:00:00Z")):
        world.run(run_id, at)
        for target in ("cloud", "mobile"):
            world.launch(run_id, target, at)
            world.release(run_id, target, at)
    before = {"run_id": OLD, "run_created_at": "2026-11-26T10:00:00Z", "since": "2026-11-27T08:00:00Z"}
    for target in ("cloud", "mobile"):
        world.serve(target, NEW, previous=before)
    return world
