"""AutoML for image classification: managed data sets, training pipelines, and what a trained model was found to be.

Google's GAPIC clients (`google.cloud.aiplatform_v1`) over REST, imported at first use as those of `google.vertex` are.
A training pipeline is not a long-running operation: it is a job like any other (`Pipeline`), looked at again and again.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from dualdeploy import lazily
from dualdeploy.contracts.automl import ML_USE, SETS
from dualdeploy.errors import RejectedByGoogle, ResourceMissing
from dualdeploy.google.vertex.clients import Clients, oldest_first, with_labels
from dualdeploy.google.vertex.clients import asked as _call
from dualdeploy.google.vertex.messages import moment
from dualdeploy.google.vertex.types import Job, JobOutcome, Operation

_SCHEMA = "gs://google-cloud-aiplatform/schema"
DATASET_SCHEMA = f"{_SCHEMA}/dataset/metadata/image_1.0.0.yaml"
IMPORT_SCHEMA = f"{_SCHEMA}/dataset/ioformat/image_classification_single_label_io_format_1.0.0.yaml"
DEFINITION = f"{_SCHEMA}/trainingjob/definition/automl_image_classification_1.0.0.yaml"
METRICS_SCHEMA = f"{_SCHEMA}/modelevaluation/classification_metrics_1.0.0.yaml"

#: Nodes that train at the same time: node hours are hours of the clock times these.
#: Source: `AutoMlImageClassificationInputs.budget_milli_node_hours`.
CLOUD_NODES, MOBILE_NODES = 8, 1

#: For so many seconds after its pipeline succeeded, a model, or what was measured of it, may not be there yet.
#: Source: https://github.com/googleapis/python-aiplatform/issues/6581
APPEARS_SECONDS = 900.0

#: In the names of pipelines, and in no other job's.
_COLLECTION = "/trainingPipelines/"


@dataclasses.dataclass(frozen=True)
class ManagedDataset:
    """`items` counts what was imported; the same bytes are one item."""

    name: str
    labels: Mapping[str, str]
    items: int = 0
    created: datetime.datetime | None = None


@dataclasses.dataclass(frozen=True)
class PipelineSpec:
    """One training: `dataset` is the full name of a managed data set, `model_id` of the model that gets a version."""

    display_name: str
    labels: Mapping[str, str]
    dataset: str
    model_type: str
    node_hours: float
    model_id: str
    alias: str
    description: str = ""


@dataclasses.dataclass(frozen=True)
class Pipeline(Job):
    """A training pipeline. `model` (without version) and `version` are there after its success, and the model itself
    sometimes only minutes later; `node_hours` are those that Google counted, None where it does not say, out of
    `budget`."""

    model: str = ""
    version: str = ""
    model_type: str = ""
    node_hours: float | None = None
    budget: float = 0.0

    @property
    def is_queued(self) -> bool:
        """Google chooses the machines: there is no other way of asking for them."""
        return False

    @property
    def billed_seconds(self) -> float:
        """Seconds of one node. A failed training is free, a cancelled one is not: where Google does not say what it
        used, all nodes for as long as it ran count, up to the budget."""
        if self.outcome is JobOutcome.FAILED:
            return 0.0
        if self.node_hours is not None:
            return self.node_hours * 3600
        nodes = CLOUD_NODES if self.model_type == "CLOUD" else MOBILE_NODES
        return min(nodes * super().billed_seconds, self.budget * 3600)


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """How a model did on the test set: `rows[i][j]` counts pictures of label i that were called j, each once."""

    labels: Sequence[str]
    rows: Sequence[Sequence[int]]
    log_loss: float


class AutoML(Protocol):
    """What the services ask of AutoML; `tests/support/fakes` has the other implementation.

    Every method raises what `google.errors` makes of Google's answer: RetryLater or RejectedByGoogle.
    """

    def find_datasets(self, labels: Mapping[str, str]) -> list[ManagedDataset]: ...
    def find_dataset(self, name: str) -> ManagedDataset | None: ...
    def start_create_dataset(self, display_name: str, labels: Mapping[str, str]) -> str: ...
    def start_import(self, dataset: str, uris: Sequence[str]) -> str: ...
    def start_delete_dataset(self, name: str) -> str: ...
    def create_pipeline(self, spec: PipelineSpec) -> Pipeline: ...
    def find_pipelines(self, labels: Mapping[str, str]) -> list[Pipeline]: ...
    def get_pipeline(self, name: str) -> Pipeline: ...
    def cancel_pipeline(self, name: str) -> None: ...
    def find_evaluation(self, pipeline: Pipeline) -> Evaluated | None: ...
    def operation(self, name: str) -> Operation | None: ...


def is_pipeline(job: str) -> bool:
    """Whether the name of a job is that of a training pipeline."""
    return _COLLECTION in job


class AutoMLGateway(Clients):
    """The real thing, or an emulator of it."""

    # Data sets -------------------------------------------------------------------------------------------------

    def find_datasets(self, labels: Mapping[str, str]) -> list[ManagedDataset]:
        """Data sets with all these labels, oldest first."""
        wanted = with_labels(labels)
        found = _call(
            f"list data sets with {wanted}",
            lambda: list(
                self._datasets.list_datasets(
                    request={"parent": self._parent, "filter": wanted}, **self._patience(repeat=True)
                )
            ),
        )
        return oldest_first(map(_dataset, found))

    def find_dataset(self, name: str) -> ManagedDataset | None:
        try:
            found = _call(f"get {name}", lambda: self._datasets.get_dataset(name=name, **self._patience(repeat=True)))
        except ResourceMissing:
            return None
        return _dataset(found)

    def start_create_dataset(self, display_name: str, labels: Mapping[str, str]) -> str:
        """Not repeated by itself: Google takes no id from us, so a lost answer is found again by its labels."""
        types = lazily.load("google.cloud.aiplatform_v1.types")

        dataset = types.Dataset(display_name=display_name, labels=dict(labels), metadata_schema_uri=DATASET_SCHEMA)
        operation = _call(
            f"create data set {display_name}",
            lambda: self._datasets.create_dataset(parent=self._parent, dataset=dataset, **self._patience(repeat=False)),
        )
        return str(operation.operation.name)

    def start_import(self, dataset: str, uris: Sequence[str]) -> str:
        """Import what the files at `uris` (JSONL, one picture a line) name; the same files again change nothing."""
        types = lazily.load("google.cloud.aiplatform_v1.types")

        config = types.ImportDataConfig(gcs_source=types.GcsSource(uris=list(uris)), import_schema_uri=IMPORT_SCHEMA)
        operation = _call(
            f"import into {dataset}",
            lambda: self._datasets.import_data(name=dataset, import_configs=[config], **self._patience(repeat=False)),
        )
        return str(operation.operation.name)

    def start_delete_dataset(self, name: str) -> str:
        """Raises ResourceMissing for one that is gone."""
        operation = _call(
            f"delete {name}", lambda: self._datasets.delete_dataset(name=name, **self._patience(repeat=False))
        )
        return str(operation.operation.name)

    # Pipelines -------------------------------------------------------------------------------------------------

    def create_pipeline(self, spec: PipelineSpec) -> Pipeline:
        """Train a version of `spec.model_id`, or its first. Not repeated by itself, as above."""
        types = lazily.load("google.cloud.aiplatform_v1.types")

        pipeline = types.TrainingPipeline(
            display_name=spec.display_name,
            labels=dict(spec.labels),
            training_task_definition=DEFINITION,
            training_task_inputs=_value(
                {
                    "modelType": spec.model_type,
                    # Without a budget Google takes one of its own, of hundreds of dollars.
                    "budgetMilliNodeHours": round(spec.node_hours * 1000),
                    "multiLabel": False,
                    "disableEarlyStopping": False,
                }
            ),
            input_data_config=types.InputDataConfig(
                dataset_id=spec.dataset.rsplit("/", 1)[-1],
                filter_split=types.FilterSplit(
                    **{f"{each}_filter": f"labels.{ML_USE}={each}" for each in SETS}  # one for each of our sets
                ),
            ),
            model_to_upload=types.Model(
                display_name=spec.display_name,
                labels=dict(spec.labels),
                version_aliases=[spec.alias],
                version_description=spec.description,
            ),
        )
        name = f"{self._parent}/models/{spec.model_id}"
        try:
            _call(f"get {name}", lambda: self._models.get_model(name=name, **self._patience(repeat=True)))
            pipeline.parent_model = name
        except ResourceMissing:
            pipeline.model_id = spec.model_id
        created = _call(
            f"create a training pipeline for {spec.display_name}",
            lambda: self._pipelines.create_training_pipeline(
                parent=self._parent, training_pipeline=pipeline, **self._patience(repeat=False)
            ),
        )
        return _pipeline(created)

    def find_pipelines(self, labels: Mapping[str, str]) -> list[Pipeline]:
        """Pipelines with all these labels, oldest first."""
        wanted = with_labels(labels)
        found = _call(
            f"list training pipelines with {wanted}",
            lambda: list(
                self._pipelines.list_training_pipelines(
                    request={"parent": self._parent, "filter": wanted}, **self._patience(repeat=True)
                )
            ),
        )
        return oldest_first(map(_pipeline, found))

    def get_pipeline(self, name: str) -> Pipeline:
        """Raises ResourceMissing."""
        return _pipeline(
            _call(
                f"get {name}", lambda: self._pipelines.get_training_pipeline(name=name, **self._patience(repeat=True))
            )
        )

    def cancel_pipeline(self, name: str) -> None:
        """Ask for the end of a pipeline, which may succeed all the same; one that has ended, or is gone, needs none."""
        try:
            _call(
                f"cancel {name}",
                lambda: self._pipelines.cancel_training_pipeline(name=name, **self._patience(repeat=True)),
            )
        except ResourceMissing:
            return
        except RejectedByGoogle:
            if self.get_pipeline(name).outcome is JobOutcome.UNFINISHED:
                raise

    def find_evaluation(self, pipeline: Pipeline) -> Evaluated | None:
        """What Google measured on the test set; None while the model, or its evaluation, is not there yet."""
        if not pipeline.model or not pipeline.version:
            return None
        name = f"{pipeline.model}@{pipeline.version}"
        try:
            found = _call(
                f"list the evaluations of {name}",
                lambda: list(self._models.list_model_evaluations(parent=name, **self._patience(repeat=True))),
            )
        except ResourceMissing:
            return None
        return next((_evaluated(each) for each in found if each.metrics_schema_uri == METRICS_SCHEMA), None)

    # Inside ----------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _datasets(self) -> Any:
        return lazily.load("google.cloud.aiplatform_v1").DatasetServiceClient(**self._client_arguments())

    @functools.cached_property
    def _pipelines(self) -> Any:
        return lazily.load("google.cloud.aiplatform_v1").PipelineServiceClient(**self._client_arguments())


def _value(document: Mapping[str, Any]) -> Any:
    json_format = lazily.load("google.protobuf.json_format")
    struct_pb2 = lazily.load("google.protobuf.struct_pb2")

    return json_format.ParseDict(dict(document), struct_pb2.Value())


def _plain(message: Any, field: str) -> Mapping[str, Any]:
    """A field of the kind google.protobuf.Value as JSON has it; empty for one that is not there, or no object."""
    json_format = lazily.load("google.protobuf.json_format")

    found = json_format.MessageToDict(type(message).pb(message)).get(field)
    return found if isinstance(found, Mapping) else {}


def _dataset(dataset: Any) -> ManagedDataset:
    return ManagedDataset(dataset.name, dict(dataset.labels), int(dataset.data_item_count), moment(dataset.create_time))


def _pipeline(pipeline: Any) -> Pipeline:
    inputs, spent = _plain(pipeline, "trainingTaskInputs"), _plain(pipeline, "trainingTaskMetadata")
    cost = spent.get("costMilliNodeHours")
    return Pipeline(
        name=pipeline.name,
        state=getattr(pipeline.state, "name", str(pipeline.state)),
        labels=dict(pipeline.labels),
        error=pipeline.error.message if pipeline.error else "",
        error_code=int(pipeline.error.code) if pipeline.error else 0,
        created=moment(pipeline.create_time),
        started=moment(pipeline.start_time),
        ended=moment(pipeline.end_time),
        model=pipeline.model_to_upload.name.split("@", 1)[0],
        version=pipeline.model_to_upload.version_id,
        model_type=str(inputs.get("modelType", "")),
        # Numbers of 64 bits are texts in JSON.
        node_hours=None if cost is None else float(cost) / 1000,
        budget=float(inputs.get("budgetMilliNodeHours") or 0) / 1000,
    )


def _evaluated(evaluation: Any) -> Evaluated:
    metrics = _plain(evaluation, "metrics")
    matrix = metrics.get("confusionMatrix", {})
    return Evaluated(
        labels=tuple(str(each.get("displayName", "")) for each in matrix.get("annotationSpecs", ())),
        rows=tuple(tuple(int(count) for count in row) for row in matrix.get("rows", ())),
        # What is 0 is left out.
        log_loss=float(metrics.get("logLoss", 0.0)),
    )
