"""Markers say what is due and when; a death of whoever takes one makes it due again, and nothing is forgotten."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import pytest

from dualdeploy.google.object_store import ABSENT
from dualdeploy.ledger import Ledger
from dualdeploy.ledger.due import Due, Entry, Marker
from dualdeploy.ledger.ledger import encode
from support.fakes import ManualClock, MemoryObjectStore
from support.fakes.failing import ProcessDied

KEY = "release/flowers-0123456789ab/1"


@pytest.fixture
def due(ledger: Ledger) -> Due:
    return Due("cloud_deployer", ledger)


def in_minutes(clock: ManualClock, minutes: float) -> datetime.datetime:
    return clock() + datetime.timedelta(minutes=minutes)


def test_only_what_is_due_is_listed_and_the_oldest_first(due: Due, clock: ManualClock, ledger: Ledger) -> None:
    due.put("a/later", in_minutes(clock, 1))
    due.put("b/now")
    due.put("c/before", in_minutes(clock, -5))
    Due("mobile_publisher", ledger).put("d/of another service")
    assert [entry.key for entry in due.entries()] == ["c/before", "b/now"]
    clock.advance(60)
    assert [entry.key for entry in due.entries()] == ["c/before", "b/now", "a/later"]
    assert due.all_keys() == ["a/later", "b/now", "c/before"]


def test_a_marker_can_be_put_for_another_service(due: Due, ledger: Ledger) -> None:
    due.put("launch/x", service="training_launcher")
    assert due.entries() == []
    assert [entry.key for entry in Due("training_launcher", ledger).entries()] == ["launch/x"]


def test_putting_a_marker_again_changes_nothing(due: Due, store: MemoryObjectStore) -> None:
    due.put(KEY)
    due.put(KEY)
    assert len(store.names()) == 1


def test_who_takes_a_marker_has_it_alone_and_finishing_removes_it(due: Due, store: MemoryObjectStore) -> None:
    due.put(KEY)
    (entry,) = due.entries()
    taken = due.take(entry, seconds=120)
    assert taken is not None
    assert due.take(entry, seconds=120) is None
    assert due.entries() == []
    due.finish(taken)
    assert store.names() == []


def meanwhile(store: MemoryObjectStore, operation: str, others: Callable[[], object]) -> None:
    """Let others go on before the next operation of that name."""

    def act(name: str) -> None:
        if name == operation:
            store.faults.before = lambda _name: None
            others()

    store.faults.before = act


def test_of_two_that_take_a_marker_at_once_one_has_it(due: Due, store: MemoryObjectStore) -> None:
    due.put(KEY)
    (entry,) = due.entries()
    others = []
    meanwhile(store, "put", lambda: others.append(due.take(entry, seconds=60)))
    assert due.take(entry, seconds=60) is None
    assert others[0] is not None
    due.finish(others[0])
    assert store.names() == []


@pytest.mark.parametrize("operation", ["put", "delete"])
def test_a_death_while_a_marker_is_put_back_forgets_nothing(
    operation: str, due: Due, clock: ManualClock, store: MemoryObjectStore
) -> None:
    due.put(KEY)
    taken = due.take(due.entries()[0], seconds=60)
    assert taken is not None

    def die() -> None:
        raise ProcessDied

    meanwhile(store, operation, die)
    with pytest.raises(ProcessDied):
        due.put_back(taken, in_minutes(clock, 10))
    assert due.all_keys() == [KEY]


def test_what_was_put_back_onto_a_reminder_takes_nothing_from_the_instance_that_works_on_that(
    due: Due, clock: ManualClock, store: MemoryObjectStore
) -> None:
    due.put(KEY)
    taken = due.take(due.entries()[0], seconds=60)
    assert taken is not None
    due.put(KEY, in_minutes(clock, 10))
    name = next(each for each in store.names() if taken.entry.time not in each)
    changed = encode(Marker(begun=1, taker="another"))

    def work(operation: str) -> None:
        if operation == "put" and store.faults.calls["put"] == puts + 2:
            store.faults.before = lambda _operation: None
            store.put(name, changed, expect=store.read(name).generation)

    puts = store.faults.calls["put"]
    store.faults.before = work
    due.put_back(taken, in_minutes(clock, 10), failed="a bug")
    assert store.read(name).data == changed


def test_who_takes_a_marker_removes_no_reminder_that_came_since(due: Due, store: MemoryObjectStore) -> None:
    due.put(KEY)
    (entry,) = due.entries()
    name = f"due/cloud_deployer/{entry.time}/{KEY}"

    def others() -> None:
        store.delete(name, expect=store.read(name).generation)
        due.put(KEY)

    meanwhile(store, "delete", others)
    assert due.take(entry, seconds=60) is not None
    assert entry in due.entries()


def test_a_marker_whose_taker_died_is_due_again_and_counts_it(due: Due, clock: ManualClock) -> None:
    due.put(KEY)
    for begun in (1, 2, 3):
        (entry,) = due.entries()
        taken = due.take(entry, seconds=120)
        assert taken is not None
        assert taken.marker.begun == begun
        clock.advance(120)
        assert due.entries() == []
        clock.advance(60)


def test_what_is_put_back_is_due_at_its_time_and_begins_to_count_anew(due: Due, clock: ManualClock) -> None:
    due.put(KEY)
    taken = due.take(due.entries()[0], seconds=120)
    assert taken is not None
    due.put_back(taken, in_minutes(clock, 10))
    assert due.entries() == []
    clock.advance(600)
    again = due.take(due.entries()[0], seconds=120)
    assert again is not None
    assert (again.marker.begun, again.marker.failures) == (1, 0)
    due.put_back(again, in_minutes(clock, 1), failed="a bug")
    clock.advance(60)
    third = due.take(due.entries()[0], seconds=120)
    assert third is not None
    assert (third.marker.failures, third.marker.why) == (1, "a bug")


def test_who_was_frozen_for_longer_than_it_had_the_marker_removes_nothing(due: Due, clock: ManualClock) -> None:
    due.put(KEY)
    frozen = due.take(due.entries()[0], seconds=60)
    assert frozen is not None
    clock.advance(180)
    other = due.take(due.entries()[0], seconds=60)
    assert other is not None
    due.finish(frozen)
    assert due.all_keys() == [KEY]
    due.put_back(other, in_minutes(clock, 5))
    due.put_back(frozen, in_minutes(clock, 5))
    assert due.all_keys() == [KEY]


def test_a_reminder_that_comes_while_its_key_is_worked_on_stays(due: Due, clock: ManualClock) -> None:
    """What an event wrote after the look at the documents must be looked at too."""
    due.put(KEY)
    taken = due.take(due.entries()[0], seconds=120)
    assert taken is not None
    due.put(KEY)
    due.finish(taken)
    assert [entry.key for entry in due.entries()] == [KEY]


def test_a_reminder_that_is_there_already_keeps_what_it_counted(due: Due, clock: ManualClock) -> None:
    due.put(KEY)
    taken = due.take(due.entries()[0], seconds=120)
    assert taken is not None
    due.put_back(taken, in_minutes(clock, 10), failed="a bug")
    due.put(KEY, in_minutes(clock, 10))
    clock.advance(600)
    again = due.take(due.entries()[0], seconds=120)
    assert again is not None
    assert (again.marker.failures, again.marker.why) == (1, "a bug")


def test_a_reminder_that_comes_while_another_instance_takes_over_keeps_what_that_one_counted(
    due: Due, clock: ManualClock, store: MemoryObjectStore, ledger: Ledger
) -> None:
    due.put(KEY)
    taken = due.take(due.entries()[0], seconds=60)
    assert taken is not None
    name = f"due/cloud_deployer/{taken.entry.time}/{KEY}"
    puts: list[str] = []

    def take_over(operation: str) -> None:
        puts.extend([operation] if operation == "put" else [])
        if len(puts) == 2:
            store.faults.before = lambda _operation: None
            store.put(name, encode(Marker(begun=7, taker="another")), expect=store.read(name).generation)

    store.faults.before = take_over
    due.put(KEY, in_minutes(clock, 2))
    found = ledger.find(name, Marker)
    assert found is not None
    assert (found.document.begun, found.document.taker) == (7, "")


@pytest.mark.parametrize("seconds", [60, 120, 180])
def test_a_reminder_for_the_minute_in_which_the_work_on_its_key_is_over_stays(
    seconds: float, due: Due, clock: ManualClock
) -> None:
    due.put(KEY)
    taken = due.take(due.entries()[0], seconds=120)
    assert taken is not None
    clock.advance(seconds)
    due.put(KEY)
    due.put_back(taken, in_minutes(clock, 600))
    due.finish(taken)
    clock.advance(240)
    assert KEY in [entry.key for entry in due.entries()]


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"begun": "often"}'])
def test_a_marker_that_cannot_be_read_reminds_all_the_same(data: bytes, due: Due, store: MemoryObjectStore) -> None:
    due.put(KEY)
    (name,) = store.names()
    store.put(name, data, expect=store.read(name).generation)
    taken = due.take(due.entries()[0], seconds=120)
    assert taken is not None
    due.finish(taken)
    assert store.names() == []


def test_an_object_without_a_key_is_not_a_marker(due: Due, store: MemoryObjectStore, clock: ManualClock) -> None:
    store.put(f"due/cloud_deployer/{due.time_of(clock())}", b"", expect=ABSENT)
    assert due.entries() == []


@pytest.mark.parametrize("dies_at", range(1, 12))
def test_a_death_at_any_operation_of_taking_and_putting_back_forgets_nothing(
    dies_at: int, due: Due, store: MemoryObjectStore, clock: ManualClock
) -> None:
    due.put(KEY)
    calls = 0

    def die(_name: str) -> None:
        nonlocal calls
        calls += 1
        if calls == dies_at:
            raise ProcessDied

    store.faults.before = die
    try:
        taken = due.take(Entry(due.time_of(clock()), KEY), seconds=60)
        assert taken is not None
        due.put_back(taken, in_minutes(clock, 2))
    except ProcessDied:
        pass
    store.faults.before = lambda _name: None
    clock.advance(300)
    assert KEY in {entry.key for entry in due.entries()}


def test_where_ticks_come_more_often_markers_are_due_as_often(ledger: Ledger, clock: ManualClock) -> None:
    often = Due("cloud_deployer", ledger, every=2)
    often.put(KEY, often.soon())
    assert often.entries() == []
    clock.advance(2)
    assert [entry.key for entry in often.entries()] == [KEY]
