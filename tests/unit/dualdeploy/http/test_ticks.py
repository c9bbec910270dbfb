"""A tick publishes one message for each thing that is due; each is handled alone and always acknowledged."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
from collections.abc import Callable

import pytest

from dualdeploy.contracts.events import Envelope
from dualdeploy.errors import (
    CannotEverSucceed,
    InvalidDatasetConfig,
    LeaseHeld,
    MalformedEvent,
    PermissionSpreads,
    ServiceUnavailable,
)
from dualdeploy.http.ticks import LATEST_SECONDS, MOST_BEGUN, Advance, Next, Ticks, parse_advance
from dualdeploy.ledger import Ledger, UnreadableDocument
from dualdeploy.ledger.due import Due, Marker
from support.fakes import FakePublisher, ManualClock, MemoryObjectStore
from support.fakes.failing import ProcessDied


@dataclasses.dataclass
class Noted:
    """Work that notes what it was asked for."""

    act: Callable[[str], Next] = lambda _what: Next("did it")
    seen: list[str] = dataclasses.field(default_factory=list)
    given_up: list[str] = dataclasses.field(default_factory=list)

    def advance(self, what: str) -> Next:
        self.seen.append(what)
        return self.act(what)

    def give_up(self, what: str, why: str) -> None:
        self.given_up.append(f"{what}: {why}")


class World:
    def __init__(self, ledger: Ledger, clock: ManualClock) -> None:
        self.ledger, self.clock = ledger, clock
        self.due = Due("tester", ledger)
        self.publisher = FakePublisher()
        self.work, self.sweep = Noted(), Noted()
        self.ticks = Ticks(
            {"toy": self.work, "sweep": self.sweep},
            due=self.due,
            ledger=ledger,
            publisher=self.publisher,
            lease_seconds=60,
            slots=20,
            hourly=["sweep/all"],
        )

    def advances(self) -> list[Advance]:
        """What a tick publishes now."""
        seen = len(self.publisher.sent)
        self.ticks.on_tick()
        return [parse_advance(Envelope("", message.data)) for message in self.publisher.sent[seen:]]

    def tick(self) -> None:
        self.clock.advance(60)
        for event in self.advances():
            self.ticks.on_advance(event)


@pytest.fixture
def world(ledger: Ledger, clock: ManualClock) -> World:
    clock.advance(60)
    return World(ledger, clock)


def fail(exc: BaseException) -> Callable[[str], Next]:
    def act(_what: str) -> Next:
        raise exc

    return act


def test_a_tick_publishes_each_thing_that_is_due_to_its_service_and_does_nothing_else(world: World) -> None:
    for key in ("toy/a", "toy/b"):
        world.due.put(key)
    world.ticks.on_tick()
    assert [message.topic for message in world.publisher.sent] == ["advance", "advance"]
    assert [message.attributes for message in world.publisher.sent] == [{"service": "tester"}] * 2
    assert world.work.seen == []


def test_of_more_than_a_minute_has_time_for_the_oldest_are_published_first(world: World) -> None:
    for number in range(1300):
        world.due.put(f"toy/{number:04d}")
    world.clock.advance(60)
    world.due.put("toy/0000 and newer")
    keys = [event.entry.key for event in world.advances()]
    assert keys == [f"toy/{number:04d}" for number in range(1200)]


def test_of_more_than_a_minute_has_time_for_none_waits_much_longer_than_it_must(world: World) -> None:
    """A hundred releases that are due at every tick, of which each minute has time for thirty."""
    world.work.act = lambda _what: Next("goes on", world.due.soon())
    for number in range(100):
        world.due.put(f"toy/{number:02d}")
    seen: dict[str, list[int]] = {}
    ticks = 300
    for tick in range(ticks):
        world.clock.advance(60)
        before = len(world.work.seen)
        for event in world.advances():
            if len(world.work.seen) - before < 30:
                world.ticks.on_advance(event)
        for what in world.work.seen[before:]:
            seen.setdefault(what, []).append(tick)
    assert len(seen) == 100
    longest = max(after - at for each in seen.values() for at, after in itertools.pairwise([-1, *each, ticks]))
    # Each can have its turn at every fourth tick; ten is generous.
    assert longest <= 10


def test_what_is_handled_is_not_published_again_and_a_duplicate_does_nothing(world: World) -> None:
    world.due.put("toy/a")
    (event,) = world.advances()
    for _ in range(3):
        world.ticks.on_advance(event)
    assert world.work.seen == ["a"]
    assert world.advances() == []


def test_what_was_not_taken_yet_is_published_again(world: World) -> None:
    world.due.put("toy/a")
    assert len(world.advances()) == 1
    assert len(world.advances()) == 1


def test_a_message_that_is_two_minutes_old_is_left_to_a_later_tick(world: World) -> None:
    world.due.put("toy/a")
    (event,) = world.advances()
    world.clock.advance(LATEST_SECONDS + 1)
    world.ticks.on_advance(event)
    assert world.work.seen == []
    world.tick()
    assert world.work.seen == ["a"]


@pytest.mark.parametrize(
    "exc", [LeaseHeld("held"), ServiceUnavailable("503"), RuntimeError("a bug"), CannotEverSucceed("never")]
)
def test_whatever_happens_the_message_is_acknowledged_and_the_others_are_handled(world: World, exc: Exception) -> None:
    world.work.act = lambda what: fail(exc)(what) if what == "a" else Next("did it")
    for key in ("toy/a", "toy/b"):
        world.due.put(key)
    world.tick()
    assert sorted(world.work.seen) == ["a", "b"]


@pytest.mark.parametrize(("exc", "looks"), [(LeaseHeld("held"), 30), (ServiceUnavailable("503"), 30)])
def test_what_passes_by_itself_is_looked_at_each_minute(world: World, exc: Exception, looks: int) -> None:
    world.work.act = fail(exc)
    world.due.put("toy/a")
    for _ in range(looks):
        world.tick()
    assert len(world.work.seen) == looks
    assert world.work.given_up == []


def test_what_can_never_succeed_is_recorded_where_people_look(world: World) -> None:
    world.work.act = fail(CannotEverSucceed("the data set has no labels"))
    world.due.put("toy/a")
    world.tick()
    (rejected,) = world.ledger.rejections()
    assert "the data set has no labels" in rejected.reason
    assert world.due.all_keys() == []


@pytest.mark.parametrize("exc", [UnreadableDocument("runs/x is no Run"), InvalidDatasetConfig("is of another version")])
def test_what_someone_has_to_mend_is_told_once_a_day_and_looked_at_until_it_is_mended(
    world: World, exc: CannotEverSucceed
) -> None:
    world.work.act = fail(exc)
    world.due.put("toy/flowers-0123456789ab/1")
    for _ in range(600):
        world.tick()
    (rejected,) = world.ledger.rejections()
    assert (str(exc) in rejected.reason, rejected.dataset) == (True, "flowers")
    assert 20 < len(world.work.seen) < 100
    world.work.act = lambda _what: Next("did it")
    for _ in range(15):
        world.tick()
    assert world.due.all_keys() == []
    assert world.work.given_up == []


def test_what_should_have_passed_by_itself_and_does_not_is_told_after_its_time(world: World) -> None:
    world.work.act = fail(PermissionSpreads("403: the permission storage.objects.list is missing"))
    world.due.put("toy/flowers")
    for _ in range(15):
        world.tick()
    assert world.ledger.rejections() == []
    since = "2026-11-23T12:02:00.000Z"
    for _ in range(300):
        world.tick()
    (rejected,) = world.ledger.rejections()
    assert rejected.dataset == "flowers"
    assert "storage.objects.list" in rejected.reason
    assert since in rejected.reason
    assert world.due.all_keys() == ["toy/flowers"]


@pytest.mark.parametrize("exc", [RuntimeError("a bug"), ProcessDied()], ids=["a bug", "a death"])
def test_what_fails_or_kills_its_process_each_time_is_given_up(world: World, exc: BaseException) -> None:
    world.work.act = fail(exc)
    world.due.put("toy/a")
    for _ in range(600):
        try:
            world.tick()
        except ProcessDied:
            continue
    assert len(world.work.seen) == MOST_BEGUN
    (given_up,) = world.work.given_up
    assert ("a bug" in given_up) == isinstance(exc, RuntimeError)
    assert world.due.all_keys() == []


@pytest.mark.parametrize("exc", [CannotEverSucceed("no labels"), RuntimeError("a bug")], ids=["for good", "a bug"])
def test_a_process_killed_at_any_operation_at_the_end_of_hopeless_work_tells_it_all_the_same(
    exc: Exception, clock: ManualClock
) -> None:
    for number in itertools.count(1):
        store = MemoryObjectStore("ledger", clock=clock)
        world = World(Ledger(store, clock=clock), clock)
        world.work.act = fail(exc)
        world.due.put("toy/a", clock() + datetime.timedelta(seconds=60))
        if isinstance(exc, RuntimeError):
            for _ in range(200):
                world.tick()
                if len(world.work.seen) == MOST_BEGUN:
                    break
        happened = kill_once(store, number)
        for _ in range(90):
            with contextlib.suppress(ProcessDied):
                world.tick()
        assert world.ledger.rejections() or world.work.given_up, f"killed at operation {number}"
        assert world.due.all_keys() == []
        if not happened:
            break
    assert number > 3


def kill_once(store: MemoryObjectStore, number: int) -> list[str]:
    """Have the process die at the n-th write of the store from now on; what comes back names it when it has."""
    happened: list[str] = []
    left = [number]

    def die(name: str) -> None:
        left[0] -= name in ("put", "delete")
        if left[0] == 0 and not happened:
            happened.append(name)
            raise ProcessDied

    store.faults.before = die
    return happened


def test_a_failure_once_in_a_while_is_never_given_up(world: World) -> None:
    turns = iter(range(1000))
    soon = lambda: Next("again", world.clock())  # noqa: E731
    world.work.act = lambda what: fail(RuntimeError("rare"))(what) if next(turns) % 5 == 0 else soon()
    world.due.put("toy/a")
    for _ in range(100):
        world.tick()
    assert world.work.given_up == []
    assert len(world.work.seen) > 50


def test_what_is_not_there_is_forgotten_in_the_end(world: World) -> None:
    world.work.act = lambda _what: Next("nothing there", world.clock(), is_missing=True)
    world.due.put("toy/a")
    for _ in range(600):
        world.tick()
    assert world.due.all_keys() == []
    assert world.work.given_up == []


def test_what_is_written_at_the_very_last_look_for_it_is_not_forgotten(world: World) -> None:
    """Its writer was frozen before it wrote, for longer than all looks took; its own look meets the old reminder."""
    world.work.act = lambda _what: Next("nothing there", world.clock(), is_missing=True)
    world.due.put("toy/a")
    for _ in range(MOST_BEGUN):
        world.tick()
    world.work.act = lambda _what: Next("goes on", world.clock())
    world.ticks.now("toy/a")
    seen = len(world.work.seen)
    for _ in range(5):
        world.tick()
    assert len(world.work.seen) >= seen + 5


@pytest.mark.parametrize("failures", [1, MOST_BEGUN - 1, MOST_BEGUN])
def test_a_look_that_went_well_does_not_inherit_the_failures_of_an_older_reminder(world: World, failures: int) -> None:
    world.work.act = lambda _what: Next("goes on", world.clock())
    later = world.clock() + datetime.timedelta(minutes=1)
    name = f"due/{world.due.service}/{world.due.time_of(later)}/toy/a"
    world.ledger.create(name, Marker(failures=failures, why="a bug"))
    world.ticks.now("toy/a")
    for _ in range(5):
        world.tick()
    assert world.work.given_up == []
    assert world.due.all_keys() == ["toy/a"]


def test_a_kind_that_this_version_does_not_know_is_left_to_the_newer_one(world: World) -> None:
    world.due.put("novel/a")
    world.tick()
    assert world.due.all_keys() == ["novel/a"]
    assert world.ledger.rejections() == []


def test_the_work_of_an_event_is_done_within_it_and_a_death_leaves_it_due(world: World) -> None:
    world.work.act = fail(ProcessDied())
    with pytest.raises(ProcessDied):
        world.ticks.now("toy/a")
    world.work.act = lambda _what: Next("did it")
    for _ in range(4):
        world.tick()
    assert world.work.seen == ["a", "a"]


def test_a_nudge_reaches_an_instance_that_is_free_and_its_loss_costs_a_minute(world: World) -> None:
    world.due.put("toy/a")
    world.ticks.nudge("toy/a")
    world.ticks.on_advance(parse_advance(Envelope("", world.publisher.sent[-1].data)))
    assert world.work.seen == ["a"]


def test_the_full_hour_makes_the_hourly_work_due_once(world: World) -> None:
    for _ in range(60):
        world.tick()
    assert world.sweep.seen == ["all"]


@pytest.mark.parametrize(
    "data", [b"{}", b"[]", b"x", b'{"time": 1, "key": "a", "at": "b"}', b'{"time": "m", "key": "k", "at": "b"}']
)
def test_a_message_that_is_not_an_advance_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedEvent):
        parse_advance(Envelope("", data))


def test_a_thousand_due_markers_cost_one_listing(world: World, store: MemoryObjectStore) -> None:
    for number in range(1000):
        world.due.put(f"toy/{number}")
    before = dict(store.faults.calls)
    assert len(world.advances()) == 1000
    assert store.faults.calls["list"] == before.get("list", 0) + 1
    assert store.faults.calls["read"] == before.get("read", 0)
