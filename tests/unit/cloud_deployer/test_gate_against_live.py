"""A model is held against the one that serves: on the same pictures, or not at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chain import Chain

from dualdeploy.ledger import Branch, State


@pytest.fixture
def chain() -> Chain:
    chain = Chain()
    chain.upload()
    chain.settle()
    chain.clock.advance(3600)
    return chain


def metrics(accuracy: float, *, red: float = 0.9, blue: float = 0.9) -> dict[str, Any]:
    classes = {
        label: {"precision": 1.0, "recall": recall, "f1": 0.9, "examples": 20}
        for label, recall in (("red", red), ("blue", blue))
    }
    return {"accuracy": accuracy, "loss": 0.1, "examples": 40, "per_class": classes}


def bring(chain: Chain, *, mine: dict[str, Any], live: dict[str, Any] | None, force_retrain: bool = False) -> Branch:
    """A second run whose result says `mine` of itself and `live` of the model that serves."""
    serving = chain.live("cloud").current.run_id
    known = set(chain.run_ids())
    if force_retrain:
        chain.queue.append(chain.retrain(force=True))
    else:
        chain.upload(edition=2)
    chain.drain()
    for _ in range(3):
        chain.tick()
    (run_id,) = set(chain.run_ids()) - known
    write = chain.write_result

    def write_with_figures(run_id: str, target: str, **arguments: Any) -> None:
        write(run_id, target, **arguments)
        name = f"results/{run_id}/{target}.json"
        stored = chain.models.read(name)
        document = json.loads(stored.data)
        if target == "cloud":
            document["metrics"] = mine
            document["live"] = {"run_id": serving, "saved_model": "gs://m/x", "metrics": live} if live else None
        chain.models.put(name, json.dumps(document).encode(), expect=stored.generation)

    chain.write_result = write_with_figures  # type: ignore[method-assign]
    chain.settle()
    return chain.branch(run_id, "cloud")


def test_a_model_as_good_as_the_live_one_goes_out(chain: Chain) -> None:
    assert bring(chain, mine=metrics(0.90), live=metrics(0.91)).state is State.LIVE


def test_a_model_that_is_worse_on_the_same_pictures_is_rejected(chain: Chain) -> None:
    branch = bring(chain, mine=metrics(0.90), live=metrics(0.92))
    assert branch.state is State.REJECTED
    assert branch.reason.startswith("regression 0.02 <= 0.01: failed")


def test_a_model_that_lost_one_class_is_rejected_although_it_is_better_on_the_whole(chain: Chain) -> None:
    branch = bring(chain, mine=metrics(0.95, red=0.7, blue=1.0), live=metrics(0.90))
    assert branch.state is State.REJECTED
    assert branch.reason.startswith("class_regression 0.2 <= 0.05: failed")


def test_in_warn_mode_it_goes_out_and_its_history_says_what_was_wrong(chain: Chain) -> None:
    chain.configure(gates={"cloud": {"mode": "warn"}})
    branch = bring(chain, mine=metrics(0.80), live=metrics(0.92))
    assert branch.state is State.LIVE
    assert any(moment.note.startswith("warned only: regression 0.12 <= 0.01") for moment in branch.history)


def test_figures_of_other_pictures_are_not_compared_and_the_verdict_says_so(chain: Chain) -> None:
    serving = chain.live("cloud").current.run_id
    branch = bring(chain, mine=metrics(0.5), live=None)
    assert branch.state is State.LIVE
    (why,) = branch.facts["gate"]["not_judged"]
    assert why.startswith(f"regression: {serving}, which serves, was not measured on the same pictures")
    assert why.endswith("this service knows no TRAINER_IMAGE to measure it with")


def test_two_trainings_on_the_same_snapshot_are_compared_by_their_own_figures(chain: Chain) -> None:
    branch = bring(chain, mine=metrics(0.90), live=None, force_retrain=True)
    assert branch.state is State.REJECTED
    assert branch.reason.startswith("regression 0.05 <= 0.01: failed")


def test_a_calibration_error_is_held_against_its_limit_if_it_was_measured(chain: Chain) -> None:
    chain.configure(gates={"cloud": {"max_calibration_error": 0.1}})
    branch = bring(chain, mine={**metrics(0.95), "calibration_error": 0.2}, live=metrics(0.9))
    assert branch.reason.startswith("calibration_error 0.2 <= 0.1: failed")


def test_a_calibration_error_that_was_not_measured_is_no_approval(chain: Chain) -> None:
    chain.configure(gates={"cloud": {"max_calibration_error": 0.1}})
    branch = bring(chain, mine=metrics(0.95), live=metrics(0.9))
    assert branch.facts["gate"]["not_judged"] == ["calibration_error: the trainer did not measure it"]
