"""Envelopes in, HTTP codes out: the only module that knows both.

| outcome of handling                          | HTTP | meaning to Pub/Sub and Eventarc            |
|----------------------------------------------|------|--------------------------------------------|
| done, already done, not ours                 | 204  | acknowledged                               |
| CannotEverSucceed: recorded with its reason  | 204  | acknowledged, visible in the ledger        |
| RetryLater                                   | 503  | redelivered with back-off, then dead letter |
| anything else (a bug of ours)                | 500  | the same                                   |
| not from who may deliver events (`callers`)  | 401 or 403 | the same                                 |
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Mapping

import flask
from werkzeug.exceptions import RequestEntityTooLarge

from dualdeploy import clock as clocks
from dualdeploy import health as healths
from dualdeploy import logs
from dualdeploy.clock import Clock
from dualdeploy.contracts.events import Envelope, unwrap
from dualdeploy.errors import CannotEverSucceed, MalformedEvent, NotForUs, RetryLater
from dualdeploy.health import Health
from dualdeploy.http.callers import CallerRefused, Callers
from dualdeploy.ledger import Ledger, Rejected
from dualdeploy.outcome import Outcome

log = logging.getLogger(__name__)

#: Pub/Sub messages have at most 10 MB, 13.4 MB in base64; nothing that we receive comes near.
MAX_BODY_BYTES = 16 << 20

#: Eventarc may be pointed at `/`; then the CloudEvent's type says which event it is.
_NAMES_BY_TYPE = {"google.cloud.storage.object.v1.finalized": "object-finalized"}


Handler = Callable[[Envelope], Outcome]


class Receiver:
    """Answers the events of one service: `/events/<name>` goes to `handlers[name]`."""

    def __init__(
        self,
        service: str,
        handlers: Mapping[str, Handler],
        *,
        ledger: Ledger,
        project: str,
        callers: Callers,
        clock: Clock = clocks.utc_now,
        health: Health | None = None,
    ) -> None:
        """`health` is this process's own, unless a test has another one."""
        self._service = service
        self._health = health or healths.PROCESS
        self._handlers = handlers
        self._callers = callers
        self._ledger = ledger
        self._project = project
        self._clock = clock

    def __call__(self, request: flask.Request) -> flask.Response:
        """Handle one HTTP request. A GET of `/healthz` answers without touching anything."""
        if request.method == "GET" and request.path in ("/healthz", "/"):
            return health_page(self._service, self._health)
        if request.method != "POST":
            return _answer(405, "send events with POST")
        trace = logs.trace_field(request.headers.get("X-Cloud-Trace-Context", ""), self._project)
        with logs.bind(service=self._service, **trace):
            refusal = self._refusal(request)
            if refusal is not None:
                return refusal
            body = read_body(request, most=MAX_BODY_BYTES)
            if body is None:
                return _answer(413, f"a body may have {MAX_BODY_BYTES} bytes")
            return self._receive(request, body)

    def _refusal(self, request: flask.Request) -> flask.Response | None:
        """The answer to whoever may not deliver events; its body is not even read."""
        try:
            self._callers.require_event_sender(request.headers)
        except CallerRefused as exc:
            log.warning("refused: %s %s: %s", exc.status, request.path, exc)
            return _answer(exc.status, str(exc))
        except RetryLater as exc:
            log.warning("retry later: %s: %s", type(exc).__name__, exc)
            return _answer(503, f"{type(exc).__name__}: {exc}", retry_after=True)
        return None

    def _receive(self, request: flask.Request, body: bytes) -> flask.Response:
        name = request.path.rstrip("/").rsplit("/", 1)[-1]
        # A delivery without an id of its own is known by what it says.
        envelope = Envelope(event_id=hashlib.sha256(body).hexdigest()[:16], data=body)
        if name and name not in self._handlers:
            return self._unknown(name)
        try:
            unwrapped = unwrap(body, headers=dict(request.headers))
        except MalformedEvent as exc:
            return self._reject(name, envelope, exc)
        envelope = dataclasses.replace(unwrapped, event_id=unwrapped.event_id or envelope.event_id)
        name = name or _NAMES_BY_TYPE.get(envelope.event_type, "")
        if name not in self._handlers:
            return self._unknown(envelope.event_type)
        with logs.bind(event=name, event_id=envelope.event_id):
            return self._handle(name, envelope)

    def _handle(self, name: str, envelope: Envelope) -> flask.Response:
        try:
            outcome = self._handlers[name](envelope)
        except NotForUs as exc:
            log.info("ignored: %s", exc)
            return flask.Response(status=204)
        except Exception as exc:  # noqa: BLE001  # the boundary: whatever it is, the sender must hear of it
            self._health.judge(exc)
            return self._failed(name, envelope, exc)
        log.info("%s: %s", outcome.kind, outcome.message)
        return flask.Response(status=204)

    def _failed(self, name: str, envelope: Envelope, exc: Exception) -> flask.Response:
        if isinstance(exc, CannotEverSucceed):
            return self._reject(name, envelope, exc)
        if isinstance(exc, RetryLater):
            log.warning("retry later: %s: %s", type(exc).__name__, exc)
            return _answer(503, f"{type(exc).__name__}: {exc}", retry_after=True)
        log.error("unexpected error while handling %s", name, exc_info=exc)
        return _answer(500, "unexpected error; the log has it")

    def _unknown(self, name: str) -> flask.Response:
        # Not acknowledged: a subscription that points at the wrong place must end in the dead letters.
        known = ", ".join(f"/events/{known}" for known in sorted(self._handlers))
        return _answer(404, f"no event {name!r} here; known: {known}")

    def _reject(self, name: str, envelope: Envelope, exc: CannotEverSucceed) -> flask.Response:
        rejected = Rejected(
            at=clocks.to_text(self._clock()),
            service=self._service,
            kind=name,
            reason=f"{type(exc).__name__}: {exc}",
            event={
                "id": envelope.event_id,
                "attributes": dict(envelope.attributes),
                "data": envelope.data[:4096].decode(errors="replace"),
            },
        )
        try:
            where = self._ledger.record_rejected(rejected, event_id=envelope.event_id)
        except Exception as failure:
            # Acknowledging now would lose the event: it is neither handled nor recorded.
            log.exception("retry later: the rejection could not be recorded: %s", rejected.reason)
            return _answer(503, f"could not record the rejection: {failure}", retry_after=True)
        log.error("rejected: %s (recorded at %s)", rejected.reason, where)
        return flask.Response(status=204)


def read_body(request: flask.Request, *, most: int) -> bytes | None:
    """The body, or None when it has more than `most` bytes."""
    # A chunked body does not announce its length, and werkzeug cuts it silently: hence one byte more.
    request.max_content_length = most + 1
    try:
        body = request.get_data()
    except RequestEntityTooLarge:
        return None
    return body if len(body) <= most else None


def health_page(service: str, health: Health) -> flask.Response:
    """What `/healthz` of every service answers: 503 while the process cannot do its work."""
    if health.fault:
        return _answer(503, health.fault)
    return flask.jsonify(status="ok", service=service)


def _answer(status: int, message: str, *, retry_after: bool = False) -> flask.Response:
    response = flask.jsonify(error=message)
    response.status_code = status
    if retry_after:
        response.headers["Retry-After"] = "10"
    return response
