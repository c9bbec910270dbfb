"""The documents between the services and a training job."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pydantic
import pytest

from dualdeploy.contracts import dataset_config
from dualdeploy.contracts.training import (
    TARGETS,
    Artifacts,
    DataUsed,
    Metrics,
    Recipe,
    ShardReference,
    ShardSplit,
    TrainingJob,
    TrainingResult,
    artifact_directory,
    as_mapping,
    job_name,
    parse_result,
    parse_result_name,
    result_name,
)
from dualdeploy.errors import UnusableResult

RESULT: dict[str, Any] = {
    "v": 1,
    "run_id": "flowers-0123456789ab",
    "dataset": "flowers",
    "target": "cloud",
    "finished_at": "2026-11-23T12:00:00.000Z",
    "architecture": "densenet121",
    "image_size": 224,
    "labels": ["daisy", "roses"],
    "artifacts": dict.fromkeys(["saved_model", "pixels_model", "keras", "metrics", "golden", "labels"], "gs://m/x"),
    "metrics": {"accuracy": 0.9, "loss": 0.3, "examples": 100},
    "data": {"train_examples": 900, "eval_examples": 100},
}

JOB: dict[str, Any] = {
    "run_id": "flowers-0123456789ab",
    "dataset": "flowers",
    "target": "mobile",
    "labels": ["daisy", "roses"],
    "shards": {"train": [{"uri": "gs://data/flowers/a.tfrecord", "generation": 17, "size": 10, "crc32c": "AAAAAA=="}]},
    "training": {"architecture": "mobilenet_v3_small", "image_size": 224, "epochs": 2},
    "output": {"directory": "gs://m/runs/x", "result": "gs://m/results/x.json"},
}


def test_a_job_survives_being_written_and_read() -> None:
    job = TrainingJob.model_validate(JOB)

    assert TrainingJob.model_validate_json(job.to_json()) == job
    assert job.shards.train[0].generation == "17"  # 64-bit numbers do not survive every JSON reader
    assert job.shards.eval == ()


def test_a_result_survives_being_written_and_read() -> None:
    result = parse_result(json.dumps(RESULT).encode(), source="x")

    assert parse_result(result.to_json(), source="x") == result
    assert as_mapping(result)["labels"] == ["daisy", "roses"]


MANAGED = {"name": "projects/p/locations/us-central1/models/flowers-automl", "version": "1", "type": "CLOUD"}
NO_FILES = {"golden": "gs://m/x"}


def test_a_model_that_google_keeps_has_no_files() -> None:
    result = parse_result(json.dumps({**RESULT, "artifacts": NO_FILES, "managed": MANAGED}).encode(), source="x")

    assert result.managed is not None
    assert result.managed.version == "1"
    assert result.artifacts.saved_model == result.artifacts.pixels_model == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"managed": MANAGED}, "either managed, or files of a model"),
        ({"artifacts": {**NO_FILES, "pixels_model": "gs://m/x"}, "managed": MANAGED}, "either managed, or files of a"),
        ({"artifacts": NO_FILES}, "target cloud needs artifacts.saved_model"),
        ({"artifacts": {**NO_FILES, "pixels_model": "gs://m/x"}}, "target cloud needs artifacts.saved_model"),
    ],
)
def test_a_result_is_of_one_model(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UnusableResult, match=says):
        parse_result(json.dumps({**RESULT, **change}).encode(), source="x")


@pytest.mark.parametrize(
    "change", [{"name": f"{MANAGED['name']}@1"}, {"name": "flowers-automl"}, {"version": ""}, {"type": ""}]
)
def test_a_managed_model_is_named_whole_and_its_version_apart(change: dict[str, str]) -> None:
    broken = {**RESULT, "artifacts": NO_FILES, "managed": {**MANAGED, **change}}

    with pytest.raises(UnusableResult, match=r"managed\."):
        parse_result(json.dumps(broken).encode(), source="x")


def test_a_newer_writer_may_say_more() -> None:
    newer = {**RESULT, "carbon": 3, "metrics": {**RESULT["metrics"], "top5": 1.0}}

    assert parse_result(json.dumps(newer).encode(), source="x").metrics.accuracy == 0.9


def test_every_fault_of_a_result_is_told_with_its_path() -> None:
    metrics = {"accuracy": 1.5, "loss": "low", "examples": 0}
    broken = {**RESULT, "v": 2, "target": "watch", "metrics": metrics}
    del broken["artifacts"]

    with pytest.raises(UnusableResult) as caught:
        parse_result(json.dumps(broken).encode(), source="gs://m/results/x.json")

    message = str(caught.value)
    assert message.startswith("gs://m/results/x.json is not a training result of version 1: ")
    for path in ("v:", "target:", "artifacts:", "metrics.accuracy:", "metrics.loss:", "metrics.examples:"):
        assert path in message


@pytest.mark.parametrize(("target", "model"), [("cloud", "saved_model"), ("mobile", "pixels_model")])
def test_only_what_is_read_is_required(target: str, model: str) -> None:
    least = {**RESULT, "target": target, "artifacts": {model: "gs://m/model", "golden": "gs://m/golden.json"}}

    assert parse_result(json.dumps(least).encode(), source="x").target == target
    for name in (model, "golden"):
        without = {**least, "artifacts": {key: value for key, value in least["artifacts"].items() if key != name}}
        with pytest.raises(UnusableResult, match=rf"artifacts\.{name}"):
            parse_result(json.dumps(without).encode(), source="x")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"PK\x03\x04"])
def test_what_is_not_a_document_is_an_unusable_result(data: bytes) -> None:
    with pytest.raises(UnusableResult):
        parse_result(data, source="x")


def test_an_accuracy_that_is_not_a_number_is_an_unusable_result() -> None:
    text = json.dumps(RESULT).replace('"accuracy": 0.9', '"accuracy": NaN')

    with pytest.raises(UnusableResult, match=r"metrics\.accuracy"):
        parse_result(text.encode(), source="x")


def test_documents_cannot_be_changed() -> None:
    job = TrainingJob.model_validate(JOB)

    with pytest.raises(pydantic.ValidationError):
        job.run_id = "another"


@pytest.mark.parametrize("target", TARGETS)
def test_a_result_name_tells_run_and_target_again(target: str) -> None:
    assert parse_result_name(result_name("flowers-0123456789ab-r2", target)) == ("flowers-0123456789ab-r2", target)


@pytest.mark.parametrize(
    "name",
    [
        "runs/r/cloud.json",
        "results/r/watch.json",
        "results/r/cloud",
        "results//cloud.json",
        "results/r/x/cloud.json",
        "results/cloud.json",
        "",
        job_name("r", "cloud"),
    ],
)
def test_other_names_are_not_results(name: str) -> None:
    assert parse_result_name(name) is None


def test_results_lie_outside_the_folder_of_artifacts() -> None:
    assert artifact_directory("r", "cloud") == "runs/r/cloud"
    assert job_name("r", "cloud") == "runs/r/cloud/job.json"
    assert not result_name("r", "cloud").startswith("runs/")


def test_the_author_of_a_container_is_told_of_every_field_that_it_gets_and_of_every_one_that_it_must_write() -> None:
    page = (Path(__file__).parents[4] / "docs" / "own-container.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`([a-z_0-9.]+)`", page))
    assert {name.partition(".")[0] for name in told} >= TrainingJob.model_fields.keys()
    assert told >= {f"shards.{name}" for name in ShardSplit.model_fields} | ShardReference.model_fields.keys()
    for model, place in ((TrainingResult, ""), (Artifacts, "artifacts."), (Metrics, "metrics."), (DataUsed, "data.")):
        needed = {f"{place}{name}" for name, field in model.model_fields.items() if field.is_required()}
        assert told >= needed - {"artifacts", "metrics", "data"}, needed - told


def test_the_recipe_that_is_configured_is_the_one_that_is_trained_by() -> None:
    configured, trained_by = dataset_config.Recipe(), Recipe()

    assert configured.model_dump() == trained_by.model_dump()
    assert Recipe.model_validate(configured.model_dump()) == trained_by
