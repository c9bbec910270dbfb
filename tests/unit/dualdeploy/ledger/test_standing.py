"""One line made of a training and its releases, also when something is wrong with one of them."""

from __future__ import annotations

import pytest

from dualdeploy.errors import UnknownRun
from dualdeploy.ledger import Ledger, Run, Snapshot, State, names
from dualdeploy.ledger.standing import standing
from support.deployer import Deployer, overwrite
from support.fakes import ManualClock, MemoryObjectStore


def test_a_run_that_was_only_claimed_waits_for_its_training() -> None:
    clock = ManualClock()
    ledger = Ledger(MemoryObjectStore("ledger", clock=clock), clock=clock)
    run = Run(
        run_id="flowers-0123456789ab",
        dataset="flowers",
        created_at="2026-11-28T00:00:00.000Z",
        reason="data arrived",
        snapshot=Snapshot(bucket="data", prefix="flowers/", shards=()),
        config={},
        claim="x",
    )
    ledger.claim(run)
    found = standing(ledger, run.run_id, "cloud")
    assert (found.state, found.since, found.is_over) == (State.PENDING, run.created_at, False)
    with pytest.raises(UnknownRun):
        standing(ledger, "flowers-ba9876543210", "cloud")


@pytest.mark.parametrize("which", ["launch", "ended"])
def test_a_release_is_told_although_what_was_before_it_cannot_be_read(which: str) -> None:
    deployer = Deployer()
    run_id = deployer.bring_out()
    name = {"launch": names.launch(run_id, "cloud"), "ended": names.ended(run_id, "cloud", 1)}[which]
    overwrite(deployer.ledger_store, name, b"{")
    response = deployer.http().get(f"/runs/{run_id}")
    assert (response.status_code, response.json["state"]) == (200, "live")


def test_a_release_that_cannot_be_read_is_told_with_the_way_out() -> None:
    deployer = Deployer()
    run_id = deployer.bring_out()
    overwrite(deployer.ledger_store, names.release(run_id, "cloud", 1), b"{")
    found = deployer.standing(run_id)
    assert (found.state, found.waits_for) == ("unreadable", "someone to mend it; /abort ends it")
    assert f"{run_id}/cloud/release-1.json cannot be read as a Release" in found.reason


def test_a_training_that_cannot_be_read_is_said() -> None:
    deployer = Deployer()
    run_id = deployer.train(announce=False)
    overwrite(deployer.ledger_store, names.launch(run_id, "cloud"), b"{")
    found = deployer.standing(run_id)
    assert found.state == "unreadable"
    assert "launch.json cannot be read as a Launch" in found.reason
