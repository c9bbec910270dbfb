"""The live model is measured again on a new run's pictures when the trainer measured another one, or none."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
from collections.abc import Callable
from typing import Any

import pytest

from cloud_deployer.release import CloudRelease
from cloud_deployer.steps import measure
from dualdeploy import clock as clocks
from dualdeploy.contracts.training import (
    LiveMetrics,
    Metrics,
    OutputLocations,
    ShardSplit,
    TrainingJob,
    TrainingParameters,
)
from dualdeploy.errors import NoCapacity, RejectedByGoogle, ServiceUnavailable
from dualdeploy.google.object_store import ABSENT
from dualdeploy.google.vertex import JobOutcome
from dualdeploy.ledger import State, spending
from dualdeploy.ledger.spending import Estimate, TargetEstimate
from support.deployer import LEASE_SECONDS, SETTINGS, Deployer, Kill, kill_points, overwrite
from support.fakes import Failing
from support.fakes.failing import ProcessDied

MEASURES = dataclasses.replace(SETTINGS, trainer_image="trainer@sha256:1", training_service_account="trainer@demo")

#: What 40 pictures may take.
TIMEOUT_SECONDS = 620.0
LIMIT_SECONDS = TIMEOUT_SECONDS + measure.QUEUE_SECONDS


@pytest.fixture
def deployer() -> Deployer:
    return a_project()


def a_project() -> Deployer:
    deployer = _project().continued()
    deployer.service = deployer.another(MEASURES)
    return deployer


@functools.cache
def _project() -> Deployer:
    """One run serves; a second, of other data, is trained, and its result says nothing of the first."""
    deployer = Deployer(MEASURES)
    deployer.bring_out()
    run_id = deployer.train(2, accuracy=0.9, announce=False)
    note_how_it_was_trained(deployer, run_id)
    return deployer


def note_how_it_was_trained(deployer: Deployer, run_id: str) -> None:
    """The job's document, and what it may cost."""
    job = TrainingJob(
        run_id=run_id,
        dataset="flowers",
        target="cloud",
        labels=("blue", "red"),
        shards=ShardSplit(train=(), eval=()),
        training=TrainingParameters(architecture="densenet121", image_size=224, epochs=1),
        output=OutputLocations(directory="gs://models/x", result="gs://models/x/cloud.json"),
    )
    overwrite(deployer.models, f"runs/{run_id}/cloud/job.json", job.to_json())
    target = TargetEstimate(
        usd_per_hour=0.5, expected_seconds=600, timeout_seconds=3600, estimated_usd=0.1, most_usd=0.5, price="known"
    )
    estimate = Estimate(
        run_id=run_id,
        dataset="flowers",
        month=clocks.to_text(deployer.clock())[:7],
        region="us-central1",
        prices_as_of="2026-11-01",
        targets={"cloud": target},
    )
    spending.record_estimate(deployer.ledger, estimate)


def newer(deployer: Deployer) -> str:
    return max(deployer.ledger.run_ids("flowers"), key=lambda run_id: deployer.ledger.read_run(run_id).created_at)


def older(deployer: Deployer) -> str:
    return min(deployer.ledger.run_ids("flowers"), key=lambda run_id: deployer.ledger.read_run(run_id).created_at)


def release_of(deployer: Deployer) -> CloudRelease:
    return deployer.release(newer(deployer))


def begin(deployer: Deployer) -> None:
    deployer.begin(newer(deployer))


def evaluations(deployer: Deployer) -> list[str]:
    return [name for name, job in deployer.vertex.jobs.items() if "dualdeploy_evaluation" in job.labels]


def document(deployer: Deployer) -> TrainingJob:
    arguments = deployer.vertex.job_specs[evaluations(deployer)[-1]].arguments
    name = arguments[arguments.index("--job") + 1].removeprefix("gs://models/")
    return TrainingJob.model_validate_json(deployer.models.read(name).data)


def end(deployer: Deployer, *, accuracy: float | None, problem: str = "", state: str = "JOB_STATE_SUCCEEDED") -> None:
    """What `python -m trainer --evaluate-live` does."""
    (name,) = evaluations(deployer)[-1:]
    if accuracy is not None or problem:
        job = document(deployer)
        assert job.live is not None
        metrics = None if accuracy is None else Metrics(accuracy=accuracy, loss=0.1, examples=40)
        measured = LiveMetrics(
            run_id=job.live.run_id, saved_model=job.live.saved_model, metrics=metrics, problem=problem
        )
        place = job.output.result.removeprefix("gs://models/")
        deployer.models.put(place, measured.to_json(), expect=ABSENT)
    deployer.vertex.end_job(name, state, error="" if state.endswith("SUCCEEDED") else "out of memory")


