"""The Firebase ML of the local cloud: routes and the threads that work on operations."""

from __future__ import annotations

import datetime
import logging
import threading
from pathlib import Path
from typing import Any

import flask

from local_cloud.api import Api, ApiError
from local_cloud.faults import Faults
from local_cloud.firebase_ml.models import Models, finished
from local_cloud.firebase_ml.source import Reader
from local_cloud.http import HttpServer
from local_cloud.iam import Iam, refusals
from local_cloud.iam.gate import of_project
from local_cloud.vertex import pages
from local_cloud.vertex.bodies import camel_case, json_body, refuse_unknown
from local_cloud.vertex.errors import invalid_argument, not_found
from local_cloud.vertex.filters import tags_field, text_field
from local_cloud.vertex.records import Records

_PROJECT = "/v1beta2/projects/<project>"
_PUBLISHED = "state.published"
_MODEL = frozenset(
    {
        "activeOperations",
        "createTime",
        "displayName",
        "etag",
        "modelHash",
        "name",
        "state",
        "tags",
        "tfliteModel",
        "updateTime",
    }
)
_TFLITE_MODEL = frozenset({"automlModel", "gcsTfliteUri", "sizeBytes"})
_STATE = frozenset({"published", "validationError"})
_MASKABLE = frozenset({"displayName", "tags", "tfliteModel", _PUBLISHED})
_DOWNLOAD_LIFETIME = datetime.timedelta(hours=1)
_LISTING = pages.Listing(
    key="models",
    fields={"display_name": text_field("displayName", "= != :"), "tags": tags_field("tags")},
    largest_page=100,
)
_LOG = logging.getLogger(__name__)

Document = dict[str, Any]


