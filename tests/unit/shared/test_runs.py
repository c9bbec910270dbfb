"""Where every run stands, what it costs and what it waits for: as people and as programs see it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from dualdeploy import runs
from dualdeploy.ledger import Branch, Ledger, Run, State
from dualdeploy.runs import Runs
from dualdeploy.spending import Estimate, TargetEstimate, record_estimate, reserve, settle
from dualdeploy.testing import ManualClock, MemoryObjectStore

WAY = (State.LAUNCHING, State.TRAINING, State.TRAINED, State.GATING, State.DEPLOYING, State.CANARY, State.LIVE)


@pytest.fixture
def run(ledger: Ledger, make_run: Callable[..., Run]) -> Run:
    run, _ = ledger.claim(make_run())
    ledger.open_branches(run)
    return run


@pytest.fixture
def project(
    ledger: Ledger, store: MemoryObjectStore, clock: ManualClock, run: Run
) -> tuple[Ledger, MemoryObjectStore, ManualClock, Run]:
    return ledger, store, clock, run


def bring(ledger: Ledger, clock: ManualClock, run: Run, target: str, state: State, **changes: Any) -> Branch:
    """The branch, step by step, in `state`."""
    found = ledger.read_branch(run.run_id, target)
    branch = found.document
    way = WAY if state in WAY else (State.LAUNCHING, state)
    for step in way[: way.index(state) + 1] if branch.state is not state else ():
        clock.advance(60)
        branch = branch.moved(step, at=clock(), note=f"now {step}")
    branch = branch.changed(**changes)
    ledger.write_branch(branch, expect=found.generation)
    return branch


def estimate(run: Run) -> Estimate:
    each = TargetEstimate(
        usd_per_hour=0.6, expected_seconds=1800, timeout_seconds=7200, estimated_usd=0.3, most_usd=1.2, price="list"
    )
    return Estimate(
        run_id=run.run_id,
        dataset=run.dataset,
        month="2026-11",
        region="us-central1",
        prices_as_of="2026-11-01",
        targets={"cloud": each, "mobile": each},
    )


def test_costs_are_estimated_then_reserved_then_what_they_were(
    ledger: Ledger, store: MemoryObjectStore, clock: ManualClock, run: Run
) -> None:
    looked = Runs(store, clock=clock)
    assert [branch.cost for branch in looked.one(run.run_id).branches] == ["?", "?"]
    record_estimate(ledger, estimate(run))
    reserve(ledger, estimate(run), limit_usd=None)
    assert [branch.cost for branch in looked.one(run.run_id).branches] == ["~ 0.30 $", "~ 0.30 $"]
    settle(ledger, run.run_id, "cloud", seconds=3600)
    cloud, mobile = looked.one(run.run_id).branches
    assert (cloud.cost, mobile.cost) == ("0.60 $", "~ 0.30 $")
    assert (cloud.reserved_usd, cloud.actual_usd, mobile.actual_usd) == (1.2, 0.6, None)


@pytest.mark.parametrize(
    ("state", "changes", "expected"),
    [
        (State.PENDING, {}, "the next tick of the clock"),
        (
            State.LAUNCHING,
            {"waiting_since": "2026-11-23T12:00:00.000Z", "retry_at": "2026-11-23T12:08:00.000Z"},
            "quota or capacity of Vertex AI, since 2026-11-23T12:00:00.000Z; asked again at 2026-11-23T12:08:00.000Z",
        ),
        (
            State.TRAINING,
            {"job": "projects/1/locations/r/customJobs/7"},
            "training job projects/1/locations/r/customJobs/7",
        ),
        (
            State.DEPLOYING,
            {"operation": "operations/9", "operation_since": "2026-11-23T12:30:00.000Z"},
            "operation operations/9, since 2026-11-23T12:30:00.000Z",
        ),
        (
            State.CANARY,
            {
                "step": "bake",
                "facts": {"rollout": {"shifted_at": "2026-11-23T13:00:00.000Z", "limits": {"bake": 300.0}}},
            },
            "its share of the traffic to prove itself, until 2026-11-23T13:05:00.000Z",
        ),
        (State.LIVE, {}, ""),
    ],
)
def test_it_says_what_a_branch_waits_for(
    project: tuple[Ledger, MemoryObjectStore, ManualClock, Run], state: State, changes: dict[str, Any], expected: str
) -> None:
    ledger, store, clock, run = project
    bring(ledger, clock, run, "cloud", state, **changes)
    assert Runs(store, clock=clock).one(run.run_id).branches[0].waits_for == expected


def test_it_names_the_lease_under_which_somebody_is_at_work(
    ledger: Ledger, store: MemoryObjectStore, clock: ManualClock, run: Run
) -> None:
    bring(ledger, clock, run, "cloud", State.GATING)
    looked = Runs(store, clock=clock)
    with ledger.lease("flowers/cloud", seconds=60):
        assert looked.one(run.run_id).branches[0].waits_for.startswith("the instance at work on it, until ")
        clock.advance(61)
        assert looked.one(run.run_id).branches[0].waits_for == "the next tick of the clock"


def test_it_names_the_run_that_has_to_finish_first(
    ledger: Ledger, store: MemoryObjectStore, clock: ManualClock, run: Run, make_run: Callable[..., Run]
) -> None:
    other, _ = ledger.claim(make_run(shards=("b",)))
    ledger.open_branches(other)
    bring(ledger, clock, other, "cloud", State.DEPLOYING)
    bring(ledger, clock, run, "cloud", State.TRAINED)
    waits = Runs(store, clock=clock).one(run.run_id).branches[0].waits_for
    assert waits == f"{other.run_id}, which is at work on the same data set"


def shown(store: MemoryObjectStore, *arguments: str, width: int = 140) -> tuple[int, str]:
    out = io.StringIO()
    code = runs.main(list(arguments), console=Console(file=out, width=width), store=store)
    return code, out.getvalue()


def test_the_table_has_both_branches_newest_run_first(
    ledger: Ledger, store: MemoryObjectStore, clock: ManualClock, run: Run, make_run: Callable[..., Run]
) -> None:
    clock.advance(3600)
    newer, _ = ledger.claim(make_run(shards=("b",)))
    ledger.open_branches(newer)
    neighbour, _ = ledger.claim(make_run("flowers-2"))
    bring(ledger, clock, run, "cloud", State.FAILED)
    code, text = shown(store, "--dataset", "flowers")
    assert code == 0
    assert text.index(newer.run_id) < text.index(run.run_id)
    assert neighbour.run_id not in text
    assert "now failed" in text
    assert text.count("mobile") == 2
    assert shown(store, "--dataset", "flowers", "--most", "1")[1].count("mobile") == 1


def test_json_has_the_same_and_a_single_run_has_its_history(
    ledger: Ledger, store: MemoryObjectStore, clock: ManualClock, run: Run
) -> None:
    bring(ledger, clock, run, "cloud", State.TRAINED)
    (listed,) = json.loads(shown(store, "--json", width=40)[1])
    alone = json.loads(shown(store, run.run_id, "--json", width=40)[1])
    assert listed == alone
    assert [moment["state"] for moment in alone["branches"][0]["history"]] == [
        "pending",
        "launching",
        "training",
        "trained",
    ]
    text = shown(store, run.run_id)[1]
    assert "now trained" in text
    assert "waits for" in text


def test_a_run_that_is_not_there_is_said_and_a_ledger_must_be_named(
    store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text = shown(store, "flowers-0123456789ab")
    assert (code, "no run 'flowers-0123456789ab'" in text) == (1, True)
    assert shown(store)[1].strip() == "No runs yet."
    monkeypatch.delenv("LEDGER_BUCKET", raising=False)
    out = io.StringIO()
    assert runs.main([], console=Console(file=out)) == 2
    assert "which ledger?" in out.getvalue()


def test_a_claimed_run_without_branches_is_listed(
    ledger: Ledger, store: MemoryObjectStore, make_run: Callable[..., Run]
) -> None:
    ledger.claim(make_run())
    assert "claimed" in shown(store)[1]
