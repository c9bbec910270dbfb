"""A bucket in memory with Cloud Storage's generations; thread-safe."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import google_crc32c

from dualdeploy import clock as clocks
from dualdeploy.clock import Clock
from dualdeploy.google.object_store import (
    ABSENT,
    Generation,
    GenerationChanged,
    ObjectMissing,
    ObjectSummary,
    StoredObject,
)
from support.fakes.failing import Faults

#: No precondition at all. The product has no such thing: tests/mutants.py takes preconditions away with it.
WHATEVER = Generation(-1)


@dataclasses.dataclass(frozen=True)
class _Entry:
    stored: StoredObject
    summary: ObjectSummary


class MemoryObjectStore:
    """Implements `dualdeploy.google.object_store.ObjectStore`; operations fail by `faults` (`read`, `put`, …)."""

    def __init__(self, bucket: str = "memory", *, faults: Faults | None = None, clock: Clock = clocks.utc_now) -> None:
        self.bucket_name = bucket
        self.faults = faults or Faults()
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._generations = itertools.count(1_700_000_000_000_000)
        self._lock = threading.RLock()

    def uri(self, name: str) -> str:
        return f"gs://{self.bucket_name}/{name}"

    def read(self, name: str) -> StoredObject:
        return self.faults.run("read", lambda: self._entry(name).stored)

    def open(self, name: str, *, generation: Generation, length: int | None = None) -> BinaryIO:
        def opened() -> BinaryIO:
            stored = self._entry(name).stored
            if stored.generation != generation:
                raise ObjectMissing(f"{name} has no generation {generation}")
            return io.BytesIO(stored.data[:length])

        return self.faults.run("open", opened)

    def put(
        self,
        name: str,
        data: bytes,
        *,
        expect: Generation,
        content_type: str = "application/json",
        cache_control: str = "",
    ) -> Generation:
        return self.faults.run("put", lambda: self._put(name, data, expect))

    def delete(self, name: str, *, expect: Generation) -> None:
        def deleted() -> None:
            with self._lock:
                entry = self._entries.get(name)
                if entry is None:
                    return
                if expect not in (entry.stored.generation, WHATEVER):
                    raise GenerationChanged(f"{name} is not at {expect}")
                del self._entries[name]

        self.faults.run("delete", deleted)

    def list(self, prefix: str, *, end: str = "") -> Iterator[ObjectSummary]:
        def listed() -> Iterator[ObjectSummary]:
            with self._lock:
                names = sorted(name for name in self._entries if name.startswith(prefix) and (not end or name < end))
                return iter([self._entries[name].summary for name in names])

        return self.faults.run("list", listed)

    def names(self) -> Sequence[str]:
        """Every object's name, sorted; for assertions."""
        with self._lock:
            return sorted(self._entries)

    def _entry(self, name: str) -> _Entry:
        with self._lock:
            if name not in self._entries:
                raise ObjectMissing(f"no object {self.uri(name)}")
            return self._entries[name]

    def _put(self, name: str, data: bytes, expect: Generation) -> Generation:
        with self._lock:
            entry = self._entries.get(name)
            current = entry.stored.generation if entry else ABSENT
            if expect not in (current, WHATEVER):
                if entry and entry.stored.data == data:
                    return entry.stored.generation
                raise GenerationChanged(f"{self.uri(name)} is at {current}, expected {expect}")
            generation = Generation(next(self._generations))
            checksum = base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
            now = self._clock()
            summary = ObjectSummary(name, generation, len(data), checksum, updated=now, created=now)
            self._entries[name] = _Entry(StoredObject(data, generation), summary)
            return generation
