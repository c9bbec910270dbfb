"""The table of a branch's states, tried out in full."""

from __future__ import annotations

import datetime
import itertools

import pydantic
import pytest

from dualdeploy.ledger import FINAL, TRANSITIONS, Branch, IllegalTransition, Moment, State

NOW = datetime.datetime(2026, 11, 23, 12, 0, tzinfo=datetime.UTC)

#: The table as the design draws it; written out a second time, so that a change of the code has to be meant.
ALLOWED = {
    ("pending", "launching"),
    ("pending", "rejected"),
    ("pending", "failed"),
    ("pending", "superseded"),
    ("launching", "training"),
    ("launching", "failed"),
    ("launching", "superseded"),
    ("training", "trained"),
    ("training", "failed"),
    ("training", "superseded"),
    ("trained", "gating"),
    ("trained", "superseded"),
    ("trained", "failed"),
    ("gating", "deploying"),
    ("gating", "rejected"),
    ("gating", "failed"),
    ("gating", "superseded"),
    ("deploying", "canary"),
    ("deploying", "live"),
    ("deploying", "failed"),
    ("deploying", "rolled_back"),
    ("deploying", "superseded"),
    ("canary", "live"),
    ("canary", "failed"),
    ("canary", "rolled_back"),
    ("canary", "superseded"),
    ("live", "gating"),
    ("live", "rolled_back"),
    ("live", "superseded"),
    ("rejected", "gating"),
    ("failed", "gating"),
    ("rolled_back", "gating"),
    ("superseded", "gating"),
}


def branch_in(state: State) -> Branch:
    return Branch(
        run_id="flowers-0123456789ab",
        dataset="flowers",
        target="cloud",
        state=state,
        step="uploading",
        since="2026-11-23T11:00:00.000Z",
        operation="projects/p/operations/1",
        operation_since="2026-11-23T11:00:00.000Z",
        attempts=2,
        job="projects/p/customJobs/1",
        facts={"model": "m"},
        history=(Moment(at="2026-11-23T11:00:00.000Z", state=state),),
    )


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)), ids=str)
def test_every_move_is_either_in_the_table_or_refused(before: State, after: State) -> None:
    branch = branch_in(before)

    if (before.value, after.value) in ALLOWED:
        assert branch.moved(after, at=NOW).state is after
    else:
        with pytest.raises(IllegalTransition, match=f"{before} cannot become {after}"):
            branch.moved(after, at=NOW)


def test_every_state_has_a_row_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {state for row in TRANSITIONS.values() for state in row} == set(State) - {State.PENDING}


def test_from_everywhere_an_end_can_be_reached() -> None:
    reaching = set(FINAL)
    for _ in State:
        reaching |= {state for state, row in TRANSITIONS.items() if row & reaching}

    assert reaching == set(State)


def test_a_refused_move_says_what_is_allowed() -> None:
    with pytest.raises(IllegalTransition, match=r"flowers-0123456789ab/cloud: .*allowed: failed, superseded, trained"):
        branch_in(State.TRAINING).moved(State.LIVE, at=NOW)


def test_a_move_begins_its_state_afresh_and_writes_history() -> None:
    moved = branch_in(State.DEPLOYING).moved(State.CANARY, at=NOW, note="5 %")

    assert (moved.step, moved.operation, moved.operation_since, moved.attempts) == ("", "", "", 0)
    assert (moved.since, moved.reason) == ("2026-11-23T12:00:00.000Z", "5 %")
    assert (moved.job, moved.facts) == ("projects/p/customJobs/1", {"model": "m"})
    assert [(moment.state, moment.note) for moment in moved.history] == [(State.DEPLOYING, ""), (State.CANARY, "5 %")]


def test_a_move_can_set_fields_of_the_new_state() -> None:
    moved = branch_in(State.LIVE).moved(State.GATING, at=NOW, release=2, forced=True, step="first")

    assert (moved.release, moved.forced, moved.step) == (2, True, "first")


def test_a_branch_remembers_that_it_was_trained_whatever_came_afterwards() -> None:
    branch = branch_in(State.TRAINING)
    assert not branch.was_trained

    for state in (State.TRAINED, State.GATING, State.REJECTED):
        branch = branch.moved(state, at=NOW)
        assert branch.was_trained


@pytest.mark.parametrize("state", list(State))
def test_only_the_ends_are_final(state: State) -> None:
    assert branch_in(state).is_final is (state in {"live", "rejected", "failed", "rolled_back", "superseded"})


def test_facts_are_added_to_and_the_branch_itself_never_changes() -> None:
    branch = branch_in(State.GATING)

    assert branch.with_facts(accuracy=0.9).facts == {"model": "m", "accuracy": 0.9}
    assert branch.with_facts(model="n").facts == {"model": "n"}
    assert branch.facts == {"model": "m"}
    with pytest.raises(pydantic.ValidationError):
        branch.state = State.LIVE


def test_a_change_that_is_no_branch_is_refused() -> None:
    with pytest.raises(pydantic.ValidationError):
        branch_in(State.GATING).changed(attempts="many")
    with pytest.raises(pydantic.ValidationError):
        branch_in(State.GATING).changed(target="watch")


def test_a_branch_survives_being_written_and_read() -> None:
    branch = branch_in(State.GATING).moved(State.DEPLOYING, at=NOW)

    assert Branch.model_validate_json(branch.model_dump_json()) == branch
