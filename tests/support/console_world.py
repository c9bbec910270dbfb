"""A console with a ledger in memory and services that answer as told, and all that can have happened to a data set."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from console.deployers import Answer
from console.service import compose
from console.settings import ConsoleSettings
from dualdeploy.google.object_store import ABSENT
from dualdeploy.ledger import names
from support.fakes import ManualClock, MemoryObjectStore

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
    models: MemoryObjectStore
    #: What pages load instead of the console's own files.
    folder: Path | None = None

    @property
    def client(self) -> Any:
        return self.app.test_client()

    @property
    def app(self) -> Any:
        """A new instance."""
        service = compose(
            ledger=self.store,
            deployers=self.deployers,
            monitoring=None,
            models=self.models,
            settings=self.settings,
            clock=self.clock,
            **({"folder": self.folder} if self.folder else {}),
        )
        return service.app()

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


def new_world() -> World:
    clock = ManualClock("2026-11-28T10:00:00Z")
    settings = ConsoleSettings(
        project="demo-project",
        region="us-central1",
        ledger_bucket="ledger",
        cloud_deployer_url="https://cloud-deployer.example",
        mobile_publisher_url="https://mobile-publisher.example",
        models_bucket="models",
        firebase_storage_bucket="mobile",
        person="jo@example.com",
    )
    return World(MemoryObjectStore(clock=clock), FakeDeployers(), clock, settings, MemoryObjectStore(clock=clock))


def with_both_live(world: World) -> World:
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


# What can have happened ------------------------------------------------------------------------------------------

ROLLOUT = {
    "limits": {"steps": [5, 25, 100], "answers": 10, "min_agreement": 0.9, "max_error_rate": 0.1},
    "index": 1,
    "shifted_at": "2026-11-28T09:00:00Z",
    "tally": {
        "requests": 20,
        "failures": 1,
        "agreed": 19,
        "candidate_seconds": [0.02] * 19,
        "other_seconds": [0.01] * 19,
    },
}
GATE = {
    "passed": True,
    "rules": [{"name": "accuracy", "figure": 0.91, "limit": 0.85, "comparison": ">=", "passed": True}],
    "not_judged": ["latency: nobody measured it"],
}


def under_way(world: Any) -> None:
    turn = {"run_id": NEW, "release": 1, "run_created_at": "", "since": "2026-11-28T09:00:00Z"}
    steps = [{"name": "gate", "says": "the figures are judged"}, {"name": "shares", "says": "the traffic moves"}]
    world.release(
        NEW, "cloud", "2026-11-28T09:00:00Z", state="canary", step="shares", steps=steps, rollout=ROLLOUT, gate=GATE
    )
    world.serve("cloud", OLD, under_way=turn)


def held(world: Any) -> None:
    world.serve("mobile", OLD, hold={"at": "2026-11-28T09:00:00Z", "by": "ann@example.com", "reason": "holidays"})


def over_budget(world: Any) -> None:
    estimate = {
        "run_id": NEW,
        "dataset": "flowers",
        "month": "2026-11",
        "region": "r",
        "prices_as_of": "p",
        "targets": {},
    }
    world.write(f"runs/{NEW}/estimate.json", {**estimate, "refusal": "the month's budget of $100 is used up"})


def rejected(world: Any) -> None:
    event = {"dataset": "flowers"}
    document = {"at": "2026-11-28T09:00:00Z", "service": "training_launcher", "kind": "config-finalized"}
    world.write("rejected/2026-11-28/a.json", {**document, "reason": "labels: twice roses", "event": event})


def without_configuration(world: Any) -> None:
    world.write("data/flowers.json", {"dataset": "flowers", "waits": "datasets/flowers.yaml is broken"})


def unreadable_side(world: Any) -> None:
    world.write("serving/cloud/flowers.json", b"{")


def unreadable_run(world: Any) -> None:
    world.write(f"runs/{NEW}/run.json", b"[]")


def fitted(world: Any) -> None:
    routing = {
        "name": "flowers",
        "dataset": "flowers",
        "at": "2026-11-28T09:00:00Z",
        "phone": {"run_id": NEW, "version": "v", "sha256": "s"},
        "cloud": {"run_id": NEW, "input": {"px": 48}},
        "threshold": 0.77,
        "max_loss": 0.02,
        "confidence": 0.95,
        "outcome": "asks",
        "note": "Asking below 0.77 loses at most 2 %.",
        "examples": 600,
        "loss_at_most": 0.018,
        "share": 0.56,
        "accuracy": 0.922,
        "phone_accuracy": 0.76,
        "cloud_accuracy": 0.932,
        "curve": [[0.0, 0.0, 0.76], [0.5, 0.4, 0.894], [0.77, 0.56, 0.922], [1.01, 1.0, 0.932]],
    }
    world.write("routing/flowers.json", {"dataset": "flowers", "at": "", "files": [routing], "published": True})


def retired(world: Any) -> None:
    world.serve("cloud", NEW, retired_at="2026-11-28T09:00:00Z")


#: By what has happened: the sentences that stand on the page then.
STATES: dict[str, tuple[Callable[[Any], None], tuple[str, ...]]] = {
    "under way": (
        under_way,
        (
            *("Under way", "canary", "5 % done", "25 % now", "gate: accuracy 0.91 ≥ 0.85 passed"),
            *("1 (5 %) ≤ 10 % passed", "agreement with the golden set 100 % ≥ 90 % passed"),
            *("p95 20 ms ≤ 270 ms passed", "Not judged: latency"),
        ),
    ),
    "held": (held, ("On hold since 2026-11-28 09:00 by ann@example.com: holidays",)),
    "over budget": (over_budget, ("the month's budget of $100 is used up", "gs://demo-project-config/datasets/")),
    "a rejected configuration": (rejected, ("labels: twice roses", "make validate DATA=folder YAML=file")),
    "data that waits": (
        without_configuration,
        ("datasets/flowers.yaml is broken", "gcloud storage cp flowers.yaml"),
    ),
    "a document that cannot be read": (unreadable_side, ("cannot be read as a Serving", "make doctor PROJECT=demo")),
    "a run that cannot be read": (unreadable_run, ("cannot be read as a Run", f"make run ID={NEW}")),
    "fitted": (
        fitted,
        ("Asking below 0.77 loses at most 2 %.", "56 %", "at most 1.8 %, limit 2 %", "The curve as a table"),
    ),
    "retired": (retired, ("Retired at 2026-11-28 09:00", "nothing serves")),
}
