"""A canary that Cloud Monitoring watches too: all traffic counts, and missing data is no approval."""

from __future__ import annotations

import pytest

from cloud_deployer.release import CloudRelease
from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable
from dualdeploy.google.monitoring import Served
from dualdeploy.ledger import State
from support.deployer import Deployer
from support.fakes import Failing

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
def deployer() -> Deployer:
    """One run serves; the second is trained, and its rollout is watched."""
    deployer = Deployer()
    deployer.configure(serving=SERVING)
    deployer.bring_out()
    deployer.train(2)
    return deployer


def newest(deployer: Deployer) -> str:
    return max(deployer.ledger.run_ids("flowers"), key=lambda run_id: deployer.ledger.read_run(run_id).created_at)


def candidate_of(deployer: Deployer) -> tuple[str, str]:
    """Run and deployed model of the second run, as soon as it has traffic."""
    newer = newest(deployer)
    return newer, deployer.go_to(newer, "bake").plan.candidate


def outcome(deployer: Deployer) -> CloudRelease:
    return deployer.go_through(newest(deployer))


def test_a_first_model_is_not_waited_for_there_is_no_one_to_go_back_to(deployer: Deployer) -> None:
    assert deployer.live_run()
    assert deployer.monitoring.asked == []


def test_a_model_that_monitoring_finds_good_goes_through_every_share_and_its_figures_are_kept(
    deployer: Deployer,
) -> None:
    _, candidate = candidate_of(deployer)
    deployer.monitoring.seen[candidate] = GOOD
    release = outcome(deployer)
    assert release.state is State.LIVE, release.reason
    for step in release.plan.passed:
        assert step["monitoring"]["requests"] == 100
        assert [rule["name"] for rule in step["monitoring"]["rules"]] == [
            "monitored_error_rate",
            "monitored_p95_seconds",
        ]
    endpoints = {(endpoint, deployed) for endpoint, deployed, _ in deployer.monitoring.asked}
    assert endpoints == {("flowers", candidate)}


def test_it_is_asked_about_the_time_since_the_share_was_given_and_never_less_than_a_minute(deployer: Deployer) -> None:
    candidate_of(deployer)
    deployer.settle(ticks=5)
    seconds = [seconds for _, _, seconds in deployer.monitoring.asked]
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
    deployer: Deployer, seen: Served, words: str
) -> None:
    newer, candidate = candidate_of(deployer)
    deployer.monitoring.seen[candidate] = seen
    release = outcome(deployer)
    assert release.state is State.ROLLED_BACK
    assert release.reason.startswith(f"at 50 % of the traffic, Cloud Monitoring: {words}")
    assert max(split.get(candidate, 0) for _, split in deployer.vertex.splits) == 50
    assert deployer.live_run() not in ("", newer)


@pytest.mark.parametrize(
    ("seen", "words"),
    [(Served(0, 0), "no request was reported"), (Served(100, 0), "monitored_p95_seconds: no latency was reported")],
)
def test_missing_data_is_waited_for_and_then_is_not_an_approval(deployer: Deployer, seen: Served, words: str) -> None:
    newer, candidate = candidate_of(deployer)
    deployer.monitoring.seen[candidate] = seen
    deployer.settle(ticks=9)
    assert deployer.release(newer).state is State.CANARY
    release = outcome(deployer)
    assert release.state is State.ROLLED_BACK
    assert words in release.reason
    assert "not an approval" in release.reason


def test_data_that_comes_late_is_in_time(deployer: Deployer) -> None:
    newer, candidate = candidate_of(deployer)
    deployer.settle(ticks=6)
    deployer.monitoring.seen[candidate] = GOOD
    deployer.settle()
    assert deployer.release(newer).state is State.LIVE


def test_monitoring_that_does_not_answer_is_missing_data(deployer: Deployer) -> None:
    newer, _ = candidate_of(deployer)
    deployer.monitoring.faults.plan("served", *[Failing(ServiceUnavailable("503"))] * 40)
    deployer.settle(ticks=20)
    release = deployer.release(newer)
    assert release.state is State.ROLLED_BACK
    assert "no data" in release.reason


def test_monitoring_that_refuses_us_ends_the_rollout_with_googles_words(deployer: Deployer) -> None:
    candidate_of(deployer)
    deployer.monitoring.faults.plan("served", Failing(RejectedByGoogle("403: monitoring.timeSeries.list is missing")))
    release = outcome(deployer)
    assert release.state is State.ROLLED_BACK
    assert "monitoring.timeSeries.list is missing" in release.reason


def test_a_redeploy_without_canary_asks_no_one(deployer: Deployer) -> None:
    newer, candidate = candidate_of(deployer)
    deployer.monitoring.seen[candidate] = GOOD
    outcome(deployer)
    deployer.monitoring.seen.clear()
    asked = len(deployer.monitoring.asked)
    assert deployer.post("redeploy", run_id=newer, canary=False).status_code == 202
    assert deployer.go_through(newer, n=2).state is State.LIVE
    assert len(deployer.monitoring.asked) == asked
