"""AutoML as the services see it: the same behaviour of the fake and of Google's client at the local cloud."""

from __future__ import annotations

import dataclasses
import datetime
import json
import uuid
from typing import Any

import pytest

from dualdeploy.contracts import automl
from dualdeploy.errors import ResourceConflict, ResourceMissing
from dualdeploy.google.automl import Pipeline, PipelineSpec, is_pipeline
from dualdeploy.google.object_store import ABSENT
from dualdeploy.google.vertex import JobOutcome
from support import automl_data

#: Pictures of a data set that can be learned from: 13 of each of three labels, of them 3 in the test set.
PICTURES = list(automl_data.pictures())


class Made:
    """What a test works with, with names of its own."""

    def __init__(self, side: Any) -> None:
        self.side = side
        self.key = uuid.uuid4().hex
        self.labels = {"dualdeploy_data": self.key, "dualdeploy_dataset": "flowers"}

    def import_file(self, *, missing: int = 0) -> str:
        """An import file of all pictures, of which some are not there."""
        folder, store, lines = automl.directory("flowers", self.key), self.side.models, []
        for number, (label, ml_use, data) in enumerate(PICTURES):
            name = f"{folder}/images/{number}.png"
            if number >= missing:
                store.put(name, data, expect=ABSENT, content_type="image/png")
            lines.append(automl_data.line(store.uri(name), label, ml_use))
        name = f"{folder}/import-00000.jsonl"
        store.put(name, "".join(f"{json.dumps(each)}\n" for each in lines).encode(), expect=ABSENT)
        return str(store.uri(name))

    def dataset(self) -> str:
        operation = self.side.automl.start_create_dataset(f"flowers {self.key}", self.labels)
        self.side.finish(operation)
        return str(operation.partition("/operations/")[0])

    def filled(self) -> str:
        dataset = self.dataset()
        self.side.finish(self.side.automl.start_import(dataset, [self.import_file()]))
        return dataset

    def spec(self, dataset: str, **changes: Any) -> PipelineSpec:
        fields: dict[str, Any] = {
            "display_name": "flowers-0123456789ab-cloud",
            "labels": {"dualdeploy_run": f"r-{self.key}", "dualdeploy_target": "cloud"},
            "dataset": dataset,
            "model_type": "CLOUD",
            "node_hours": 8.0,
            "model_id": f"dualdeploy-{self.key}_automl",
            "alias": f"run-{self.key}",
        }
        return PipelineSpec(**{**fields, **changes})


@pytest.fixture
def made(automl_side: Any) -> Made:
    return Made(automl_side)


# Data sets -----------------------------------------------------------------------------------------------------------


def test_the_operation_that_creates_a_data_set_names_it_and_its_labels_find_it(made: Made) -> None:
    assert made.side.automl.find_datasets(made.labels) == []
    first, second = made.dataset(), made.dataset()

    assert [each.name for each in made.side.automl.find_datasets(made.labels)] == [first, second]
    assert made.side.automl.find_datasets({**made.labels, "dualdeploy_dataset": "others"}) == []
    found = made.side.automl.find_dataset(first)
    assert (found.name, found.items, found.labels) == (first, 0, made.labels)
    assert made.side.automl.find_dataset(first.replace("/datasets/", "/datasets/9")) is None


def test_an_import_counts_each_picture_once_however_often_it_is_repeated(made: Made) -> None:
    dataset, uri = made.dataset(), made.import_file()
    for _ in range(2):
        operation = made.side.automl.start_import(dataset, [uri])
        made.side.finish(operation)
        done = made.side.automl.operation(operation)
        assert (done.error, done.partial_failures) == ("", [])
        assert made.side.automl.find_dataset(dataset).items == len(PICTURES)


def test_what_an_import_could_not_use_is_told_although_it_succeeds(made: Made) -> None:
    dataset = made.dataset()
    operation = made.side.automl.start_import(dataset, [made.import_file(missing=25)])
    made.side.finish(operation)

    done = made.side.automl.operation(operation)
    assert (done.done, done.error) == (True, "")
    assert len(done.partial_failures) == 20
    assert "images/" in done.partial_failures[0]
    assert made.side.automl.find_dataset(dataset).items == len(PICTURES) - 25


