"""The live model is measured again on a new run's pictures when the trainer measured another one, or none."""

from __future__ import annotations

import dataclasses
import datetime
import json
from typing import Any

import pytest
from chain import DEPLOYER_SETTINGS, LEASE_SECONDS, Chain

from cloud_deployer.live_evaluation import LIMIT_SECONDS, TIMEOUT_SECONDS
from dualdeploy import spending
from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable
from dualdeploy.ledger import Branch, State
from dualdeploy.object_store import ABSENT
from dualdeploy.testing import Failing
from dualdeploy.testing.failing import ProcessDied
from dualdeploy.training import LiveMetrics, Metrics, TrainingJob
from dualdeploy.vertex import JobOutcome

SETTINGS = dataclasses.replace(
    DEPLOYER_SETTINGS, trainer_image="trainer@sha256:1", training_service_account="trainer@demo"
)


@pytest.fixture
def chain() -> Chain:
    """One run serves; a second, of other data, is trained, and its result says nothing of the first."""
    chain = Chain()
    chain.upload()
    chain.settle()
    chain.clock.advance(3600)
    chain.use_deployer(settings=SETTINGS)
    chain.upload(edition=2)
    chain.drain()
    for _ in range(3):
        chain.tick()
    (job,) = chain.jobs_of(newer(chain), "cloud")
    chain.train(job, accuracy=0.9, hints=False)
    chain.handle(chain.log_hint(job))
    return chain


def newer(chain: Chain) -> str:
    return max(chain.run_ids(), key=lambda run_id: chain.ledger.read_run(run_id).created_at)


def older(chain: Chain) -> str:
    return min(chain.run_ids(), key=lambda run_id: chain.ledger.read_run(run_id).created_at)


def branch(chain: Chain) -> Branch:
    return chain.branch(newer(chain), "cloud")


def tick(chain: Chain, seconds: float = 60) -> None:
    chain.clock.advance(seconds)
    chain.handle(chain.clock_deliveries()[2])


def evaluations(chain: Chain) -> list[str]:
    return [name for name, job in chain.vertex.jobs.items() if "dualdeploy_evaluation" in job.labels]


def document(chain: Chain) -> TrainingJob:
    name = f"evaluations/{newer(chain)}/{older(chain)}.job.json"
    return TrainingJob.model_validate_json(chain.models.read(name).data)


def end(chain: Chain, *, accuracy: float | None, problem: str = "", state: str = "JOB_STATE_SUCCEEDED") -> None:
    """What `python -m trainer --evaluate-live` does."""
    (name,) = evaluations(chain)[-1:]
    if accuracy is not None or problem:
        job = document(chain)
        assert job.live is not None
        metrics = None if accuracy is None else Metrics(accuracy=accuracy, loss=0.1, examples=40)
        measured = LiveMetrics(
            run_id=job.live.run_id, saved_model=job.live.saved_model, metrics=metrics, problem=problem
        )
        place = job.output.result.removeprefix("gs://models/")
        chain.models.put(place, measured.to_json(), expect=ABSENT)
    chain.vertex.end_job(name, state, error="" if state.endswith("SUCCEEDED") else "out of memory")


def finish(chain: Chain) -> Branch:
    for _ in range(20):
        tick(chain)
        chain.vertex.finish_operations()
        if branch(chain).is_final:
            return branch(chain)
    raise AssertionError(branch(chain))


def test_the_job_is_a_small_one_of_the_trainers_image_with_labels_of_its_own(chain: Chain) -> None:
    tick(chain)
    (name,) = evaluations(chain)
    spec = chain.vertex.job_specs[name]
    uri = f"gs://models/evaluations/{newer(chain)}/{older(chain)}.job.json"
    assert spec.arguments == ["--target", "cloud", "--job", uri, "--evaluate-live"]
    assert spec.image == "trainer@sha256:1"
    assert spec.service_account == "trainer@demo"
    assert spec.timeout == TIMEOUT_SECONDS
    assert "dualdeploy_run" not in spec.labels
    job = document(chain)
    trained = TrainingJob.model_validate_json(chain.models.read(f"runs/{newer(chain)}/cloud/job.json").data)
    assert job.shards == trained.shards
    assert job.live is not None
    assert (job.live.run_id, job.live.saved_model) == (
        older(chain),
        f"gs://models/runs/{older(chain)}/cloud/model",
    )
    facts = branch(chain).facts["live_evaluation"]
    assert facts["job"] == name
    assert facts["most_usd"] > 0


