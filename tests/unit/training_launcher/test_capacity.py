"""Vertex AI without quota or capacity: asked again on the clock, ever more seldom, and not for ever."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable

import pytest

from dualdeploy.errors import NoCapacity, PermissionSpreads, ServiceUnavailable
from dualdeploy.google.vertex import CustomJobSpec, Job
from dualdeploy.http.ticks import MOST_BEGUN
from dualdeploy.ledger import Holdup, State, names, spending
from support.chain import LAUNCHER_SETTINGS, LEASE_SECONDS, WHOLE, Chain
from support.fakes import Failing
from support.fakes.failing import ProcessDied
from support.stories import Once, kill, spread

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
    again = f"asked again at {branch.retry_at} as n1-standard-8 with 1 NVIDIA_TESLA_T4 (spot)"
    assert waits_for == f"{QUOTA}, since {branch.holdup.since}; {again}"


@pytest.mark.parametrize(
    ("capacity", "expected"),
    [
        ([{"wait": "1d"}], [1, 2, 4, 8, 16, 32, 62, 92, 122]),
        # Each entry begins anew, and is asked for once more at the end of its turn.
        (
            [{"strategy": "spot", "wait": "10m"}, {"wait": "1d"}],
            [1, 2, 4, 8, 10, 11, 12, 14, 18, 26, 42, 72, 102],
        ),
        (
            [{"strategy": "spot", "wait": "1m"}, {"wait": "1h"}],
            [1, 2, 3, 5, 9, 17, 33, 61, 62, 63, 64, 66, 70, 78, 94, 122, 123, 124, 125, 127],
        ),
    ],
)
def test_attempts_become_rarer_up_to_half_an_hour(
    chain: Chain, capacity: list[dict[str, str]], expected: list[int]
) -> None:
    chain.configure(training={"cloud": {"capacity": capacity}})
    chain.upload(*WHOLE)
    refuse(chain, 1)
    launch(chain)
    asked_at = []
    refuse(chain, 40)
    for minute in range(1, 129):
        before = attempts(chain)
        launcher_tick(chain, 60)
        if attempts(chain) > before:
            asked_at.append(minute)
    assert asked_at == expected


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


# Along the list --------------------------------------------------------------------------------------------------

NO_MACHINE = "Resources are insufficient in region: us-central1. Please try a different region."
LIST = [
    {"strategy": "spot", "wait": "10m"},
    {"strategy": "standard", "wait": "5m"},
    {"machine": "g2-standard-8", "accelerator": {"type": "NVIDIA_L4"}, "strategy": "flex_start", "wait": "20m"},
]
#: What LIST asks for, as the job says it.
WAYS = [("n1-standard-8", "spot"), ("n1-standard-8", "standard"), ("g2-standard-8", "flex_start")]


def way(chain: Chain, job: str) -> tuple[str, str]:
    spec = chain.vertex.job_specs[job]
    return spec.machine, spec.strategy


def asked_for(chain: Chain, *, minutes: int) -> list[tuple[int, tuple[str, str]]]:
    """When the cloud job was asked for, and as what; every job is one that Vertex AI takes and cannot place."""
    found: list[tuple[int, tuple[str, str]]] = []
    for minute in range(minutes):
        for job in chain.jobs_of(cloud(chain).run_id, "cloud")[len(found) :]:
            found.append((minute, way(chain, job)))
            chain.vertex.end_job(job, "JOB_STATE_FAILED", error=NO_MACHINE, code=8)
        chain.tick()
        chain.drain()
    return found


def test_a_job_that_cannot_be_placed_is_asked_for_along_the_list_and_then_from_its_beginning(chain: Chain) -> None:
    chain.configure(training={"cloud": {"capacity": LIST}})
    chain.upload(*WHOLE)
    launch(chain)
    found = asked_for(chain, minutes=50)
    in_turn = [each for number, (_, each) in enumerate(found) if number == 0 or found[number - 1][1] != each]
    assert in_turn == [*WAYS, WAYS[0]]
    began = [next(minute for minute, each in found if each == way) for way in WAYS]
    assert 10 <= began[1] - began[0] <= 13
    assert 5 <= began[2] - began[1] <= 8


def test_without_a_list_it_is_spot_and_then_standard(chain: Chain) -> None:
    chain.upload(*WHOLE)
    launch(chain)
    found = asked_for(chain, minutes=45)
    assert found[0] == (0, WAYS[0])
    assert found[-1][1] == WAYS[1]
    assert 30 <= next(minute for minute, each in found if each == WAYS[1]) <= 33


def test_what_is_refused_at_its_creation_is_asked_for_along_the_list_too(chain: Chain) -> None:
    chain.configure(training={"cloud": {"capacity": LIST}})
    chain.upload(*WHOLE)
    refuse(chain, 1)
    launch(chain)
    # Both jobs are asked for, the other one first has its own.
    refuse(chain, 5)
    for _ in range(20):
        launcher_tick(chain, 60)
    assert way(chain, cloud(chain).job) == WAYS[1]
    assert cloud(chain).placement.entry == 1


def test_the_place_in_the_list_is_written_before_vertex_is_asked(chain: Chain) -> None:
    chain.configure(training={"cloud": {"capacity": LIST}})
    chain.upload(*WHOLE)
    launch(chain)
    written: list[tuple[str, str]] = []

    def look(_number: int, name: str, when: str) -> None:
        # Before the first attempt nothing is written: without a place it is the first entry.
        if name == "vertex.create_custom_job" and when == "before" and cloud(chain).placement:
            written.append((cloud(chain).placement.machine, cloud(chain).placement.strategy))

    chain.interfere = look
    found = asked_for(chain, minutes=45)
    assert written == [each for _, each in found[1:]]


@pytest.mark.parametrize("entries", [1, 3])
def test_after_the_limit_it_ends_with_googles_reason_whatever_the_list_has(chain: Chain, entries: int) -> None:
    chain.configure(training={"cloud": {"capacity": LIST[:entries]}})
    chain.upload(*WHOLE)
    launch(chain)
    for _ in range(60):
        for job in chain.jobs_of(cloud(chain).run_id, "cloud"):
            if job in chain.unfinished_jobs():
                chain.vertex.end_job(job, "JOB_STATE_FAILED", error=NO_MACHINE, code=8)
        chain.tick(1800)
        chain.drain()
    assert cloud(chain).state is State.FAILED
    assert "given up after" in cloud(chain).reason
    assert NO_MACHINE in cloud(chain).reason
    assert not set(chain.unfinished_jobs()) & set(chain.jobs_of(cloud(chain).run_id, "cloud"))


def queue(chain: Chain, job: str) -> None:
    """Vertex AI has no machine for the job and does not say so."""
    chain.vertex.jobs[job] = dataclasses.replace(chain.vertex.jobs[job], state="JOB_STATE_QUEUED", started=None)


def test_a_job_that_stays_queued_makes_way_for_the_next_entry_without_a_message_of_an_end(chain: Chain) -> None:
    chain.configure(training={"cloud": {"capacity": LIST}})
    chain.upload(*WHOLE)
    launch(chain)
    first = cloud(chain).job
    queue(chain, first)
    for _ in range(9):
        chain.tick()
        chain.drain()
    assert cloud(chain).job == first
    for _ in range(6):
        chain.tick()
        chain.drain()
    assert chain.vertex.jobs[first].state == "JOB_STATE_CANCELLED"
    assert way(chain, cloud(chain).job) == WAYS[1]
    assert chain.messages("training-completed", target="cloud") == []
    assert any("no n1-standard-8 with 1 NVIDIA_TESLA_T4 (spot)" in moment.note for moment in cloud(chain).history)
    chain.settle()
    assert chain.standing(cloud(chain).run_id, "cloud").state is State.LIVE


def test_a_job_that_has_its_machine_is_left_alone_however_long_it_takes(chain: Chain) -> None:
    chain.configure(training={"cloud": {"capacity": LIST}})
    chain.upload(*WHOLE)
    launch(chain)
    first = cloud(chain).job
    for _ in range(40):
        chain.tick()
        chain.drain()
    assert (cloud(chain).job, cloud(chain).state) == (first, State.TRAINING)


def test_the_only_way_of_asking_keeps_its_place_in_the_queue_until_the_limit(chain: Chain) -> None:
    chain.configure(training={"cloud": {"capacity": LIST[:1]}})
    chain.upload(*WHOLE)
    launch(chain)
    first = cloud(chain).job
    queue(chain, first)
    for _ in range(47):
        chain.tick(1800)
        chain.drain()
    assert (cloud(chain).job, cloud(chain).state) == (first, State.TRAINING)
    for _ in range(6):
        chain.tick(600)
        chain.drain()
    assert cloud(chain).state is State.FAILED
    assert "given up after 1 attempt since" in cloud(chain).reason


def prepare(chain: Chain, *, minutes: int) -> None:
    """Vertex AI takes so long to get the machines of each job ready."""
    created = chain.vertex.create_custom_job
    ready_at: dict[str, datetime.datetime] = {}

    def create(spec: CustomJobSpec) -> Job:
        job = created(spec)
        ready_at[job.name] = chain.clock() + datetime.timedelta(minutes=minutes)
        chain.vertex.jobs[job.name] = dataclasses.replace(job, state="JOB_STATE_PENDING")
        return chain.vertex.jobs[job.name]

    def look(_number: int, name: str, when: str) -> None:
        for job, at in ready_at.items():
            if chain.vertex.jobs[job].state == "JOB_STATE_PENDING" and chain.clock() >= at:
                chain.vertex.jobs[job] = dataclasses.replace(
                    chain.vertex.jobs[job], state="JOB_STATE_RUNNING", started=chain.vertex.jobs[job].created
                )

    chain.vertex.create_custom_job = create  # type: ignore[method-assign]
    chain.interfere = look


@pytest.mark.parametrize("refused", [0, 1, 2, 3, 4, 5])
def test_a_job_that_vertex_takes_has_time_to_get_its_machine_ready_whenever_it_was_taken(
    chain: Chain, refused: int
) -> None:
    """At the end of its entry's turn too, or when a turn is shorter than what a machine takes to start."""
    chain.configure(training={"cloud": {"capacity": [{**LIST[0], "wait": "4m"}, {**LIST[1], "wait": "1m"}]}})
    prepare(chain, minutes=8)
    chain.upload(*WHOLE)
    # All are of the cloud model's job: the other one is taken at once.
    refuse(chain, 1)
    chain.vertex.faults.plan("create_custom_job", None)
    refuse(chain, refused)
    launch(chain)
    for _ in range(30):
        chain.tick()
        chain.drain()
    (job,) = chain.jobs_of(cloud(chain).run_id, "cloud")
    assert chain.vertex.jobs[job].state == "JOB_STATE_RUNNING"