def finish(deployer: Deployer) -> CloudRelease:
    return deployer.go_through(newer(deployer))


def test_the_job_is_a_small_one_of_the_trainers_image_with_labels_of_its_own(deployer: Deployer) -> None:
    begin(deployer)
    (name,) = evaluations(deployer)
    spec = deployer.vertex.job_specs[name]
    uri = f"gs://models/evaluations/{newer(deployer)}/{older(deployer)}.job.json"
    assert spec.arguments == ["--target", "cloud", "--job", uri, "--evaluate-live"]
    assert spec.image == "trainer@sha256:1"
    assert spec.service_account == "trainer@demo"
    assert spec.timeout == TIMEOUT_SECONDS
    assert "dualdeploy_run" not in spec.labels
    job = document(deployer)
    trained = TrainingJob.model_validate_json(deployer.models.read(f"runs/{newer(deployer)}/cloud/job.json").data)
    assert job.shards == trained.shards
    assert job.live is not None
    assert (job.live.run_id, job.live.saved_model) == (
        older(deployer),
        f"gs://models/runs/{older(deployer)}/cloud/model",
    )
    evaluation = release_of(deployer).evaluation
    assert evaluation.job == name
    assert evaluation.most_usd > 0


def test_nothing_is_decided_before_the_live_model_is_measured(deployer: Deployer) -> None:
    begin(deployer)
    for _ in range(5):
        deployer.tick()
    assert (release_of(deployer).state, release_of(deployer).step) == (State.GATING, "measure")
    assert "which measures" in deployer.standing(newer(deployer)).waits_for
    assert "1520 s at most" in deployer.standing(newer(deployer)).waits_for
    assert len(evaluations(deployer)) == 1


def test_a_model_that_is_as_good_on_the_same_pictures_goes_out(deployer: Deployer) -> None:
    begin(deployer)
    end(deployer, accuracy=0.905)
    ended = finish(deployer)
    assert ended.state is State.LIVE, ended.reason
    rules = {rule["name"]: rule["figure"] for rule in ended.gate["rules"]}
    assert rules["regression"] == 0.005


def test_a_model_that_is_worse_on_the_same_pictures_is_stopped(deployer: Deployer) -> None:
    begin(deployer)
    end(deployer, accuracy=0.95)
    ended = finish(deployer)
    assert ended.state is State.REJECTED
    assert ended.reason.startswith("regression 0.05 <= 0.01: failed")


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ({"accuracy": None, "state": "JOB_STATE_FAILED"}, "out of memory"),
        ({"accuracy": None}, "without a result"),
        ({"accuracy": None, "problem": "KeyError: 'labels'"}, "KeyError: 'labels'"),
    ],
)
def test_a_live_model_that_cannot_be_measured_is_not_an_approval(deployer: Deployer, ending: Any, words: str) -> None:
    begin(deployer)
    end(deployer, **ending)
    ended = finish(deployer)
    assert ended.state is State.REJECTED
    assert ended.reason.startswith("live_measured 0 >= 1: failed")
    (why,) = ended.gate["not_judged"]
    assert words in why


def test_a_redeploy_after_a_failed_evaluation_tries_anew_and_force_goes_past_it(deployer: Deployer) -> None:
    begin(deployer)
    end(deployer, accuracy=None, state="JOB_STATE_FAILED")
    assert finish(deployer).state is State.REJECTED
    deployer.post("redeploy", run_id=newer(deployer))
    deployer.tick()
    assert len(evaluations(deployer)) == 2
    end(deployer, accuracy=0.9)
    assert finish(deployer).state is State.LIVE


def test_a_job_without_end_is_called_off_and_is_not_an_approval(deployer: Deployer) -> None:
    begin(deployer)
    (name,) = evaluations(deployer)
    deployer.tick(LIMIT_SECONDS + 1)
    assert release_of(deployer).state is State.REJECTED
    assert deployer.vertex.jobs[name].outcome is JobOutcome.CANCELLED


def test_no_quota_is_waited_for_and_not_for_ever(deployer: Deployer) -> None:
    deployer.vertex.faults.plan("create_custom_job", *[Failing(ServiceUnavailable("429"))] * 3)
    begin(deployer)
    assert release_of(deployer).state is State.GATING
    deployer.tick()
    deployer.tick(LIMIT_SECONDS)
    assert release_of(deployer).state is State.REJECTED
    assert "did not take the job" in release_of(deployer).gate["not_judged"][0]


NO_MACHINE = "Resources are insufficient in region: us-central1. Please try a different region."


def test_a_job_that_is_refused_for_lack_of_capacity_is_asked_for_in_the_next_way(deployer: Deployer) -> None:
    deployer.vertex.faults.plan("create_custom_job", Failing(NoCapacity(NO_MACHINE)))
    begin(deployer)
    (name,) = evaluations(deployer)
    assert deployer.vertex.job_specs[name].strategy == "standard"


