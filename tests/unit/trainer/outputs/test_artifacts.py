"""Where artifacts go, and which exit code an outcome has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dualdeploy.contracts.training import TrainingJob, TrainingResult
from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable
from support.training import DOCUMENT
from trainer.outputs import artifacts
from trainer.outputs.artifacts import Staging
from trainer.process import failures
from trainer.process.storage import Patience

RESULT = {
    "run_id": "flowers-0123456789ab",
    "dataset": "flowers",
    "target": "cloud",
    "finished_at": "2026-11-28T00:00:00.000Z",
    "architecture": "densenet121",
    "image_size": 224,
    "labels": ["daisy"],
    "artifacts": dict.fromkeys(
        ("saved_model", "pixels_model", "keras", "metrics", "golden", "labels"), "gs://models/x"
    ),
    "metrics": {"accuracy": 1, "loss": 0, "examples": 1},
    "data": {"train_examples": 1, "eval_examples": 1},
}


def job(directory: str) -> TrainingJob:
    return TrainingJob.model_validate(DOCUMENT | {"output": {"directory": directory, "result": f"{directory}.json"}})


def test_artifacts_lie_below_the_output_directory() -> None:
    where = artifacts.places(job("gs://models/runs/r/cloud/"), {})
    assert where.saved_model == "gs://models/runs/r/cloud/model"
    assert where.pixels_model == "gs://models/runs/r/cloud/pixels_model"
    assert where.keras == "gs://models/runs/r/cloud/model.keras"
    assert where.golden == "gs://models/runs/r/cloud/golden.json"
    assert where.labels == "gs://models/runs/r/cloud/labels.txt"
    assert where.answers == "gs://models/runs/r/cloud/answers.csv.gz"


def test_the_saved_model_goes_where_vertex_ai_says() -> None:
    where = artifacts.places(job("gs://models/runs/r/cloud"), {"AIP_MODEL_DIR": "gs://models/elsewhere/model/"})
    assert where.saved_model == "gs://models/elsewhere/model"
    assert where.metrics == "gs://models/runs/r/cloud/metrics.json"


def test_tensorboards_logs_go_where_vertex_ai_says() -> None:
    assert artifacts.places(job("gs://models/runs/r/cloud"), {}).logs == "gs://models/runs/r/cloud/logs"
    told = {"AIP_TENSORBOARD_LOG_DIR": "gs://models/runs/r/cloud/boards/"}
    assert artifacts.places(job("gs://models/runs/r/cloud"), told).logs == "gs://models/runs/r/cloud/boards"


def test_a_result_says_which_job_wrote_it(tmp_path: Path) -> None:
    result = TrainingResult.model_validate(RESULT)
    for environ, job_id in (({"CLOUD_ML_JOB_ID": "1234567890"}, "1234567890"), ({}, "")):
        artifacts.publish_result(result, str(tmp_path / "result.json"), Patience(0), environ)
        assert json.loads((tmp_path / "result.json").read_text())["job"] == job_id


def test_nothing_is_visible_before_it_is_published_and_then_all_of_it(tmp_path: Path) -> None:
    output = tmp_path / "output"
    staging = Staging(tmp_path / "staging")
    for folder in (staging.model, staging.pixels_model):
        folder.mkdir(parents=True)
        (folder / "saved_model.pb").write_bytes(folder.name.encode())
    staging.write("metrics.json", artifacts.as_json({"accuracy": 0.5}))
    staging.write("model.keras", b"keras")
    (staging.logs / "train").mkdir(parents=True)
    (staging.logs / "train" / "events").write_bytes(b"events")
    assert not output.exists()
    artifacts.publish(staging, job(str(output)), artifacts.places(job(str(output)), {}), Patience(0))
    assert (output / "model" / "saved_model.pb").read_bytes() == b"model"
    assert (output / "pixels_model" / "saved_model.pb").read_bytes() == b"pixels_model"
    assert (output / "model.keras").read_bytes() == b"keras"
    assert (output / "logs" / "train" / "events").read_bytes() == b"events"
    assert json.loads((output / "metrics.json").read_text()) == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("error", "code", "on_vertex"),
    [
        (None, 0, 0),
        (failures.UnusableJob("x"), 64, 64),
        (failures.UnusableData("x"), 64, 64),
        (failures.UnusableWeights("x"), 64, 64),
        (failures.OutOfMemory("x"), 64, 64),
        (RejectedByGoogle("403"), 64, 64),
        (ServiceUnavailable("503"), 75, 134),
        (failures.Interrupted(), 75, 134),
        (failures.WorkerLost(), 75, 134),
        (KeyError("a bug"), 1, 1),
    ],
)
def test_the_exit_code_says_whether_another_attempt_makes_sense_and_vertex_ai_makes_it(
    error: Exception | None, code: int, on_vertex: int
) -> None:
    assert failures.exit_code(error, {}) == code
    assert failures.exit_code(error, {"CLOUD_ML_JOB_ID": "123"}) == on_vertex


def test_a_place_that_cannot_be_written_is_found_out_by_the_first_act(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a folder should be")
    order = job(str(tmp_path / "taken" / "out"))
    with pytest.raises(failures.UnwritableOutput, match=r"taken/out/labels\.txt cannot be written"):
        artifacts.publish_labels(order, artifacts.places(order, {}), Patience(0.0))
