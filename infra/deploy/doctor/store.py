"""A bucket as the ledger's readers want one, that nobody can write to."""

from __future__ import annotations

import datetime
import io
import urllib.parse
from collections.abc import Iterator
from typing import BinaryIO, NoReturn

from doctor.reads import Google, NotThere
from dualdeploy.google.object_store import Generation, ObjectMissing, ObjectSummary, StoredObject


class ReadOnlyStore:
    """An ObjectStore over the doctor's reads. What would change the bucket raises TypeError."""

    def __init__(self, google: Google, bucket: str) -> None:
        self._google = google
        self._bucket = bucket
        self._objects = f"/storage/v1/b/{bucket}/o"

    def uri(self, name: str) -> str:
        return f"gs://{self._bucket}/{name}"

    def read(self, name: str) -> StoredObject:
        path = f"{self._objects}/{urllib.parse.quote(name, safe='')}"
        try:
            about = self._google.get("storage", path, needs="storage.objects.get")
            data = self._google.read("storage", path, needs="storage.objects.get", alt="media")
        except NotThere as exc:
            raise ObjectMissing(self.uri(name)) from exc
        return StoredObject(data, Generation(int(about["generation"])))

    def open(self, name: str, *, generation: Generation, length: int | None = None) -> BinaryIO:
        stored = self.read(name)
        if stored.generation != generation:
            raise ObjectMissing(f"{self.uri(name)} at {generation}")
        return io.BytesIO(stored.data[:length])

    def list(self, prefix: str, *, end: str = "") -> Iterator[ObjectSummary]:
        for each in self._google.pages(
            "storage",
            self._objects,
            "items",
            needs="storage.objects.list",
            prefix=prefix,
            fields="items(name,generation,size,crc32c,updated,timeCreated),nextPageToken",
            **({"endOffset": end} if end else {}),
        ):
            yield ObjectSummary(
                each["name"],
                Generation(int(each["generation"])),
                int(each["size"]),
                each.get("crc32c", ""),
                updated=datetime.datetime.fromisoformat(each["updated"]),
                created=datetime.datetime.fromisoformat(each["timeCreated"]),
            )

    def put(self, name: str, *_arguments: object, **_named: object) -> NoReturn:
        raise TypeError(f"{self.uri(name)}: the doctor writes nothing")

    def delete(self, name: str, **_named: object) -> NoReturn:
        raise TypeError(f"{self.uri(name)}: the doctor deletes nothing")
