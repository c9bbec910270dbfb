"""One request: what serves is looked up, the endpoint asked, all within five seconds."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from dualdeploy.errors import (
    CannotEverSucceed,
    DualDeployError,
    ModelAsleep,
    RejectedByGoogle,
    ResourceMissing,
    RetryLater,
)
from dualdeploy.images import image_file
from dualdeploy.images.image_file import UnreadableImage
from gateway.endpoint import Answer, Endpoints
from gateway.serving import Live, WhatServes

log = logging.getLogger(__name__)

#: A caller has an answer within this and what checking its tokens takes (two seconds at most, as a rule none).
LIMIT_SECONDS = 5.0

#: When to ask again, in seconds. A model that sleeps takes minutes to wake.
_NOTHING_SERVES, _ASLEEP, _AWAY, _SLOW = 60, 120, 10, 5

#: How services/predictor begins what it has to say of a wrong picture.
_PICTURE = "instances[0]: "


class NotAnswered(DualDeployError):
    """`status` and `reason` are for programs, `retry_after` is seconds, or 0 when the same request fails again."""

    def __init__(self, status: int, reason: str, message: str, *, retry_after: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


@dataclasses.dataclass(frozen=True)
class Predicted:
    """The answer, by which model, and how many seconds the endpoint took."""

    prediction: Mapping[str, Any]
    run_id: str
    version: str
    seconds: float


class Predictions:
    """`slots`: how many requests are answered at once. `limit_seconds` is for each."""

    def __init__(
        self, serves: WhatServes, endpoints: Endpoints, *, slots: int, limit_seconds: float = LIMIT_SECONDS
    ) -> None:
        self._serves = serves
        self._endpoints = endpoints
        self._limit = limit_seconds
        # Twice as many: a call that hangs holds its thread after its request was answered.
        self._threads = concurrent.futures.ThreadPoolExecutor(2 * slots, thread_name_prefix="endpoint")

    def of(self, dataset: str, picture: bytes) -> Predicted:
        """Raises NotAnswered."""
        try:
            # What a picture may be is one definition everywhere; a bad one need not travel.
            image_file.check(picture)
        except UnreadableImage as exc:
            raise NotAnswered(400, "picture", f"{exc}: send the bytes of a JPEG or PNG file") from exc
        ends = time.monotonic() + self._limit
        # No limit of a library holds for all that a call does: credentials, a name to look up, a body that drips. That
        # of the call comes a second later, and only ends its thread.
        asked = self._threads.submit(self._ask, dataset, picture, lambda: max(0.0, ends - time.monotonic()) + 1)
        try:
            return asked.result(timeout=self._limit)
        except concurrent.futures.TimeoutError:
            asked.cancel()
            message = f"the model of {dataset} did not answer within {self._limit:g} s"
            raise NotAnswered(504, "slow", message, retry_after=_SLOW) from None

    def _ask(self, dataset: str, picture: bytes, left: Callable[[], float]) -> Predicted:
        live = self._live(dataset)
        began = time.perf_counter()
        try:
            answer = self._endpoints.predict(live, picture, seconds=left())
        except DualDeployError as exc:
            raise self._refused(dataset, exc) from exc
        seconds = time.perf_counter() - began
        return Predicted(answer.prediction, _run_of(answer, live), answer.version, seconds)

    def _live(self, dataset: str) -> Live:
        try:
            live = self._serves.of(dataset)
        except (RetryLater, CannotEverSucceed) as exc:
            log.error("what serves for %s is not known: %s", dataset, exc)  # noqa: TRY400
            message = f"what serves for {dataset} is not known now"
            raise NotAnswered(503, "ledger", message, retry_after=_AWAY) from exc
        if live is None:
            message = f"no model of {dataset} serves now"
            raise NotAnswered(503, "nothing_serves", message, retry_after=_NOTHING_SERVES)
        return live

    def _refused(self, dataset: str, exc: DualDeployError) -> NotAnswered:
        """What an endpoint's refusal means to an app, which hears nothing of the project's inside."""
        if isinstance(exc, ModelAsleep):
            message = f"the model of {dataset} wakes up now, which takes minutes"
            return NotAnswered(503, "asleep", message, retry_after=_ASLEEP)
        if isinstance(exc, RejectedByGoogle) and not isinstance(exc, ResourceMissing) and _PICTURE in str(exc):
            return NotAnswered(400, "picture", _said_of_picture(str(exc)))
        if isinstance(exc, ResourceMissing):
            self._serves.forget(dataset)
        log.error("the endpoint of %s does not answer: %s", dataset, exc)
        return NotAnswered(503, "endpoint", f"the model of {dataset} does not answer now", retry_after=_AWAY)


def _run_of(answer: Answer, live: Live) -> str:
    """The model that answered says which run it is of; where an older one does not, the ledger knows the live one."""
    said = answer.prediction.get("run")
    if isinstance(said, str) and said:
        return said
    return live.run_id if answer.deployed_model == live.deployed_model else ""


def _said_of_picture(text: str) -> str:
    """`broken: send …` out of the predictor's JSON inside Vertex AI's."""
    return text.partition(_PICTURE)[2].partition('"')[0][:300]
