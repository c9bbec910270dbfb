"""projects.locations.models.export: the files of a model that AutoML trained, written into a bucket."""

from __future__ import annotations

import datetime
import threading
from pathlib import Path
from typing import Any

from local_cloud.api import ApiError
from local_cloud.vertex.errors import failed_precondition, invalid_argument, not_found
from local_cloud.vertex.models import Models
from local_cloud.vertex.names import Location, last_segment
from local_cloud.vertex.objects import Objects, StorageFailed, split_uri
from local_cloud.vertex.operations import Kind, Operations, Work
from local_cloud.vertex.searches import EXPORTS
from local_cloud.vertex.wire import Wire, body

_EXPORT = "aiplatform.models.export"

Document = dict[str, Any]


class Exports:
    """Exports of one location, written by Google's own account."""

    def __init__(self, *, location: Location, operations: Operations, models: Models, objects: Objects) -> None:
        self._location = location
        self._operations = operations
        self._models = models
        self._objects = objects
        operations.define(_EXPORT, Kind(self._prepare, "ExportModelOperationMetadata", "ExportModelResponse"))

    def register(self, wire: Wire) -> None:
        wire.operation(
            _EXPORT,
            "POST",
            "/models/<model>:export",
            self._export,
            body="ExportModelRequest",
            answer="Operation",
            differs="models of AutoML only; of their formats, those that the search's stand-in makes: tflite",
        )

    def _export(self, project: str, location: str, model: str) -> Document:
        found = self._models.resolve(f"{self._location.check(project, location)}/models/{model}")
        config = body().get("outputConfig") or {}
        wanted = config.get("exportFormatId", "")
        formats = [each["id"] for each in found["supportedExportFormats"]] if "automl" in found else []
        if wanted not in formats:
            # Source: https://github.com/googleapis/python-aiplatform/issues/194
            raise failed_precondition(
                f"Exporting artifact for model `{found['name']}` in format `{wanted}` is not supported."
            )
        prefix = (config.get("artifactDestination") or {}).get("outputUriPrefix", "")
        if split_uri(f"{prefix.rstrip('/')}/x") is None:
            raise invalid_argument(f"output_config.artifact_destination.output_uri_prefix {prefix!r} is not gs://….")
        # Source of the folder's name: "Export an AutoML edge model".
        moment = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        folder = f"{prefix.rstrip('/')}/model-{last_segment(found['name'])}/{wanted}/{moment}/"
        arguments = {"source": f"{found['automl']['folder']}/{EXPORTS}/{wanted}", "format": wanted, "folder": folder}
        return self._operations.start(_EXPORT, found["name"], arguments)

    def _prepare(self, arguments: Document, stop: threading.Event) -> Work:
        del stop
        source = Path(arguments["source"])
        files = sorted(each for each in source.rglob("*") if each.is_file())
        if not files:
            raise ApiError(
                501, "UNIMPLEMENTED", f"What stands for AutoML's search here exports nothing in {arguments['format']}."
            )
        bucket, prefix = split_uri(arguments["folder"]) or ("", "")
        for file in files:
            try:
                self._objects.write(bucket, f"{prefix}{file.relative_to(source).as_posix()}", file.read_bytes())
            except StorageFailed as failed:
                raise _unwritable(arguments["folder"], failed) from failed
        return Work(dict, metadata={"outputInfo": {"artifactOutputUri": arguments["folder"]}})


def _unwritable(folder: str, failed: StorageFailed) -> ApiError:
    """How an export ends that cannot be written [U]; the words are ours."""
    if failed.status == 403:
        return ApiError(403, "PERMISSION_DENIED", f"The folder {folder} cannot be written: {failed}")
    if failed.status == 404:
        return not_found(f"The folder {folder} cannot be written: {failed}")
    return ApiError(503, "UNAVAILABLE", f"The folder {folder} cannot be written: {failed}")