class FirebaseMl:
    """firebaseml.googleapis.com on loopback.

    Args:
        state_dir: holds the records (`firebase_ml.sqlite`) and the model files that were accepted.
        storage_address: host:port of the Cloud Storage that model files are read from.
        operation_seconds: how long reading a file takes at least; with 0 operations are done when answered,
            which is what the real service does with small files.
        iam: judges callers (default: there is the owner alone).
    """

    def __init__(
        self,
        *,
        faults: Faults,
        state_dir: Path | str,
        storage_address: str,
        port: int = 0,
        operation_seconds: float = 0.3,
        iam: Iam | None = None,
    ) -> None:
        state_dir = Path(state_dir).resolve()
        iam = iam or Iam.of_one_owner()
        self.api = Api("firebase_ml", faults=faults, gate=of_project(iam), refuse=refusals.of_firebase)
        self._server = HttpServer(self.api.app, name="firebase-ml", port=port, callers=iam.callers)
        self.address, self.addresses = self._server.address, self._server.addresses
        self._seconds = operation_seconds
        self._records = Records(state_dir / "firebase_ml.sqlite")
        self._models = Models(records=self._records, reader=Reader(storage_address), folder=state_dir / "files")
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._register()

    def start(self) -> FirebaseMl:
        """Serve, and finish the operations that the last process left unfinished."""
        for operation in self._models.unfinished():
            self._launch(operation["name"])
        self._server.start()
        return self

    def models(self, project: str) -> list[Document]:
        """The project's models, oldest first."""
        return [model for _, model in self._models.all(project)]

    def close(self) -> None:
        """Stop; unfinished operations are taken up by the next process. Closing twice is harmless."""
        if self._closing.is_set():
            return
        self._server.close()
        self._closing.set()
        for thread in self._threads:
            thread.join(timeout=10)
        self._records.close()

    def _register(self) -> None:
        models, model = f"{_PROJECT}/models", f"{_PROJECT}/models/<model>"
        modelled = "modelled on what the Android client sends and reads; neither API key nor token is checked"
        filters = "filters on displayName and tags only"
        self.api.operation("firebaseml.models.download", "GET", f"{model}:download", differs=modelled)(self._download)
        self.api.operation("firebaseml.models.list", "GET", models, differs=filters)(self._list)
        self.api.operation("firebaseml.models.create", "POST", models, differs="TFLite files only, no AutoML models")(
            self._create
        )
        self.api.operation("firebaseml.models.get", "GET", model)(self._get)
        self.api.operation("firebaseml.models.patch", "PATCH", model)(self._patch)
        self.api.operation("firebaseml.models.delete", "DELETE", model)(self._delete)
        self.api.operation("firebaseml.operations.get", "GET", f"{_PROJECT}/operations/<operation>")(self._operation)
        # Not part of the API: what a downloadUri leads to.
        self.api.operation(
            "firebaseml.files.get", "GET", "/files/<model_hash>.tflite", differs="stands for a signed URL"
        )(self._file)

    def _list(self, project: str) -> Document:
        return pages.answer(_LISTING, self._models.all(project))

    def _get(self, project: str, model: str) -> Document:
        return self._models.get(f"projects/{project}/models/{model}")

    def _create(self, project: str) -> Document:
        body = json_body()
        _refuse_unknown(body)
        try:
            return self._worked_on(self._models.create(project, body))
        except ApiError as error:
            return _as_operation(error)

    def _patch(self, project: str, model: str) -> Document:
        name, body = f"projects/{project}/models/{model}", json_body()
        _refuse_unknown(body)
        mask = flask.request.args.get("updateMask") or flask.request.args.get("update_mask") or ""
        paths = tuple(camel_case(path.strip()) for path in mask.split(",") if path.strip())
        if not _MASKABLE.issuperset(paths):
            raise invalid_argument(f"updateMask {mask!r}: only {', '.join(sorted(_MASKABLE))} can be updated.")
        try:
            if _PUBLISHED in paths:
                return finished(self._models.publish(name, bool((body.get("state") or {}).get("published"))))
            return self._worked_on(self._models.update(name, body, paths))
        except ApiError as error:
            return _as_operation(error)

    def _delete(self, project: str, model: str) -> Document:
        self._models.delete(f"projects/{project}/models/{model}")
        return {}

    def _operation(self, project: str, operation: str) -> Document:
        return self._models.operation(f"projects/{project}/operations/{operation}")

    def _download(self, project: str, model: str) -> flask.Response:
        """What a phone asks: is there another file than the one it has, and where?"""
        found = self._models.by_reference(project, model)
        if found is None or not found["state"].get("published"):
            raise not_found("Requested entity was not found.")
        headers = {"ETag": found["modelHash"]}
        if flask.request.headers.get("If-None-Match", "").strip('"') == found["modelHash"]:
            return flask.Response(status=304, headers=headers)
        expires = datetime.datetime.now(datetime.UTC) + _DOWNLOAD_LIFETIME
        answer = flask.jsonify(
            downloadUri=f"http://{self.address}/files/{found['modelHash']}.tflite",
            # The client reads exactly three digits of a second.
            expireTime=expires.strftime("%Y-%m-%dT%H:%M:%S.") + f"{expires.microsecond // 1000:03d}Z",
            sizeBytes=found["tfliteModel"]["sizeBytes"],
            modelFormat="TFLITE",
        )
        answer.headers.update(headers)
        return answer

    def _file(self, model_hash: str) -> flask.Response:
        path = self._models.file(model_hash)
        if not model_hash.isalnum() or not path.is_file():
            raise not_found("Requested entity was not found.")
        return flask.Response(path.read_bytes(), content_type="application/octet-stream")

    def _worked_on(self, operation: str) -> Document:
        """The operation as answered: done with no time to take, else begun on a thread."""
        if self._seconds == 0:
            self._models.work_on(operation)
        else:
            self._launch(operation)
        return self._models.operation(operation)

    def _launch(self, operation: str) -> None:
        thread = threading.Thread(target=self._work, args=(operation,), name="firebase-ml-operation", daemon=True)
        self._threads = [*(running for running in self._threads if running.is_alive()), thread]
        thread.start()

    def _work(self, operation: str) -> None:
        if self._closing.wait(self._seconds):
            return
        try:
            self._models.work_on(operation)
        except Exception as error:  # noqa: BLE001  # an operation must end, or the model stays locked for ever
            if self._closing.is_set():
                return
            _LOG.exception("operation %s failed", operation)
            self._models.give_up(operation, ApiError(500, "INTERNAL", f"Internal error: {error}"))


def _as_operation(error: ApiError) -> Document:
    """A refusal as the service gives it: what is malformed by HTTP status, all else as a failed operation."""
    if error.status == "INVALID_ARGUMENT":
        raise error
    return finished(error)


def _refuse_unknown(model: Document) -> None:
    """Source: firebase_admin.ml, which is written against google.firebase.ml.v1beta2.Model."""
    refuse_unknown(model, _MODEL, "model")
    refuse_unknown(model.get("tfliteModel"), _TFLITE_MODEL, "model.tflite_model")
    refuse_unknown(model.get("state"), _STATE, "model.state")
