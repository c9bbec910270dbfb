"""At most one job for each run and target, also when an instance sleeps longer than its lease."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping

import pytest

from dualdeploy.contracts.training import TARGETS
from dualdeploy.errors import ServiceUnavailable
from dualdeploy.google.vertex import CustomJobSpec, Job, JobOutcome
from dualdeploy.ledger.spending import read_account
from support.chain import LEASE_SECONDS, WHOLE, Chain


def frozen_before_creating(target: str) -> Chain:
    """A launch that sleeps after it saw that `target` has no job, while another instance launches the run.

    It has woken up, and done what it was about to do.
    """
    chain = Chain()
    deliveries = chain.upload(*WHOLE)

    def sleep(_number: int, name: str, when: str) -> None:
        if (name, when) != ("vertex.create_custom_job", "before") or len(chain.vertex.jobs) != TARGETS.index(target):
            return
        chain.interfere = lambda _number, _name, _when: None
        chain.clock.advance(LEASE_SECONDS + 120)
        assert "training" in str(chain.tick_of("training_launcher"))
        assert len(chain.vertex.jobs) == 2

    chain.interfere = sleep
    chain.queue = deliveries
    chain.drain()
    assert len(chain.vertex.jobs) == 3
    return chain


@pytest.mark.parametrize("target", TARGETS)
def test_an_instance_that_was_frozen_before_it_created_its_job_cancels_it_again(target: str) -> None:
    chain = frozen_before_creating(target)
    (run_id,) = chain.run_ids()
    for each in TARGETS:
        running = [name for name in chain.jobs_of(run_id, each) if name in chain.unfinished_jobs()]
        assert running == [chain.standing(run_id, each).job]
    oldest, newest = chain.jobs_of(run_id, target)
    assert chain.standing(run_id, target).job == oldest
    assert chain.vertex.jobs[newest].state == "JOB_STATE_CANCELLED"
    chain.settle()
    chain.check_is_live(run_id)


def test_the_job_that_was_created_is_kept_when_the_second_look_does_not_show_it_yet() -> None:
    chain = Chain()
    seen = chain.vertex.find_custom_jobs
    chain.vertex.find_custom_jobs = lambda labels: seen(labels) and []  # type: ignore[method-assign]
    chain.upload(*WHOLE)
    chain.drain()
    (run_id,) = chain.run_ids()
    assert [[chain.standing(run_id, target).job] for target in TARGETS] == [
        chain.jobs_of(run_id, target) for target in TARGETS
    ]


def test_a_second_look_that_fails_is_taken_at_the_next_tick() -> None:
    chain = Chain()

    def fail(_number: int, name: str, when: str) -> None:
        if (name, when) == ("vertex.find_custom_jobs", "before") and chain.vertex.jobs:
            chain.interfere = lambda _number, _name, _when: None
            raise ServiceUnavailable("no answer")

    chain.interfere = fail
    chain.upload(*WHOLE)
    chain.settle()
    chain.check_one_run_is_live()
    assert len(chain.vertex.jobs) == 2


@pytest.mark.parametrize("minutes", [0.5, 1.5, 30])
def test_a_job_that_appears_long_after_its_creation_got_no_answer_is_not_a_second_job_for_long(minutes: float) -> None:
    """The client waited 15 seconds, Vertex AI created the job all the same, and it is seen only later."""
    chain = Chain()
    create, find = chain.vertex.create_custom_job, chain.vertex.find_custom_jobs
    appears: dict[str, datetime.datetime] = {}

    def unanswered(spec: CustomJobSpec) -> Job:
        job = create(spec)
        if not appears:
            appears[job.name] = chain.clock() + datetime.timedelta(minutes=minutes)
            raise ServiceUnavailable("no answer for 15 s")
        return job

    def seen(labels: Mapping[str, str]) -> list[Job]:
        return [job for job in find(labels) if job.name not in appears or chain.clock() >= appears[job.name]]

    chain.vertex.create_custom_job = unanswered  # type: ignore[method-assign]
    chain.vertex.find_custom_jobs = seen  # type: ignore[method-assign]
    chain.upload(*WHOLE)
    chain.drain()
    for _ in range(6):
        chain.tick()
    (run_id,) = chain.run_ids()
    if minutes < 30:
        running = [name for name in chain.jobs_of(run_id, "cloud") if name in chain.unfinished_jobs()]
        assert running == [chain.standing(run_id, "cloud").job]
    else:
        chain.clock.advance(1800)
    # It runs beside the recorded one at worst until that ends; what counts is the recorded one.
    recorded = chain.standing(run_id, "cloud").job
    chain.train(recorded)
    chain.drain()
    for _ in range(3):
        chain.tick()
        chain.drain()
    assert not set(chain.jobs_of(run_id, "cloud")) & set(chain.unfinished_jobs())
    assert len(chain.messages("training-completed", target="cloud")) == 1


@pytest.mark.parametrize("it", ["runs on", "has ended"])
def test_what_a_job_has_used_that_was_one_too_many_is_on_the_account(it: str) -> None:
    chain = Chain()
    chain.upload(*WHOLE)
    chain.drain()
    (run_id,) = chain.run_ids()
    recorded = chain.standing(run_id, "cloud").job
    name = chain.vertex.create_custom_job(chain.vertex.job_specs[recorded]).name
    begun = chain.clock()
    chain.vertex.jobs[name] = dataclasses.replace(chain.vertex.jobs[name], state="JOB_STATE_RUNNING", started=begun)
    chain.clock.advance(1800)
    if it == "has ended":
        chain.vertex.end_job(name, "JOB_STATE_FAILED", error="out of memory")
    chain.train(recorded)
    for _ in range(3):
        chain.drain()
        chain.tick()

    surplus = chain.vertex.jobs[name]
    assert surplus.outcome is (JobOutcome.CANCELLED if it == "runs on" else JobOutcome.FAILED)
    entry = read_account(chain.ledger, "flowers", f"{begun:%Y-%m}").jobs[f"{run_id}/cloud/{name.rsplit('/', 1)[-1]}"]
    assert entry.seconds == surplus.billed_seconds >= 1800
    price = chain.ledger.read_launch(run_id, "cloud").document.placement.usd_per_hour
    assert entry.actual_usd == pytest.approx(price * entry.seconds / 3600, abs=1e-5)
