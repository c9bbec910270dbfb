"""What an interrupted attempt leaves to the next one."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from dualdeploy.contracts.training import TrainingJob
from support.training import DOCUMENT
from trainer.process import checkpoints
from trainer.process.checkpoints import Checkpoint

WEIGHTS = [np.arange(6, dtype=np.float32).reshape(2, 3), np.float32(2.5).reshape(())]
BEST = [weight + 1 for weight in WEIGHTS]
CHECKPOINT = Checkpoint(
    epoch=3,
    weights=WEIGHTS,
    optimizer=[np.full(4, index, dtype=np.float32) for index in range(12)],
    best_epoch=2,
    best_loss=0.25,
    best_weights=BEST,
    history=({"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}, {"epoch": 3, "loss": 0.3}),
    resumed_at=(1,),
)


def same(found: Any, expected: Any) -> bool:
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


def read(data: bytes, fingerprint: str = "job") -> Checkpoint | None:
    return checkpoints.parse(data, fingerprint, source="gs://models/last.npz")


def job(**changes: Any) -> TrainingJob:
    return TrainingJob.model_validate(DOCUMENT | changes)


def test_a_checkpoint_comes_back_as_it_was() -> None:
    found = read(CHECKPOINT.to_bytes("job"))
    assert found is not None
    assert same(found.weights, WEIGHTS)
    assert same(found.optimizer, CHECKPOINT.optimizer)
    assert same(found.best_weights, BEST)
    assert (found.epoch, found.best_epoch, found.best_loss) == (3, 2, 0.25)
    assert found.history == CHECKPOINT.history
    assert found.resumed_at == (1,)


def test_weights_that_are_the_best_are_stored_once() -> None:
    large = [np.zeros(100_000, dtype=np.float32)]
    both = dataclasses.replace(CHECKPOINT, weights=large, best_weights=large, best_epoch=3)
    apart = dataclasses.replace(both, best_epoch=2)
    assert len(both.to_bytes("job")) < 500_000 < len(apart.to_bytes("job"))
    found = read(both.to_bytes("job"))
    assert found is not None
    assert same(found.best_weights, large)


def test_a_checkpoint_of_another_job_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    assert read(CHECKPOINT.to_bytes("job"), "another") is None
    assert "gs://models/last.npz is not used: it is of a job with other data or parameters" in caplog.text


@given(some.data())
def test_a_damaged_checkpoint_starts_training_anew_whatever_the_damage(data: some.DataObject) -> None:
    whole = CHECKPOINT.to_bytes("job")
    cut = data.draw(some.integers(0, len(whole) - 1))
    assert read(whole[:cut]) is None


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_what_is_not_a_checkpoint_is_not_used(content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    assert read(content) is None
    assert "training starts anew" in caplog.text


def test_other_data_labels_or_parameters_are_another_job() -> None:
    training = DOCUMENT["training"]
    shards = {"train": [{"uri": "gs://data/train.tfrecord", "generation": "1733"}]}
    different = [
        job(),
        job(labels=["tulips", "daisy"]),
        job(shards=shards),
        job(training={**training, "epochs": 7}),
        job(training={**training, "recipe": {"weight_decay": 0.5}}),
        job(features={"image": "image", "label": "other"}),
    ]
    assert len({checkpoints.fingerprint(each) for each in different}) == len(different)


def test_where_the_results_go_does_not_make_another_job() -> None:
    elsewhere = {"directory": "gs://models/runs/again", "result": "gs://models/results/again.json"}
    live = {"run_id": "flowers-1", "saved_model": "gs://models/old"}
    assert checkpoints.fingerprint(job(output=elsewhere, live=live, run_id="x")) == checkpoints.fingerprint(job())


def test_a_checkpoint_lies_in_the_runs_folder_or_where_vertex_ai_says() -> None:
    assert checkpoints.place(job(), {}) == "gs://models/runs/r/cloud/checkpoints/last.npz"
    told = {"AIP_CHECKPOINT_DIR": "gs://models/elsewhere/"}
    assert checkpoints.place(job(), told) == "gs://models/elsewhere/last.npz"
