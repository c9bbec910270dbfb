"""A canary that Cloud Monitoring watches too: all traffic counts, and missing data is no approval."""

from __future__ import annotations

import pytest
from chain import Chain

from cloud_deployer.canary import rollout_of
from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable
from dualdeploy.ledger import State
from dualdeploy.monitoring import Served
from dualdeploy.testing import Failing

SERVING = {
    "canary": {
        "steps": [50, 100],
        "bake": "2m",
        "answers": 2,
        "monitoring": {"max_error_rate": 0.05, "max_latency": "500ms", "wait": "10m"},
    }
}
GOOD = Served(requests=100, errors=5, p95_seconds=0.5)


@pytest.fixture
def chain() -> Chain:
    """One run serves; the second is trained, and its rollout is watched."""
    chain = Chain()
    chain.configure(serving=SERVING)
    chain.upload()
    chain.settle()
    chain.clock.advance(3600)
    chain.upload(edition=2)
    return chain


def first(chain: Chain) -> str:
    return min(chain.run_ids(), key=lambda run_id: chain.ledger.read_run(run_id).created_at)


def candidate_of(chain: Chain) -> tuple[str, str]:
    """Run and deployed model of the second run, as soon as it has traffic."""
    for _ in range(12):
        chain.settle(ticks=1)
        newer = max(chain.run_ids(), key=lambda run_id: chain.ledger.read_run(run_id).created_at)
        branch = chain.branch(newer, "cloud") if newer != first(chain) else None
        if branch and branch.step == "bake":
            return newer, rollout_of(branch).candidate
    raise AssertionError("the second run never came to bake")


def test_a_first_model_is_not_waited_for_there_is_nobody_to_go_back_to(chain: Chain) -> None:
    assert chain.branch(first(chain), "cloud").state is State.LIVE
    assert chain.monitoring.asked == []


def test_a_model_that_monitoring_finds_good_goes_through_every_share_and_its_figures_are_kept(chain: Chain) -> None:
    newer, candidate = candidate_of(chain)
    chain.monitoring.seen[candidate] = GOOD
    chain.settle()
    branch = chain.branch(newer, "cloud")
    assert branch.state is State.LIVE, branch.reason
    for step in rollout_of(branch).passed:
        assert step["monitoring"]["requests"] == 100
        assert [rule["name"] for rule in step["monitoring"]["rules"]] == [
            "monitored_error_rate",
            "monitored_p95_seconds",
        ]
    endpoints = {(endpoint, deployed) for endpoint, deployed, _ in chain.monitoring.asked}
    assert endpoints == {("flowers", candidate)}


def test_it_is_asked_about_the_time_since_the_share_was_given_and_never_less_than_a_minute(chain: Chain) -> None:
    candidate_of(chain)
    chain.settle(ticks=5)
    seconds = [seconds for _, _, seconds in chain.monitoring.asked]
    assert seconds
    assert min(seconds) >= 60
    assert seconds == sorted(seconds)


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Served(100, 6, 0.1), "monitored_error_rate 0.06 <= 0.05: failed"),
        (Served(0, 4, None), "monitored_error_rate 1 <= 0.05: failed"),
        (Served(100, 0, 0.51), "monitored_p95_seconds 0.51 <= 0.5: failed"),
    ],
)
def test_what_only_monitoring_sees_ends_the_rollout_at_the_share_it_is_at(
    chain: Chain, seen: Served, words: str
) -> None:
    newer, candidate = candidate_of(chain)
    chain.monitoring.seen[candidate] = seen
    chain.settle()
    branch = chain.branch(newer, "cloud")
    assert branch.state is State.ROLLED_BACK
    assert branch.reason.startswith(f"at 50 % of the traffic, Cloud Monitoring: {words}")
    assert max(split.get(candidate, 0) for _, split in chain.vertex.splits) == 50
    assert chain.live("cloud").current.run_id == first(chain)


@pytest.mark.parametrize(
    ("seen", "words"),
    [(Served(0, 0), "no request was reported"), (Served(100, 0), "monitored_p95_seconds: no latency was reported")],
)
def test_missing_data_is_waited_for_and_then_is_no_approval(chain: Chain, seen: Served, words: str) -> None:
    newer, candidate = candidate_of(chain)
    chain.monitoring.seen[candidate] = seen
    chain.settle(ticks=9)
    assert chain.branch(newer, "cloud").state is State.CANARY
    chain.settle()
    branch = chain.branch(newer, "cloud")
    assert branch.state is State.ROLLED_BACK
    assert words in branch.reason
    assert "no approval" in branch.reason


def test_data_that_comes_late_is_in_time(chain: Chain) -> None:
    newer, candidate = candidate_of(chain)
    chain.settle(ticks=6)
    chain.monitoring.seen[candidate] = GOOD
    chain.settle()
    assert chain.branch(newer, "cloud").state is State.LIVE


def test_monitoring_that_does_not_answer_is_missing_data(chain: Chain) -> None:
    newer, _ = candidate_of(chain)
    chain.monitoring.faults.plan("served", *[Failing(ServiceUnavailable("503"))] * 40)
    chain.settle(ticks=20)
    branch = chain.branch(newer, "cloud")
    assert branch.state is State.ROLLED_BACK
    assert "no data" in branch.reason


def test_monitoring_that_refuses_us_ends_the_rollout_with_googles_words(chain: Chain) -> None:
    newer, _ = candidate_of(chain)
    chain.monitoring.faults.plan("served", Failing(RejectedByGoogle("403: monitoring.timeSeries.list is missing")))
    chain.settle()
    branch = chain.branch(newer, "cloud")
    assert branch.state is State.ROLLED_BACK
    assert "monitoring.timeSeries.list is missing" in branch.reason


def test_a_redeploy_without_canary_asks_nobody(chain: Chain) -> None:
    newer, candidate = candidate_of(chain)
    chain.monitoring.seen[candidate] = GOOD
    chain.settle()
    chain.monitoring.seen.clear()
    chain.queue.append(chain.redeploy("cloud", run_id=newer, canary=False))
    chain.settle()
    assert (chain.branch(newer, "cloud").state, chain.branch(newer, "cloud").release) == (State.LIVE, 2)
