"""Two tables say which state may follow which; every other move is refused, but for those of a newer version."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest

from dualdeploy.ledger import IllegalTransition, Launch, Release, State
from dualdeploy.ledger.states import RELEASE_ENDS, RELEASE_MOVES, TRAINING_ENDS, TRAINING_MOVES
from support.fakes import ManualClock

AT = "2026-11-23T12:00:00.000Z"
NAMED = {"run_id": "flowers-0123456789ab", "dataset": "flowers", "target": "cloud", "since": AT}


def a_launch(state: State | str) -> Launch:
    return Launch.model_validate({**NAMED, "state": state})


def a_release(state: State | str) -> Release:
    return Release.model_validate({**NAMED, "state": state, "n": 1, "run_created_at": AT})


TABLES = [(a_launch, TRAINING_MOVES, TRAINING_ENDS), (a_release, RELEASE_MOVES, RELEASE_ENDS)]


@pytest.mark.parametrize(("make", "moves", "ends"), TABLES, ids=["training", "release"])
@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)), ids=str)
def test_every_move_is_either_in_the_table_or_refused(
    make: type[Launch], moves: Mapping[State, frozenset[State]], ends: frozenset[State], before: State, after: State
) -> None:
    document = make(before)  # type: ignore[call-arg]
    if after in moves.get(before, ()):
        moved = document.moved(after, at=ManualClock()(), note="why")
        assert (moved.state, moved.reason, moved.history[-1].state) == (after, "why", after)
    else:
        with pytest.raises(IllegalTransition, match=f"{before} cannot become {after}"):
            document.moved(after, at=ManualClock()())


@pytest.mark.parametrize(("make", "moves", "ends"), TABLES, ids=["training", "release"])
def test_from_every_state_an_end_can_be_reached(
    make: type[Launch], moves: Mapping[State, frozenset[State]], ends: frozenset[State]
) -> None:
    for state in moves:
        reached = {state}
        while not reached & ends:
            further = {after for before in reached for after in moves.get(before, ())}
            assert further - reached, state
            reached |= further


@pytest.mark.parametrize("after", [State.LIVE, State.FAILED, State.ROLLED_BACK])
def test_a_state_that_a_newer_version_added_may_lead_to_any_other(after: State) -> None:
    moved = a_release("verifying").moved(after, at=ManualClock()())
    assert moved.state is after
    assert a_release("verifying").state == "verifying"
    assert not a_release("verifying").is_over
