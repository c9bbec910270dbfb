"""projects.locations.trainingPipelines: AutoML's trainings, whose search a command of the topology stands for."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import random
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from local_cloud.api import ApiError
from local_cloud.faults import JOB, MODEL_APPEARANCE, Faults
from local_cloud.vertex import automl, pages, searches
from local_cloud.vertex.automl import AutoMl, Task
from local_cloud.vertex.datasets import Datasets
from local_cloud.vertex.errors import already_exists, failed_precondition, invalid_argument, not_found, rpc_status
from local_cloud.vertex.evaluation import Answers
from local_cloud.vertex.filters import enum_field, labels_field, text_field, time_field
from local_cloud.vertex.imports import ML_USE, ML_USES
from local_cloud.vertex.models import Models
from local_cloud.vertex.names import Location, check_display_name, check_labels, last_segment, new_id, now
from local_cloud.vertex.objects import Objects, StorageFailed, split_uri
from local_cloud.vertex.operations import Operations
from local_cloud.vertex.records import Records
from local_cloud.vertex.searches import SearchFailed
from local_cloud.vertex.wire import Wire, body

#: Faults planned for this name hit the next pipeline that runs: `crash` fails it, `stall` keeps it from ending.
RUN = "aiplatform.trainingPipelines.run"
#: One planned for this name lets the model of the next pipeline that succeeds appear later (`delay:SECONDS`), as was
#: reported: https://github.com/googleapis/python-aiplatform/issues/6581
APPEAR = "aiplatform.models.appear"

#: The values of google.cloud.aiplatform.v1.PipelineState.
STATES = frozenset(
    f"PIPELINE_STATE_{state}"
    for state in (
        "UNSPECIFIED",
        "QUEUED",
        "PENDING",
        "RUNNING",
        "SUCCEEDED",
        "FAILED",
        "CANCELLING",
        "CANCELLED",
        "PAUSED",
    )
)
TERMINAL_STATES = frozenset(f"PIPELINE_STATE_{state}" for state in ("SUCCEEDED", "FAILED", "CANCELLED"))

_COLLECTION = "trainingPipelines"
_DELETE = "aiplatform.trainingPipelines.delete"
_LISTING = pages.Listing(
    key="trainingPipelines",
    fields={
        "display_name": text_field("displayName", "= != :"),
        "state": enum_field("state", STATES),
        "training_task_definition": text_field("trainingTaskDefinition", "= != :"),
        "create_time": time_field("createTime"),
        "labels": labels_field(),
    },
    newest_first=True,
)
_CREATABLE = (
    "displayName",
    "inputDataConfig",
    "trainingTaskDefinition",
    "modelToUpload",
    "modelId",
    "parentModel",
    "labels",
    "encryptionSpec",
)
_SPLITS = ("filterSplit", "fractionSplit")
_OTHER_SPLITS = ("predefinedSplit", "timestampSplit", "stratifiedSplit")
#: "By default roughly 80% of data is used for training, 10% for validation, and 10% for test."
_FRACTIONS = {"trainingFraction": 0.8, "validationFraction": 0.1, "testFraction": 0.1}
_NOTHING = "-"
#: Where a search finds its pictures in its folder.
_PICTURES = "pictures"
_LOOK_SECONDS = 0.2
_LOG = logging.getLogger(__name__)

Document = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Picture:
    """One item of the data set that takes part: its digest, where it lies, its label and set."""

    digest: str
    uri: str
    label: str
    set: str

    @property
    def file(self) -> str:
        return f"{_PICTURES}/{self.digest}"


class _Failed(Exception):  # how a pipeline ends
    """A pipeline fails with this error."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


