"""From the command line and a job description to a checked job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dualdeploy.contracts import dataset_config
from dualdeploy.contracts.training import Recipe, TrainingJob
from support.training import DOCUMENT
from trainer.process import arguments
from trainer.process.failures import UnusableJob


def job(flags: Sequence[str], document: dict[str, Any] | None = None) -> TrainingJob:
    data = None if document is None else json.dumps(document).encode()
    return arguments.order(arguments.parse(flags), data).job


def faults(flags: Sequence[str], document: dict[str, Any] | None = None) -> str:
    with pytest.raises(UnusableJob) as refused:
        job(flags, document)
    return str(refused.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    flowers = tmp_path / "My Flowers"
    flowers.mkdir()
    for name in ("train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord", "evaluated.tfrecord.gz"):
        (flowers / name).touch()
    for name in ("val-00.tfrec", "test_1.tfrecords", "notes.txt"):
        (flowers / name).touch()
    return flowers


def test_a_job_description_is_taken_as_it_is() -> None:
    parsed = job(["--target", "cloud", "--job", "gs://models/job.json"], DOCUMENT)
    assert parsed == TrainingJob.model_validate(DOCUMENT)
    assert parsed.shards.train[0].generation == "1732"


def test_flags_override_the_job_description() -> None:
    flags = ["--target", "cloud", "--job", "j", "--epochs", "2", "--learning-rate", "0.5", "--output", "/here/"]
    flags += ["--weights", "imagenet", "--label-feature", "y", "--image-size", "64", "--seed", "0"]
    parsed = job(flags, DOCUMENT)
    training = parsed.training
    assert (training.epochs, training.learning_rate, training.weights) == (2, 0.5, "imagenet")
    assert (training.image_size, training.seed, training.batch_size) == (64, 0, 32)
    assert parsed.features.label == "y"
    assert (parsed.output.directory, parsed.output.result) == ("/here", "/here/result.json")


def test_a_folder_labels_and_an_output_are_enough(folder: Path) -> None:
    parsed = job(["--target", "mobile", "--data", str(folder), "--labels", "daisy, tulips", "--output", "out"])
    assert parsed.labels == ("daisy", "tulips")
    assert parsed.run_id == "my-flowers-local"
    assert parsed.training.architecture == "mobilenet_v3_small"
    assert parsed.output.result == "out/result.json"
    assert [Path(shard.uri).name for shard in parsed.shards.train] == [
        "evaluated.tfrecord.gz",
        "train-00000-of-00002.tfrecord",
        "train-00001-of-00002.tfrecord",
    ]
    assert [Path(shard.uri).name for shard in parsed.shards.eval] == ["test_1.tfrecords", "val-00.tfrec"]


def test_every_fault_of_the_call_is_reported_at_once(tmp_path: Path) -> None:
    said = faults(["--target", "mobile", "--data", str(tmp_path / "nowhere"), "--epochs", "0", "--labels", "a,a,"])
    for expected in (
        "--output missing",
        "nowhere is not a folder",
        "training.epochs: must be at least 1, not 0",
        "labels: duplicate label",
        "labels: one is empty",
    ):
        assert expected in said
    assert "Field required" not in said


def test_every_fault_of_a_job_description_is_reported_at_once() -> None:
    training = {**DOCUMENT["training"], "architecture": "resnet", "image_size": 8, "weights": "gs://b/w.ckpt"}
    broken = {**DOCUMENT, "v": 2, "labels": ["daisy"], "training": training}
    del broken["output"]
    said = faults(["--target", "mobile", "--job", "j", "--data", "x"], broken)
    for expected in (
        "v: Input should be 1",
        "output: Field required",
        "labels: at least two",
        "training.architecture: must be one of densenet121, mobilenet_v3_small, mobilenet_v3_large, a network of",
        "training.image_size: must be 32 to 1024 pixels, not 8",
        "training.weights: must be none, imagenet, or a file",
        "--data belongs to --data, not to --job",
        "--target mobile, but the job description is for 'cloud'",
    ):
        assert expected in said


@pytest.mark.parametrize("name", ["batch_size", "learning_rate", "seed", "max_bad_records"])
def test_a_number_out_of_range_is_named(name: str) -> None:
    broken = {**DOCUMENT, "training": {**DOCUMENT["training"], name: -1}}
    assert f"training.{name}: must be" in faults(["--target", "cloud", "--job", "j"], broken)


def test_flags_override_the_recipe_and_leave_the_rest_of_it() -> None:
    described = {**DOCUMENT, "training": {**DOCUMENT["training"], "recipe": {"augmentation": "light", "warm_up": 0.1}}}
    flags = ["--target", "cloud", "--job", "j", "--augmentation", "none", "--early-stopping", "0"]
    recipe = job(flags, described).training.recipe
    assert (recipe.augmentation, recipe.early_stopping, recipe.warm_up) == ("none", 0, 0.1)


def test_every_part_of_the_recipe_has_a_flag() -> None:
    assert {name.replace("-", "_") for name, _, _ in arguments.RECIPE_OVERRIDES} == set(Recipe.model_fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("augmentation", "wild"),
        ("label_smoothing", 1.0),
        ("weight_decay", -0.1),
        ("class_weights", "some"),
        ("early_stopping", -1),
        ("fine_tuning_rate", 0),
    ],
)
def test_a_part_of_the_recipe_that_cannot_be_is_named(name: str, value: object) -> None:
    broken = {**DOCUMENT, "training": {**DOCUMENT["training"], "recipe": {name: value}}}
    assert f"training.recipe.{name}: " in faults(["--target", "cloud", "--job", "j"], broken)


def test_a_data_set_and_a_job_have_the_same_recipe_by_default_and_refuse_the_same() -> None:
    assert dataset_config.Recipe().model_dump() == Recipe().model_dump()
    of_data_set, of_job = dataset_config.Recipe.model_fields, Recipe.model_fields
    assert {name: field.metadata for name, field in of_data_set.items()} == {
        name: field.metadata for name, field in of_job.items()
    }


@pytest.mark.parametrize(
    ("weights", "asked", "used"),
    [
        ("none", "auto", "light"),
        ("imagenet", "auto", "standard"),
        ("gs://b/mine.weights.h5", "auto", "standard"),
        ("none", "standard", "standard"),
        ("imagenet", "none", "none"),
    ],
)
def test_the_augmentation_follows_from_the_weights_unless_it_is_named(weights: str, asked: str, used: str) -> None:
    flags = ["--target", "cloud", "--job", "j", "--weights", weights, "--augmentation", asked]
    assert job(flags, DOCUMENT).training.augmentation == used


def test_a_job_of_an_older_launcher_has_no_recipe_and_gets_the_default() -> None:
    parsed = job(["--target", "cloud", "--job", "j"], DOCUMENT)
    assert parsed.training.recipe == Recipe()
    assert parsed.live is None


def test_a_job_without_training_shards_is_refused() -> None:
    broken = {**DOCUMENT, "shards": {"train": []}}
    assert "shards.train: there is none" in faults(["--target", "cloud", "--job", "j"], broken)


@pytest.mark.parametrize("document", [b"", b"[]", b"not json", b"\xff"])
def test_a_job_description_that_is_not_a_json_object_is_refused(document: bytes) -> None:
    with pytest.raises(UnusableJob, match=r"gs://m/job.json is not a JSON object"):
        arguments.order(arguments.parse(["--target", "cloud", "--job", "gs://m/job.json"]), document)


def test_a_folder_where_every_shard_is_held_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test-1.tfrecord").touch()
    said = faults(["--target", "cloud", "--data", str(tmp_path), "--labels", "a,b", "--output", "o"])
    assert "all 1 shards are held out" in said


@pytest.mark.parametrize(
    "flags", [[], ["--target", "tablet"], ["--target", "cloud", "--epoch", "3"], ["--target", "cloud", "--epochs", "x"]]
)
def test_a_faulty_command_line_is_a_user_error_not_argparses_exit_code(flags: list[str]) -> None:
    with pytest.raises(UnusableJob, match="--help lists all flags"):
        arguments.parse(flags)
