"""Models while an operation ends on another thread."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, cast

import pytest

from local_cloud.firebase_ml.models import Models
from local_cloud.firebase_ml.source import Reader, Source
from local_cloud.vertex.records import Record, Records

PROJECT = "demo"


class FileOfNothing:
    """Stands for Cloud Storage: every file is there and is not a model."""

    def read(self, source: Source) -> bytes:
        del source
        return b"not a model"


class OvertakenRecords(Records):
    """Before the operations are read, another thread ends one; `overtaken` says which, by ending it."""

    ended: threading.Thread | None = None

    def all(self, collection: str) -> list[tuple[int, Record]]:
        if collection == "operations" and self.ended is not None:
            ended, self.ended = self.ended, None
            ended.start()
            # A reader in one transaction keeps the other thread waiting until it is over.
            ended.join(timeout=0.2)
        return super().all(collection)


@pytest.mark.parametrize("how", ["get", "list"])
def test_a_model_that_is_not_locked_is_never_shown_as_it_was_before(tmp_path: Path, how: str) -> None:
    records = OvertakenRecords(tmp_path / "records.sqlite")
    models = Models(records=records, reader=cast(Reader, FileOfNothing()), folder=tmp_path)
    uri = "gs://models/new.tflite"
    operation = models.create(PROJECT, {"displayName": "flowers", "tfliteModel": {"gcsTfliteUri": uri}})
    name = models.all(PROJECT)[0][1]["name"]
    worker = threading.Thread(target=models.work_on, args=(operation,))
    records.ended = worker

    seen: dict[str, Any] = models.get(name) if how == "get" else models.all(PROJECT)[0][1]
    worker.join()
    afterwards = models.get(name)
    records.close()

    assert "activeOperations" in seen
    assert "activeOperations" not in afterwards
    assert afterwards["tfliteModel"] == {"gcsTfliteUri": uri}
