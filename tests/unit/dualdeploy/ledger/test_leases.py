"""A lease keeps two instances from doing the same work; when its time is over, the next one takes it."""

from __future__ import annotations

import logging
import threading

import pytest

from dualdeploy.errors import LeaseHeld, ServiceUnavailable
from dualdeploy.ledger import Ledger, lease
from support.fakes import Failing, ManualClock, MemoryObjectStore
from support.fakes.failing import ProcessDied

LOCK = "locks/flowers/cloud.json"


def hold(ledger: Ledger, seconds: float = 60.0) -> None:
    with lease(ledger, "flowers/cloud", seconds=seconds):
        pass


def test_a_lease_is_held_inside_its_block_and_free_afterwards(ledger: Ledger, store: MemoryObjectStore) -> None:
    with lease(ledger, "flowers/cloud", seconds=60):
        assert store.names() == [LOCK]
        with pytest.raises(LeaseHeld, match=r"held until 2026-11-23T12:01:00\.000Z"):
            hold(ledger)
    assert store.names() == []
    hold(ledger)


def test_leases_of_other_names_are_not_in_the_way(ledger: Ledger) -> None:
    with lease(ledger, "flowers/cloud", seconds=60), lease(ledger, "flowers/mobile", seconds=60):
        pass


def test_a_lease_is_given_back_when_its_block_raises(ledger: Ledger, store: MemoryObjectStore) -> None:
    with pytest.raises(ValueError, match="x"), lease(ledger, "flowers/cloud", seconds=60):
        raise ValueError("x")

    assert store.names() == []


def test_a_lease_of_a_dead_holder_is_refused_to_its_end_and_taken_over_then(
    ledger: Ledger, store: MemoryObjectStore, clock: ManualClock
) -> None:
    leave_behind(ledger, store)

    clock.advance(59.999)
    with pytest.raises(LeaseHeld):
        hold(ledger)
    clock.advance(0.001)
    hold(ledger)
    assert store.names() == []


def leave_behind(ledger: Ledger, store: MemoryObjectStore) -> None:
    """A lease whose holder was killed: nothing that it would still have done is done."""

    def dead(_name: str) -> None:
        raise ProcessDied

    def work() -> None:
        with lease(ledger, "flowers/cloud", seconds=60):
            store.faults.before = dead
            raise ProcessDied

    with pytest.raises(ProcessDied):
        work()
    store.faults.before = lambda _name: None
    assert store.names() == [LOCK]


def test_a_holder_that_took_too_long_does_not_give_back_the_lease_of_its_successor(
    ledger: Ledger, store: MemoryObjectStore, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    successor = lease(ledger, "flowers/cloud", seconds=60)
    with caplog.at_level(logging.WARNING), lease(ledger, "flowers/cloud", seconds=60):
        clock.advance(61)
        successor.__enter__()

    assert "ran out while its holder was still at work" in caplog.text
    with pytest.raises(LeaseHeld):
        hold(ledger)
    successor.__exit__(None, None, None)
    assert store.names() == []


def test_of_many_instances_one_takes_a_free_or_an_expired_lease(
    ledger: Ledger, store: MemoryObjectStore, clock: ManualClock
) -> None:
    for is_left_behind in (False, True):
        if is_left_behind:
            leave_behind(ledger, store)
        clock.advance(61)
        taken: list[str] = []
        refused: list[str] = []
        done, barrier = threading.Event(), threading.Barrier(9)

        def work(taken: list[str], refused: list[str], done: threading.Event, barrier: threading.Barrier) -> None:
            barrier.wait()
            try:
                with lease(ledger, "flowers/cloud", seconds=60):
                    taken.append("x")
                    done.wait(10)
            except LeaseHeld:
                refused.append("x")

        threads = [threading.Thread(target=work, args=(taken, refused, done, barrier)) for _ in range(8)]
        for thread in threads:
            thread.start()
        barrier.wait()
        while len(refused) < 7 and any(thread.is_alive() for thread in threads):
            threads[0].join(0.01)
            if len(taken) > 1:
                break
        done.set()
        for thread in threads:
            thread.join(10)
        assert (len(taken), len(refused)) == (1, 7)


def test_a_lease_that_cannot_be_given_back_does_not_undo_what_was_done(
    ledger: Ledger, store: MemoryObjectStore, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    store.faults.plan("delete", Failing(ServiceUnavailable("no answer")))

    with caplog.at_level(logging.WARNING):
        hold(ledger)

    assert "could not be given back" in caplog.text
    with pytest.raises(LeaseHeld):
        hold(ledger)
    clock.advance(60)
    hold(ledger)


def test_an_error_of_the_work_is_not_hidden_by_one_of_giving_back(ledger: Ledger, store: MemoryObjectStore) -> None:
    store.faults.plan("delete", Failing(ServiceUnavailable("no answer")))

    with pytest.raises(ValueError, match="the work"), lease(ledger, "flowers/cloud", seconds=60):
        raise ValueError("the work")


def test_a_lease_whose_answer_was_lost_runs_out(ledger: Ledger, store: MemoryObjectStore, clock: ManualClock) -> None:
    store.faults.plan("put", Failing(ServiceUnavailable("lost"), after=True))

    with pytest.raises(ServiceUnavailable):
        hold(ledger)
    with pytest.raises(LeaseHeld):
        hold(ledger)
    clock.advance(61)
    hold(ledger)


def test_a_lease_that_vanishes_between_refusal_and_look_is_taken(ledger: Ledger, store: MemoryObjectStore) -> None:
    first = lease(ledger, "flowers/cloud", seconds=60)
    first.__enter__()

    def give_back(name: str) -> None:
        if name == "read":
            store.faults.before = lambda _name: None
            first.__exit__(None, None, None)

    store.faults.before = give_back
    with lease(ledger, "flowers/cloud", seconds=60):
        assert store.names() == [LOCK]