def test_a_job_that_cannot_be_placed_is_asked_for_in_the_next_way_and_not_for_ever(deployer: Deployer) -> None:
    begin(deployer)
    for number in range(3):
        name = evaluations(deployer)[number]
        assert deployer.vertex.job_specs[name].strategy == ("spot", "standard")[number % 2]
        deployer.vertex.end_job(name, "JOB_STATE_FAILED", error=NO_MACHINE, code=8)
        deployer.tick()
        assert NO_MACHINE in deployer.standing(newer(deployer)).waits_for
        deployer.tick()
    assert len(evaluations(deployer)) == 4
    deployer.vertex.end_job(evaluations(deployer)[-1], "JOB_STATE_FAILED", error=NO_MACHINE, code=8)
    deployer.tick(LIMIT_SECONDS)
    assert release_of(deployer).state is State.REJECTED
    assert NO_MACHINE in release_of(deployer).gate["not_judged"][0]


def test_what_the_budget_does_not_allow_is_not_measured(deployer: Deployer) -> None:
    deployer.configure(budget={"max_usd_per_run": 0.01})
    begin(deployer)
    assert release_of(deployer).state is State.REJECTED
    assert "budget.max_usd_per_run is 0.01" in release_of(deployer).gate["not_judged"][0]
    assert evaluations(deployer) == []


def test_a_refused_job_is_not_an_approval(deployer: Deployer) -> None:
    deployer.vertex.faults.plan("create_custom_job", Failing(RejectedByGoogle("no such machine")))
    begin(deployer)
    assert release_of(deployer).state is State.REJECTED
    assert "no such machine" in release_of(deployer).gate["not_judged"][0]


def test_without_a_rule_about_the_live_model_there_is_no_job(deployer: Deployer) -> None:
    deployer.configure(gates={"cloud": {"max_regression": None, "max_class_regression": None}})
    assert finish(deployer).state is State.LIVE
    assert evaluations(deployer) == []


def test_an_abort_calls_the_job_off(deployer: Deployer) -> None:
    begin(deployer)
    (name,) = evaluations(deployer)
    deployer.post("abort", dataset="flowers")
    deployer.tick()
    assert release_of(deployer).state is State.FAILED
    assert deployer.vertex.jobs[name].outcome is JobOutcome.CANCELLED


def at_the_gate(interfere: Callable[[int, str, str], None]) -> Deployer:
    """A project after some minutes at the gate, in which its process may have died."""
    deployer = a_project()
    deployer.operations.clear()
    deployer.interfere = interfere
    begin(deployer)
    for _ in range(4):
        deployer.tick(120)
    return deployer


def test_a_process_killed_at_any_operation_at_the_gate_starts_one_job_and_decides() -> None:
    failures = []
    for number, when in kill_points(at_the_gate(lambda *_: None).operations):
        deployer = at_the_gate(Kill(number, when))
        if not release_of(deployer).announced:
            end(deployer, accuracy=0.95)
        ended = finish(deployer)
        # It is on the account, whichever process died.
        if (ended.state, len(evaluations(deployer)), entry(deployer).reserved_usd > 0) != (State.REJECTED, 1, True):
            failures.append((number, when, deployer.operations[number], ended.reason))
    assert failures == []


@pytest.mark.parametrize("who", ["the evaluation", "the training"])
def test_a_redeploy_measures_again_what_could_not_be_measured(deployer: Deployer, who: str) -> None:
    problem = "UnusableJob: the download was cut"
    if who == "the training":
        live = LiveMetrics(run_id=older(deployer), saved_model="gs://x", problem=problem)
        deployer.write_result(newer(deployer), live=live.model_dump(mode="json"))
    begin(deployer)
    if who == "the evaluation":
        end(deployer, accuracy=None, problem=problem)
    assert problem in finish(deployer).gate["not_judged"][0]
    before = len(evaluations(deployer))
    assert deployer.post("redeploy", run_id=newer(deployer)).status_code == 202
    deployer.tick()
    assert len(evaluations(deployer)) == before + 1
    end(deployer, accuracy=0.9)
    assert finish(deployer).state is State.LIVE


def test_a_redeploy_does_not_measure_again_what_was_measured(deployer: Deployer) -> None:
    begin(deployer)
    end(deployer, accuracy=0.95)
    assert finish(deployer).state is State.REJECTED
    deployer.configure(gates={"cloud": {"max_regression": 0.1}})
    assert deployer.post("redeploy", run_id=newer(deployer)).status_code == 202
    assert deployer.go_through(newer(deployer), n=2).state is State.LIVE
    assert len(evaluations(deployer)) == 1