def test_a_job_whose_machines_are_replaced_by_vertex_keeps_its_place(chain: Chain) -> None:
    """Google restarts spot jobs itself, which are queued meanwhile."""
    chain.configure(training={"cloud": {"capacity": LIST}})
    chain.upload(*WHOLE)
    launch(chain)
    first = cloud(chain).job
    queue(chain, first)
    begun = chain.vertex.jobs[first].created
    chain.vertex.jobs[first] = dataclasses.replace(chain.vertex.jobs[first], started=begun)
    for _ in range(40):
        chain.tick()
        chain.drain()
    assert (cloud(chain).job, cloud(chain).passed_over) == (first, "")


def test_people_see_until_when_a_job_may_be_queued_and_why_it_is_given_up(chain: Chain) -> None:
    chain.configure(training={"cloud": {"capacity": LIST}})
    chain.upload(*WHOLE)
    launch(chain)
    job, run_id = cloud(chain).job, cloud(chain).run_id
    queue(chain, job)

    def said() -> str:
        return chain.standing(run_id, "cloud").waits_for

    what = f"training job {job}, n1-standard-8 with 1 NVIDIA_TESLA_T4 (spot)"
    assert said() == f"{what}; cancelled if it has no machine by {cloud(chain).queued_until}"
    chain.clock.advance(1800)
    assert said() == what
    chain.vertex.faults.plan("cancel_custom_job", *[Failing(NoCapacity("503: later"))] * 2)
    chain.tick()
    chain.tick()
    assert cloud(chain).passed_over
    assert said() == f"the end of {what}, which is cancelled: {cloud(chain).passed_over}"


