"""Three hints, one authority, one message."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import logging

import pytest

from dualdeploy.errors import ServiceUnavailable, UnknownRun
from dualdeploy.google.object_store import ABSENT
from dualdeploy.ledger import Ended, State, names
from dualdeploy.ledger.due import Due
from support.chain import SERVICES, Chain, Delivery
from support.fakes import Failing


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


def notifier_tick(chain: Chain, seconds: float = 60) -> str:
    """What came of all that was due."""
    chain.clock.advance(seconds)
    return "; ".join(chain.tick_of("job_notifier")[1:])


def hear(chain: Chain, delivery: Delivery) -> tuple[str, str]:
    """Handle one hint; what kind of outcome it had, and the message."""
    chain.handle(delivery)
    return chain.outcomes[-1][1:]


def told(chain: Chain) -> list[dict]:
    return chain.messages("training-completed", target="cloud")


def cloud(chain: Chain, run_id: str) -> Ended | None:
    """How the training for the cloud ended, if it did."""
    found = chain.ledger.find_ended(run_id, "cloud", 1)
    return found.document if found else None


def ended(chain: Chain, run_id: str) -> Ended:
    found = cloud(chain, run_id)
    assert found
    return found


HINTS = ("result", "log", "tick")


def give(chain: Chain, hint: str, run_id: str, job: str) -> bool:
    if hint == "tick":
        notifier_tick(chain)
        return True
    return chain.handle(chain.result_hint(run_id, "cloud") if hint == "result" else chain.log_hint(job))


@pytest.mark.parametrize("order", [*itertools.permutations(HINTS), ("log",) * 3, ("tick", "tick")], ids="-".join)
def test_hints_in_any_order_and_number_lead_to_one_message(
    chain: Chain, run_id: str, job: str, order: tuple[str, ...]
) -> None:
    chain.train(job, hints=False)
    for hint in order:
        assert give(chain, hint, run_id, job)
    assert [message["outcome"] for message in told(chain)] == ["succeeded"]
    assert ended(chain, run_id).announced
    assert not [key for key in chain.active() if key == f"job_notifier/job/{run_id}/cloud/1"]
    chain.tick()
    assert chain.ledger.read_launch(run_id, "cloud").document.state is State.TRAINED


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


def test_what_training_found_out_is_recorded(chain: Chain, run_id: str, job: str) -> None:
    chain.train(job)
    chain.drain(rounds=1)
    found = ended(chain, run_id)
    assert (found.outcome, found.job) == ("succeeded", job)
    assert (found.accuracy, found.eval_examples) == (0.95, 40)
    assert found.result == f"gs://models/results/{run_id}/cloud.json"


@pytest.mark.parametrize("hint", ["result", "log"])
def test_a_hint_before_vertex_says_that_the_job_ended_is_made_up_for_by_the_next_tick(
    chain: Chain, run_id: str, job: str, hint: str
) -> None:
    chain.write_result(run_id, "cloud")
    assert give(chain, hint, run_id, job)
    assert "has not ended" in chain.outcomes[-1][2]
    assert told(chain) == []
    chain.vertex.end_job(job)
    notifier_tick(chain)
    assert len(told(chain)) == 1


def test_a_job_that_runs_is_looked_at_at_each_tick(chain: Chain) -> None:
    for _ in range(5):
        before = chain.vertex.faults.calls["get_custom_job"]
        notifier_tick(chain)
        assert chain.vertex.faults.calls["get_custom_job"] == before + 2
    assert told(chain) == []


def test_a_hint_that_overtakes_the_record_of_the_job_is_left_to_the_launcher() -> None:
    chain = Chain()
    chain.upload()
    chain.vertex.faults.plan("find_custom_jobs", *[Failing(ServiceUnavailable("no answer"))] * 2)
    chain.drain()
    (run_id,) = chain.run_ids()
    assert chain.handle(chain.result_hint(run_id, "cloud"))
    assert "has no recorded job yet" in chain.outcomes[-1][2]


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
def test_an_object_that_is_not_a_result_is_ignored(chain: Chain, name: str) -> None:
    resource = {"bucket": "models", "name": name, "generation": "1", "size": "1"}
    assert hear(chain, chain.event("job_notifier", "training-result", resource)) == (
        "ignored",
        f"{name} is not a result",
    )


def test_a_result_in_another_bucket_is_ignored(chain: Chain, run_id: str) -> None:
    resource = {"bucket": "data", "name": f"results/{run_id}/cloud.json", "generation": "1", "size": "1"}
    assert hear(chain, chain.event("job_notifier", "training-result", resource))[0] == "ignored"


def test_a_result_of_a_run_that_the_ledger_does_not_have_is_rejected(chain: Chain) -> None:
    assert chain.handle(chain.result_hint("flowers-000000000000", "cloud"))
    ((_, exc),) = chain.rejected
    assert isinstance(exc, UnknownRun)


def test_a_log_line_of_something_that_is_not_a_custom_job_is_ignored(chain: Chain) -> None:
    assert hear(chain, chain.log_hint("999")) == ("ignored", "999 is not a custom job")


def test_a_log_line_of_a_job_that_is_not_ours_is_ignored(chain: Chain, job: str) -> None:
    chain.vertex.jobs[job] = dataclasses.replace(chain.vertex.jobs[job], labels={"team": "other"})
    assert hear(chain, chain.log_hint(job)) == ("ignored", f"{job} is not ours")


@pytest.mark.parametrize(
    ("state", "outcome"),
    [("JOB_STATE_FAILED", "failed"), ("JOB_STATE_EXPIRED", "failed"), ("JOB_STATE_CANCELLED", "cancelled")],
)
def test_a_job_that_did_not_succeed_ends_the_training_with_vertexs_reason(
    chain: Chain, run_id: str, job: str, state: str, outcome: str
) -> None:
    begun = chain.vertex.jobs[job].created
    chain.vertex.jobs[job] = dataclasses.replace(chain.vertex.jobs[job], started=begun)
    chain.vertex.end_job(job, state, error="The replica workerpool0-0 exited with a non-zero status of 1.")
    assert hear(chain, chain.log_hint(job))[0] == "done"
    (message,) = told(chain)
    assert message["outcome"] == outcome
    assert outcome == "cancelled" or message["reason"].startswith("the job failed: The replica workerpool0-0")
    chain.tick()
    assert chain.ledger.read_launch(run_id, "cloud").document.state is State.FAILED
    assert chain.standing(run_id, "cloud").reason == message["reason"]


def test_a_job_that_failed_without_a_reason_says_so(chain: Chain, run_id: str, job: str) -> None:
    chain.vertex.end_job(job, "JOB_STATE_FAILED")
    chain.handle(chain.log_hint(job))
    assert ended(chain, run_id).reason == "the job failed: Vertex AI gives no reason"


def test_a_failed_job_is_failed_although_it_left_a_result(chain: Chain, run_id: str, job: str) -> None:
    chain.write_result(run_id, "cloud")
    chain.vertex.end_job(job, "JOB_STATE_FAILED", error="out of memory")
    chain.handle(chain.result_hint(run_id, "cloud"))
    assert ended(chain, run_id).outcome == "failed"


def test_a_job_that_vertex_no_longer_knows_fails_the_branch(chain: Chain, run_id: str, job: str) -> None:
    del chain.vertex.jobs[job]
    assert "no longer exists" in notifier_tick(chain)
    assert ended(chain, run_id).reason == f"{job} no longer exists"
    assert told(chain)[0]["outcome"] == "failed"


def test_a_job_that_succeeded_without_a_result_fails_the_branch(chain: Chain, run_id: str, job: str) -> None:
    chain.vertex.end_job(job)
    chain.handle(chain.log_hint(job))
    assert ended(chain, run_id).outcome == "failed"
    wrote_no = f"the job succeeded but wrote no gs://models/results/{run_id}/cloud.json"
    assert ended(chain, run_id).reason == f"{wrote_no}: write it before it ends with 0"


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"v": 2}', b""])
def test_a_result_that_cannot_be_read_fails_the_branch_with_every_fault(
    chain: Chain, run_id: str, job: str, text: bytes
) -> None:
    chain.models.put(f"results/{run_id}/cloud.json", text, expect=0)
    chain.vertex.end_job(job)
    chain.handle(chain.log_hint(job))
    assert ended(chain, run_id).outcome == "failed"
    assert "is not a training result of version 1" in ended(chain, run_id).reason


def test_a_result_of_another_run_fails_the_branch(chain: Chain, run_id: str, job: str) -> None:
    chain.write_result("flowers-000000000000", "cloud", name=f"results/{run_id}/cloud.json")
    chain.vertex.end_job(job)
    chain.handle(chain.log_hint(job))
    assert ended(chain, run_id).outcome == "failed"
    assert "is of flowers-000000000000/cloud: write run_id" in ended(chain, run_id).reason


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (("red", "blue"), "has 'red' as label 0, and the run 'blue'"),
        (("blue",), "has None as label 1, and the run 'red'"),
        (("blue", "red", "more"), "has 'more' as label 2, and the run None"),
    ],
)
def test_a_result_with_other_labels_than_the_run_fails_the_training(
    chain: Chain, run_id: str, job: str, labels: tuple[str, ...], says: str
) -> None:
    chain.write_result(run_id, "cloud", labels=labels)
    chain.vertex.end_job(job)
    chain.handle(chain.log_hint(job))
    assert ended(chain, run_id).outcome == "failed"
    assert f"{says}: write labels as in job.json" in ended(chain, run_id).reason


def test_a_result_that_another_job_of_the_same_training_wrote_fails_the_branch(
    chain: Chain, run_id: str, job: str
) -> None:
    other = f"{job}7"
    chain.vertex.jobs[other] = dataclasses.replace(chain.vertex.jobs[job], name=other)
    chain.write_result(run_id, "cloud", job=other.rsplit("/", 1)[-1])
    chain.vertex.end_job(job)
    chain.handle(chain.log_hint(job))
    assert ended(chain, run_id).outcome == "failed"
    assert f"was written by job {other.rsplit('/', 1)[-1]} and not by {job}" in ended(chain, run_id).reason
    assert "retrain request with force: true" in ended(chain, run_id).reason


@pytest.mark.parametrize("says", ["", "its own id", "4711", "not-a-number"])
def test_a_result_that_no_other_job_of_ours_wrote_counts(chain: Chain, run_id: str, job: str, says: str) -> None:
    chain.vertex.jobs["projects/p/locations/l/customJobs/4711"] = dataclasses.replace(
        chain.vertex.jobs[job], labels={"of": "someone else"}
    )
    chain.write_result(run_id, "cloud", job=job.rsplit("/", 1)[-1] if says == "its own id" else says)
    chain.vertex.end_job(job)
    chain.handle(chain.log_hint(job))
    assert ended(chain, run_id).outcome == "succeeded"


def test_a_result_that_cannot_be_fetched_now_is_looked_at_again(chain: Chain, run_id: str, job: str) -> None:
    chain.train(job, hints=False)
    chain.models.faults.plan("read", Failing(ServiceUnavailable("no answer")))
    assert chain.handle(chain.result_hint(run_id, "cloud"))
    assert cloud(chain, run_id) is None
    notifier_tick(chain)
    assert ended(chain, run_id).outcome == "succeeded"


@pytest.mark.parametrize("target", ["cloud", "mobile"])
@pytest.mark.parametrize("order", [SERVICES, tuple(reversed(SERVICES))], ids=["in order", "deployers first"])
def test_an_end_is_announced_although_its_notifier_died_after_recording_it(target: str, order: tuple[str, ...]) -> None:
    chain = Chain()
    chain.order = lambda: order
    chain.upload()
    chain.drain()
    for _ in range(3):
        chain.tick()
    (run_id,) = chain.run_ids()
    (job,) = chain.jobs_of(run_id, target)
    chain.train(job, hints=False)

    def die_before_publishing(_number: int, name: str, when: str) -> None:
        if (name, when) == ("pubsub.publish", "before"):
            chain.interfere = lambda *_: None
            chain.die()

    chain.interfere = die_before_publishing
    chain.handle(chain.log_hint(job))
    assert chain.standing(run_id, target).state == "trained"
    chain.settle(ticks=20)
    assert chain.standing(run_id, target).state == "live"
    assert chain.messages("training-completed", target=target, outcome="succeeded")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_notifier_killed_at_any_operation_announces_each_end_and_leaves_nothing(when: str) -> None:
    start = Chain()
    start.upload()
    start.drain()
    (run_id,) = start.run_ids()
    for job in start.unfinished_jobs():
        start.train(job, hints=False)
    calm = start.continued()
    first = len(calm.operations)
    notifier_tick(calm)
    for fatal in range(len(calm.operations) - first):
        chain = start.continued()

        def die(number: int, _name: str, moment: str, chain: Chain = chain, fatal: int = fatal) -> None:
            if (number, moment) == (fatal, when):
                chain.interfere = lambda *_: None
                chain.die()

        chain.interfere = die
        notifier_tick(chain)
        for _ in range(5):
            notifier_tick(chain)
        for target in ("cloud", "mobile"):
            assert chain.messages("training-completed", run_id=run_id, target=target, outcome="succeeded"), fatal
        assert not [key for key in chain.active() if key.startswith("job_notifier/")], fatal


def test_an_end_that_a_newer_version_wrote_meanwhile_is_not_written_over(chain: Chain, run_id: str, job: str) -> None:
    chain.train(job, hints=False)

    def written_meanwhile(_number: int, name: str, when: str) -> None:
        if (name, when) == ("pubsub.publish", "after"):
            chain.interfere = lambda *_: None
            found = chain.ledger.find_ended(run_id, "cloud", 1)
            assert found
            path = names.ended(run_id, "cloud", 1)
            chain.ledger.write(path, found.document.changed(novel="kept"), expect=found.generation)

    chain.interfere = written_meanwhile
    chain.handle(chain.log_hint(job))
    for _ in range(3):
        notifier_tick(chain)
    assert ended(chain, run_id).announced
    assert (ended(chain, run_id).model_extra or {})["novel"] == "kept"


def test_an_end_is_due_until_it_was_published(chain: Chain, run_id: str, job: str) -> None:
    chain.train(job, hints=False)
    chain.publisher.faults.plan("publish", *[Failing(ServiceUnavailable("no answer"))] * 4)
    chain.handle(chain.log_hint(job))
    assert cloud(chain, run_id) is not None
    assert told(chain) == []
    for _ in range(6):
        # The tick publishes too: it may fail as well.
        notifier_tick(chain)
    assert chain.publisher.faults.pending() == {}
    assert len(told(chain)) == 1


def test_of_two_hints_at_the_same_time_one_records_and_both_agree(chain: Chain, run_id: str, job: str) -> None:
    chain.train(job, hints=False)
    first, second = chain.log_hint(job), chain.result_hint(run_id, "cloud")

    def second_hint_settles_first(_number: int, name: str, when: str) -> None:
        if (name, when) == ("models.read", "before"):
            chain.interfere = lambda *_: None
            chain.clock.advance(600)
            second.handle()

    chain.interfere = second_hint_settles_first
    chain.handle(first)
    notifier_tick(chain, 600)
    assert {message["outcome"] for message in told(chain)} == {"succeeded"}
    assert ended(chain, run_id).announced


@pytest.mark.parametrize("name", ["launch.json", "ended-1.json"])
def test_a_document_that_cannot_be_read_keeps_no_other_training(chain: Chain, run_id: str, name: str) -> None:
    path = f"runs/{run_id}/cloud/{name}"
    found = [each.generation for each in chain.ledger_store.list(path)]
    chain.ledger_store.put(path, b"{", expect=found[0] if found else ABSENT)
    for each in chain.unfinished_jobs():
        chain.train(each, hints=False)
    notifier_tick(chain)
    assert chain.messages("training-completed", target="mobile", outcome="succeeded")
    assert f"gs://ledger/{path} cannot be read" in chain.ledger.rejections()[0].reason


REMINDERS = [
    ("training_launcher", "launch/flowers-000000000000"),
    ("job_notifier", "job/flowers-000000000000/cloud/1"),
    ("cloud_deployer", "release/flowers-000000000000/2"),
    ("mobile_publisher", "release/flowers-000000000000/2"),
]


@pytest.mark.parametrize(("service", "key"), REMINDERS)
def test_a_reminder_of_what_was_never_written_is_forgotten_and_is_not_an_error(
    chain: Chain, caplog: pytest.LogCaptureFixture, service: str, key: str
) -> None:
    """A service reminds of a document before it writes it, so that a reminder without one is an ordinary moment."""
    Due(service, chain.ledger).put(key)
    for _ in range(20):
        chain.clock.advance(60)
        chain.tick_of(service)
    assert f"{service}/{key}" not in chain.active()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_hint_that_says_nothing_new_costs_no_call_of_vertex(chain: Chain, run_id: str, job: str) -> None:
    chain.train(job, hints=False)
    chain.handle(chain.result_hint(run_id, "cloud"))
    chain.operations.clear()
    assert hear(chain, chain.result_hint(run_id, "cloud"))[0] == "done"
    assert not [name for name in chain.operations if name.startswith("vertex.")]


# No capacity -----------------------------------------------------------------------------------------------------

NO_CAPACITY = "Resources are insufficient in region: us-central1. Please try a different region."


def test_a_job_that_vertex_could_not_place_is_asked_for_again_and_announced_only_when_it_ended(
    chain: Chain, run_id: str, job: str
) -> None:
    chain.vertex.end_job(job, "JOB_STATE_FAILED", error=NO_CAPACITY)
    notifier_tick(chain)
    assert ended(chain, run_id).outcome == "no_capacity"
    assert told(chain) == []
    chain.tick()
    waits_for = chain.standing(run_id, "cloud").waits_for
    assert NO_CAPACITY in waits_for
    assert "asked again at" in waits_for
    chain.settle(ticks=20)
    first, second = chain.jobs_of(run_id, "cloud")
    assert first == job
    assert chain.ledger.read_launch(run_id, "cloud").document.job == second
    assert [message["outcome"] for message in told(chain)] == ["succeeded"]
    assert chain.standing(run_id, "cloud").state is State.LIVE


@pytest.mark.parametrize(
    ("error", "code", "has_begun", "outcome"),
    [
        (NO_CAPACITY, 8, False, "no_capacity"),
        (NO_CAPACITY, 9, True, "no_capacity"),
        ("Internal error occurred for the current attempt. Please retry in a few minutes.", 9, False, "no_capacity"),
        ("Internal error encountered.", 13, False, "no_capacity"),
        ("The service is currently unavailable.", 14, False, "no_capacity"),
        ("Internal error encountered.", 13, True, "failed"),
        ("Permission 'artifactregistry.repositories.downloadArtifacts' denied", 7, False, "failed"),
        ("The replica workerpool0-0 exited with a non-zero status of 64.", 9, True, "failed"),
        ("The image cannot be pulled.", 5, False, "failed"),
    ],
)
def test_what_fails_at_vertex_before_the_container_ran_is_asked_for_again(
    chain: Chain, run_id: str, job: str, *, error: str, code: int, has_begun: bool, outcome: str
) -> None:
    begun = datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.UTC) if has_begun else None
    chain.vertex.jobs[job] = dataclasses.replace(chain.vertex.jobs[job], started=begun)
    chain.vertex.end_job(job, "JOB_STATE_FAILED", error=error, code=code)
    notifier_tick(chain)
    assert ended(chain, run_id).outcome == outcome


def test_a_job_that_expired_in_the_queue_is_asked_for_again(chain: Chain, run_id: str, job: str) -> None:
    chain.vertex.end_job(job, "JOB_STATE_EXPIRED")
    notifier_tick(chain)
    assert ended(chain, run_id).outcome == "no_capacity"


def test_without_capacity_for_a_day_the_training_is_given_up_in_words_that_say_why(chain: Chain, run_id: str) -> None:
    for _ in range(80):
        for name in chain.jobs_of(run_id, "cloud"):
            if name in chain.unfinished_jobs():
                chain.vertex.end_job(name, "JOB_STATE_FAILED", error=NO_CAPACITY)
        chain.tick(1800)
        chain.drain()
    found = chain.ledger.read_launch(run_id, "cloud").document
    assert found.state is State.FAILED
    assert f"given up after {found.asked} attempts since 2026-11-23T12:" in found.reason
    (message,) = told(chain)
    assert message["outcome"] == "failed"
    assert NO_CAPACITY in message["reason"]
    assert not [key for key in chain.active() if f"/{run_id}" in key and "release" not in key and "mobile" not in key]
