"""A service with a route of its own, for tests of the engine: one model, one shelf that users see.

claim ─► judge ─► wrap ─► [put ─► rest] for each of two shares ─► record ─► tidy
back: take off
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Mapping
from typing import Any

import flask
from flask.testing import FlaskClient

from dualdeploy import clock as clocks
from dualdeploy.contracts.dataset_config import DatasetConfig
from dualdeploy.contracts.events import Envelope, TrainingCompleted
from dualdeploy.errors import CannotEverSucceed, RejectedByGoogle, ServiceUnavailable
from dualdeploy.google.object_store import ABSENT
from dualdeploy.http.ticks import ADVANCE_TOPIC, Ticks, parse_advance
from dualdeploy.ledger import (
    Ended,
    Launch,
    Ledger,
    Release,
    Run,
    Served,
    Serving,
    Snapshot,
    State,
    names,
)
from dualdeploy.ledger.due import Due
from dualdeploy.ledger.standing import Standing, standing
from dualdeploy.release import serving as serve
from dualdeploy.release.api import blueprint
from dualdeploy.release.commands import Commands
from dualdeploy.release.route import Again, Back, End, Forward, Loop, Route, Step, Turn, Wait, claim
from dualdeploy.release.worker import ReleaseWorker
from support.fakes import FakePublisher, ManualClock, MemoryObjectStore
from support.fakes.callers import cloud_run_callers
from support.fakes.failing import ProcessDied

DATASET = "flowers"


class ToyRelease(Release):
    """`shares` is what it goes to one after the other, `index` which of them it is at."""

    shares: tuple[int, ...] = ()
    index: int = 0
    rests_until: str = ""


class ToyServed(Served):
    label: str = ""


class ToyServing(Serving):
    current: ToyServed | None = None
    previous: ToyServed | None = None


@dataclasses.dataclass
class ToyWorld:
    ledger: Ledger
    shelf: dict[str, int]
    #: What a step meets instead of doing its work, by step: raised once.
    trouble: dict[str, Exception]
    #: Runs that do not pass their gate, and runs that pass it and fail among users.
    #: Steps that wait for something forever.
    stuck: set[str]
    bad: set[str]
    falls_over: set[str]
    tidied: list[str]


def judge(release: ToyRelease, world: ToyWorld) -> Turn[ToyRelease]:
    meet(world, "judge")
    if release.run_id in world.bad and not release.forced:
        return End(release, State.REJECTED, "not good enough")
    return Forward(release, note="good enough")


def wrap(release: ToyRelease, world: ToyWorld) -> Turn[ToyRelease]:
    meet(world, "wrap")
    return Forward(release)


def put(release: ToyRelease, world: ToyWorld) -> Turn[ToyRelease]:
    meet(world, "put")
    serve.note_way_back(world.ledger, ToyServing, release, run_id=release.run_id)
    share = release.shares[release.index]
    others = {run: part for run, part in world.shelf.items() if run != release.run_id}
    world.shelf.clear()
    if others and share < 100:
        world.shelf[next(iter(others))] = 100 - share
    world.shelf[release.run_id] = share if others else 100
    until = world.ledger.clock() + datetime.timedelta(minutes=5)
    return Forward(release.changed(rests_until=clocks.to_text(until)), note=f"has {share} %")


def rest(release: ToyRelease, world: ToyWorld) -> Turn[ToyRelease]:
    meet(world, "rest")
    if release.run_id in world.falls_over:
        raise RejectedByGoogle("it falls over")
    until = clocks.from_text(release.rests_until)
    if world.ledger.clock() < until:
        return Wait(release, "its share to prove itself", at=until)
    if release.index + 1 < len(release.shares):
        return Again(release.changed(index=release.index + 1))
    return Forward(release)


def record(release: ToyRelease, world: ToyWorld) -> Turn[ToyRelease]:
    meet(world, "record")
    served = ToyServed(
        run_id=release.run_id,
        run_created_at=release.run_created_at,
        release=release.n,
        since=clocks.to_text(world.ledger.clock()),
        label="the newest",
    )
    serve.record_live(world.ledger, ToyServing, release, served)
    return Forward(release)


def tidy(release: ToyRelease, world: ToyWorld) -> Turn[ToyRelease]:
    meet(world, "tidy")
    world.tidied.append(release.run_id)
    return End(release, State.LIVE, "serves all")


def take_off(release: ToyRelease, world: ToyWorld) -> Turn[ToyRelease]:
    meet(world, "take off")
    found = world.ledger.find_serving(ToyServing, "cloud", release.dataset)
    current = found.document.current if found else None
    world.shelf.clear()
    if current:
        world.shelf[current.run_id] = 100
    return End(release, State(release.back_ends), release.going_back)


def meet(world: ToyWorld, step: str) -> None:
    if step in world.stuck:
        raise ServiceUnavailable(f"{step} gets no answer")
    if step in world.trouble:
        raise world.trouble.pop(step)


FORWARD = Route(
    "forward",
    claim(),
    Step("judge", State.GATING, judge, "is judged"),
    Step("wrap", State.DEPLOYING, wrap, "is wrapped"),
    Loop(
        "share",
        Step("put", State.CANARY, put, "gets a share"),
        Step("rest", State.CANARY, rest, "proves itself"),
    ),
    Step("record", State.CANARY, record, "is recorded"),
    Step("tidy", State.CANARY, tidy, "tidies up", is_out=True),
)
BACK = Route("back", Step("take off", State.CANARY, take_off, "is taken off"))


@dataclasses.dataclass
class ToyTarget:
    world: ToyWorld
    target: str = "cloud"
    release_kind: type[ToyRelease] = ToyRelease
    serving_kind: type[ToyServing] = ToyServing
    routes: Mapping[str, Route] = dataclasses.field(default_factory=lambda: {"forward": FORWARD, "back": BACK})

    def begin(self, release: ToyRelease, run: Run, config: DatasetConfig) -> ToyRelease:
        return release.changed(route="forward", shares=(100,) if release.request.kind == "rollback" else (50, 100))

    def skipped(self, release: ToyRelease) -> frozenset[str]:
        return frozenset()

    def route_back(self, release: ToyRelease) -> str:
        # From the step on that users may see something of, whatever was recorded of it.
        return "back" if release.state == State.CANARY or release.rests_until else ""

    def failed(self, release: ToyRelease, step: Step | None, exc: CannotEverSucceed) -> Turn[ToyRelease]:
        why = f"{type(exc).__name__}: {exc}"
        if release.going_back:
            return End(release, State.FAILED, f"{release.going_back}; {why}")
        return Back(release, why) if self.route_back(release) else End(release, State.FAILED, why)

    def without_document(self, release: ToyRelease, way_back: Mapping[str, Any]) -> ToyRelease:
        return release.changed(rests_until=release.since if way_back else "")

    def tidy(self, release: ToyRelease) -> None:
        return

    def described(self, release: ToyRelease) -> tuple[Mapping[str, str], Mapping[str, Any]]:
        return {"shelf": "here"}, {"passed": True}


class Toy:
    """The service with everything around it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryObjectStore("ledger", clock=self.clock)
        self.config = MemoryObjectStore("config", clock=self.clock)
        self.ledger = Ledger(self.store, clock=self.clock)
        self.publisher = FakePublisher()
        self.world = ToyWorld(self.ledger, {}, {}, set(), set(), set(), [])
        self.configure()
        self.due = Due("toy", self.ledger)
        self.target = ToyTarget(self.world)
        self._build()

    def _build(self) -> None:
        self.worker = ReleaseWorker(
            self.target,
            ledger=self.ledger,
            config=self.config,
            due=self.due,
            publisher=self.publisher,
            lease_seconds=90,
        )
        self.ticks = Ticks(
            {"release": self.worker}, due=self.due, ledger=self.ledger, publisher=self.publisher, lease_seconds=90
        )
        self.commands = Commands(
            self.target,
            self.worker,
            ledger=self.ledger,
            due=self.due,
            would_retire=lambda _dataset: ["the shelf"],
        )

    def http(self) -> FlaskClient:
        app = flask.Flask("toy")
        app.register_blueprint(
            blueprint(
                "toy",
                "cloud",
                self.commands,
                ledger=self.ledger,
                serving_kind=ToyServing,
                callers=cloud_run_callers(),
            )
        )
        return app.test_client()

    def configure(self, text: bytes = b'{"dataset": "flowers", "labels": ["a", "b"]}') -> None:
        found = next(iter(self.config.list("datasets/flowers.yaml")), None)
        self.config.put("datasets/flowers.yaml", text, expect=found.generation if found else ABSENT)

    def train(self, run_id: str, *, announce: bool = True) -> None:
        """A run whose cloud training succeeded; it was claimed at the minute that its last digit says."""
        run = Run(
            run_id=run_id,
            dataset=DATASET,
            created_at=clocks.to_text(self.clock()),
            reason="test",
            snapshot=Snapshot(bucket="data", prefix="flowers/", shards=()),
            config={},
            claim=run_id,
        )
        self.ledger.claim(run)
        launch = Launch(
            run_id=run_id, dataset=DATASET, target="cloud", state=State.TRAINED, since=run.created_at, attempt=1
        )
        self.ledger.create(names.launch(run_id, "cloud"), launch)
        ended = Ended(run_id=run_id, dataset=DATASET, target="cloud", attempt=1, at=run.created_at, outcome="succeeded")
        self.ledger.create(names.ended(run_id, "cloud", 1), ended)
        if announce:
            self.announce(run_id)

    def announce(self, run_id: str) -> None:
        event = TrainingCompleted(run_id=run_id, dataset=DATASET, target="cloud", outcome="succeeded")
        self.worker.on_training_completed(event, self.ticks)

    def handle(self, work: Callable[[], object]) -> bool:
        """Whether a handling came to its end; its process may be killed."""
        try:
            work()
        except ProcessDied:
            return False
        return True

    def tick(self, minutes: float = 1.0, *, times: int = 1) -> None:
        """Time passes; everything that is due is looked at."""
        for _ in range(times):
            self.clock.advance(60 * minutes)
            seen = len(self.publisher.sent)
            self.handle(self.ticks.on_tick)
            self.deliver(seen)

    def deliver(self, since: int = 0) -> None:
        """Handle the `advance` messages that were published since the one of that number."""
        for message in self.publisher.sent[since:]:
            if message.topic == ADVANCE_TOPIC:
                event = parse_advance(Envelope("", message.data))
                self.handle(lambda event=event: self.ticks.on_advance(event))  # type: ignore[misc]

    def standing(self, run_id: str) -> Standing:
        return standing(self.ledger, run_id, "cloud")

    def release(self, run_id: str, n: int = 1) -> ToyRelease:
        found = self.ledger.find_release(ToyRelease, run_id, "cloud", n)
        assert found is not None
        return found.document

    def serving(self) -> ToyServing:
        found = self.ledger.find_serving(ToyServing, "cloud", DATASET)
        assert found is not None
        return found.document

    def messages(self, **attributes: str) -> list[dict[str, Any]]:
        return [
            message.json()
            for message in self.publisher.sent
            if message.topic == "deployment-completed" and attributes.items() <= message.attributes.items()
        ]


class Disturbance:
    """Does something at one operation of the ledger bucket or the topic, counted from when it is set, once."""

    def __init__(self, toy: Toy, number: int, act: Callable[[], None]) -> None:
        self.toy, self.number, self.act = toy, number, act
        self.count = 0
        self.operation = ""
        for faults in (toy.store.faults, toy.publisher.faults):
            faults.before = self._before

    def _before(self, name: str) -> None:
        self.count += 1
        if self.count == self.number and not self.operation:
            self.operation = name
            self.act()


def die() -> None:
    raise ProcessDied