def test_newer_data_ends_a_training_that_could_not_be_placed_and_everyone_hears_of_it(chain: Chain) -> None:
    """It is called off between the end of its job and the launcher's look at that end."""
    chain.upload(*WHOLE)
    launch(chain)
    chain.vertex.end_job(cloud(chain).job, "JOB_STATE_FAILED", error=NO_MACHINE, code=8)
    chain.clock.advance(60)
    chain.tick_of("job_notifier")
    (run_id,) = chain.run_ids()
    found = chain.ledger.read_launch(run_id, "cloud")
    chain.ledger.write(
        names.launch(run_id, "cloud"), found.document.changed(called_off="superseded"), expect=found.generation
    )
    for _ in range(3):
        chain.tick()
        chain.drain()
    assert cloud(chain).state is State.SUPERSEDED
    (told,) = chain.messages("training-completed", target="cloud")
    assert (told["outcome"], told["reason"]) == ("cancelled", "superseded")


@pytest.mark.parametrize("operation", ["find_custom_jobs", "create_custom_job"])
@pytest.mark.parametrize("error", [PermissionSpreads(DENIED), ServiceUnavailable("503"), NoCapacity(QUOTA)])
def test_whatever_call_of_vertex_is_refused_for_ever_there_is_an_end(
    chain: Chain, operation: str, error: Exception
) -> None:
    chain.upload(*WHOLE)
    chain.vertex.faults.plan(operation, *[Failing(error)] * 1000)
    launch(chain)
    for _ in range(60):
        launcher_tick(chain, 1800)
    assert cloud(chain).state is State.FAILED
    assert str(error) in cloud(chain).reason
    chain.drain()
    chain.tick()
    chain.drain()
    assert len(chain.messages("training-completed", target="cloud")) == 1