def test_nothing_is_decided_before_the_live_model_is_measured(chain: Chain) -> None:
    for _ in range(5):
        tick(chain)
    assert (branch(chain).state, branch(chain).step) == (State.GATING, "evaluate")
    assert len(evaluations(chain)) == 1


def test_a_model_that_is_as_good_on_the_same_pictures_goes_out(chain: Chain) -> None:
    tick(chain)
    end(chain, accuracy=0.905)
    ended = finish(chain)
    assert ended.state is State.LIVE, ended.reason
    rules = {rule["name"]: rule["figure"] for rule in ended.facts["gate"]["rules"]}
    assert rules["regression"] == 0.005


def test_a_model_that_is_worse_on_the_same_pictures_is_stopped(chain: Chain) -> None:
    tick(chain)
    end(chain, accuracy=0.95)
    ended = finish(chain)
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
def test_a_live_model_that_cannot_be_measured_is_no_approval(chain: Chain, ending: Any, words: str) -> None:
    tick(chain)
    end(chain, **ending)
    ended = finish(chain)
    assert ended.state is State.REJECTED
    assert ended.reason.startswith("live_measured 0 >= 1: failed")
    (why,) = ended.facts["gate"]["not_judged"]
    assert words in why


def test_a_redeploy_after_a_failed_evaluation_tries_anew_and_force_goes_past_it(chain: Chain) -> None:
    tick(chain)
    end(chain, accuracy=None, state="JOB_STATE_FAILED")
    assert finish(chain).state is State.REJECTED
    chain.handle(chain.redeploy("cloud", run_id=newer(chain)))
    tick(chain)
    assert len(evaluations(chain)) == 2
    end(chain, accuracy=0.9)
    assert finish(chain).state is State.LIVE


def test_a_job_without_end_is_called_off_and_is_no_approval(chain: Chain) -> None:
    tick(chain)
    (name,) = evaluations(chain)
    tick(chain, LIMIT_SECONDS + 1)
    assert branch(chain).state is State.REJECTED
    assert chain.vertex.jobs[name].outcome is JobOutcome.CANCELLED


def test_no_quota_is_waited_for_and_not_for_ever(chain: Chain) -> None:
    chain.vertex.faults.plan("create_custom_job", *[Failing(ServiceUnavailable("429"))] * 3)
    tick(chain)
    assert branch(chain).state is State.GATING
    tick(chain)
    tick(chain, LIMIT_SECONDS)
    assert branch(chain).state is State.REJECTED
    assert "did not take the job" in branch(chain).facts["gate"]["not_judged"][0]


def test_what_the_budget_does_not_allow_is_not_measured(chain: Chain) -> None:
    chain.configure(budget={"max_usd_per_run": 0.01})
    tick(chain)
    assert branch(chain).state is State.REJECTED
    assert "budget.max_usd_per_run is 0.01" in branch(chain).facts["gate"]["not_judged"][0]
    assert evaluations(chain) == []


def test_a_refused_job_is_no_approval(chain: Chain) -> None:
    chain.vertex.faults.plan("create_custom_job", Failing(RejectedByGoogle("no such machine")))
    tick(chain)
    assert branch(chain).state is State.REJECTED
    assert "no such machine" in branch(chain).facts["gate"]["not_judged"][0]


def test_without_a_rule_about_the_live_model_there_is_no_job(chain: Chain) -> None:
    chain.configure(gates={"cloud": {"max_regression": None, "max_class_regression": None}})
    assert finish(chain).state is State.LIVE
    assert evaluations(chain) == []


def test_an_abort_calls_the_job_off(chain: Chain) -> None:
    tick(chain)
    (name,) = evaluations(chain)
    chain.handle(chain.post("cloud", "abort", dataset="flowers"))
    tick(chain)
    assert branch(chain).state is State.FAILED
    assert chain.vertex.jobs[name].outcome is JobOutcome.CANCELLED


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(40))
def test_a_process_killed_anywhere_at_the_gate_starts_one_job_and_decides(
    chain: Chain, number: int, after: bool
) -> None:
    begun, killed = len(chain.operations), []

    def kill(at: int, name: str, when: str) -> None:
        if at == begun + number and when == ("after" if after else "before") and not killed:
            killed.append(name)
            raise ProcessDied

    chain.interfere = kill
    for _ in range(4):
        tick(chain, 120)
    if not branch(chain).is_final:
        end(chain, accuracy=0.95)
    ended = finish(chain)
    assert ended.state is State.REJECTED
    assert len(evaluations(chain)) == 1


