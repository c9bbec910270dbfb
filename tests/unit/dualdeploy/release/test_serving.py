"""Who may change what serves: every decision holds although another was made between its look and its write."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from dualdeploy.ledger import Asked, ByHand, Ledger, Request, Serving, State, names
from dualdeploy.release import serving as serve
from dualdeploy.release.serving import Displaced
from support.fakes import ManualClock, MemoryObjectStore
from support.toy import DATASET, ToyRelease, ToyServed, ToyServing

OLD, NEW, NEWEST = (f"2026-11-23T1{hour}:00:00.000Z" for hour in range(3))


def a_release(created_at: str, *, n: int = 1, kind: str = "training", forced: bool = False) -> ToyRelease:
    digit = created_at[12]
    return ToyRelease(
        run_id=f"{DATASET}-00000000000{digit}",
        dataset=DATASET,
        target="cloud",
        n=n,
        run_created_at=created_at,
        request=Request(kind=kind, forced=forced),
        state=State.WAITING,
        since=created_at,
        history=({"at": created_at, "state": "waiting"},),  # type: ignore[arg-type]
    )


def served(release: ToyRelease) -> ToyServed:
    return ToyServed(
        run_id=release.run_id, run_created_at=release.run_created_at, release=release.n, since=release.since
    )


@pytest.fixture
def ledger() -> Ledger:
    clock = ManualClock()
    return Ledger(MemoryObjectStore("ledger", clock=clock), clock=clock)


def now(ledger: Ledger) -> ToyServing:
    found = ledger.find_serving(ToyServing, "cloud", DATASET)
    assert found is not None
    return found.document


def ask(ledger: Ledger, release: ToyRelease) -> serve.Admission:
    return serve.ask_for_turn(ledger, ToyServing, release)


def bring_out(ledger: Ledger, release: ToyRelease) -> None:
    assert ask(ledger, release).is_admitted
    serve.record_live(ledger, ToyServing, release, served(release))
    serve.give_up_turn(ledger, ToyServing, release)


ADMISSIONS: list[tuple[str, dict[str, Any], ToyRelease, str]] = [
    ("nothing serves", {}, a_release(OLD), "admitted"),
    ("something older serves", {"current": served(a_release(OLD))}, a_release(NEW), "admitted"),
    ("something newer serves", {"current": served(a_release(NEW))}, a_release(OLD), "superseded"),
    ("it is forced", {"current": served(a_release(NEW))}, a_release(OLD, kind="redeploy", forced=True), "admitted"),
    ("it is a rollback", {"current": served(a_release(NEW))}, a_release(OLD, kind="rollback"), "admitted"),
    ("it has its turn", {"under_way": serve.turn_of(a_release(OLD), at=ManualClock()())}, a_release(OLD), "admitted"),
    ("another is under way", {"under_way": serve.turn_of(a_release(OLD), at=ManualClock()())}, a_release(NEW), "waits"),
    ("something is removed", {"removing": "deployed model 1"}, a_release(NEW), "waits"),
    ("it is held", {"hold": Asked(at=NEW)}, a_release(OLD), "waits"),
    ("it is newer than the hold", {"hold": Asked(at=OLD)}, a_release(NEW), "admitted"),
    ("someone wants it although it is held", {"hold": Asked(at=NEW)}, a_release(OLD, kind="redeploy"), "admitted"),
]


@pytest.mark.parametrize(
    ("present", "release", "expected"), [row[1:] for row in ADMISSIONS], ids=[r[0] for r in ADMISSIONS]
)
def test_a_release_is_admitted_waits_or_is_superseded(
    present: dict[str, Any], release: ToyRelease, expected: str
) -> None:
    answer = serve.admission(ToyServing(dataset=DATASET, target="cloud", **present), release)
    found = "admitted" if answer.is_admitted else "superseded" if answer.superseded_by else "waits"
    assert found == expected, answer


def test_of_two_that_wait_the_newer_goes_first_and_the_older_is_superseded(ledger: Ledger) -> None:
    first, older, newer = a_release(OLD), a_release(NEW), a_release(NEWEST)
    assert ask(ledger, first).is_admitted
    assert ask(ledger, older).waits_for
    assert ask(ledger, newer).waits_for
    serve.give_up_turn(ledger, ToyServing, first)
    assert older.run_id not in ask(ledger, older).waits_for
    bring_out(ledger, newer)
    assert ask(ledger, older).superseded_by == newer.run_id
    assert now(ledger).waiting == ()


def test_a_rollback_holds_what_was_claimed_before_it_and_newer_data_end_the_hold(ledger: Ledger) -> None:
    first, second = a_release(OLD), a_release(NEW)
    bring_out(ledger, first)
    bring_out(ledger, second)
    back = a_release(OLD, n=2, kind="rollback").changed(history=({"at": NEW, "state": "waiting"},))
    bring_out(ledger, back)
    assert now(ledger).hold is not None
    assert now(ledger).previous.taken_back  # type: ignore[union-attr]
    assert "/resume" in ask(ledger, a_release(NEW, n=3)).waits_for
    assert ask(ledger, a_release(NEWEST)).is_admitted
    assert now(ledger).hold is None


def test_resume_ends_a_hold(ledger: Ledger) -> None:
    serve.hold(ledger, ToyServing, DATASET, "cloud", Asked(at=NEW, by="jo"))
    assert ask(ledger, a_release(OLD)).waits_for
    serve.resume(ledger, ToyServing, DATASET, "cloud")
    assert ask(ledger, a_release(OLD)).is_admitted


def test_a_redeploy_of_what_serves_keeps_the_way_back(ledger: Ledger) -> None:
    bring_out(ledger, a_release(OLD))
    bring_out(ledger, a_release(NEW))
    bring_out(ledger, a_release(NEW, n=2, kind="redeploy"))
    assert now(ledger).previous.run_id == a_release(OLD).run_id  # type: ignore[union-attr]


def test_what_has_no_claim_records_nothing(ledger: Ledger) -> None:
    bring_out(ledger, a_release(OLD))
    with pytest.raises(Displaced):
        serve.record_live(ledger, ToyServing, a_release(NEW), served(a_release(NEW)))
    with pytest.raises(Displaced):
        serve.note_way_back(ledger, ToyServing, a_release(NEW), endpoint="flowers")
    assert now(ledger).current.run_id == a_release(OLD).run_id  # type: ignore[union-attr]


#: Decisions that two instances may take at the same time, about three runs of one data set.
DECISIONS: dict[str, Callable[[Ledger, ToyRelease], object]] = {
    "join": lambda ledger, release: serve.join(ledger, ToyServing, release),
    "ask": ask,
    "give up": lambda ledger, release: serve.give_up_turn(ledger, ToyServing, release),
    "hold": lambda ledger, _: serve.hold(ledger, ToyServing, DATASET, "cloud", Asked(at=NEW)),
    "resume": lambda ledger, _: serve.resume(ledger, ToyServing, DATASET, "cloud"),
    "bring out": lambda ledger, release: ask(ledger, release).is_admitted and bring_out(ledger, release),
}


@pytest.mark.parametrize(("first", "second"), list(itertools.product(DECISIONS, repeat=2)))
def test_a_decision_that_was_frozen_between_its_look_and_its_write_is_taken_anew(
    ledger: Ledger, first: str, second: str
) -> None:
    """The frozen instance decides about an older run; what the other one did meanwhile is in the way of its write."""
    store = ledger.store
    assert isinstance(store, MemoryObjectStore)
    bring_out(ledger, a_release(OLD))
    states: list[Serving] = []

    def meanwhile(name: str) -> None:
        if name == "put":
            store.faults.before = lambda _name: None
            DECISIONS[second](ledger, a_release(NEWEST))
            states.append(now(ledger))

    store.faults.before = meanwhile
    DECISIONS[first](ledger, a_release(NEW))
    after = now(ledger)
    if states and (claimed := states[0].under_way) and second == "ask":
        assert after.under_way == claimed, "a claim was written over"
    if states and states[0].current != after.current:
        assert after.current.run_created_at > states[0].current.run_created_at  # type: ignore[union-attr]
    turns = [*([after.under_way] if after.under_way else []), *after.waiting]
    assert len({turn.name for turn in turns}) == len(turns), "one release stands there twice"


def test_unknown_fields_of_a_newer_version_survive_every_decision(ledger: Ledger) -> None:
    bring_out(ledger, a_release(OLD))
    name = names.serving("cloud", DATASET)
    found = ledger.find(name, ToyServing)
    assert found is not None
    ledger.write(name, found.document.changed(traffic_plan={"v": 2}), expect=found.generation)
    for decide in DECISIONS.values():
        decide(ledger, a_release(NEW))
    assert now(ledger).model_dump()["traffic_plan"] == {"v": 2}


# What is replaced -----------------------------------------------------------------------------------------------


def recorded(ledger: Ledger, release: ToyRelease) -> ToyRelease:
    """The release, live in the ledger too."""
    live = release.changed(state=State.LIVE)
    ledger.create(names.release(release.run_id, "cloud", release.n), live)
    bring_out(ledger, release)
    return live


def state_of(ledger: Ledger, release: ToyRelease) -> str:
    found = ledger.find_release(ToyRelease, release.run_id, "cloud", release.n)
    assert found is not None
    return str(found.document.state)


def test_the_release_that_served_is_marked_as_replaced_even_if_others_of_its_run_came_to_nothing(
    ledger: Ledger,
) -> None:
    first = recorded(ledger, a_release(OLD))
    # A second release of the same run was aborted; the third goes out.
    third = a_release(OLD, n=3, kind="redeploy")
    assert ask(ledger, third).is_admitted
    serve.record_live(ledger, ToyServing, third, served(third))
    assert state_of(ledger, first) == State.SUPERSEDED


def test_a_death_before_the_mark_is_made_up_for_by_the_repetition(ledger: Ledger) -> None:
    first, second = a_release(OLD), a_release(NEW)
    bring_out(ledger, first)
    assert ask(ledger, second).is_admitted
    serve.record_live(ledger, ToyServing, second, served(second))
    # Its record came late, or the instance died before it could mark it.
    ledger.create(names.release(first.run_id, "cloud", 1), first.changed(state=State.LIVE))
    serve.record_live(ledger, ToyServing, second, served(second))
    assert state_of(ledger, first) == State.SUPERSEDED


def test_a_mark_writes_over_nothing_that_was_recorded_meanwhile(ledger: Ledger) -> None:
    first, store = recorded(ledger, a_release(OLD)), ledger.store
    assert isinstance(store, MemoryObjectStore)

    def meanwhile(operation: str) -> None:
        if operation == "put":
            store.faults.before = lambda _operation: None
            found = ledger.find_release(ToyRelease, first.run_id, "cloud", 1)
            assert found is not None
            name = names.release(first.run_id, "cloud", 1)
            ledger.write(name, found.document.changed(announced=True), expect=found.generation)

    store.faults.before = meanwhile
    serve.mark_replaced(ledger, first.run_id, 1, a_release(NEW), note="replaced")
    found = ledger.find_release(ToyRelease, first.run_id, "cloud", 1)
    assert found is not None
    assert found.document.announced


def test_what_people_gave_users_by_hand_is_what_a_rollback_goes_to(ledger: Ledger) -> None:
    good, bad, newest = recorded(ledger, a_release(OLD)), recorded(ledger, a_release(NEW)), a_release(NEWEST)
    assert ask(ledger, newest).is_admitted
    by_hand = ByHand(why="by hand", taken=f"{bad.run_id}/1", instead=f"{good.run_id}/1")
    serve.record_live(ledger, ToyServing, newest.changed(by_hand=by_hand), served(newest))
    assert state_of(ledger, bad) == State.ROLLED_BACK
    assert (now(ledger).previous.run_id, now(ledger).previous.taken_back) == (good.run_id, "")


def test_what_people_took_back_by_hand_is_not_what_a_rollback_goes_to(ledger: Ledger) -> None:
    bad, newest = recorded(ledger, a_release(NEW)), a_release(NEWEST)
    assert ask(ledger, newest).is_admitted
    by_hand = ByHand(why="by hand", taken=f"{bad.run_id}/1")
    serve.record_live(ledger, ToyServing, newest.changed(by_hand=by_hand), served(newest))
    assert (now(ledger).previous.run_id, now(ledger).previous.taken_back) == (bad.run_id, "by hand")


def test_what_people_did_by_hand_to_what_serves_no_more_does_not_concern_this_release(ledger: Ledger) -> None:
    older, newest = recorded(ledger, a_release(NEW)), a_release(NEWEST)
    assert ask(ledger, newest).is_admitted
    by_hand = ByHand(why="by hand", taken=f"{a_release(OLD).run_id}/1")
    serve.record_live(ledger, ToyServing, newest.changed(by_hand=by_hand), served(newest))
    assert (now(ledger).previous.run_id, now(ledger).previous.taken_back) == (older.run_id, "")