# Taken away ------------------------------------------------------------------------------------------------------


def take_away(chain: Chain, job: str, *, after: float) -> None:
    """Google takes the machines of a job that ran for so many seconds, and has no others."""
    ended = chain.vertex.jobs[job].created + datetime.timedelta(seconds=after)
    chain.vertex.end_job(job, "JOB_STATE_FAILED", error="STOCKOUT", code=8)
    begun = chain.vertex.jobs[job].created
    chain.vertex.jobs[job] = dataclasses.replace(chain.vertex.jobs[job], started=begun, ended=ended)


def test_a_job_whose_machines_were_taken_away_goes_on_within_what_is_left_of_its_time(chain: Chain) -> None:
    chain.configure(training={"cloud": {"capacity": LIST[:2], "timeout": "2h"}})
    chain.upload(*WHOLE)
    launch(chain)
    first = cloud(chain).job
    take_away(chain, first, after=5400)
    chain.clock.advance(5400)
    for _ in range(3):
        chain.tick()
        chain.drain()
    second = cloud(chain).job
    assert second != first
    # Its entry has its whole time again: it was placed once.
    assert way(chain, second) == WAYS[0]
    assert chain.vertex.job_specs[second].timeout == 1800
    assert chain.vertex.job_specs[second].arguments == chain.vertex.job_specs[first].arguments
    chain.settle()
    assert chain.standing(cloud(chain).run_id, "cloud").state is State.LIVE


def test_machines_that_are_taken_away_at_once_are_none(chain: Chain) -> None:
    chain.configure(training={"cloud": {"capacity": LIST[:2], "timeout": "7d"}})
    chain.upload(*WHOLE)
    launch(chain)
    for _ in range(60):
        for job in chain.jobs_of(cloud(chain).run_id, "cloud"):
            if job in chain.unfinished_jobs():
                take_away(chain, job, after=5)
        chain.tick(1800)
        chain.drain()
    assert {way(chain, job) for job in chain.jobs_of(cloud(chain).run_id, "cloud")} == set(WAYS[:2])
    assert cloud(chain).state is State.FAILED
    assert "given up after" in cloud(chain).reason


