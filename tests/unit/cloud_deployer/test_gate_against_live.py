"""A model is held against the one that serves: on the same pictures, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from cloud_deployer.release import CloudRelease
from dualdeploy.ledger import State
from support.deployer import Deployer


@pytest.fixture
def deployer() -> Deployer:
    deployer = Deployer()
    deployer.bring_out()
    return deployer


def metrics(accuracy: float, *, red: float = 0.9, blue: float = 0.9) -> dict[str, Any]:
    classes = {
        label: {"precision": 1.0, "recall": recall, "f1": 0.9, "examples": 20}
        for label, recall in (("red", red), ("blue", blue))
    }
    return {"accuracy": accuracy, "loss": 0.1, "examples": 40, "per_class": classes}


def bring(deployer: Deployer, *, mine: dict[str, Any], live: dict[str, Any] | None, same: bool = False) -> CloudRelease:
    """A second run whose result says `mine` of itself and `live` of the model that serves; `same`: of the same data."""
    serving = deployer.live_run()
    run_id = deployer.train(1 if same else 2, repeat=2 if same else 1, announce=False)
    measured = {"run_id": serving, "saved_model": "gs://m/x", "metrics": live} if live else None
    deployer.write_result(run_id, metrics=mine, live=measured)
    return deployer.go_through(run_id)


def test_a_model_as_good_as_the_live_one_goes_out(deployer: Deployer) -> None:
    assert bring(deployer, mine=metrics(0.90), live=metrics(0.91)).state is State.LIVE


def test_a_model_that_is_worse_on_the_same_pictures_is_rejected(deployer: Deployer) -> None:
    release = bring(deployer, mine=metrics(0.90), live=metrics(0.92))
    assert release.state is State.REJECTED
    assert release.reason.startswith("regression 0.02 <= 0.01: failed")


def test_a_model_that_lost_one_class_is_rejected_although_it_is_better_on_the_whole(deployer: Deployer) -> None:
    release = bring(deployer, mine=metrics(0.95, red=0.7, blue=1.0), live=metrics(0.90))
    assert release.state is State.REJECTED
    assert release.reason.startswith("class_regression 0.2 <= 0.05: failed")


def test_in_warn_mode_it_goes_out_and_its_history_says_what_was_wrong(deployer: Deployer) -> None:
    deployer.configure(gates={"cloud": {"mode": "warn"}})
    release = bring(deployer, mine=metrics(0.80), live=metrics(0.92))
    assert release.state is State.LIVE
    assert any(moment.note.startswith("warned only: regression 0.12 <= 0.01") for moment in release.history)


def test_figures_of_other_pictures_are_not_compared_and_the_verdict_says_so(deployer: Deployer) -> None:
    serving = deployer.serving().current.run_id
    release = bring(deployer, mine=metrics(0.5), live=None)
    assert release.state is State.LIVE
    (why,) = release.gate["not_judged"]
    assert why.startswith(f"regression: {serving}, which serves, was not measured on the same pictures")
    assert why.endswith("TRAINER_IMAGE is not set, and measuring it takes that image")


def test_two_trainings_on_the_same_snapshot_are_compared_by_their_own_figures(deployer: Deployer) -> None:
    release = bring(deployer, mine=metrics(0.90), live=None, same=True)
    assert release.state is State.REJECTED
    assert release.reason.startswith("regression 0.05 <= 0.01: failed")


def test_a_calibration_error_is_held_against_its_limit_if_it_was_measured(deployer: Deployer) -> None:
    deployer.configure(gates={"cloud": {"max_calibration_error": 0.1}})
    release = bring(deployer, mine={**metrics(0.95), "calibration_error": 0.2}, live=metrics(0.9))
    assert release.reason.startswith("calibration_error 0.2 <= 0.1: failed")


def test_a_calibration_error_that_was_not_measured_is_not_an_approval(deployer: Deployer) -> None:
    deployer.configure(gates={"cloud": {"max_calibration_error": 0.1}})
    release = bring(deployer, mine=metrics(0.95), live=metrics(0.9))
    assert release.gate["not_judged"] == [
        "calibration_error: the trainer did not measure it",
        "latency_ratio: this model was not measured for it",
    ]
