"""projects.locations.datasets: managed data sets of pictures, which only AutoML learns from."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from local_cloud.vertex import automl, imports, pages
from local_cloud.vertex.bodies import update_mask
from local_cloud.vertex.errors import invalid_argument, not_found
from local_cloud.vertex.filters import labels_field, text_field
from local_cloud.vertex.names import Location, check_display_name, check_labels, new_etag, new_id, now
from local_cloud.vertex.objects import Objects
from local_cloud.vertex.operations import Kind, Operations, Work
from local_cloud.vertex.records import Records
from local_cloud.vertex.wire import Wire, body

DATASETS = "datasets"

_ITEMS = "dataItems"
_CREATE = "aiplatform.datasets.create"
_IMPORT = "aiplatform.datasets.import"
_DELETE = "aiplatform.datasets.delete"
_UPDATABLE = ("displayName", "description", "labels")
_CREATABLE = ("displayName", "description", "labels", "metadataSchemaUri", "metadata", "encryptionSpec")
_ORDERS = {
    "display_name": "displayName",
    "displayName": "displayName",
    "create_time": "createTime",
    "createTime": "createTime",
    "update_time": "updateTime",
    "updateTime": "updateTime",
}
_LISTING = pages.Listing(
    key="datasets",
    fields={
        "display_name": text_field("displayName"),
        "metadata_schema_uri": text_field("metadataSchemaUri"),
        "labels": labels_field(),
    },
    orders=_ORDERS,
    newest_first=True,
)

#: Source: "Quotas and limits" and "Prepare image training data".
_MOST_ITEMS = 1_000_000
_MOST_LABELS = 5_000

Document = dict[str, Any]


class Datasets:
    """The data sets of one location. Pictures are read when they are imported, and again when something is trained."""

    def __init__(self, *, records: Records, location: Location, operations: Operations, objects: Objects) -> None:
        self._records = records
        self._location = location
        self._operations = operations
        self._objects = objects
        for name, prepare, metadata, response in (
            (_CREATE, self._prepare_create, "CreateDatasetOperationMetadata", "Dataset"),
            (_IMPORT, self._prepare_import, "ImportDataOperationMetadata", "ImportDataResponse"),
        ):
            operations.define(name, Kind(prepare, metadata, response))
        operations.define_deletion(_DELETE, self._remove)

    def register(self, wire: Wire) -> None:
        path = "/datasets/<dataset>"
        wire.operation(
            _CREATE,
            "POST",
            "/datasets",
            self._create,
            body="Dataset",
            field="dataset",
            answer="Operation",
            differs="image data sets only; saved queries are ignored",
        )
        wire.operation(
            "aiplatform.datasets.list",
            "GET",
            "/datasets",
            self._list,
            answer="ListDatasetsResponse",
            differs="read_mask is ignored",
        )
        wire.operation("aiplatform.datasets.get", "GET", path, self._get, answer="Dataset")
        wire.operation(
            "aiplatform.datasets.patch", "PATCH", path, self._patch, body="Dataset", field="dataset", answer="Dataset"
        )
        wire.operation(
            _DELETE,
            "DELETE",
            path,
            self._delete,
            answer="Operation",
            differs="never refused: a training that has not read the pictures yet fails",
        )
        wire.operation(
            _IMPORT,
            "POST",
            f"{path}:import",
            self._import,
            body="ImportDataRequest",
            answer="Operation",
            differs="single label, JSONL only; pictures are not copied; an item keeps the label and the ml_use of its"
            " first import; codes and words of failures are ours",
        )

    def existing(self, name: str) -> Document:
        """The data set's record. Raises ApiError 404."""
        dataset = self._records.get(DATASETS, name)
        if dataset is None:
            raise not_found(f"The Dataset does not exist: {name}.")
        return dataset

    def items(self, name: str) -> dict[str, Document]:
        """The data set's items by the digest of their bytes: `{"uri", "label", "mlUse"}`. Raises ApiError 404."""
        self.existing(name)
        found: dict[str, Document] = (self._records.get(_ITEMS, name) or {"items": {}})["items"]
        return found

    # Create, read, change, delete

    def _create(self, project: str, location: str) -> Document:
        parent = self._location.check(project, location)
        wanted = body()
        automl.require_region(self._location.region)
        check_display_name(wanted)
        check_labels(wanted.get("labels"))
        if wanted.get("metadataSchemaUri") != automl.DATASET_SCHEMA:
            raise invalid_argument(
                f"metadata_schema_uri {wanted.get('metadataSchemaUri', '')!r} is not supported here:"
                f" {automl.DATASET_SCHEMA} is."
            )
        name = f"{parent}/datasets/{new_id()}"
        dataset = {key: wanted[key] for key in _CREATABLE if key in wanted}
        with self._records.transaction():
            return self._operations.start(_CREATE, name, {"name": name, "dataset": dataset})

    def _prepare_create(self, arguments: Document, stop: threading.Event) -> Work:
        del stop

        def apply() -> Document:
            dataset = {"name": arguments["name"], **arguments["dataset"], "createTime": now()}
            return self._write(dataset)

        return Work(apply)

    def _write(self, dataset: Document) -> Document:
        dataset |= {"updateTime": now(), "etag": new_etag()}
        self._records.put(DATASETS, dataset["name"], dataset)
        return dataset

    def _get(self, project: str, location: str, dataset: str) -> Document:
        return self.existing(f"{self._location.check(project, location)}/datasets/{dataset}")

    def _list(self, project: str, location: str) -> Document:
        self._location.check(project, location)
        return pages.answer(_LISTING, self._records.all(DATASETS))

    def _patch(self, project: str, location: str, dataset: str) -> Document:
        name = f"{self._location.check(project, location)}/datasets/{dataset}"
        keys = update_mask({path: path for path in _UPDATABLE})
        wanted = body()
        with self._records.transaction():
            record = self.existing(name)
            for key in keys:
                record[key] = wanted.get(key, {} if key == "labels" else "")
            check_display_name(record)
            check_labels(record.get("labels"))
            return self._write(record)

    def _delete(self, project: str, location: str, dataset: str) -> Document:
        name = f"{self._location.check(project, location)}/datasets/{dataset}"
        with self._records.transaction():
            self.existing(name)
            return self._operations.start(_DELETE, name, {"name": name})

    def _remove(self, arguments: Document) -> None:
        self._records.remove(DATASETS, arguments["name"])
        self._records.remove(_ITEMS, arguments["name"])

    # Import

    def _import(self, project: str, location: str, dataset: str) -> Document:
        name = f"{self._location.check(project, location)}/datasets/{dataset}"
        configs = body().get("importConfigs") or []
        if not configs:
            raise invalid_argument("import_configs is required.")
        for config in configs:
            if config.get("importSchemaUri") != automl.IMPORT_SCHEMA:
                raise invalid_argument(
                    f"import_schema_uri {config.get('importSchemaUri', '')!r} is not supported here:"
                    f" {automl.IMPORT_SCHEMA} is."
                )
        uris = [uri for config in configs for uri in (config.get("gcsSource") or {}).get("uris", ())]
        if not uris:
            raise invalid_argument("gcs_source.uris is required.")
        with self._records.transaction():
            self.existing(name)
            return self._operations.start(_IMPORT, name, {"name": name, "uris": uris})

    def _prepare_import(self, arguments: Document, stop: threading.Event) -> Work:
        del stop
        imported = imports.read(arguments["uris"], self._objects)

        def apply() -> Document:
            dataset = self.existing(arguments["name"])
            # What is there stays as it is: a second import changes no ml_use.
            items = {**imported.items, **self.items(arguments["name"])}
            check_size(items.values())
            self._records.put(_ITEMS, arguments["name"], {"items": items})
            self._write({**dataset, "dataItemCount": len(items)})
            return {}

        failures = imported.partial_failures
        return Work(apply, generic={"partialFailures": failures} if failures else {})


def check_size(items: Iterable[Mapping[str, Any]], *, most_items: int = _MOST_ITEMS) -> None:
    """Raises ApiError for more items or labels than a data set may have."""
    labels = [item["label"] for item in items]
    if len(labels) > most_items:
        raise invalid_argument(f"The Dataset would have {len(labels)} items; at most {most_items} are allowed.")
    distinct = len(set(labels) - {""})
    if distinct > _MOST_LABELS:
        raise invalid_argument(f"The Dataset would have {distinct} labels; at most {_MOST_LABELS} are allowed.")
