"""Where a shard's bytes come from, and how many of them may be read."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

#: Enough for the signature of any format, and of a compressed file to see what was compressed.
_HEAD_BYTES = 1 << 12


class ShardSource(Protocol):
    """One shard: its name for people, its size in bytes (as stored), and a way to read it from the start.

    Errors of `open` and of the stream are infrastructure, not data: they pass through the validator.
    """

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    def open(self, length: int) -> BinaryIO:
        """A stream of which no more than the first `length` bytes are read; it may fetch them ahead."""


@dataclasses.dataclass(frozen=True)
class FileShard:
    """A shard in a local folder."""

    name: str
    path: Path

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self.path.stat().st_size

    def open(self, length: int) -> BinaryIO:  # noqa: ARG002 (a file costs nothing that is not read)
        """Open the file without a buffer: the reader asks for large blocks already."""
        return self.path.open("rb", buffering=0)


@dataclasses.dataclass(frozen=True)
class MemoryShard:
    """A shard that is already in memory."""

    name: str
    data: bytes

    @property
    def size(self) -> int:
        """Size of the data in bytes."""
        return len(self.data)

    def open(self, length: int) -> BinaryIO:  # noqa: ARG002
        """Read from the bytes."""
        return io.BytesIO(self.data)


class ShardReadIncomplete(OSError):
    """A shard gave fewer or more bytes than its listed size: a cut connection, or a file still being written.

    Infrastructure, not a verdict on the data: list the shards again and repeat.
    """


class Unopened(io.BytesIO):
    """Stands for a stream that could not be opened; reading it raises why."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def read(self, size: int | None = -1) -> bytes:  # noqa: ARG002
        raise self._error


class MeteredStream:
    """A shard's stream that ends after its share of the bytes, and notices a shard that changed its size."""

    def __init__(
        self, stream: BinaryIO, shard: ShardSource, share: int, progress: Callable[[int], None] | None
    ) -> None:
        self.bytes_read = 0
        #: The share was used up before the shard ended, so whatever follows was not looked at.
        self.stopped_early = False
        #: The first bytes, which tell gzip from plain, and what else a file is.
        self.head = b""
        self._stream = stream
        self._shard = shard
        self._listed = shard.size
        self._share = share
        self._progress = progress

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes; b"" at the end of the shard or of the share."""
        listed, left = self._listed, self._share - self.bytes_read
        if left <= 0 and self._share < listed:
            self.stopped_early = True
            return b""
        # A shard read to its end is asked for one byte more than listed, which must not be there.
        wanted = left if self._share < listed else left + 1
        block = self._stream.read(wanted if size < 0 else min(size, wanted))
        self.bytes_read += len(block)
        if len(self.head) < _HEAD_BYTES:
            self.head += block[:_HEAD_BYTES]
        if self.bytes_read > listed or (not block and self.bytes_read < listed):
            more = "more than that" if block else f"the stream ended after {self.bytes_read}"
            raise ShardReadIncomplete(
                f"{self._shard.name} is listed with {listed} bytes but {more}: it changed, or the connection was cut"
            )
        if self._progress and block:
            self._progress(len(block))
        return block
