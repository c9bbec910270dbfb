"""projects.models: hosted TensorFlow Lite models, their life from upload over publishing to deletion.

What the service answers (texts included) follows firebase-admin's own integration tests, which Google runs
against the real service: refusals of create and update come as finished operations with an error, those of
get and delete as HTTP errors; a file that is no model leaves a model with a validation error.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from local_cloud.api import ApiError
from local_cloud.firebase_ml.source import Reader, SourceMissing, parse
from local_cloud.firebase_ml.tflite import validation_error
from local_cloud.vertex.errors import (
    aborted,
    already_exists,
    failed_precondition,
    invalid_argument,
    not_found,
    rpc_status,
)
from local_cloud.vertex.names import new_id, now
from local_cloud.vertex.records import Records

_COLLECTION = "models"
_OPERATIONS = "operations"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_UPDATABLE = ("displayName", "tags", "tfliteModel")
_NO_FILE = {"code": 3, "message": "No model file has been uploaded."}
_METADATA_TYPE = "type.googleapis.com/google.firebase.ml.v1beta2.ModelOperationMetadata"
_MODEL_TYPE = "type.googleapis.com/google.firebase.ml.v1beta2.Model"

Document = dict[str, Any]


class Models:
    """The models of all projects, with the copies of their files that phones download."""

    def __init__(self, *, records: Records, reader: Reader, folder: Path) -> None:
        self._records = records
        self._reader = reader
        self._folder = folder

    # Reading

    def get(self, name: str) -> Document:
        """The Model resource; `activeOperations` names what still locks it.

        Raises:
            ApiError: 404 in the words of the real service.
        """
        with self._one_moment():
            model = self._records.get(_COLLECTION, name)
            if model is None:
                raise not_found("Requested entity was not found.")
            return self._shown(model)

    def all(self, project: str) -> list[tuple[int, Document]]:
        """The models of `project` as `get` shows each, with their place in the order of creation."""
        prefix = f"projects/{project}/models/"
        with self._one_moment():
            found = self._records.all(_COLLECTION)
            return [(sequence, self._shown(model)) for sequence, model in found if model["name"].startswith(prefix)]

    def _one_moment(self) -> contextlib.AbstractContextManager[None]:
        """A model and its lock are two records: read apart, an ended operation shows the old model unlocked."""
        return self._records.transaction()

    def by_reference(self, project: str, reference: str) -> Document | None:
        """The model with this display name, as a phone asks for it, or with this id."""
        for _, model in self.all(project):
            if reference in {model["displayName"], model["name"].rsplit("/", 1)[-1]}:
                return model
        return None

    def file(self, model_hash: str) -> Path:
        """Where the copy of a model file is kept, by the SHA-256 of its bytes."""
        return self._folder / f"{model_hash}.tflite"

    def _shown(self, model: Document) -> Document:
        active = [{"name": record["name"]} for record in self.unfinished() if record["model"] == model["name"]]
        return {**model, "activeOperations": active} if active else model

    # Changing: each returns the name of an operation, or raises what the operation's error shall be

    def create(self, project: str, body: Mapping[str, Any]) -> str:
        """Begin a model; its file is read when the operation is worked on."""
        _check(body)
        with self._records.transaction():
            self._refuse_taken(project, body["displayName"], "")
            moment = now()
            model: Document = {
                "name": f"projects/{project}/models/{_new_model_id()}",
                "displayName": body["displayName"],
                "createTime": moment,
                "updateTime": moment,
                "state": {"validationError": _NO_FILE},
                "etag": new_id(),
            }
            if "tags" in body:
                model["tags"] = body["tags"]
            self._records.put(_COLLECTION, model["name"], model)
            return self._begin(model["name"], body)

    def update(self, name: str, body: Mapping[str, Any], keys: tuple[str, ...]) -> str:
        """Begin an update of `keys`, or, without keys, of every field that `body` carries."""
        with self._records.transaction():
            model = self._locked_against(name)
            if body.get("etag") and not keys and body["etag"] != model["etag"]:
                raise aborted("The etag is not the model's current one: get the model again.")
            given = {key: body[key] for key in keys or _UPDATABLE if key in body}
            _check({"displayName": model["displayName"], **given})
            self._refuse_taken(name.split("/")[1], given.get("displayName", ""), name)
            model |= {key: given[key] for key in ("displayName", "tags") if key in given}
            model |= {"etag": new_id(), "updateTime": now()}
            self._records.put(_COLLECTION, name, model)
            return self._begin(name, given)

    def publish(self, name: str, published: bool) -> Document:
        """Publish or unpublish at once; only a model with a verified file can be published."""
        with self._records.transaction():
            model = self._existing(name)
            if published and ("validationError" in model["state"] or self._shown(model) is not model):
                raise failed_precondition("Cannot publish a model that is not verified.")
            model["state"]["published"] = published
            model |= {"etag": new_id(), "updateTime": now()}
            self._records.put(_COLLECTION, name, model)
            return model

    def delete(self, name: str) -> None:
        with self._records.transaction():
            if "activeOperations" in self.get(name):
                raise failed_precondition("The model is locked by an active operation.")
            self._records.remove(_COLLECTION, name)

    def _existing(self, name: str) -> Document:
        model = self._records.get(_COLLECTION, name)
        if model is None:
            raise not_found(f"Model '{name}' was not found")
        return model

    def _locked_against(self, name: str) -> Document:
        model = self._existing(name)
        if self._shown(model) is not model:
            raise failed_precondition("The model is locked by an active operation.")
        return model

    def _refuse_taken(self, project: str, display_name: str, own_name: str) -> None:
        for _, model in self.all(project):
            if model["displayName"] == display_name and model["name"] != own_name:
                raise already_exists(f"Model '{display_name}' already exists")

    # Operations

    def _begin(self, name: str, body: Mapping[str, Any]) -> str:
        operation = f"{name.partition('/models/')[0]}/operations/{new_id()}"
        uri = (body.get("tfliteModel") or {}).get("gcsTfliteUri")
        self._records.put(_OPERATIONS, operation, {"name": operation, "model": name, "uri": uri})
        return operation

    def unfinished(self) -> list[Document]:
        return [operation for _, operation in self._records.all(_OPERATIONS) if "outcome" not in operation]

    def operation(self, name: str) -> Document:
        """The google.longrunning.Operation as it stands.

        Raises:
            ApiError: 404 when there is none.
        """
        record = self._records.get(_OPERATIONS, name)
        if record is None:
            raise not_found("Requested entity was not found.")
        if "outcome" in record:
            return {"name": name, "done": True, **record["outcome"]}
        metadata = {
            "@type": _METADATA_TYPE,
            "name": record["model"],
            "basicOperationStatus": "BASIC_OPERATION_STATUS_UPLOADING",
        }
        return {"name": name, "metadata": metadata}

    def work_on(self, name: str) -> None:
        """Read and check the file that an operation brings; done twice, it comes to the same."""
        record = self._records.get(_OPERATIONS, name)
        if record is None or "outcome" in record:
            return
        try:
            change = self._ingested(record["uri"])
        except ApiError as error:
            self._finish(record, {"error": rpc_status(error)})
            return
        with self._records.transaction():
            model = self._existing(record["model"])
            change(model)
            self._records.put(_COLLECTION, model["name"], model)
            self._finish(record, {"response": {"@type": _MODEL_TYPE, **model}})

    def give_up(self, name: str, error: ApiError) -> None:
        """End an unfinished operation with `error`."""
        with self._records.transaction():
            record = self._records.get(_OPERATIONS, name)
            if record is not None and "outcome" not in record:
                self._finish(record, {"error": rpc_status(error)})

    def _finish(self, record: Document, outcome: Document) -> None:
        self._records.put(_OPERATIONS, record["name"], {**record, "outcome": outcome})

    def _ingested(self, uri: str | None) -> Callable[[Document], None]:
        """What the file at `uri` makes of a model."""
        if not uri:
            return lambda _: None
        source = parse(uri)
        try:
            data = self._reader.read(source)
        except SourceMissing as error:
            missing = str(error)
            return lambda model: _refuse(model, source.uri, missing)
        problem = validation_error(data)
        if problem:
            return lambda model: _refuse(model, source.uri, problem)
        model_hash = hashlib.sha256(data).hexdigest()
        # The copy is what phones get: overwriting the source object changes no published model.
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self.file(model_hash).with_suffix(f".{new_id()}")
        temporary.write_bytes(data)
        temporary.replace(self.file(model_hash))
        return lambda model: _accept(model, source.uri, model_hash, len(data))


def finished(outcome: Document | ApiError) -> Document:
    """An operation that is done before it has a name, as the service answers publishing and refusals."""
    if isinstance(outcome, ApiError):
        return {"done": True, "error": rpc_status(outcome)}
    return {"done": True, "response": {"@type": _MODEL_TYPE, **outcome}}


def _accept(model: Document, uri: str, model_hash: str, size: int) -> None:
    model["tfliteModel"] = {"gcsTfliteUri": uri, "sizeBytes": str(size)}
    model["modelHash"] = model_hash
    model["state"].pop("validationError", None)


def _refuse(model: Document, uri: str, problem: str) -> None:
    # What is not verified cannot be published, so a published model ends being so with a broken update.
    model["tfliteModel"] = {"gcsTfliteUri": uri}
    model.pop("modelHash", None)
    model["state"] = {"validationError": {"code": 3, "message": problem}}


def _check(body: Mapping[str, Any]) -> None:
    display_name, tags = body.get("displayName"), body.get("tags", [])
    if not isinstance(display_name, str) or not _NAME.fullmatch(display_name):
        raise invalid_argument(f"displayName {display_name!r} must match {_NAME.pattern}.")
    for tag in tags:
        if not isinstance(tag, str) or not _NAME.fullmatch(tag):
            raise invalid_argument(f"tag {tag!r} must match {_NAME.pattern}.")
    model_file = body.get("tfliteModel")
    if model_file is not None:
        parse(model_file.get("gcsTfliteUri"))


def _new_model_id() -> str:
    return new_id()[:8]
