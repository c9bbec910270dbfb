"""No arrival is lost: whoever forgets one has listed its shard first, whatever the interleaving.

Instances note and sweep concurrently, with clocks that differ, and die at any point.
"""

from __future__ import annotations

import dataclasses
import datetime

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from dualdeploy import ledger as ledgers
from dualdeploy.errors import ServiceUnavailable
from dualdeploy.ledger import INBOX_GRACE_SECONDS, INBOX_WINDOW_SECONDS, Ledger
from dualdeploy.object_store import ABSENT
from dualdeploy.testing import Failing, ManualClock, MemoryObjectStore

#: How far an instance's clock may be off: Google keeps them within milliseconds, the grace allows this.
SKEWS = st.sampled_from([0.0, 1 - INBOX_GRACE_SECONDS / 2, INBOX_GRACE_SECONDS / 2 - 1])


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One instance on its way through a sweep, which may end here or go on at any time."""

    ledger: Ledger
    windows: list[int]
    listed_at: datetime.datetime


class Arrivals(RuleBasedStateMachine):
    """Shards arrive, are listed and forgotten in any order that the code allows."""

    sweeps = Bundle("sweeps")
    arrived = Bundle("arrived")

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.store = MemoryObjectStore(clock=self.clock)
        self.shards = 0
        self.listed = 0

    def clock_of(self, skew: float) -> datetime.datetime:
        return self.clock() + datetime.timedelta(seconds=skew)

    def instance(self, skew: float) -> Ledger:
        return Ledger(self.store, clock=lambda: self.clock_of(skew))

    @rule(seconds=st.sampled_from([1, INBOX_WINDOW_SECONDS, INBOX_GRACE_SECONDS, 41]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(target=arrived, skew=SKEWS)
    def a_shard_arrives(self, skew: float) -> int:
        """Every listing from now on shows it."""
        self.shards += 1
        self.instance(skew).note_arrival("flowers")
        return self.shards

    @rule(shard=arrived, skew=SKEWS)
    def its_event_is_delivered_again(self, shard: int, skew: float) -> None:
        self.instance(skew).note_arrival("flowers")

    @rule(target=sweeps, skew=SKEWS)
    def a_sweep_lists_the_shards(self, skew: float) -> object:
        instance = self.instance(skew)
        windows = instance.arrivals().get("flowers", [])
        if not windows:
            return multiple()
        self.listed = self.shards
        return Sweep(instance, windows, self.clock_of(skew))

    @rule(sweep=sweeps)
    def it_forgets_what_it_saw(self, sweep: Sweep) -> None:
        sweep.ledger.forget_arrivals("flowers", sweep.windows, listed_at=sweep.listed_at)

    @invariant()
    def a_shard_that_nobody_listed_is_still_waiting(self) -> None:
        if self.listed < self.shards:
            assert self.instance(0).arrivals().get("flowers"), "an arrival was forgotten before its shard was listed"


ENOUGH = settings(max_examples=150, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_an_arrival_is_never_forgotten_before_its_shard_was_listed() -> None:
    run_state_machine_as_test(Arrivals, settings=ENOUGH)


@pytest.mark.parametrize(("grace", "kept"), [(INBOX_GRACE_SECONDS, True), (0, False)])
def test_the_grace_is_what_keeps_the_arrival_of_a_slow_clock_from_a_fast_one(
    grace: float,
    kept: bool,
    store: MemoryObjectStore,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worst case that the search above may find, and the proof that without the grace it is a loss."""
    monkeypatch.setattr(ledgers, "INBOX_GRACE_SECONDS", grace)
    slow = Ledger(store, clock=lambda: clock() - datetime.timedelta(seconds=14))
    fast = Ledger(store, clock=lambda: clock() + datetime.timedelta(seconds=14))

    clock.advance(14)
    slow.note_arrival("flowers")
    clock.advance(1)
    windows, listed_at = fast.arrivals()["flowers"], clock() + datetime.timedelta(seconds=14)
    clock.advance(1)
    slow.note_arrival("flowers")  # the shard came after the listing, its window is there already
    fast.forget_arrivals("flowers", windows, listed_at=listed_at)

    assert bool(fast.arrivals()) is kept


def test_many_arrivals_of_one_window_are_one_object(ledger: Ledger, store: MemoryObjectStore) -> None:
    for _ in range(100):
        ledger.note_arrival("flowers")

    [name] = store.names()
    assert ledger.arrivals() == {"flowers": [int(name.rsplit("/", 1)[-1])]}


def test_windows_are_told_by_data_set(ledger: Ledger, clock: ManualClock) -> None:
    begin = int(clock().timestamp())
    ledger.note_arrival("flowers")
    ledger.note_arrival("birds")
    clock.advance(INBOX_WINDOW_SECONDS)
    ledger.note_arrival("flowers")

    assert ledger.arrivals() == {"birds": [begin], "flowers": [begin, begin + INBOX_WINDOW_SECONDS]}


def test_a_window_is_forgotten_only_when_it_had_ended_on_every_clock(ledger: Ledger, clock: ManualClock) -> None:
    ledger.note_arrival("flowers")
    [window] = ledger.arrivals()["flowers"]

    clock.advance(INBOX_WINDOW_SECONDS + INBOX_GRACE_SECONDS)
    ledger.forget_arrivals("flowers", [window], listed_at=clock())
    assert ledger.arrivals() == {"flowers": [window]}

    clock.advance(0.001)
    ledger.forget_arrivals("flowers", [window], listed_at=clock())
    assert ledger.arrivals() == {}
    ledger.forget_arrivals("flowers", [window], listed_at=clock())  # as a second instance would


def test_an_arrival_that_cannot_be_noted_is_not_acknowledged(ledger: Ledger, store: MemoryObjectStore) -> None:
    store.faults.plan("put", Failing(ServiceUnavailable("no answer")))

    with pytest.raises(ServiceUnavailable):
        ledger.note_arrival("flowers")
    ledger.note_arrival("flowers")
    assert len(store.names()) == 1


def test_other_objects_beside_the_inbox_are_not_arrivals(ledger: Ledger, store: MemoryObjectStore) -> None:
    for name in ("datasets/flowers.yaml", "datasets/flowers/inbox/x", "datasets/flowers/other/17", "datasets/a/inbox"):
        store.put(name, b"", expect=ABSENT)

    assert ledger.arrivals() == {}
