"""Newer data while older data trains: both train, or the older training is called off and says so."""

from __future__ import annotations

import pytest

from dualdeploy.contracts.training import TARGETS
from dualdeploy.errors import NoCapacity, RejectedByGoogle, ServiceUnavailable
from dualdeploy.google.vertex import RUN_LABEL, TARGET_LABEL, CustomJobSpec, Job
from dualdeploy.ledger import State, spending
from support.chain import Chain, Interleaving, check_history
from support.fakes import Failing
from support.fakes.failing import ProcessDied
from support.stories import in_order_of_time

BATCH = ("flowers/train-00000-of-00001.tfrecord", "flowers/eval-00000-of-00001.tfrecord")


def a_chain(on_new_data: str = "supersede") -> Chain:
    """A project with a run in training."""
    chain = Chain()
    chain.configure(data={"quiet_period": 60, "on_new_data": on_new_data})
    chain.upload(*BATCH)
    chain.drain()
    assert len(chain.unfinished_jobs()) == 2
    return chain


def upload_newer(chain: Chain, *, ticks: int = 3) -> tuple[str, str]:
    chain.clock.advance(300)
    chain.upload(*BATCH, edition=2)
    for _ in range(ticks):
        chain.drain()
        chain.tick()
    older, newer = in_order_of_time(chain)
    return older, newer


def running(chain: Chain) -> set[str]:
    return {chain.vertex.jobs[name].labels[RUN_LABEL] for name in chain.unfinished_jobs()}


def check_superseded(chain: Chain, older: str, newer: str) -> None:
    for target in TARGETS:
        branch = chain.standing(older, target)
        assert branch.state is State.SUPERSEDED
        assert newer in branch.reason
        check_history(branch)
        states = {chain.vertex.jobs[name].state for name in chain.jobs_of(older, target)}
        assert states <= {"JOB_STATE_CANCELLED"}
    chain.check_is_live(newer)
    assert chain.active() == []
    assert chain.rejected == []


def test_queued_runs_both_train() -> None:
    chain = a_chain("queue")
    older, newer = upload_newer(chain)
    assert running(chain) == {older, newer}


def test_newer_data_cancels_the_older_jobs_and_says_so() -> None:
    chain = a_chain()
    older, newer = upload_newer(chain)
    assert running(chain) == {newer}
    assert f"newer data arrived while it was training: superseded by {newer}" == chain.standing(older, "cloud").reason
    chain.settle()
    check_superseded(chain, older, newer)
    for target in TARGETS:
        (told,) = chain.messages("training-completed", run_id=older, target=target)
        assert newer in told["reason"]


def test_a_superseded_job_is_paid_until_it_was_cancelled_and_not_longer() -> None:
    chain = a_chain()
    for name, job in chain.vertex.jobs.items():
        chain.vertex.jobs[name] = type(job)(**{**vars(job), "started": job.created})
    older, _ = upload_newer(chain)
    account = spending.read_account(chain.ledger, "flowers", chain.clock().strftime("%Y-%m"))
    for target in TARGETS:
        entry = account.jobs[f"{older}/{target}"]
        assert entry.actual_usd is not None
        assert entry.actual_usd < entry.reserved_usd
        ended = chain.ledger.find_ended(older, target, 1)
        assert ended
        assert ended.document.cost_usd == entry.actual_usd


def test_data_that_is_rejected_calls_nothing_off() -> None:
    chain = a_chain()
    chain.clock.advance(300)
    chain.data.put(BATCH[0], b"no record", expect=chain.data.read(BATCH[0]).generation)
    chain.handle(chain.retrain())
    chain.drain()
    older, newer = in_order_of_time(chain)
    assert chain.standing(newer, "cloud").state is State.REJECTED
    assert running(chain) == {older}


@pytest.mark.parametrize("refused", [TARGETS, TARGETS[:1], TARGETS[1:]], ids="+".join)
def test_good_training_is_not_stopped_by_a_job_that_vertex_ai_refuses(refused: tuple[str, ...]) -> None:
    """A machine type that does not exist, which no validation and no budget sees."""
    chain = a_chain()
    (older,) = chain.run_ids()
    plans = [Failing(RejectedByGoogle("n1-standard-9 does not exist")) if each in refused else None for each in TARGETS]
    create = chain.vertex.create_custom_job

    def refusing(spec: CustomJobSpec) -> Job:
        planned = plans[TARGETS.index(spec.labels[TARGET_LABEL])]
        if planned and spec.labels[RUN_LABEL] != older:
            raise planned.error
        return create(spec)

    chain.vertex.create_custom_job = refusing  # type: ignore[method-assign]
    older, newer = upload_newer(chain, ticks=6)
    for target in TARGETS:
        kept, called_off = chain.standing(older, target).state, chain.standing(newer, target).state
        assert (kept, called_off) == (("training", "failed") if target in refused else ("superseded", "training"))


