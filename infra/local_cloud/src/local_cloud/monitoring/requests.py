"""What was served: every answer of a model server, by endpoint and deployed model, for as long as the process lives."""

from __future__ import annotations

import collections
import dataclasses
import threading
import time
from collections.abc import Callable

#: A day of busy tests; what is older is forgotten.
_KEPT = 100_000


@dataclasses.dataclass(frozen=True)
class Request:
    """`at` in seconds since 1970; `milliseconds` are those of the model server."""

    at: float
    endpoint: str
    deployed: str
    milliseconds: float
    is_error: bool


class Requests:
    """Safe to be written by many threads and read by others; `now` tells seconds since 1970."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.now = now
        self._lock = threading.Lock()
        self._all: collections.deque[Request] = collections.deque(maxlen=_KEPT)

    def note(self, endpoint: str, deployed: str, *, seconds: float, is_error: bool) -> None:
        """Called when the model server has answered, or has failed to."""
        with self._lock:
            self._all.append(Request(self.now(), endpoint, deployed, seconds * 1000, is_error))

    def between(self, start: float, end: float) -> list[Request]:
        with self._lock:
            return [request for request in self._all if start < request.at <= end]
