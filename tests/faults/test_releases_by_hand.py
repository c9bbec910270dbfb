"""Rollouts that fail behind the endpoint, rollbacks and aborts: killed, interleaved, and always ending in one truth."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Mapping
from typing import Any

import pytest
from chain import Chain, Delivery, Interleaving
from stories import Story, in_order_of_time, told, upload

from dualdeploy.errors import ServiceUnavailable
from dualdeploy.ledger import State
from dualdeploy.monitoring import SHORTEST_PERIOD, Served
from dualdeploy.testing.failing import ProcessDied
from dualdeploy.testing.vertex import label_in_picture
from dualdeploy.vertex import Answer, DeployedModel

ENDS = {State.LIVE, State.ROLLED_BACK, State.SUPERSEDED, State.FAILED}


def two_live_runs(chain: Chain) -> None:
    for edition in (1, 2):
        upload(chain, edition=edition)
        chain.settle()
        chain.clock.advance(3600)


def bring_a_bad_model(chain: Chain) -> None:
    known = set(chain.run_ids())

    def serve(deployed: DeployedModel, instance: Mapping[str, Any]) -> Answer:
        if deployed.display_name not in known:
            raise ServiceUnavailable("500: the model server fell over")
        return label_in_picture(deployed, instance)

    chain.vertex.serve = serve
    upload(chain, edition=3)


def check_the_bad_model_is_gone(chain: Chain) -> None:
    _, second, bad = in_order_of_time(chain)
    assert chain.branch(bad, "cloud").state is State.ROLLED_BACK, chain.branch(bad, "cloud").reason
    assert chain.branch(second, "cloud").state is State.LIVE
    assert chain.messages("deployment-completed", run_id=bad, target="cloud", outcome="rolled_back")
    check_serves(chain, second)
    chain.check_is_tidy()


def roll_back(chain: Chain) -> None:
    chain.queue.append(chain.post("cloud", "rollback", dataset="flowers", key="4711"))


def check_the_first_run_is_back(chain: Chain) -> None:
    first, second = in_order_of_time(chain)
    assert chain.branch(first, "cloud").state is State.LIVE
    assert chain.branch(first, "cloud").release == 2
    assert chain.branch(second, "cloud").state is State.ROLLED_BACK
    check_serves(chain, first)
    chain.check_is_tidy()


def check_serves(chain: Chain, run_id: str) -> None:
    assert chain.live("cloud").current.run_id == run_id
    endpoint = chain.vertex.endpoints["flowers"]
    assert [deployed.display_name for deployed in endpoint.deployed] == [run_id]
    assert dict(endpoint.traffic) == {endpoint.deployed[0].id: 100}


def two_live_runs_and_a_watched_canary(chain: Chain) -> None:
    two_live_runs(chain)
    monitoring = {"max_error_rate": 0.05, "max_latency": "500ms", "wait": "10m"}
    canary = {"steps": [50, 100], "bake": "2m", "answers": 1, "monitoring": monitoring}
    chain.configure(serving={"canary": canary, "cool_down": "3m"})
    chain.monitoring.otherwise = Served(requests=100, errors=0, p95_seconds=0.1)


def cool_down(chain: Chain, *, minutes: int = 8) -> None:
    """Until what was replaced is taken down; a removal is two looks, each under a lease that may have to run out."""
    for _ in range(minutes):
        chain.tick()
        chain.vertex.finish_operations()


def bring_a_good_model(chain: Chain) -> None:
    upload(chain, edition=3)


def check_the_good_model_was_watched_at_every_share(chain: Chain) -> None:
    _, second, good = in_order_of_time(chain)
    assert chain.branch(good, "cloud").state is State.LIVE, chain.branch(good, "cloud").reason
    assert chain.branch(second, "cloud").state is State.SUPERSEDED
    passed = chain.branch(good, "cloud").facts["rollout"]["passed"]
    assert [(step["share"], step["monitoring"]["requests"]) for step in passed] == [(50, 100), (100, 100)]
    assert min(seconds for _, _, seconds in chain.monitoring.asked) >= SHORTEST_PERIOD
    cool_down(chain)
    check_serves(chain, good)
    chain.check_is_tidy()


def bring_a_model_whose_users_see_errors(chain: Chain) -> None:
    chain.monitoring.otherwise = Served(requests=100, errors=40, p95_seconds=0.1)
    upload(chain, edition=3)


STORIES = {
    "a model that fails behind the endpoint": Story(two_live_runs, bring_a_bad_model, check_the_bad_model_is_gone),
    "a model that only its users see fail": Story(
        two_live_runs_and_a_watched_canary, bring_a_model_whose_users_see_errors, check_the_bad_model_is_gone
    ),
    "a model that Cloud Monitoring finds good": Story(
        two_live_runs_and_a_watched_canary, bring_a_good_model, check_the_good_model_was_watched_at_every_share
    ),
    "a rollback": Story(two_live_runs, roll_back, check_the_first_run_is_back),
}


class KillAt:
    """Kills the process at one operation, once."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.happened = False

    def __call__(self, number: int, name: str, when: str) -> None:
        if number == self.number and not self.happened:
            self.happened = True
            raise ProcessDied