def test_a_job_that_used_up_its_time_is_not_asked_for_again(chain: Chain) -> None:
    chain.configure(training={"cloud": {"timeout": "2h"}})
    chain.upload(*WHOLE)
    launch(chain)
    take_away(chain, cloud(chain).job, after=7170)
    chain.settle()
    assert cloud(chain).state is State.FAILED
    assert "after 7170 s nothing is left of its timeout" in cloud(chain).reason


def test_a_day_without_a_machine_counts_from_the_last_that_it_had(chain: Chain) -> None:
    chain.configure(training={"cloud": {"timeout": "3d"}})
    chain.upload(*WHOLE)
    refuse(chain, 1)
    launch(chain)
    launcher_tick(chain, 60)
    job = cloud(chain).job
    chain.clock.advance(86_400)
    take_away(chain, job, after=86_000)
    for _ in range(4):
        chain.tick()
        chain.drain()
    assert cloud(chain).state is State.TRAINING
    assert cloud(chain).job != job


def test_each_job_costs_what_its_own_machine_costs(chain: Chain) -> None:
    dear = {"accelerator": {"type": "NVIDIA_TESLA_T4", "count": 4}, "wait": "1m"}
    chain.configure(training={"cloud": {"capacity": [{"wait": "1m"}, dear]}}, budget={"cloud": {"expected": "1h"}})
    chain.upload(*WHOLE)
    launch(chain)
    run_id = cloud(chain).run_id
    estimate = spending.read_estimate(chain.ledger, run_id).targets["cloud"]
    cheap, most = estimate.by_entry
    assert (most > cheap, estimate.usd_per_hour) == (True, most)
    first = cloud(chain).job
    take_away(chain, first, after=1800)
    for _ in range(3):
        chain.tick()
        chain.drain()
    chain.vertex.end_job(cloud(chain).job, "JOB_STATE_FAILED", error=NO_MACHINE, code=8)
    for _ in range(4):
        chain.tick()
        chain.drain()
    third = cloud(chain).job
    assert chain.vertex.job_specs[third].accelerator_count == 4
    chain.train(third)
    begun = chain.vertex.jobs[third].created
    ended = begun + datetime.timedelta(seconds=3600)
    chain.vertex.jobs[third] = dataclasses.replace(chain.vertex.jobs[third], started=begun, ended=ended)
    chain.settle()
    month = spending.read_estimate(chain.ledger, run_id).month
    entry = spending.read_account(chain.ledger, "flowers", month).jobs[f"{run_id}/cloud"]
    assert entry.actual_usd == pytest.approx(cheap * 0.5 + most, abs=1e-4)
    assert entry.seconds == 5400
    assert entry.actual_usd <= entry.reserved_usd


def test_a_job_that_never_ran_costs_nothing_on_a_machine_of_unknown_price_too(chain: Chain) -> None:
    chain.configure(training={"cloud": {"capacity": [{"wait": "1m"}, {**LIST[2], "wait": "1m"}]}})
    chain.upload(*WHOLE)
    launch(chain)
    run_id, first = cloud(chain).run_id, cloud(chain).job
    estimate = spending.read_estimate(chain.ledger, run_id)
    known, unknown = estimate.targets["cloud"].by_entry
    assert unknown is None
    take_away(chain, first, after=1800)
    for _ in range(60):
        for job in chain.jobs_of(run_id, "cloud"):
            if job in chain.unfinished_jobs():
                chain.vertex.end_job(job, "JOB_STATE_FAILED", error=NO_MACHINE, code=8)
        chain.tick(1800)
        chain.drain()
    assert cloud(chain).state is State.FAILED
    entry = spending.read_account(chain.ledger, "flowers", estimate.month).jobs[f"{run_id}/cloud"]
    assert entry.actual_usd == pytest.approx(known * 0.5, abs=1e-4)


