"""A stream whose bytes are fetched by a thread of its own, ahead of its reader by a bounded number of bytes.

Many small objects are read as fast as one large one when the next of them are on their way while one is looked at.
"""

from __future__ import annotations

import collections
import io
import threading
from collections.abc import Callable
from typing import Any

from dualdeploy.errors import RetryLater

#: Bytes that a stream may hold which its reader has not taken yet; the system's socket holds some more.
AHEAD_BYTES = 256 << 10


class ReaderIsGone(Exception):
    """The stream was closed: nothing of what is still fetched is wanted."""


class Pipe:
    """What is fetched and not yet read; to what fetches it is a file, and a write waits while it is full."""

    def __init__(self, most: int) -> None:
        self.received = 0
        self._most = most
        self._blocks: collections.deque[bytes] = collections.deque()
        self._held = 0
        self._wanted = 1
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def write(self, block: bytes) -> int:
        """Take a block; raises ReaderIsGone."""
        with self._changed:
            while self._held >= self._most and not self._closed:
                self._changed.wait()
            if self._closed:
                raise ReaderIsGone
            self._blocks.append(block)
            self._held += len(block)
            self.received += len(block)
            if self._held >= self._wanted:
                self._changed.notify()
        return len(block)

    def end(self, error: BaseException | None) -> None:
        """Nothing more comes; `error` is raised when what did come is read."""
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify()

    def take(self, size: int) -> bytes:
        """At most `size` bytes, fewer only at the end or when the pipe holds no more at once."""
        with self._changed:
            self._wanted = min(size, self._most)
            while self._held < self._wanted and not self._ended:
                self._changed.wait()
            if not self._held and self._error:
                raise self._error
            taken = self._pop(size)
            self._held -= len(taken)
            self._changed.notify()
        return taken

    def _pop(self, size: int) -> bytes:
        parts, have = [], 0
        while self._blocks and have < size:
            block = self._blocks.popleft()
            if len(block) > size - have:
                self._blocks.appendleft(block[size - have :])
                block = block[: size - have]
            parts.append(block)
            have += len(block)
        return b"".join(parts)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._blocks.clear()
            self._changed.notify()


#: Fetches from a byte on and writes what it gets into the pipe; called again when it failed half-way.
Fetch = Callable[[int, Pipe], None]


class ReadAhead(io.RawIOBase):
    """What `fetch` gets, in order. What it raises is raised by `read`, after the bytes that came before."""

    def __init__(self, fetch: Fetch, *, ahead: int = AHEAD_BYTES) -> None:
        self._pipe = Pipe(ahead)
        # The thread knows the pipe and not the stream, so that a stream that is forgotten is closed.
        threading.Thread(target=_fill, args=(fetch, self._pipe), name="read-ahead", daemon=True).start()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size == 0:
            return b""
        parts, left = [], size
        while left:
            block = self._pipe.take(left if size > 0 else AHEAD_BYTES)
            if not block:
                break
            parts.append(block)
            left -= len(block)
        return b"".join(parts)

    def readinto(self, buffer: Any) -> int:
        """For `io.BufferedReader`, which calls only this."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._pipe.close()
        super().close()


def _fill(fetch: Fetch, pipe: Pipe) -> None:
    while True:
        begun_at = pipe.received
        try:
            fetch(begun_at, pipe)
        except ReaderIsGone:
            return
        except RetryLater as exc:
            if pipe.received > begun_at:
                continue  # a connection that was cut: the rest is asked for, as long as something comes
            pipe.end(exc)
        except BaseException as exc:  # noqa: BLE001  # raised where the stream is read
            pipe.end(exc)
        else:
            pipe.end(None)
        return