def test_the_result_is_json_that_the_trainer_writes(chain: Chain) -> None:
    tick(chain)
    end(chain, accuracy=0.9)
    stored = json.loads(chain.models.read(f"evaluations/{newer(chain)}/{older(chain)}.json").data)
    assert stored["run_id"] == older(chain)


@pytest.mark.parametrize("command", ["rollback", "redeploy"])
def test_whoever_forces_a_release_does_not_wait_for_a_job(chain: Chain, command: str) -> None:
    tick(chain)
    end(chain, accuracy=0.905)
    finish(chain)
    known = evaluations(chain)
    asked = {"rollback": {"dataset": "flowers"}, "redeploy": {"run_id": older(chain), "force": True}}[command]
    assert chain.http("cloud").post(f"/{command}", json=asked).status_code == 202
    for _ in range(20):
        tick(chain)
        chain.vertex.finish_operations()
    ended = chain.branch(older(chain), "cloud")
    assert (ended.state, ended.release) == (State.LIVE, 2), ended.reason
    assert evaluations(chain) == known
    (problem,) = [line for line in ended.facts["gate"]["not_judged"] if line.startswith("regression")]
    assert problem.endswith("no job was started to find out, the release is forced")


# Money ---------------------------------------------------------------------------------------------------------


def entry(chain: Chain) -> spending.Entry:
    account = spending.read_account(chain.ledger, "flowers", chain.clock().strftime("%Y-%m"))
    (found,) = [each for key, each in account.jobs.items() if key == f"{newer(chain)}/cloud/live-evaluation-1"]
    return found


def run_for(chain: Chain, seconds: float) -> None:
    """The job began so long ago."""
    (name,) = evaluations(chain)
    started = chain.clock() - datetime.timedelta(seconds=seconds)
    chain.vertex.jobs[name] = dataclasses.replace(chain.vertex.jobs[name], started=started)


def test_the_job_is_on_the_months_account_from_before_it_starts_until_it_is_settled(chain: Chain) -> None:
    tick(chain)
    most = branch(chain).facts["live_evaluation"]["most_usd"]
    assert (entry(chain).reserved_usd, entry(chain).actual_usd) == (most, None)
    end(chain, accuracy=0.905)
    (name,) = evaluations(chain)
    ended = chain.clock()
    started = ended - datetime.timedelta(seconds=TIMEOUT_SECONDS / 2)
    chain.vertex.jobs[name] = dataclasses.replace(chain.vertex.jobs[name], started=started, ended=ended)
    assert finish(chain).state is State.LIVE
    assert entry(chain).seconds == TIMEOUT_SECONDS / 2
    assert entry(chain).actual_usd == pytest.approx(most / 2, abs=1e-4)


def test_what_the_month_does_not_allow_any_more_is_not_measured(chain: Chain) -> None:
    spent = spending.read_account(chain.ledger, "flowers", chain.clock().strftime("%Y-%m")).total_usd()
    chain.configure(budget={"max_usd_per_month": spent + 0.01})
    tick(chain)
    assert branch(chain).state is State.REJECTED
    why = branch(chain).facts["gate"]["not_judged"][0]
    assert "measuring it may cost" in why
    assert "spent or reserved (spend/2026-11/flowers.json)" in why
    assert evaluations(chain) == []


@pytest.mark.parametrize("refused", [RejectedByGoogle("no such machine"), ServiceUnavailable("429")])
def test_a_job_that_never_started_costs_nothing(chain: Chain, refused: Exception) -> None:
    chain.vertex.faults.plan("create_custom_job", *[Failing(refused)] * 2)
    tick(chain)
    tick(chain, LIMIT_SECONDS + 1)
    assert branch(chain).state is State.REJECTED
    assert entry(chain).actual_usd == 0


@pytest.mark.parametrize("died", [False, True])
def test_a_job_that_is_called_off_costs_what_it_ran_even_if_its_name_was_never_recorded(
    chain: Chain, died: bool
) -> None:
    if died:
        chain.vertex.faults.plan("create_custom_job", Failing(ProcessDied(), after=True))
    tick(chain)
    chain.clock.advance(LEASE_SECONDS)
    chain.handle(chain.post("cloud", "abort", dataset="flowers"))
    run_for(chain, 600)
    # Vertex AI takes its time to end it.
    chain.vertex.end_job = lambda *_, **__: None  # type: ignore[method-assign]
    tick(chain, 0)
    assert branch(chain).state is State.FAILED
    assert chain.vertex.faults.calls["cancel_custom_job"] == 1
    assert entry(chain).seconds == 600
