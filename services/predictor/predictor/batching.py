"""Between the requests and the model: how many pictures it gets at once, and how many batches run at once.

This is the place for joining the pictures of concurrent requests: `predict` already receives whole requests
from many threads and already hands the model batches of its own choosing.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

from predictor.model import Prediction, UndecodableImages


class Overloaded(Exception):
    """More work is waiting than can be done in the time that a client waits: it should come back."""


class Model(Protocol):
    def predict(self, images: Sequence[bytes]) -> list[Prediction]:
        """Classify encoded pictures, in order."""


class Batcher:
    """Cuts requests into batches of at most `max_batch` and runs at most `parallel` batches at a time.

    Both bound memory: decoded pictures are a hundred times larger than encoded ones. A batch that waits longer
    than `patience` seconds raises Overloaded (Vertex AI itself gives up after 60 s).
    """

    def __init__(self, model: Model, *, max_batch: int, parallel: int, patience: float = 30.0) -> None:
        self._model = model
        self._max_batch = max_batch
        self._running = threading.BoundedSemaphore(parallel)
        self._patience = patience

    def predict(self, images: Sequence[bytes]) -> list[Prediction]:
        """Classify the pictures of one request, in order.

        Raises UndecodableImages with positions within `images`, and Overloaded.
        """
        predictions: list[Prediction] = []
        faults: dict[int, str] = {}
        for start in range(0, len(images), self._max_batch):
            try:
                predictions += self._batch(images[start : start + self._max_batch])
            except UndecodableImages as exc:
                faults.update({start + index: fault for index, fault in exc.faults.items()})
        if faults:
            raise UndecodableImages(faults)
        return predictions

    def _batch(self, images: Sequence[bytes]) -> list[Prediction]:
        if not self._running.acquire(timeout=self._patience):
            raise Overloaded(f"no batch ended within {self._patience:g} s")
        try:
            return self._model.predict(images)
        finally:
            self._running.release()