# Killed ----------------------------------------------------------------------------------------------------------


def answer(chain: Chain) -> None:
    """The first two jobs for the cloud stay queued, or cannot be placed; the third learns."""
    for run_id in chain.run_ids():
        unfinished = [job for job in chain.jobs_of(run_id, "cloud") if job in chain.unfinished_jobs()]
        assert len(unfinished) <= 1, unfinished
        for job in unfinished:
            if way(chain, job) == WAYS[0]:
                queue(chain, job)
            elif way(chain, job) == WAYS[1]:
                chain.vertex.end_job(job, "JOB_STATE_FAILED", error=NO_MACHINE, code=8)
            else:
                chain.train(job)
        for job in chain.jobs_of(run_id, "mobile"):
            if job in chain.unfinished_jobs():
                chain.train(job)
    chain.vertex.finish_operations()


def told_without_machines(number: int = -1, disturb: Callable[[Chain], None] | None = None) -> Chain:
    """Each answer of Vertex AI that leads on along the list, and a disturbance at one operation."""
    chain = Chain()
    chain.configure(training={"cloud": {"capacity": [{**entry, "wait": "2m"} for entry in LIST]}})
    once = Once(number, lambda _: disturb(chain) if disturb else None)
    chain.interfere = once
    chain.upload(*WHOLE)
    for _ in range(50):
        chain.drain()
        answer(chain)
        chain.tick()
    assert bool(once.operation) == bool(disturb)
    (run_id,) = chain.run_ids()
    assert [chain.standing(run_id, target).state for target in ("cloud", "mobile")] == [State.LIVE, State.LIVE]
    asked = [way(chain, job) for job in chain.jobs_of(run_id, "cloud")]
    assert list(dict.fromkeys(asked)) == WAYS
    (told,) = {message["outcome"] for message in chain.messages("training-completed", target="cloud")}
    assert told == "succeeded"
    return chain


def freeze(chain: Chain) -> None:
    """Sleep for longer than a lease, and for long enough that others go on to the next entry."""
    chain.interfere = lambda *_: None
    for _ in range(18):
        chain.clock.advance(60)
        for service in ("training_launcher", "job_notifier", "training_launcher"):
            chain.tick_of(service)
        answer(chain)


@pytest.mark.parametrize("disturb", [lambda _: kill(""), freeze], ids=["dies", "is frozen"])
def test_an_instance_that_is_disturbed_along_the_list_asks_for_no_second_job_and_gets_the_machine(
    disturb: Callable[[Chain], None],
) -> None:
    count = len(told_without_machines().operations)
    for number in spread(range(count), most=30):
        told_without_machines(number, disturb)


def at_first(chain: Chain, operation: str, act: Callable[[], None]) -> None:
    """Let others act before the instance that does this next goes on."""

    def look(_number: int, name: str, when: str) -> None:
        if (name, when) == (operation, "before"):
            chain.interfere = lambda *_: None
            act()

    chain.interfere = look


@pytest.mark.parametrize("operation", ["vertex.find_custom_jobs", "vertex.create_custom_job"])
def test_a_launcher_that_was_frozen_over_an_attempt_leaves_the_next_attempt_alone(chain: Chain, operation: str) -> None:
    def go_on() -> None:
        chain.clock.advance(LEASE_SECONDS + 120)
        chain.tick_of("training_launcher")
        chain.vertex.end_job(cloud(chain).job, "JOB_STATE_FAILED", error=NO_MACHINE, code=8)
        for _ in range(9):
            chain.clock.advance(60)
            chain.tick_of("job_notifier")
            chain.tick_of("training_launcher")
        seconds.append(cloud(chain).job)

    seconds: list[str] = []

    chain.upload(*WHOLE)
    at_first(chain, operation, go_on)
    launch(chain)
    for _ in range(4):
        chain.tick()
        chain.drain()
    (second,) = seconds
    assert (cloud(chain).state, cloud(chain).attempt, cloud(chain).job) == (State.TRAINING, 2, second)
    jobs = chain.jobs_of(cloud(chain).run_id, "cloud")
    assert [job for job in jobs if job in chain.unfinished_jobs()] == [second]