class TrainingPipelines:
    """The pipelines of one location, each on a thread of its own until it ends."""

    def __init__(
        self,
        *,
        records: Records,
        location: Location,
        operations: Operations,
        faults: Faults,
        datasets: Datasets,
        models: Models,
        objects: Objects,
        means: AutoMl | None,
        python: str,
        environment: Callable[[], Mapping[str, str]],
        folder: Path,
        provisioning_seconds: float,
    ) -> None:
        faults.register(RUN, JOB)
        faults.register(APPEAR, MODEL_APPEARANCE)
        self._records = records
        self._location = location
        self._operations = operations
        self._faults = faults
        self._datasets = datasets
        self._models = models
        self._objects = objects
        self._means = means
        self._python = python
        self._environment = environment
        self._folder = folder
        self._provisioning_seconds = provisioning_seconds
        self._lock = threading.Lock()
        self._stops: dict[str, threading.Event] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._closing = threading.Event()
        operations.define_deletion(_DELETE, self._remove)

    # The API

    def register(self, wire: Wire) -> None:
        path = "/trainingPipelines/<pipeline>"
        wire.operation(
            "aiplatform.trainingPipelines.create",
            "POST",
            "/trainingPipelines",
            self._create,
            body="TrainingPipeline",
            field="training_pipeline",
            answer="TrainingPipeline",
            differs="AutoML image classification with a single label only; a command of the topology stands for its"
            " search, and early stopping always comes at 0.9 of the least budget; base models and Model Garden's"
            " types are refused; a sixth training is refused, not queued, and a parent of custom models too"
            " (unverified)",
        )
        wire.operation(
            "aiplatform.trainingPipelines.list",
            "GET",
            "/trainingPipelines",
            self._list,
            answer="ListTrainingPipelinesResponse",
            differs="read_mask is ignored",
        )
        wire.operation("aiplatform.trainingPipelines.get", "GET", path, self._get, answer="TrainingPipeline")
        wire.operation(
            "aiplatform.trainingPipelines.cancel",
            "POST",
            f"{path}:cancel",
            self._cancel,
            body="CancelTrainingPipelineRequest",
        )
        wire.operation(_DELETE, "DELETE", path, self._delete, answer="Operation")

    def _create(self, project: str, location: str) -> Document:
        parent = self._location.check(project, location)
        wanted = body()
        check_display_name(wanted)
        check_labels(wanted.get("labels"))
        automl.require_region(self._location.region)
        if wanted.get("trainingTaskDefinition") != automl.DEFINITION:
            raise invalid_argument(
                f"training_task_definition {wanted.get('trainingTaskDefinition', '')!r} is not supported here:"
                f" {automl.DEFINITION} is."
            )
        if self._means is None:
            raise failed_precondition("The topology of this local cloud names nothing that stands for AutoML's search.")
        inputs = wanted.get("trainingTaskInputs") or {}
        task = automl.task(inputs)
        _check_split(wanted.get("inputDataConfig") or {})
        model = wanted.get("modelToUpload") or {}
        check_display_name(model)
        check_labels(model.get("labels"))
        self._models.check_aliases(model)
        with self._records.transaction():
            self._datasets.existing(self._dataset_of(parent, wanted))
            self._check_target(parent, wanted)
            self._require_quota()
            created = now()
            pipeline: Document = {
                "name": f"{parent}/trainingPipelines/{new_id()}",
                **{key: wanted[key] for key in _CREATABLE if key in wanted},
                "trainingTaskInputs": task.document(inputs),
                "state": "PIPELINE_STATE_PENDING",
                "createTime": created,
                "updateTime": created,
            }
            self._records.put(_COLLECTION, pipeline["name"], pipeline)
        self._launch(pipeline["name"], self._live)
        return pipeline

    def _dataset_of(self, parent: str, pipeline: Mapping[str, Any]) -> str:
        identity = (pipeline.get("inputDataConfig") or {}).get("datasetId", "")
        if not str(identity).isdigit():
            raise invalid_argument(f"input_data_config.dataset_id must be a number, got {identity!r}.")
        return f"{parent}/datasets/{identity}"

    def _check_target(self, parent: str, wanted: Mapping[str, Any]) -> None:
        """Refuse a model id that is taken, by a model or by a training, and a parent that cannot be one."""
        name = self._models.trained_target(parent, wanted)
        running = (each for _, each in self._records.all(_COLLECTION) if each["state"] not in TERMINAL_STATES)
        if wanted.get("modelId") and any(each.get("modelId") == wanted["modelId"] for each in running):
            raise already_exists(f"Model {name} is being trained by another pipeline.")

    def _require_quota(self) -> None:
        """Whether Google refuses or queues what is too much was never seen [U]; the words are those of its quotas."""
        unfinished = [each for _, each in self._records.all(_COLLECTION) if each["state"] not in TERMINAL_STATES]
        if len(unfinished) >= automl.CONCURRENT_TRAININGS:
            raise ApiError(
                429,
                "RESOURCE_EXHAUSTED",
                "The following quotas are exceeded: AutoMLImageClassificationConcurrentTrainings",
            )

    def _get(self, project: str, location: str, pipeline: str) -> Document:
        name = f"{self._location.check(project, location)}/trainingPipelines/{pipeline}"
        record = self._records.get(_COLLECTION, name)
        if record is None:
            raise not_found(f"The TrainingPipeline does not exist: {name}.")
        return record

    def _list(self, project: str, location: str) -> Document:
        self._location.check(project, location)
        return pages.answer(_LISTING, self._records.all(_COLLECTION))

    def _cancel(self, project: str, location: str, pipeline: str) -> Document:
        with self._records.transaction():
            record = self._get(project, location, pipeline)
            if record["state"] == "PIPELINE_STATE_CANCELLED":
                return {}
            if record["state"] in TERMINAL_STATES:
                raise failed_precondition(
                    f"The TrainingPipeline is in state {record['state']} and cannot be cancelled."
                )
            self._change(record["name"], state="PIPELINE_STATE_CANCELLING")
        self._stop(record["name"])
        return {}

    def _delete(self, project: str, location: str, pipeline: str) -> Document:
        with self._records.transaction():
            record = self._get(project, location, pipeline)
            if record["state"] not in TERMINAL_STATES:
                raise failed_precondition(
                    f"The TrainingPipeline is in state {record['state']}: cancel it before deleting it."
                )
            return self._operations.start(_DELETE, record["name"], {"name": record["name"]})

    def _remove(self, arguments: Document) -> None:
        self._records.remove(_COLLECTION, arguments["name"])

    # The life of a pipeline

    def resume(self) -> None:
        """After a restart: trainings begin again, and models that had not appeared yet appear."""
        for _, pipeline in self._records.all(_COLLECTION):
            if pipeline["state"] == "PIPELINE_STATE_CANCELLING":
                self._end(pipeline["name"], "CANCELLED", error=_CANCELLED)
            elif pipeline["state"] not in TERMINAL_STATES:
                self._launch(pipeline["name"], self._live)
            elif "trained" in pipeline:
                self._launch(pipeline["name"], self._appear)

    def close(self) -> None:
        """End the searches; the next process begins them again."""
        self._closing.set()
        with self._lock:
            threads = list(self._threads.values())
            for stop in self._stops.values():
                stop.set()
        for thread in threads:
            thread.join(timeout=10)

    def _launch(self, name: str, life: Callable[[str], None]) -> None:
        def run() -> None:
            try:
                life(name)
            finally:
                with self._lock:
                    self._stops.pop(name, None)
                    self._threads.pop(name, None)

        thread = threading.Thread(target=run, name=f"pipeline-{name[-6:]}", daemon=True)
        with self._lock:
            self._stops[name] = threading.Event()
            self._threads[name] = thread
        thread.start()

    def _stop(self, name: str) -> None:
        with self._lock:
            if stop := self._stops.get(name):
                stop.set()

    def _live(self, name: str) -> None:
        stop = self._stops[name]
        began = time.monotonic()
        try:
            # Without a while in PENDING no race that hides there would ever be seen.
            trained = None if stop.wait(self._provisioning_seconds) else self._train(name, stop)
            if trained is not None:
                self._succeed(name, trained)
            else:
                self._end(name, "CANCELLED", error=_CANCELLED, **self._spent(name, time.monotonic() - began))
        except _Failed as failed:
            self._end(name, "FAILED", error=rpc_status(failed.error))
        except Exception as error:  # noqa: BLE001  # a pipeline must reach an end whatever breaks here
            _LOG.exception("pipeline %s", name)
            self._end(name, "FAILED", error=rpc_status(ApiError(500, "INTERNAL", f"Internal error: {error}")))

    def _train(self, name: str, stop: threading.Event) -> Document | None:
        """What the model is made of; None when the pipeline was stopped."""
        with self._records.transaction():
            pipeline = self._records.get(_COLLECTION, name)
            if pipeline is None or pipeline["state"] == "PIPELINE_STATE_CANCELLING":
                return None
            started = pipeline.get("startTime") or now()
            pipeline = self._change(name, state="PIPELINE_STATE_RUNNING", startTime=started)
        fault = self._faults.take(RUN)
        if fault == "crash":
            raise _Failed(ApiError(500, "INTERNAL", "Internal error occurred. Please retry in a few minutes."))
        if fault == "stall":
            stop.wait()
            return None
        began = time.monotonic()
        task = automl.task(pipeline["trainingTaskInputs"])
        dataset = self._dataset_of(self._location.name, pipeline)
        pictures = self._pictures(pipeline, dataset)
        labels = shuffled({picture.label for picture in pictures}, last_segment(dataset))
        folder = self._folder / last_segment(name)
        if not self._search(folder, task, labels, pictures, stop):
            return None
        tested = _tested(folder, labels, last_segment(dataset), pictures)
        # They lie in the bucket as well; a model is its other files.
        shutil.rmtree(folder / _PICTURES)
        if stop.wait(max(0.0, began + self._seconds(task) - time.monotonic())):
            return None
        return {
            "folder": str(folder),
            "modelType": task.model_type,
            "labels": labels,
            "ids": tested.ids,
            "counts": {each: sum(picture.set == each for picture in pictures) for each in ML_USES},
            "tested": dataclasses.asdict(tested),
        }

    def _seconds(self, task: Task) -> float:
        return task.cost / 1000 * (self._means.seconds_per_node_hour if self._means else 0.0)

    def _pictures(self, pipeline: Mapping[str, Any], dataset: str) -> list[_Picture]:
        """What is learned from and tested with. Raises _Failed, in the words of Google's troubleshooting page."""
        try:
            items = self._datasets.items(dataset)
        except ApiError as error:
            raise _Failed(error) from error
        split = _split(pipeline["inputDataConfig"], items)
        pictures = [
            _Picture(digest, item["uri"], item["label"], split[digest])
            for digest, item in items.items()
            if item["label"] and digest in split
        ]
        labels = {picture.label for picture in pictures}
        if len(labels) < 2:
            raise _Failed(invalid_argument(f"The Dataset must have at least 2 labels to train, it has {len(labels)}."))
        for label in sorted(labels):
            own = [picture for picture in pictures if picture.label == label]
            if len(own) < automl.IMAGES_OF_A_LABEL:
                raise _Failed(
                    invalid_argument(
                        f"Label {label!r} has {len(own)} images; at least {automl.IMAGES_OF_A_LABEL} are required."
                    )
                )
            if missing := [each for each in ML_USES if each not in {picture.set for picture in own}]:
                raise _Failed(invalid_argument(f"Label {label!r} has no images in the {missing[0]} set."))
        return pictures

    def _search(
        self, folder: Path, task: Task, labels: Sequence[str], pictures: Sequence[_Picture], stop: threading.Event
    ) -> bool:
        """Run what stands for the search; False when it was stopped."""
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt that a restart cut off
        (folder / _PICTURES).mkdir(parents=True)
        for picture in pictures:
            bucket, name = split_uri(picture.uri) or ("", "")
            try:
                data = self._objects.read(bucket, name)
            except StorageFailed as failed:
                error = not_found(f"The image {picture.uri} cannot be read: {failed}")
                raise _Failed(error) from failed
            (folder / picture.file).write_bytes(data)
            if stop.is_set():
                return False
        listing = [{"file": each.file, "label": each.label, "set": each.set} for each in pictures]
        searches.write_task(folder, model_type=task.model_type, labels=labels, pictures=listing)
        if self._means is None:
            raise _Failed(failed_precondition("The topology names nothing that stands for AutoML's search."))
        try:
            return searches.run(
                self._means.search, folder, python=self._python, environment=self._environment(), stop=stop
            )
        except SearchFailed as failed:
            raise _Failed(ApiError(500, "INTERNAL", f"Internal error: {failed}")) from failed

    def _succeed(self, name: str, trained: Document) -> None:
        """End well. The model is told of first, and may appear later."""
        fault = self._faults.take(APPEAR)
        with self._records.transaction():
            pipeline = self._records.get(_COLLECTION, name)
            if pipeline is None or self._closing.is_set():
                return
            task = automl.task(pipeline["trainingTaskInputs"])
            try:
                model, version = self._models.reserve(self._location.name, pipeline)
            except ApiError as error:
                raise _Failed(error) from error
            spent = {"costMilliNodeHours": str(task.cost), "successfulStopReason": task.stop_reason}
            appears = time.time() + (float(fault.removeprefix("delay:")) if fault else 0.0)
            self._end(
                name,
                "SUCCEEDED",
                modelToUpload={**pipeline["modelToUpload"], "name": model, "versionId": version},
                trainingTaskMetadata=spent,
                trained={**trained, "appears": appears},
            )
            if fault is None:
                self._add_model(name)
        if fault is not None:
            self._appear(name)

    def _appear(self, name: str) -> None:
        """Let the model of a pipeline be there, when its time has come."""
        pipeline = self._records.get(_COLLECTION, name)
        if pipeline is None or self._closing.wait(max(0.0, pipeline["trained"]["appears"] - time.time())):
            return
        self._add_model(name)

    def _add_model(self, name: str) -> None:
        with self._records.transaction():
            pipeline = self._records.get(_COLLECTION, name)
            if pipeline is None or "trained" not in pipeline:
                return
            trained = pipeline.pop("trained")
            self._models.add_trained(pipeline, trained)
            self._records.put(_COLLECTION, name, pipeline)

    def _spent(self, name: str, seconds: float) -> Document:
        """What a cancelled training is billed for: the part of its time that it ran."""
        pipeline = self._records.get(_COLLECTION, name) or {}
        if "startTime" not in pipeline:
            return {}
        task = automl.task(pipeline["trainingTaskInputs"])
        whole = self._seconds(task)
        cost = max(1, min(task.cost, int(task.cost * seconds / whole))) if whole else task.cost
        return {"trainingTaskMetadata": {"costMilliNodeHours": str(cost)}}

    def _end(self, name: str, state: str, **fields: Any) -> None:
        """Write an end, unless it only came because the local cloud stops: then the next process begins again."""
        with self._records.transaction():
            if not self._closing.is_set() and self._records.get(_COLLECTION, name) is not None:
                self._change(name, state=f"PIPELINE_STATE_{state}", endTime=now(), **fields)

    def _change(self, name: str, **fields: Any) -> Document:
        with self._records.transaction():
            pipeline = self._records.get(_COLLECTION, name)
            if pipeline is None:
                raise not_found(f"The TrainingPipeline does not exist: {name}.")
            pipeline |= {**fields, "updateTime": now()}
            self._records.put(_COLLECTION, name, pipeline)
            return pipeline


