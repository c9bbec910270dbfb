"""Whether predictions can be answered, and if not, what is being waited for."""

from __future__ import annotations

import threading
import time

from predictor.batching import Batcher


class Readiness:
    """Set once by the thread that loads, read by every request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._waiting_for = "the server is starting"
        self._batcher: Batcher | None = None
        self._seconds = 0.0

    def waiting_for(self, reason: str) -> None:
        """Say what loading is doing now; health answers with it."""
        with self._lock:
            self._waiting_for = reason

    def ready(self, batcher: Batcher) -> float:
        """Answer predictions from now on; returns the seconds since the start."""
        with self._lock:
            self._seconds = time.monotonic() - self._started
            self._batcher = batcher
            return self._seconds

    @property
    def batcher(self) -> Batcher | None:
        """What answers predictions, or None while loading."""
        return self._batcher

    def describe(self) -> dict[str, str | float]:
        """The body of a health answer."""
        with self._lock:
            if self._batcher is not None:
                return {"status": "ready", "start_seconds": round(self._seconds, 3)}
            elapsed = round(time.monotonic() - self._started, 3)
            return {"status": "loading", "reason": self._waiting_for, "elapsed_seconds": elapsed}