@functools.cache
def deployer_operations(name: str) -> list[int]:
    """The operations from which on only the deployer acts on the cloud branch; those before are other tests' matter."""
    chain, _ = told(STORIES[name])
    told_operations = list(chain.operations)
    STORIES[name].check(chain)
    began = next((number for number, kind in enumerate(told_operations) if kind == "vertex.find_endpoint"), 0)
    return list(range(began if name != "a rollback" else 0, len(told_operations)))


@pytest.mark.parametrize("name", STORIES)
def test_a_process_killed_at_any_operation_ends_as_it_should(name: str) -> None:
    failures = []
    for number in deployer_operations(name):
        kill = KillAt(number)
        chain, _ = told(STORIES[name], kill)
        try:
            assert kill.happened
            STORIES[name].check(chain)
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


def commands(chain: Chain, seed: int) -> list[Delivery]:
    draw = random.Random(seed)
    older, newer = in_order_of_time(chain)
    asked = [
        chain.post("cloud", "rollback", dataset="flowers", key=f"a{seed}"),
        chain.post("cloud", "redeploy", run_id=newer, key=f"b{seed}"),
        chain.post("cloud", "redeploy", run_id=older, force=True, canary=False),
    ]
    if seed % 4 == 0:
        asked.append(chain.post("cloud", "abort", dataset="flowers"))
    draw.shuffle(asked)
    return asked


def check_the_endpoint(chain: Chain) -> None:
    """At any moment: traffic sums to 100, and nobody without a deployment has any."""
    for _, split in chain.vertex.splits:
        assert sum(split.values()) == 100, split
    endpoint = chain.vertex.endpoints["flowers"]
    there = {deployed.id for deployed in endpoint.deployed}
    assert {key for key, share in endpoint.traffic.items() if share} <= there


@pytest.mark.parametrize("block", range(8))
@pytest.mark.parametrize("kept", ["0s", "5m"])
def test_two_runs_a_redeploy_and_a_rollback_at_once_leave_one_model_that_serves_and_is_recorded(
    block: int, kept: str
) -> None:
    for seed in range(block * 25, block * 25 + 25):
        chain, interleaving = _two_live_runs(kept).continued(), Interleaving(seed)
        asked = commands(chain, seed)
        upload(chain, edition=3)
        for turn in itertools.count():
            assert turn < 60, f"seed {seed} never comes to rest: {chain.active()}"
            waiting, chain.queue = chain.queue + asked[:1], []
            asked = asked[1:]
            chain.clock.advance(60)
            chain.queue += interleaving.run(chain, waiting + chain.clock_deliveries())
            for job in chain.unfinished_jobs():
                chain.train(job)
            chain.vertex.finish_operations()
            check_the_endpoint(chain)
            if not asked and chain.is_quiet():
                break
        states = {run_id: chain.branch(run_id, "cloud").state for run_id in chain.run_ids()}
        assert set(states.values()) <= ENDS, (seed, states)
        # A redeploy of the live run that was aborted ends as such; the release before it serves on.
        live = chain.live("cloud").current.run_id
        assert {run_id for run_id, state in states.items() if state is State.LIVE} <= {live}, (seed, states)
        if kept != "0s":
            cool_down(chain)
        check_serves(chain, live)
        chain.check_is_tidy()