def test_a_deleted_data_set_is_gone(made: Made) -> None:
    dataset = made.dataset()
    made.side.finish(made.side.automl.start_delete_dataset(dataset))

    assert made.side.automl.find_datasets(made.labels) == []
    assert made.side.automl.find_dataset(dataset) is None
    for call in (
        lambda: made.side.automl.start_delete_dataset(dataset),
        lambda: made.side.automl.start_import(dataset, ["gs://b/x.jsonl"]),
    ):
        with pytest.raises(ResourceMissing):
            call()


# Pipelines -----------------------------------------------------------------------------------------------------------


def test_a_pipeline_is_a_job_that_is_found_by_its_labels_and_leaves_a_version_and_its_evaluation(made: Made) -> None:
    port, spec = made.side.automl, made.spec(made.filled())
    created = port.create_pipeline(spec)

    assert is_pipeline(created.name)
    assert created.labels == spec.labels
    assert (created.outcome, created.is_queued) == (JobOutcome.UNFINISHED, False)
    assert port.find_evaluation(created) is None
    assert [each.name for each in port.find_pipelines(spec.labels)] == [created.name]
    assert port.find_pipelines({**spec.labels, "dualdeploy_target": "mobile"}) == []

    made.side.end(created.name)
    ended = port.get_pipeline(created.name)
    assert ended.outcome is JobOutcome.SUCCEEDED
    assert ended.model.endswith(f"/models/{spec.model_id}")
    assert (ended.version, ended.model_type, ended.budget) == ("1", "CLOUD", 8.0)
    assert ended.ended is not None
    assert 0 < ended.node_hours <= 8.0
    assert ended.billed_seconds == ended.node_hours * 3600
    measured = port.find_evaluation(ended)
    assert sorted(measured.labels) == sorted(automl_data.COLOURS)
    assert [sum(row) for row in measured.rows] == [automl_data.COUNTS["test"]] * 3
    assert measured.log_loss >= 0
    assert port.find_evaluation(dataclasses.replace(ended, version="2")) is None

    # The next run is a version of the same model.
    again = port.create_pipeline(dataclasses.replace(spec, alias=f"run-{made.key}-r2"))
    made.side.end(again.name)
    assert port.get_pipeline(again.name).version == "2"


def test_a_model_that_is_not_there_yet_is_made_by_one_pipeline_at_a_time(made: Made) -> None:
    spec = made.spec(made.filled())
    first = made.side.automl.create_pipeline(spec)

    with pytest.raises(ResourceConflict):
        made.side.automl.create_pipeline(spec)
    made.side.automl.cancel_pipeline(first.name)


def test_a_pipeline_that_is_cancelled_ends_and_one_that_is_gone_needs_none(made: Made) -> None:
    port = made.side.automl
    created = port.create_pipeline(made.spec(made.filled()))
    port.cancel_pipeline(created.name)

    if port.get_pipeline(created.name).ended is None:
        made.side.end(created.name)
    assert port.get_pipeline(created.name).outcome in {JobOutcome.CANCELLED, JobOutcome.SUCCEEDED}
    port.cancel_pipeline(created.name)
    missing = created.name.replace("/trainingPipelines/", "/trainingPipelines/9")
    port.cancel_pipeline(missing)
    with pytest.raises(ResourceMissing):
        port.get_pipeline(missing)


# What is billed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "model_type", "node_hours", "billed"),
    [
        ("SUCCEEDED", "CLOUD", 7.5, 7.5 * 3600),
        ("CANCELLED", "CLOUD", 0.5, 1800),
        ("CANCELLED", "CLOUD", None, 8 * 600),
        ("CANCELLED", "MOBILE_TF_VERSATILE_1", None, 600),
        ("FAILED", "CLOUD", 3.0, 0),
    ],
)
def test_what_a_pipeline_is_billed_for(state: str, model_type: str, node_hours: float | None, billed: float) -> None:
    began = datetime.datetime(2026, 11, 28, tzinfo=datetime.UTC)
    pipeline = Pipeline(
        "projects/p/locations/l/trainingPipelines/1",
        f"PIPELINE_STATE_{state}",
        {},
        started=began,
        ended=began + datetime.timedelta(minutes=10),
        model_type=model_type,
        node_hours=node_hours,
        budget=8.0,
    )
    assert pipeline.billed_seconds == billed
    short = dataclasses.replace(pipeline, budget=0.01)
    if state == "CANCELLED" and node_hours is None:
        assert short.billed_seconds == pytest.approx(36)