_CANCELLED = {"code": 1, "message": "The TrainingPipeline was cancelled."}


def shuffled(labels: set[str], dataset: str) -> list[str]:
    """The labels in the order that the data set's models have them: arbitrary, and never the sorted one."""
    order = sorted(labels)
    random.Random(dataset).shuffle(order)
    return order if order != sorted(labels) else order[::-1]


def _tested(folder: Path, labels: Sequence[str], dataset: str, pictures: Sequence[_Picture]) -> Answers:
    test = [picture for picture in pictures if picture.set == "test"]
    try:
        scores = searches.read_scores(folder, [picture.file for picture in test], len(labels))
    except SearchFailed as failed:
        raise _Failed(ApiError(500, "INTERNAL", f"Internal error: {failed}")) from failed
    ids = [_spec_id(dataset, label) for label in labels]
    return Answers(labels, ids, [labels.index(picture.label) for picture in test], scores)


def _spec_id(dataset: str, label: str) -> str:
    """The id of a label's AnnotationSpec: the same for all models of a data set."""
    digest = hashlib.sha256(f"{dataset}/{label}".encode()).digest()
    return str(10**18 + int.from_bytes(digest[:8], "big") % (8 * 10**18))


def _check_split(config: Mapping[str, Any]) -> None:
    """Refuse what AutoML for images does not split by. Raises ApiError 400."""
    for split in _OTHER_SPLITS:
        if split in config:
            raise invalid_argument(f"input_data_config.{split} is not supported for image data.")
    for key in ("trainingFilter", "validationFilter", "testFilter") if "filterSplit" in config else ():
        _wanted_use(config["filterSplit"].get(key, ""), key)


