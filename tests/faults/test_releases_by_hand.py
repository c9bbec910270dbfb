"""Rollouts that fail behind the endpoint, rollbacks and aborts: killed, interleaved, and always ending in one truth."""

from __future__ import annotations

import functools
import itertools

import pytest

from dualdeploy.ledger import State
from support.chain import Chain, Interleaving
from support.stories import (
    RELEASE_STORIES,
    Once,
    check_serves,
    commands_at_once,
    cool_down,
    deployers_operations,
    kill,
    spread,
    told,
    two_live_runs,
    upload,
)

ENDS = {State.LIVE, State.ROLLED_BACK, State.SUPERSEDED, State.FAILED}


@pytest.mark.parametrize("name", RELEASE_STORIES)
def test_a_process_killed_at_any_operation_ends_as_it_should(name: str) -> None:
    failures = []
    for number in spread(deployers_operations(RELEASE_STORIES[name])):
        death = Once(number, kill)
        chain, _ = told(RELEASE_STORIES[name], death)
        try:
            assert death.operation
            RELEASE_STORIES[name].check(chain)
        except AssertionError as exc:
            failures.append(f"killed at {number} ({chain.operations[number]}): {exc}")
    assert failures == []


# Everything at once --------------------------------------------------------------------------------------------


@functools.cache
def _two_live_runs(cool_down: str) -> Chain:
    chain = Chain()
    chain.configure(serving={"canary": {"steps": [50, 100], "bake": "1m", "answers": 1}, "cool_down": cool_down})
    two_live_runs(chain)
    return chain


def check_the_endpoint(chain: Chain) -> None:
    """At any moment: traffic sums to 100, and nobody without a deployment has any."""
    for _, split in chain.vertex.splits:
        assert not split or sum(split.values()) == 100, split
    endpoint = chain.vertex.endpoints["flowers"]
    there = {deployed.id for deployed in endpoint.deployed}
    assert {key for key, share in endpoint.traffic.items() if share} <= there


@pytest.mark.parametrize("block", range(2))
@pytest.mark.parametrize("kept", ["0s", "5m"])
def test_two_runs_a_redeploy_and_a_rollback_at_once_leave_one_model_that_serves_and_is_recorded(
    block: int, kept: str
) -> None:
    for seed in range(block * 25, block * 25 + 25):
        chain, interleaving = _two_live_runs(kept).continued(), Interleaving(seed)
        asked = commands_at_once(chain, seed, abort=seed % 4 == 0)
        upload(chain, edition=3)
        for turn in itertools.count():
            assert turn < 60, f"seed {seed} never comes to rest: {chain.active()}"
            waiting, chain.queue = chain.queue + asked[:1], []
            asked = asked[1:]
            chain.clock.advance(60)
            if turn == 25:
                # What was claimed before a rollback is held until someone says so.
                chain.handle(chain.post("cloud", "resume", dataset="flowers"))
            chain.queue += interleaving.run(chain, waiting + chain.tick_deliveries())
            for job in chain.unfinished_jobs():
                chain.train(job)
            chain.vertex.finish_operations()
            check_the_endpoint(chain)
            if not asked and chain.is_quiet():
                break
        states = {run_id: chain.standing(run_id, "cloud").state for run_id in chain.run_ids()}
        assert set(states.values()) <= ENDS, (seed, states)
        # A redeploy of the live run that was aborted ends as such; the release before it serves on.
        live = chain.live("cloud").current.run_id
        assert {run_id for run_id, state in states.items() if state is State.LIVE} <= {live}, (seed, states)
        if kept != "0s":
            cool_down(chain)
        check_serves(chain, live)
        chain.check_is_tidy()
