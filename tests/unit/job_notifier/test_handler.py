"""Three hints, one authority, one message."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from chain import Chain, Delivery

from dualdeploy.errors import ServiceUnavailable, UnknownRun
from dualdeploy.events import ObjectFinalized
from dualdeploy.ledger import Branch, State
from dualdeploy.testing import Failing


@pytest.fixture
def chain() -> Chain:
    """A project with one run in training."""
    chain = Chain()
    chain.upload()
    chain.drain()
    return chain


@pytest.fixture
def run_id(chain: Chain) -> str:
    (run_id,) = chain.run_ids()
    return run_id


@pytest.fixture
def job(chain: Chain, run_id: str) -> str:
    (job,) = chain.jobs_of(run_id, "cloud")
    return job


def notifier_tick(chain: Chain, seconds: float = 0) -> str:
    chain.clock.advance(seconds)
    assert chain.handle(chain.clock_deliveries()[1])
    return chain.outcomes[-1][2]


def hear(chain: Chain, delivery: Delivery) -> tuple[str, str]:
    """Handle one hint; what kind of outcome it had, and the message."""
    chain.handle(delivery)
    return chain.outcomes[-1][1:]


def told(chain: Chain) -> list[dict]:
    return chain.messages("training-completed", target="cloud")


def cloud(chain: Chain, run_id: str) -> Branch:
    return chain.branch(run_id, "cloud")


HINTS = ("result", "log", "clock")


def give(chain: Chain, hint: str, run_id: str, job: str) -> bool:
    deliveries = {
        "result": chain.result_hint(run_id, "cloud"),
        "log": chain.log_hint(job),
        "clock": chain.clock_deliveries()[1],
    }
    return chain.handle(deliveries[hint])


@pytest.mark.parametrize("order", [*itertools.permutations(HINTS), ("log",) * 3, ("clock", "clock")], ids="-".join)
def test_hints_in_any_order_and_number_lead_to_one_message(
    chain: Chain, run_id: str, job: str, order: tuple[str, ...]
) -> None:
    chain.train(job, hints=False)
    for hint in order:
        assert give(chain, hint, run_id, job)
    assert [message["outcome"] for message in told(chain)] == ["succeeded"]
    assert cloud(chain, run_id).state is State.TRAINED
    assert cloud(chain, run_id).training_announced


def test_the_message_says_which_run_of_which_data_set_and_target_ended(chain: Chain, run_id: str, job: str) -> None:
    chain.train(job, accuracy=0.875)
    chain.drain(rounds=1)
    (message,) = [m for m in chain.publisher.sent if m.topic == "training-completed"]
    assert dict(message.attributes) == {
        "run_id": run_id,
        "dataset": "flowers",
        "target": "cloud",
        "outcome": "succeeded",
    }
    assert message.json()["reason"] == "accuracy 0.875 on 40 held-out examples"


def test_what_training_found_out_is_recorded_on_the_branch(chain: Chain, run_id: str, job: str) -> None:
    chain.train(job)
    chain.drain(rounds=1)
    facts = cloud(chain, run_id).facts
    assert facts["accuracy"] == 0.95
    assert facts["eval_examples"] == 40
    assert facts["result"] == f"gs://models/results/{run_id}/cloud.json"


@pytest.mark.parametrize("hint", ["result", "log"])
def test_a_hint_before_vertex_says_that_the_job_ended_is_sent_again(
    chain: Chain, run_id: str, job: str, hint: str
) -> None:
    chain.write_result(run_id, "cloud")
    assert not give(chain, hint, run_id, job)
    assert chain.outcomes[-1][2].startswith("NotConfirmedYet: ")
    assert told(chain) == []


def test_the_clock_waits_silently_for_a_job_that_runs(chain: Chain) -> None:
    assert notifier_tick(chain) == "nothing ended"
    assert told(chain) == []


def test_a_hint_that_overtakes_the_record_of_the_job_is_sent_again() -> None:
    chain = Chain()
    chain.upload()
    chain.vertex.faults.plan("find_custom_jobs", *[Failing(ServiceUnavailable("no answer"))] * 2)
    chain.drain(rounds=1)
    (run_id,) = chain.run_ids()
    assert not chain.handle(chain.result_hint(run_id, "cloud"))
    assert "launching: its job is not recorded yet" in chain.outcomes[-1][2]


@pytest.mark.parametrize(
    "name",
    [
        "runs/x/cloud/model.keras",
        "results/x/web.json",
        "results/x/cloud.txt",
        "results/cloud.json",
        "results/a/b/c.json",
    ],
)
def test_an_object_that_is_no_result_is_ignored(chain: Chain, name: str) -> None:
    event = ObjectFinalized("models", name, 1, 1)
    delivery = Delivery("job_notifier/training-result", lambda: chain.notifier.on_training_result(event))
    assert hear(chain, delivery) == ("ignored", f"{name} is no result")


def test_a_result_in_another_bucket_is_ignored(chain: Chain, run_id: str) -> None:
    event = ObjectFinalized("data", f"results/{run_id}/cloud.json", 1, 1)
    delivery = Delivery("job_notifier/training-result", lambda: chain.notifier.on_training_result(event))
    assert hear(chain, delivery)[0] == "ignored"


def test_a_result_of_a_run_that_the_ledger_does_not_have_is_rejected(chain: Chain) -> None:
    assert chain.handle(chain.result_hint("flowers-000000000000", "cloud"))
    ((_, exc),) = chain.rejected
    assert isinstance(exc, UnknownRun)


def test_a_log_line_of_something_that_is_no_custom_job_is_ignored(chain: Chain) -> None:
    assert hear(chain, chain.log_hint("999")) == ("ignored", "999 is no custom job")


def test_a_log_line_of_a_job_that_is_not_ours_is_ignored(chain: Chain, job: str) -> None:
    chain.vertex.jobs[job] = dataclasses.replace(chain.vertex.jobs[job], labels={"team": "other"})
    assert hear(chain, chain.log_hint(job)) == ("ignored", f"{job} is not ours")


@pytest.mark.parametrize(
    ("state", "outcome"),
    [("JOB_STATE_FAILED", "failed"), ("JOB_STATE_EXPIRED", "failed"), ("JOB_STATE_CANCELLED", "cancelled")],
)
def test_a_job_that_did_not_succeed_fails_the_branch_with_vertexs_reason(
    chain: Chain, run_id: str, job: str, state: str, outcome: str
) -> None:
    chain.vertex.end_job(job, state, error="The replica workerpool0-0 exited with a non-zero status of 1.")
    assert hear(chain, chain.log_hint(job))[0] == "done"
    assert cloud(chain, run_id).state is State.FAILED
    (message,) = told(chain)
    assert message["outcome"] == "failed"
    assert message["reason"].startswith(f"the job {outcome}: The replica workerpool0-0")
    assert f"cloud/{run_id}" not in chain.active()


def test_a_job_that_failed_without_a_reason_says_so(chain: Chain, run_id: str, job: str) -> None:
    chain.vertex.end_job(job, "JOB_STATE_FAILED")
    chain.handle(chain.log_hint(job))
    assert cloud(chain, run_id).reason == "the job failed: Vertex AI gives no reason"


def test_a_failed_job_is_failed_although_it_left_a_result(chain: Chain, run_id: str, job: str) -> None:
    chain.write_result(run_id, "cloud")
    chain.vertex.end_job(job, "JOB_STATE_FAILED", error="out of memory")
    chain.handle(chain.result_hint(run_id, "cloud"))
    assert cloud(chain, run_id).state is State.FAILED


def test_a_job_that_vertex_no_longer_knows_fails_the_branch(chain: Chain, run_id: str, job: str) -> None:
    del chain.vertex.jobs[job]
    assert "is failed" in notifier_tick(chain)
    assert cloud(chain, run_id).reason == f"{job} no longer exists"
    assert told(chain)[0]["outcome"] == "failed"


def test_a_job_that_succeeded_without_a_result_fails_the_branch(chain: Chain, run_id: str, job: str) -> None:
    chain.vertex.end_job(job)
    chain.handle(chain.log_hint(job))
    assert cloud(chain, run_id).state is State.FAILED
    assert cloud(chain, run_id).reason == f"the job succeeded but wrote no gs://models/results/{run_id}/cloud.json"


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"v": 2}', b""])
def test_a_result_that_cannot_be_read_fails_the_branch_with_every_fault(
    chain: Chain, run_id: str, job: str, text: bytes
) -> None:
    chain.models.put(f"results/{run_id}/cloud.json", text, expect=0)
    chain.vertex.end_job(job)
    chain.handle(chain.log_hint(job))
    assert cloud(chain, run_id).state is State.FAILED
    assert "is not a training result of version 1" in cloud(chain, run_id).reason


def test_a_result_of_another_run_fails_the_branch(chain: Chain, run_id: str, job: str) -> None:
    chain.write_result("flowers-000000000000", "cloud", name=f"results/{run_id}/cloud.json")
    chain.vertex.end_job(job)
    chain.handle(chain.log_hint(job))
    assert cloud(chain, run_id).state is State.FAILED
    assert "is of flowers-000000000000/cloud" in cloud(chain, run_id).reason


def test_a_result_that_cannot_be_fetched_now_is_looked_at_again(chain: Chain, run_id: str, job: str) -> None:
    chain.train(job, hints=False)
    chain.models.faults.plan("read", Failing(ServiceUnavailable("no answer")))
    assert not chain.handle(chain.result_hint(run_id, "cloud"))
    assert cloud(chain, run_id).state is State.TRAINING
    assert chain.handle(chain.result_hint(run_id, "cloud"))
    assert cloud(chain, run_id).state is State.TRAINED


def test_an_end_that_was_recorded_and_not_announced_is_announced_by_the_clock_after_its_grace(
    chain: Chain, run_id: str, job: str
) -> None:
    chain.train(job, hints=False)
    chain.publisher.faults.plan("publish", Failing(ServiceUnavailable("no answer")))
    assert not chain.handle(chain.log_hint(job))
    assert cloud(chain, run_id).state is State.TRAINED
    # Whoever recorded it may just be about to announce it.
    assert notifier_tick(chain, 29) == "nothing ended"
    assert told(chain) == []
    assert notifier_tick(chain, 1) == f"{run_id}/cloud announced late"
    assert notifier_tick(chain, 60) == "nothing ended"
    assert len(told(chain)) == 1


def test_a_branch_that_somebody_took_up_needs_no_late_announcement(chain: Chain, run_id: str, job: str) -> None:
    chain.train(job, hints=False)
    chain.publisher.faults.plan("publish", Failing(ServiceUnavailable("no answer")))
    chain.handle(chain.log_hint(job))
    chain.handle(chain.clock_deliveries()[2])
    assert cloud(chain, run_id).state is State.DEPLOYING
    assert notifier_tick(chain, 60) == "nothing ended"
    assert told(chain) == []


def test_a_message_that_is_taken_up_before_its_publication_is_recorded_is_no_failure(
    chain: Chain, run_id: str, job: str
) -> None:
    chain.train(job, hints=False)

    def deploy_at_once(_number: int, name: str, when: str) -> None:
        if (name, when) == ("pubsub.publish", "after"):
            chain.interfere = lambda *_: None
            chain.workers["cloud"].on_clock()

    chain.interfere = deploy_at_once
    assert hear(chain, chain.log_hint(job)) == ("done", "is trained")
    assert cloud(chain, run_id).state is State.DEPLOYING


def test_a_hint_that_loses_against_another_one_is_acknowledged_and_tells_nobody(
    chain: Chain, run_id: str, job: str
) -> None:
    chain.train(job, hints=False)
    first, second = chain.log_hint(job), chain.result_hint(run_id, "cloud")

    def second_hint_settles_first(_number: int, name: str, when: str) -> None:
        if (name, when) == ("models.read", "before"):
            chain.interfere = lambda *_: None
            second.handle()

    chain.interfere = second_hint_settles_first
    assert hear(chain, first) == ("already_done", "was settled by another hint")
    assert len(told(chain)) == 1


def test_a_failure_whose_announcer_died_before_it_removed_the_marker_is_unmarked_by_the_clock(
    chain: Chain, run_id: str, job: str
) -> None:
    chain.vertex.end_job(job, "JOB_STATE_FAILED")
    chain.handle(chain.log_hint(job))
    chain.ledger.mark_active(run_id, "cloud")
    notifier_tick(chain, 60)
    assert f"cloud/{run_id}" not in chain.active()
    assert len(told(chain)) == 1


def test_a_marker_without_a_branch_is_left_to_the_launcher(chain: Chain) -> None:
    chain.ledger.mark_active("flowers-000000000000", "cloud")
    assert notifier_tick(chain) == "nothing ended"
    assert "cloud/flowers-000000000000" in chain.active()


def test_an_unreadable_branch_does_not_keep_the_clock_from_other_runs(chain: Chain, run_id: str, job: str) -> None:
    chain.ledger_store.put("runs/flowers-000000000000/cloud.json", b"{", expect=0)
    chain.ledger.mark_active("flowers-000000000000", "cloud")
    chain.train(job, hints=False)
    assert f"{run_id}/cloud is trained" in notifier_tick(chain)


def test_a_job_that_cannot_be_looked_at_now_does_not_keep_the_clock_from_others(chain: Chain, run_id: str) -> None:
    for name in chain.unfinished_jobs():
        chain.train(name, hints=False)
    chain.vertex.faults.plan("get_custom_job", Failing(ServiceUnavailable("no answer")))
    assert notifier_tick(chain) == f"{run_id}/mobile is trained"
    assert notifier_tick(chain) == f"{run_id}/cloud is trained"


def test_a_hint_that_says_nothing_new_costs_no_call_of_vertex(chain: Chain, run_id: str, job: str) -> None:
    chain.train(job, hints=False)
    chain.handle(chain.result_hint(run_id, "cloud"))
    chain.operations.clear()
    assert hear(chain, chain.result_hint(run_id, "cloud")) == ("already_done", "is trained")
    assert chain.operations == ["ledger.read"]