def test_the_result_is_json_that_the_trainer_writes(deployer: Deployer) -> None:
    begin(deployer)
    end(deployer, accuracy=0.9)
    stored = json.loads(deployer.models.read(f"evaluations/{newer(deployer)}/{older(deployer)}.json").data)
    assert stored["run_id"] == older(deployer)


@pytest.mark.parametrize("command", ["rollback", "redeploy"])
def test_a_forced_release_does_not_wait_for_a_job(deployer: Deployer, command: str) -> None:
    begin(deployer)
    end(deployer, accuracy=0.905)
    finish(deployer)
    known = evaluations(deployer)
    asked = {"rollback": {"dataset": "flowers"}, "redeploy": {"run_id": older(deployer), "force": True}}[command]
    assert deployer.http().post(f"/{command}", json=asked).status_code == 202
    for _ in range(20):
        deployer.tick()
        deployer.vertex.finish_operations()
    ended = deployer.release(older(deployer))
    assert (ended.state, ended.n) == (State.LIVE, 2), ended.reason
    assert evaluations(deployer) == known
    (problem,) = [line for line in ended.gate["not_judged"] if line.startswith("regression")]
    assert problem.endswith("no job was started to find out, the release is forced")


# Money ---------------------------------------------------------------------------------------------------------


def entry(deployer: Deployer) -> spending.Entry:
    account = spending.read_account(deployer.ledger, "flowers", deployer.clock().strftime("%Y-%m"))
    (found,) = [each for key, each in account.jobs.items() if key == f"{newer(deployer)}/cloud/live-evaluation-1"]
    return found


def run_for(deployer: Deployer, seconds: float) -> None:
    """The job began so long ago."""
    (name,) = evaluations(deployer)
    started = deployer.clock() - datetime.timedelta(seconds=seconds)
    deployer.vertex.jobs[name] = dataclasses.replace(deployer.vertex.jobs[name], started=started)


def test_the_job_is_on_the_months_account_from_before_it_starts_until_it_is_settled(deployer: Deployer) -> None:
    begin(deployer)
    most = release_of(deployer).evaluation.most_usd
    assert (entry(deployer).reserved_usd, entry(deployer).actual_usd) == (most, None)
    end(deployer, accuracy=0.905)
    (name,) = evaluations(deployer)
    ended = deployer.clock()
    started = ended - datetime.timedelta(seconds=TIMEOUT_SECONDS / 2)
    deployer.vertex.jobs[name] = dataclasses.replace(deployer.vertex.jobs[name], started=started, ended=ended)
    assert finish(deployer).state is State.LIVE
    assert entry(deployer).seconds == TIMEOUT_SECONDS / 2
    assert entry(deployer).actual_usd == pytest.approx(most / 2, abs=1e-4)


def test_what_the_month_does_not_allow_any_more_is_not_measured(deployer: Deployer) -> None:
    spent = spending.read_account(deployer.ledger, "flowers", deployer.clock().strftime("%Y-%m")).total_usd()
    deployer.configure(budget={"max_usd_per_month": spent + 0.01})
    begin(deployer)
    assert release_of(deployer).state is State.REJECTED
    why = release_of(deployer).gate["not_judged"][0]
    assert "measuring it may cost" in why
    assert "spent or reserved (spend/2026-11/flowers.json)" in why
    assert evaluations(deployer) == []


@pytest.mark.parametrize("refused", [RejectedByGoogle("no such machine"), ServiceUnavailable("429")])
def test_a_job_that_never_started_costs_nothing(deployer: Deployer, refused: Exception) -> None:
    deployer.vertex.faults.plan("create_custom_job", *[Failing(refused)] * 2)
    begin(deployer)
    deployer.tick(LIMIT_SECONDS + 1)
    assert release_of(deployer).state is State.REJECTED
    assert entry(deployer).actual_usd == 0


@pytest.mark.parametrize("died", [False, True])
def test_a_job_that_is_called_off_costs_what_it_ran_even_if_its_name_was_never_recorded(
    deployer: Deployer, died: bool
) -> None:
    if died:
        deployer.vertex.faults.plan("create_custom_job", Failing(ProcessDied(), after=True))
    begin(deployer)
    deployer.clock.advance(LEASE_SECONDS)
    deployer.post("abort", dataset="flowers")
    run_for(deployer, 600)
    # Vertex AI takes its time to end it.
    deployer.vertex.end_job = lambda *_, **__: None  # type: ignore[method-assign]
    deployer.tick(0)
    assert release_of(deployer).state is State.FAILED
    assert deployer.vertex.faults.calls["cancel_custom_job"] == 1
    assert entry(deployer).seconds == 600
