"""Between the threads of requests and the model: pictures of concurrent requests go through the model together.

nothing runs            batches start at once with what is waiting, in all free places: a lone request never waits
a batch runs            the next gathers until it is full or its oldest picture waited `max_wait`, then runs beside it
all places are taken    it gathers on; above `max_waiting` pictures, requests are turned away
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from predictor.answers import Answer
from predictor.instances import MAX_REQUEST_PIXELS, Picture


class Overloaded(Exception):
    """More work is waiting than can be done in the time that a client waits: come back in `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelFailed(Exception):
    """The model raised; every request of the batch gets one of its own, with the cause."""


class Model(Protocol):
    """`sizes`: the batches that it was warmed for, ascending; `pads`: a smaller batch costs it as much as the next."""

    @property
    def sizes(self) -> Sequence[int]: ...

    @property
    def pads(self) -> bool: ...

    def predict(self, images: Sequence[bytes]) -> list[Answer]:
        """Classify encoded pictures, in order."""


class _Request:
    """Pictures that one thread waits for."""

    def __init__(self, count: int) -> None:
        self.answers: list[Answer | None] = [None] * count
        self.missing = count
        #: Some of its pictures are in the model already.
        self.begun = False
        self.error: Exception | None = None
        self.done = threading.Event()


@dataclasses.dataclass(frozen=True)
class _Place:
    """One picture in the queue."""

    request: _Request
    index: int
    picture: Picture
    since: float


class Batcher:
    """Runs at most `parallel` batches at a time, each as large as the queue allows.

    Batches bound memory by their number of pictures and of pixels: decoded pictures are a hundred times larger than
    encoded ones. A request that is not answered within `patience` seconds is given up (Vertex AI itself waits 60 s).
    """

    def __init__(
        self, model: Model, *, parallel: int, max_waiting: int, max_wait: float, patience: float = 30.0
    ) -> None:
        self._model = model
        self._parallel = parallel
        self._max_waiting = max_waiting
        self._max_wait = max_wait
        self._patience = patience
        self._changed = threading.Condition()
        self._waiting: collections.deque[_Place] = collections.deque()
        #: When each batch that runs began, by its thread.
        self._running: dict[int, float] = {}
        self._seconds_per_picture = 0.0
        for number in range(parallel):
            threading.Thread(target=self._work, name=f"model-{number}", daemon=True).start()

    @property
    def waiting(self) -> int:
        """Pictures in the queue."""
        return len(self._waiting)

    @property
    def stuck_seconds(self) -> float:
        """How long the model has been at a batch that nobody waits for any more; 0 while it works as it should."""
        with self._changed:
            longest = max((time.monotonic() - began for began in self._running.values()), default=0.0)
        # A request may have waited for a whole batch before its own began.
        return longest if longest > 2 * self._patience else 0.0

    def predict(self, pictures: Sequence[Picture]) -> list[Answer]:
        """Classify the pictures of one request, in order. Raises Overloaded or ModelFailed."""
        request = self._enter(pictures)
        if not request.done.wait(self._patience):
            with self._changed:
                self._drop(request)
                raise Overloaded(f"no answer within {self._patience:g} s", retry_after=self._retry_after())
        if request.error is not None:
            raise ModelFailed(f"the model failed on a batch: {request.error}") from request.error
        return [answer for answer in request.answers if answer is not None]

    def _enter(self, pictures: Sequence[Picture]) -> _Request:
        request, now = _Request(len(pictures)), time.monotonic()
        with self._changed:
            # An empty queue takes every request: one that is larger than the queue could never come in otherwise.
            if self._waiting and len(self._waiting) + len(pictures) > self._max_waiting:
                raise Overloaded(f"{len(self._waiting)} pictures are waiting", retry_after=self._retry_after())
            self._waiting.extend(_Place(request, index, picture, now) for index, picture in enumerate(pictures))
            self._changed.notify()
        return request

    def _retry_after(self) -> int:
        return max(1, math.ceil(len(self._waiting) * self._seconds_per_picture))

    def _drop(self, request: _Request) -> None:
        """Nobody waits for these any longer."""
        self._waiting = collections.deque(place for place in self._waiting if place.request is not request)

    def _work(self) -> None:
        """The life of one of the `parallel` threads."""
        while True:
            batch = self._next_batch()
            answers: list[Answer] | Exception
            try:
                answers = given = self._model.predict([place.picture.data for place in batch])
                if len(given) != len(batch):
                    answers = ModelFailed(f"it gave {len(given)} answers for {len(batch)} pictures")
            except Exception as exc:  # noqa: BLE001 - whatever it is, those who wait must hear of it
                answers = exc
            self._deliver(batch, answers)

    def _next_batch(self) -> list[_Place]:
        with self._changed:
            while (pause := self._pause()) != 0:
                self._changed.wait(pause)
            batch = [self._waiting.popleft() for _ in range(self._size())]
            self._running[threading.get_ident()] = time.monotonic()
            for place in batch:
                place.request.begun = True
            if self._waiting:
                self._changed.notify()  # the thread that slept through their arrival
            return batch

    def _pause(self) -> float | None:
        """Seconds until the next batch may start; None while there is nothing to do."""
        if not self._waiting:
            return None
        if not self._running or self._waiting[0].request.begun or len(self._waiting) >= self._model.sizes[-1]:
            return 0
        return max(0.0, self._waiting[0].since + self._max_wait - time.monotonic())

    def _size(self) -> int:
        """How many pictures from the head of the queue to run together."""
        pixels = itertools.accumulate(place.picture.pixels for place in self._waiting)
        fit = sum(1 for _ in itertools.takewhile(lambda total: total <= MAX_REQUEST_PIXELS, pixels))
        fit = min(max(fit, 1), self._model.sizes[-1])
        if self._model.pads:
            return fit
        # A picture more is work for a picture more: all free places share what waits, and what does not fill a warmed
        # batch goes with the next one.
        share = math.ceil(len(self._waiting) / (self._parallel - len(self._running)))
        return max(size for size in self._model.sizes if size <= min(fit, share))

    def _deliver(self, batch: Sequence[_Place], answers: list[Answer] | Exception) -> None:
        with self._changed:
            began = self._running.pop(threading.get_ident())
            self._seconds_per_picture = (time.monotonic() - began) / len(batch)
            if isinstance(answers, Exception):
                for request in {place.request for place in batch}:
                    request.error = answers
                    self._drop(request)
                    request.done.set()
                return
            for place, answer in zip(batch, answers, strict=True):
                place.request.answers[place.index] = answer
                place.request.missing -= 1
                if not place.request.missing:
                    place.request.done.set()
