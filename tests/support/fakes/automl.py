"""AutoML in memory: operations and pipelines end when the test says so."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dualdeploy import clock as clocks
from dualdeploy.clock import Clock
from dualdeploy.contracts.automl import ML_USE, SETS
from dualdeploy.errors import RejectedByGoogle, ResourceConflict, ResourceMissing
from dualdeploy.google.automl import Evaluated, ManagedDataset, Pipeline, PipelineSpec
from dualdeploy.google.object_store import ObjectMissing, ObjectStore
from dualdeploy.google.vertex import JobOutcome
from support.fakes.failing import Faults
from support.fakes.operations import FAILED_PRECONDITION, HasOperations
from support.fakes.vertex import PARENT

#: Google tells no more of the lines that an import could not use.
REPORTED_FAILURES = 20


class FakeAutoML(HasOperations):
    """Implements `dualdeploy.google.automl.AutoML`; `models` is the bucket that import files and pictures are in.

    Its kinds of operation: create_dataset, import, delete_dataset.
    """

    def __init__(
        self,
        models: ObjectStore,
        *,
        faults: Faults | None = None,
        auto_finish: bool = False,
        clock: Clock = clocks.utc_now,
    ) -> None:
        super().__init__(faults=faults, auto_finish=auto_finish, first_id=2001)
        self.clock = clock
        self.datasets: dict[str, ManagedDataset] = {}
        #: The items of each data set: label and set, by the bytes of the picture.
        self.items: dict[str, dict[bytes, tuple[str, str]]] = {}
        self.pipelines: dict[str, Pipeline] = {}
        self.specs: dict[str, PipelineSpec] = {}
        #: What was measured of each version, as `<model>@<version>`.
        self.evaluations: dict[str, Evaluated] = {}
        #: How many versions each model has, by its full name.
        self.versions: dict[str, int] = {}
        #: Called with a pipeline that succeeded, when its model is there.
        self.trained: Callable[[Pipeline], None] = lambda _pipeline: None
        self._models = models

    # What a test does ------------------------------------------------------------------------------------------

    def end_pipeline(
        self,
        name: str,
        state: str = "PIPELINE_STATE_SUCCEEDED",
        *,
        error: str = "",
        code: int = FAILED_PRECONDITION,
        node_hours: float | None = None,
        right: float = 1.0,
        hidden: bool = False,
    ) -> None:
        """`right` is the share of the test pictures that the model names; `hidden`: its model is not there yet."""
        now, spec = self.clock(), self.specs[name]
        ended = dataclasses.replace(
            self.pipelines[name],
            state=state,
            error=error,
            error_code=code if error else 0,
            started=self.pipelines[name].created,
            ended=now,
            node_hours=node_hours,
        )
        if state == "PIPELINE_STATE_SUCCEEDED":
            model = f"{PARENT}/models/{spec.model_id}"
            self.versions[model] = self.versions.get(model, 0) + 1
            spent = spec.node_hours if node_hours is None else node_hours
            ended = dataclasses.replace(ended, model=model, version=str(self.versions[model]), node_hours=spent)
        self.pipelines[name] = ended
        if state == "PIPELINE_STATE_SUCCEEDED" and not hidden:
            self.show_model(name, right=right)

    def show_model(self, name: str, *, right: float = 1.0) -> None:
        """Let the model of a pipeline that succeeded be there, and what was measured of it."""
        pipeline, items = self.pipelines[name], self.items.get(self.specs[name].dataset, {})
        labels = tuple(sorted({label for label, _ in items.values()}, reverse=True))
        rows = [[0] * len(labels) for _ in labels]
        for place, label in enumerate(labels):
            tested = sum(each == (label, "test") for each in items.values())
            named = round(tested * right)
            rows[place][place] += named
            rows[place][(place + 1) % len(labels)] += tested - named
        self.evaluations[f"{pipeline.model}@{pipeline.version}"] = Evaluated(labels, rows, 0.25)
        self.trained(pipeline)

    # The port --------------------------------------------------------------------------------------------------

    def find_datasets(self, labels: Mapping[str, str]) -> list[ManagedDataset]:
        def found() -> list[ManagedDataset]:
            with self._lock:
                return [each for each in self.datasets.values() if labels.items() <= each.labels.items()]

        return self.faults.run("find_datasets", found)

    def find_dataset(self, name: str) -> ManagedDataset | None:
        return self.faults.run("find_dataset", lambda: self.datasets.get(name))

    def start_create_dataset(self, display_name: str, labels: Mapping[str, str]) -> str:
        name = f"{PARENT}/datasets/{next(self._ids)}"
        created = self.clock()

        def work() -> Mapping[str, Any]:
            self.datasets[name] = ManagedDataset(name, dict(labels), 0, created)
            self.items[name] = {}
            return {}

        return self.faults.run("start_create_dataset", lambda: self._begin("create_dataset", name, work))

    def start_import(self, dataset: str, uris: Sequence[str]) -> str:
        def work() -> Mapping[str, Any]:
            self._existing(dataset)
            failures = [failure for uri in uris for failure in self._import(dataset, uri)]
            self.datasets[dataset] = dataclasses.replace(self.datasets[dataset], items=len(self.items[dataset]))
            told = [{"code": 3, "message": each} for each in failures[:REPORTED_FAILURES]]
            return {"genericMetadata": {"partialFailures": told}} if told else {"genericMetadata": {}}

        def started() -> str:
            self._existing(dataset)
            return self._begin("import", dataset, work)

        return self.faults.run("start_import", started)

    def start_delete_dataset(self, name: str) -> str:
        def work() -> Mapping[str, Any]:
            self.datasets.pop(name, None)
            return {}

        def started() -> str:
            self._existing(name)
            return self._begin("delete_dataset", name, work)

        return self.faults.run("start_delete_dataset", started)

    def create_pipeline(self, spec: PipelineSpec) -> Pipeline:
        def created() -> Pipeline:
            with self._lock:
                taken = f"{PARENT}/models/{spec.model_id}" not in self.versions and any(
                    self.specs[name].model_id == spec.model_id
                    for name, each in self.pipelines.items()
                    if each.outcome is JobOutcome.UNFINISHED
                )
                if taken:
                    raise ResourceConflict(f"model {spec.model_id} is being trained by another pipeline")
                name = f"{PARENT}/trainingPipelines/{next(self._ids)}"
                self.specs[name] = spec
                self.pipelines[name] = Pipeline(
                    name,
                    "PIPELINE_STATE_PENDING",
                    dict(spec.labels),
                    created=self.clock(),
                    model_type=spec.model_type,
                    budget=spec.node_hours,
                )
                return self.pipelines[name]

        return self.faults.run("create_pipeline", created)

    def find_pipelines(self, labels: Mapping[str, str]) -> list[Pipeline]:
        def found() -> list[Pipeline]:
            with self._lock:
                return [each for each in self.pipelines.values() if labels.items() <= each.labels.items()]

        return self.faults.run("find_pipelines", found)

    def get_pipeline(self, name: str) -> Pipeline:
        def got() -> Pipeline:
            if name not in self.pipelines:
                raise ResourceMissing(f"no pipeline {name}")
            return self.pipelines[name]

        return self.faults.run("get_pipeline", got)

    def cancel_pipeline(self, name: str) -> None:
        def cancelled() -> None:
            with self._lock:
                if name in self.pipelines and self.pipelines[name].outcome is JobOutcome.UNFINISHED:
                    self.end_pipeline(name, "PIPELINE_STATE_CANCELLED", error="cancelled", code=1, node_hours=0.5)

        self.faults.run("cancel_pipeline", cancelled)

    def find_evaluation(self, pipeline: Pipeline) -> Evaluated | None:
        name = f"{pipeline.model}@{pipeline.version}"
        return self.faults.run("find_evaluation", lambda: self.evaluations.get(name))

    # Inside ----------------------------------------------------------------------------------------------------

    def _existing(self, dataset: str) -> None:
        if dataset not in self.datasets:
            raise ResourceMissing(f"no data set {dataset}")

    def _import(self, dataset: str, uri: str) -> list[str]:
        """Take the lines of a file; what could not be used, in words."""
        bucket, failures = self._models.uri(""), []
        for text in self._models.read(uri.removeprefix(bucket)).data.decode().splitlines():
            line = json.loads(text)
            try:
                picture = self._models.read(line["imageGcsUri"].removeprefix(bucket)).data
            except ObjectMissing:
                failures.append(f"{line['imageGcsUri']} cannot be read")
                continue
            use = line["dataItemResourceLabels"][ML_USE]
            if use not in SETS:
                raise RejectedByGoogle(f"ml_use {use}")
            self.items[dataset].setdefault(picture, (line["classificationAnnotation"]["displayName"], use))
        return failures
