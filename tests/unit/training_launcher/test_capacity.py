"""Vertex AI without quota or capacity: asked again on the clock, ever more seldom, and not for ever."""

from __future__ import annotations

import pytest
from chain import LAUNCHER_SETTINGS, WHOLE, Chain

from dualdeploy.errors import NoCapacity, PermissionSpreads
from dualdeploy.ledger import Holdup, State
from dualdeploy.testing import Failing

QUOTA = "429 RESOURCE_EXHAUSTED: quota custom_model_training_nvidia_t4_gpus is exceeded"


@pytest.fixture
def chain() -> Chain:
    return Chain()


def refuse(chain: Chain, times: int, *, after: bool = False) -> None:
    chain.vertex.faults.plan("create_custom_job", *[Failing(NoCapacity(QUOTA), after=after)] * times)


def launcher_tick(chain: Chain, seconds: float) -> None:
    chain.clock.advance(seconds)
    chain.tick_of("training_launcher")


def launch(chain: Chain) -> None:
    chain.handle(chain.retrain())
    chain.drain()


def attempts(chain: Chain) -> int:
    return chain.vertex.faults.calls["create_custom_job"]


def cloud(chain: Chain):
    (run_id,) = chain.run_ids()
    return chain.ledger.read_launch(run_id, "cloud").document


def test_a_refused_job_says_why_it_waits_since_when_and_until_when(chain: Chain) -> None:
    chain.upload(*WHOLE)
    refuse(chain, 1)
    launch(chain)
    branch = cloud(chain)
    assert (branch.state, branch.asked) == (State.LAUNCHING, 1)
    assert branch.holdup == Holdup(
        what=QUOTA, kind="NoCapacity", since="2026-11-23T12:00:00.000Z", until="2026-11-24T12:00:00.000Z"
    )
    assert branch.retry_at == "2026-11-23T12:01:00.000Z"
    waits_for = chain.standing(branch.run_id, "cloud").waits_for
    assert waits_for == f"{QUOTA}, since {branch.holdup.since}; asked again at {branch.retry_at}"


def test_attempts_become_rarer_up_to_half_an_hour(chain: Chain) -> None:
    chain.upload(*WHOLE)
    refuse(chain, 1)
    launch(chain)
    asked_at = []
    refuse(chain, 12)
    for minute in range(1, 131):
        before = attempts(chain)
        launcher_tick(chain, 60)
        if attempts(chain) > before:
            asked_at.append(minute)
    assert asked_at == [1, 2, 4, 8, 16, 32, 62, 92, 122]


@pytest.mark.parametrize("minutes", range(1, 15))
def test_a_permission_that_is_given_within_its_time_is_enough(chain: Chain, minutes: int) -> None:
    missing = [True]

    def refused(_number: int, name: str, when: str) -> None:
        if missing and name == "vertex.create_custom_job" and when == "before":
            raise PermissionSpreads("403: aiplatform.customJobs.create")

    chain.interfere = refused
    chain.upload(*WHOLE)
    launch(chain)
    for _ in range(minutes - 1):
        launcher_tick(chain, 60)
    missing.clear()
    for _ in range(15):
        launcher_tick(chain, 60)
    assert cloud(chain).state is State.TRAINING


def test_a_job_gets_its_capacity_in_the_end(chain: Chain) -> None:
    chain.upload(*WHOLE)
    refuse(chain, 5)
    chain.settle(ticks=60)
    chain.check_one_run_is_live()
    assert (cloud(chain).holdup, cloud(chain).retry_at) == (None, "")


def test_after_the_limit_the_branch_fails_with_googles_message_and_the_other_goes_on(chain: Chain) -> None:
    chain.upload(*WHOLE)
    chain.vertex.faults.plan("create_custom_job", Failing(NoCapacity(QUOTA)))
    launch(chain)
    refuse(chain, 100)
    launcher_tick(chain, LAUNCHER_SETTINGS.launch_limit_seconds - 60)
    assert cloud(chain).state is State.LAUNCHING
    tried = attempts(chain)
    launcher_tick(chain, 7200)
    branch = cloud(chain)
    assert branch.state is State.FAILED
    assert branch.reason == f"given up after 2 attempts since 2026-11-23T12:00:00.000Z: {QUOTA}"
    assert attempts(chain) == tried
    chain.settle()
    assert chain.standing(branch.run_id, "mobile").state is State.LIVE
    (told,) = chain.messages("training-completed", target="cloud")
    assert QUOTA in told["reason"]


def test_a_job_whose_creation_was_answered_with_503_is_found_even_after_the_limit(chain: Chain) -> None:
    chain.upload(*WHOLE)
    refuse(chain, 1, after=True)
    launch(chain)
    launcher_tick(chain, LAUNCHER_SETTINGS.launch_limit_seconds + 60)
    branch = cloud(chain)
    assert branch.state is State.TRAINING
    assert chain.jobs_of(branch.run_id, "cloud") == [branch.job]


def test_both_jobs_can_wait_and_each_is_asked_for_by_itself(chain: Chain) -> None:
    chain.upload(*WHOLE)
    refuse(chain, 3)
    launch(chain)
    (run_id,) = chain.run_ids()
    launcher_tick(chain, 60)
    assert chain.standing(run_id, "cloud").state is State.LAUNCHING
    assert chain.standing(run_id, "mobile").state is State.TRAINING
    launcher_tick(chain, 60)
    assert chain.standing(run_id, "cloud").state is State.TRAINING


DENIED = "403 PERMISSION_DENIED: aiplatform.customJobs.create"


def deny(chain: Chain, times: int) -> None:
    chain.vertex.faults.plan("create_custom_job", *[Failing(PermissionSpreads(DENIED))] * times)


def test_a_permission_that_is_still_spreading_is_waited_for(chain: Chain) -> None:
    """Minutes after `make deploy`, which granted it."""
    deny(chain, 6)
    chain.upload(*WHOLE)
    chain.settle(ticks=40)
    assert chain.vertex.faults.pending() == {}
    chain.check_one_run_is_live()


def test_a_permission_that_does_not_come_ends_the_training_by_name(chain: Chain) -> None:
    deny(chain, 200)
    chain.upload(*WHOLE)
    chain.drain()
    waits_for = chain.standing(cloud(chain).run_id, "cloud").waits_for
    assert DENIED in waits_for
    launcher_tick(chain, PermissionSpreads.patience + 60)
    launcher_tick(chain, 1800)
    assert cloud(chain).state is State.FAILED
    assert DENIED in cloud(chain).reason