def test_a_second_job_of_an_attempt_that_could_not_be_placed_is_not_taken_for_the_next(chain: Chain) -> None:
    """It came of a creation that got no answer, and was cancelled as one too many."""
    chain.upload(*WHOLE)
    launch(chain)
    first, spec = cloud(chain).job, chain.vertex.job_specs[cloud(chain).job]
    surplus = chain.vertex.create_custom_job(spec).name
    chain.vertex.cancel_custom_job(surplus)
    late = chain.vertex.create_custom_job(spec).name
    chain.vertex.end_job(first, "JOB_STATE_FAILED", error=NO_MACHINE, code=8)
    for _ in range(4):
        chain.tick()
        chain.drain()
    assert cloud(chain).state is State.TRAINING
    assert cloud(chain).job not in {first, surplus, late}
    assert chain.vertex.jobs[late].state == "JOB_STATE_CANCELLED"


def test_a_job_that_is_found_in_another_entrys_turn_is_what_it_was_asked_for_as(chain: Chain) -> None:
    chain.configure(training={"cloud": {"capacity": [{**LIST[0], "wait": "1m"}, LIST[2]]}})
    chain.upload(*WHOLE)
    create, find = chain.vertex.create_custom_job, chain.vertex.find_custom_jobs
    hidden: list[str] = []

    def unanswered(spec: CustomJobSpec) -> Job:
        hidden.append(create(spec).name)
        raise ServiceUnavailable("no answer for 15 s")

    chain.vertex.create_custom_job = unanswered  # type: ignore[method-assign]
    chain.vertex.find_custom_jobs = lambda labels: [job for job in find(labels) if job.name not in hidden]  # type: ignore[method-assign]
    launch(chain)
    chain.vertex.create_custom_job = create  # type: ignore[method-assign]
    refuse(chain, 1)
    launcher_tick(chain, 60)
    assert cloud(chain).placement.entry == 1
    first = hidden[0]
    hidden.clear()
    launcher_tick(chain, 60)
    assert (cloud(chain).job, cloud(chain).placement.strategy) == (first, "spot")
    assert f"{first}, n1-standard-8 with 1 NVIDIA_TESLA_T4 (spot)" in cloud(chain).history[-1].note


def test_a_notifier_that_was_frozen_before_it_looked_at_a_job_that_is_given_up_calls_it_no_end(chain: Chain) -> None:
    chain.configure(training={"cloud": {"capacity": LIST}})
    chain.upload(*WHOLE)
    launch(chain)
    queue(chain, cloud(chain).job)

    def go_on() -> None:
        chain.clock.advance(900)
        chain.tick_of("job_notifier")
        chain.tick_of("training_launcher")
        assert cloud(chain).passed_over

    at_first(chain, "vertex.get_custom_job", go_on)
    chain.clock.advance(60)
    chain.tick_of("job_notifier")
    for _ in range(4):
        chain.tick()
        chain.drain()
    assert way(chain, cloud(chain).job) == WAYS[1]
    assert chain.messages("training-completed", target="cloud") == []


def test_a_launcher_that_dies_each_time_it_has_a_job_leaves_none_behind_when_it_is_given_up(chain: Chain) -> None:
    deaths = []

    def die(_number: int, name: str, when: str) -> None:
        if when == "after" and name.startswith("vertex.") and chain.vertex.jobs and len(deaths) <= MOST_BEGUN:
            deaths.append(name)
            raise ProcessDied

    chain.interfere = die
    chain.upload(*WHOLE)
    launch(chain)
    for _ in range(60):
        launcher_tick(chain, 60)
    assert cloud(chain).state is State.FAILED
    assert "given up after 10 attempts" in cloud(chain).reason
    assert chain.jobs_of(cloud(chain).run_id, "cloud")
    assert chain.unfinished_jobs() == []