def _wanted_use(text: str, key: str) -> str:
    """The ml_use that a filter asks for; empty for the filter that matches nothing."""
    if text == _NOTHING:
        return ""
    for use in ML_USES:
        if text.replace('"', "").replace(" ", "") == f"labels.{ML_USE}={use}":
            return use
    raise invalid_argument(
        f"input_data_config.filter_split.{key} {text!r}: the local cloud knows labels.{ML_USE}=<set> and {_NOTHING!r}."
    )


def _split(config: Mapping[str, Any], items: Mapping[str, Document]) -> dict[str, str]:
    """The set of each item by its digest; an item that is in none is left out."""
    if "filterSplit" in config:
        keys = ("trainingFilter", "validationFilter", "testFilter")
        wanted = dict(zip(ML_USES, (_wanted_use(config["filterSplit"].get(key, ""), key) for key in keys), strict=True))
        chosen = {
            digest: next((name for name, use in wanted.items() if use and item["mlUse"] == use), "")
            for digest, item in items.items()
        }
        return {digest: name for digest, name in chosen.items() if name}
    fractions = {**_FRACTIONS, **config["fractionSplit"]} if config.get("fractionSplit") else _FRACTIONS
    order = sorted(items, key=lambda digest: hashlib.sha256(digest.encode()).digest())
    training = round(len(order) * fractions["trainingFraction"])
    validation = training + round(len(order) * fractions["validationFraction"])
    return {digest: ML_USES[(place >= training) + (place >= validation)] for place, digest in enumerate(order)}
