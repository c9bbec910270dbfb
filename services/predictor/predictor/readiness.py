"""Whether predictions can be answered, and if not, what is being waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from predictor.batching import Batcher


class Readiness:
    """Set once by the thread that loads, read by every request.

    `all_ready` says whether every process of this server is: they share a port, and a request may reach any of them.
    """

    def __init__(self, all_ready: Callable[[], bool] = lambda: True) -> None:
        self._all_ready = all_ready
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._waiting_for = "the server is starting"
        self._batcher: Batcher | None = None
        self._seconds = 0.0
        self._steps: dict[str, float] = {}

    def waiting_for(self, reason: str) -> None:
        """Say what loading is doing now; health answers with it."""
        with self._lock:
            self._waiting_for = reason

    def took(self, step: str, seconds: float) -> None:
        """Remember how long a step of loading took; health answers with it."""
        with self._lock:
            self._steps[step] = round(seconds, 3)

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

    @property
    def healthy(self) -> bool:
        """Whether traffic may come."""
        return self._batcher is not None and not self._batcher.stuck_seconds and self._all_ready()

    def describe(self) -> dict[str, Any]:
        """The body of a health answer: what is waited for or wrong, or how long every step of the start took."""
        with self._lock:
            if self._batcher is None:
                elapsed = round(time.monotonic() - self._started, 3)
                return {"status": "loading", "reason": self._waiting_for, "elapsed_seconds": elapsed}
            if seconds := self._batcher.stuck_seconds:
                return {"status": "stuck", "reason": f"the model has worked on one batch for {seconds:.0f} s"}
            if not self._all_ready():
                return {"status": "loading", "reason": "another process of this server is loading"}
            return {"status": "ready", "start_seconds": round(self._seconds, 3), "steps": self._steps}
