"""Blobs: the bytes of objects, one immutable file each, named by nobody but us."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import google_crc32c

from local_cloud.storage.records import Content

CHUNK = 1 << 18


class Blobs:
    """A folder of files with random names: an object's name never becomes a path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def new_name(self) -> str:
        return uuid.uuid4().hex

    def path(self, blob: str) -> Path:
        return self._folder / blob

    def write(self, chunks: Iterable[bytes]) -> Content:
        """Write a new blob chunk by chunk; nothing refers to it until its object is committed."""
        blob = self.new_name()
        measure = _Measure()
        try:
            with self.path(blob).open("xb") as file:
                for chunk in chunks:
                    file.write(chunk)
                    measure.add(chunk)
        except BaseException:
            self.discard(blob)
            raise
        return measure.content(blob)

    def measure(self, blob: str) -> Content:
        """Size and checksums of a blob that was written piece by piece (a resumable upload)."""
        measure = _Measure()
        with self.path(blob).open("rb") as file:
            while chunk := file.read(CHUNK):
                measure.add(chunk)
        return measure.content(blob)

    def write_at(self, blob: str, offset: int, chunks: Iterable[bytes]) -> int:
        """Write at `offset`, cutting off what an interrupted write left behind it; returns the new size."""
        path = self.path(blob)
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.seek(offset)
            for chunk in chunks:
                file.write(chunk)
            file.truncate()
            return file.tell()

    def duplicate(self, blob: str) -> str:
        """A second name for the same bytes: blobs never change, so a hard link is a copy."""
        copy = self.new_name()
        os.link(self.path(blob), self.path(copy))
        return copy

    def discard(self, blob: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path(blob).unlink()

    def open(self, blob: str) -> OpenBlob:
        return OpenBlob(os.open(self.path(blob), os.O_RDONLY | os.O_CLOEXEC))

    def sweep(self, referenced: set[str]) -> int:
        """Delete the blobs that no committed object refers to: what a killed process left behind."""
        orphans = [path for path in self._folder.iterdir() if path.name not in referenced]
        for path in orphans:
            path.unlink()
        return len(orphans)


class _Measure:
    """Size and checksums of bytes as they pass by."""

    def __init__(self) -> None:
        self._crc32c = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._size = 0

    def add(self, chunk: bytes) -> None:
        self._crc32c = google_crc32c.extend(self._crc32c, chunk)
        self._md5.update(chunk)
        self._size += len(chunk)

    def content(self, blob: str) -> Content:
        # Base64 of the big-endian checksum: https://cloud.google.com/storage/docs/json_api/v1/objects#crc32c
        return Content(blob, self._size, _base64(self._crc32c.to_bytes(4, "big")), _base64(self._md5.digest()))


class OpenBlob:
    """An open blob: replacing or deleting its object meanwhile takes no byte away from this reader."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        self._start = 0
        self._stop = os.fstat(descriptor).st_size

    def select(self, start: int, stop: int) -> OpenBlob:
        """Restrict iteration to the half-open range of bytes."""
        self._start, self._stop = start, stop
        return self

    def __iter__(self) -> Iterator[bytes]:
        position = self._start
        while position < self._stop and self._descriptor is not None:
            chunk = os.pread(self._descriptor, min(CHUNK, self._stop - position), position)
            if not chunk:
                return
            position += len(chunk)
            yield chunk

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        # A response that is planned to be lost is never iterated and never closed by the HTTP server.
        self.close()


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