def test_what_waits_for_capacity_stops_nothing_and_is_stopped_by_what_has_it() -> None:
    chain = a_chain()
    chain.vertex.faults.plan("create_custom_job", *[Failing(NoCapacity("no machines"))] * 8)
    older, newer = upload_newer(chain, ticks=3)
    assert running(chain) == {older}
    assert chain.ledger.read_launch(newer, "cloud").document.state is State.LAUNCHING
    for _ in range(40):
        chain.tick()
        chain.drain()
    assert running(chain) == {newer}
    chain.settle(ticks=25)
    check_superseded(chain, older, newer)


def test_what_is_trained_already_is_left_to_its_rollout() -> None:
    chain = a_chain()
    (job,) = chain.jobs_of(chain.run_ids()[0], "cloud")
    chain.train(job)
    chain.drain()
    older, newer = upload_newer(chain)
    assert chain.ledger.read_launch(older, "cloud").document.state is State.TRAINED
    assert chain.ledger.read_launch(older, "mobile").document.state is State.SUPERSEDED
    chain.settle(ticks=25)
    assert chain.standing(older, "cloud").state is State.SUPERSEDED
    chain.check_is_live(newer)


def test_the_notifier_that_sees_the_cancelled_job_first_calls_it_superseded_and_no_failure() -> None:
    chain = a_chain()
    (run_id,) = chain.run_ids()

    def hear_of_the_cancellation(_number: int, name: str, when: str) -> None:
        if name == "vertex.cancel_custom_job" and when == "after":
            chain.interfere = lambda *_: None
            chain.tick_of("job_notifier")

    chain.interfere = hear_of_the_cancellation
    older, newer = upload_newer(chain, ticks=6)
    assert older == run_id
    chain.settle()
    check_superseded(chain, older, newer)


def test_a_cancellation_that_gets_no_answer_is_repeated_before_the_newer_run_starts() -> None:
    chain = a_chain()
    chain.vertex.faults.plan("cancel_custom_job", *[Failing(ServiceUnavailable("no answer"))] * 2)
    older, newer = upload_newer(chain, ticks=8)
    assert chain.vertex.faults.pending() == {}
    assert running(chain) == {newer}
    chain.settle()
    check_superseded(chain, older, newer)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_launcher_killed_at_any_line_of_calling_off_leaves_no_job_of_the_older_run(when: str) -> None:
    def disturbed(number: int) -> tuple[Chain, bool]:
        chain = a_chain()
        chain.operations.clear()
        died: list[int] = []

        def kill(at: int, _name: str, moment: str) -> None:
            if (at, moment) == (number, when) and not died:
                died.append(at)
                raise ProcessDied

        chain.interfere = kill
        older, newer = upload_newer(chain, ticks=6)
        chain.interfere = lambda *_: None
        chain.settle(ticks=25)
        check_superseded(chain, older, newer)
        assert all(len(chain.jobs_of(newer, target)) == 1 for target in TARGETS)
        return chain, bool(died)

    chain, _ = disturbed(-1)
    first = chain.operations.index("vertex.cancel_custom_job")
    deaths = [disturbed(number)[1] for number in range(first - 12, first + 20)]
    # Nothing comes after an operation that failed by itself, such as reading what is not there.
    assert sum(deaths) > 20


def test_runs_that_are_launched_at_the_same_time_leave_one_that_trains() -> None:
    for seed in range(12):
        chain = Chain()
        chain.configure(data={"quiet_period": 60, "on_new_data": "supersede"})
        interleaving = Interleaving(seed)
        chain.upload(*BATCH)
        older_events, chain.queue = chain.queue, []
        interleaving.run(chain, older_events)
        older_launch, chain.queue = chain.queue, []
        chain.clock.advance(1)
        chain.upload("flowers/more.tfrecord")
        newer_events, chain.queue = chain.queue, []
        requests = [chain.retrain(event_id=f"m{number}") for number in range(3)]
        interleaving.run(chain, [*older_launch, *newer_events, *requests])
        for _ in range(6):
            chain.drain()
            chain.tick()
        older, newer = in_order_of_time(chain)
        assert running(chain) == {newer}, seed
        chain.settle(ticks=25)
        check_superseded(chain, older, newer)
