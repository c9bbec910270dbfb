"""What serves is told to the trainer, so that the new model and the live one answer about the same pictures."""

from __future__ import annotations

import pytest

from dualdeploy.contracts import training
from dualdeploy.contracts.training import TARGETS, LiveModel, TrainingJob
from dualdeploy.errors import NoCapacity
from dualdeploy.ledger import State
from support.chain import WHOLE, Chain
from support.fakes import Failing
from support.stories import in_order_of_time


def a_chain() -> tuple[Chain, str]:
    """A project with one live run."""
    chain = Chain()
    chain.upload(*WHOLE)
    chain.settle()
    chain.check_one_run_is_live()
    return chain, chain.run_ids()[0]


def upload_newer(chain: Chain) -> str:
    """Newer data, up to the beginning of its training; the id of its run."""
    chain.upload(*WHOLE, edition=2)
    for _ in range(3):
        chain.tick()
        chain.drain()
    return in_order_of_time(chain)[-1]


def live_in_job(chain: Chain, run_id: str, target: str) -> LiveModel | None:
    return TrainingJob.model_validate_json(chain.models.read(training.job_name(run_id, target)).data).live


def test_the_first_run_has_no_model_to_be_compared_with() -> None:
    chain, run_id = a_chain()
    assert [live_in_job(chain, run_id, target) for target in TARGETS] == [None, None]


@pytest.mark.parametrize("target", TARGETS)
def test_a_later_run_is_compared_with_what_is_live_for_its_target(target: str) -> None:
    chain, first = a_chain()
    second = upload_newer(chain)
    folder = f"gs://models/runs/{first}/{target}/model"
    assert live_in_job(chain, second, target) == LiveModel(run_id=first, saved_model=folder)
    chain.settle()
    chain.check_is_live(second)


def test_a_forced_repetition_is_compared_with_the_run_that_it_repeats() -> None:
    chain, first = a_chain()
    chain.handle(chain.retrain(force=True))
    chain.drain()
    for target in TARGETS:
        live = live_in_job(chain, f"{first}-r2", target)
        assert live
        assert live.run_id == first


def test_each_target_has_a_live_model_of_its_own() -> None:
    chain, first = a_chain()
    chain.mobile_accuracy = 0.1
    chain.configure(gates={"mobile": {"min_accuracy": 0.5}})
    second = upload_newer(chain)
    chain.settle()
    assert chain.standing(second, "mobile").state is State.REJECTED
    chain.upload(*WHOLE, edition=3)
    for _ in range(3):
        chain.tick()
        chain.drain()
    third = in_order_of_time(chain)[-1]
    lives = {target: live_in_job(chain, third, target) for target in TARGETS}
    assert {target: live.run_id for target, live in lives.items() if live} == {"cloud": second, "mobile": first}


@pytest.mark.parametrize("damage", ["gone", "unreadable", "no live record"])
def test_a_live_model_that_cannot_be_found_costs_the_comparison_and_not_the_run(damage: str) -> None:
    chain, first = a_chain()
    name = training.result_name(first, "cloud")
    if damage == "gone":
        chain.models.delete(name, expect=chain.models.read(name).generation)
    elif damage == "unreadable":
        chain.models.put(name, b"{}", expect=chain.models.read(name).generation)
    else:
        record = "serving/cloud/flowers.json"
        chain.ledger_store.put(record, b"[]", expect=chain.ledger_store.read(record).generation)
    second = upload_newer(chain)
    assert live_in_job(chain, second, "cloud") is None
    assert live_in_job(chain, second, "mobile") is not None
    assert len(chain.unfinished_jobs()) == 2


def test_what_was_live_at_the_first_attempt_stays_in_the_job() -> None:
    chain, _ = a_chain()
    chain.vertex.faults.plan("create_custom_job", *[Failing(NoCapacity("no machines"))] * 8)
    second = upload_newer(chain)
    before = chain.models.read(training.job_name(second, "cloud"))
    record = "serving/cloud/flowers.json"
    chain.ledger_store.delete(record, expect=chain.ledger_store.read(record).generation)
    for _ in range(20):
        chain.tick()
        chain.drain()
    assert len(chain.jobs_of(second, "cloud")) == 1
    after = chain.models.read(training.job_name(second, "cloud"))
    assert (before.data, before.generation) == (after.data, after.generation)
