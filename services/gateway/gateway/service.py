"""The service as one object: everything wired together, with whatever stands for Google handed in."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
import urllib.parse
from typing import Any

import flask
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from dualdeploy import health, logs
from dualdeploy.contracts.dataset_name import DATASET_NAME
from dualdeploy.errors import RetryLater
from dualdeploy.http.callers import CallerRefused
from dualdeploy.http.entrypoint import health_page, read_body
from dualdeploy.ledger import Ledger
from dualdeploy.settings import listed
from gateway import openapi
from gateway.endpoint import Endpoints
from gateway.predictions import LIMIT_SECONDS, NotAnswered, Predicted, Predictions
from gateway.quotas import Limit, OverQuota, Quotas, address_of
from gateway.serving import WhatServes
from gateway.settings import GatewaySettings
from gateway.tokens import APP_CHECK_HEADER, Doorkeeper, Tokens

log = logging.getLogger(__name__)

SERVICE = "gateway"

#: A picture resized for the model has 5 to 50 KB; a photo from a camera need not be sent.
MAX_BODY_BYTES = 1_000_000
#: Requests at once: the threads of the Procfile.
SLOTS = 32
#: Of the five seconds that a request has, what serves is told in these, or not.
LEDGER_SECONDS = 2.0
#: Browsers ask again what they may send after this; Chromium keeps no answer for longer than two hours.
_PREFLIGHT_SECONDS = 3600
_KEYS_AWAY_SECONDS = 10


@dataclasses.dataclass(frozen=True)
class Limits:
    user: Limit
    address: Limit
    app: Limit

    @classmethod
    def of(cls, settings: GatewaySettings) -> Limits:
        each = {"per_second": settings.user_per_second, "burst": settings.user_burst, "per_day": settings.user_per_day}
        app = Limit("app", settings.app_per_second, max(1.0, settings.app_per_second))
        return cls(Limit("user", **each), Limit("address", **each), app)


class Service:
    """What apps reach."""

    def __init__(
        self,
        *,
        door: Doorkeeper,
        quotas: Quotas,
        limits: Limits,
        predictions: Predictions,
        origins: frozenset[str],
        project: str,
    ) -> None:
        self._door = door
        self._quotas = quotas
        self._limits = limits
        self._predictions = predictions
        self._origins = origins
        self._project = project

    def app(self) -> flask.Flask:
        """The WSGI application."""
        app = flask.Flask(SERVICE, static_folder=None)
        app.json.sort_keys = False  # type: ignore[attr-defined]  # the default provider has it
        app.add_url_rule("/predict/<dataset>", "predict", self._predict, methods=["POST", "OPTIONS"])
        app.add_url_rule("/healthz", "healthz", lambda: health_page(SERVICE, health.PROCESS))
        app.add_url_rule("/openapi.json", "openapi", lambda: flask.jsonify(openapi.describe(SERVICE)))
        app.after_request(self._finish)
        for kind, answer in (
            (NotAnswered, self._not_answered),
            (CallerRefused, lambda exc: self._error(exc.status, "token", str(exc))),
            (OverQuota, lambda exc: self._error(429, exc.whose, str(exc), retry_after=math.ceil(exc.seconds))),
            (RetryLater, self._keys_away),
            (HTTPException, lambda exc: self._error(exc.code or 500, "request", exc.description or exc.name)),
            (Exception, self._unexpected),
        ):
            app.register_error_handler(kind, answer)
        return app

    # What is asked ---------------------------------------------------------------------------------------------

    def _predict(self, dataset: str) -> ResponseReturnValue:
        request = flask.request
        if request.method == "OPTIONS":
            return "", 204
        flask.g.began = time.perf_counter()
        flask.g.told = {"dataset": dataset[:80], **phone_said(request.headers)}
        if not DATASET_NAME.fullmatch(dataset):
            raise NotAnswered(404, "dataset", f"{dataset[:80]!r} cannot be a data set")
        app, user = self._door.admit(request.headers)
        flask.g.told["app"] = app
        self._quotas.take([(self._limits.app, app), self._asker(user)])
        predicted = self._predictions.of(dataset, _picture())
        return self._answer(predicted)

    def _asker(self, user: str) -> tuple[Limit, str]:
        if user:
            return self._limits.user, user
        request = flask.request
        return self._limits.address, address_of(request.headers.get("X-Forwarded-For", ""), request.remote_addr or "")

    # What is answered ------------------------------------------------------------------------------------------

    def _answer(self, predicted: Predicted) -> flask.Response:
        said = predicted.prediction
        told = flask.g.told
        told |= {"run": predicted.run_id, "model_version": predicted.version}
        told |= {"cloud_label": said["label"], "cloud_confidence": said["confidence"]}
        told |= {"endpoint_ms": round(predicted.seconds * 1000, 1)}
        if "phone_label" in told:
            told["agrees"] = told["phone_label"] == said["label"]
        answer = {key: said[key] for key in ("label", "confidence", "probabilities") if key in said}
        response = flask.jsonify({**answer, "run": predicted.run_id, "modelVersion": predicted.version})
        own = time.perf_counter() - flask.g.began - predicted.seconds
        response.headers["Server-Timing"] = f"endpoint;dur={predicted.seconds * 1000:.1f}, gateway;dur={own * 1000:.1f}"
        return response

    def _not_answered(self, exc: NotAnswered) -> flask.Response:
        return self._error(exc.status, exc.reason, str(exc), retry_after=exc.retry_after)

    def _keys_away(self, exc: RetryLater) -> flask.Response:
        log.error("%s", exc)
        return self._error(503, "keys", "tokens cannot be checked now", retry_after=_KEYS_AWAY_SECONDS)

    def _unexpected(self, exc: Exception) -> flask.Response:
        health.PROCESS.judge(exc)
        log.error("unexpected error while answering %s", flask.request.path, exc_info=exc)
        return self._error(500, "bug", "unexpected error; the log has it")

    def _error(self, status: int, reason: str, message: str, *, retry_after: int = 0) -> flask.Response:
        response = flask.jsonify(error=message, reason=reason)
        response.status_code = status
        if retry_after:
            response.headers["Retry-After"] = str(retry_after)
        flask.g.reason = reason
        return response

    def _finish(self, response: flask.Response) -> flask.Response:
        self._allow_origin(response)
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        if "told" in flask.g:
            self._log(response)
        return response

    def _allow_origin(self, response: flask.Response) -> None:
        """CORS. Source: https://fetch.spec.whatwg.org/#http-cors-protocol"""
        response.headers["Vary"] = "Origin"
        origin = flask.request.headers.get("Origin", "")
        if origin not in self._origins:
            return
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = "Retry-After, Server-Timing"
        if flask.request.method == "OPTIONS":
            headers = ["Content-Type", "Authorization", APP_CHECK_HEADER, *openapi.PHONE_HEADERS]
            response.headers["Access-Control-Allow-Methods"] = "POST"
            response.headers["Access-Control-Allow-Headers"] = ", ".join(headers)
            response.headers["Access-Control-Max-Age"] = str(_PREFLIGHT_SECONDS)

    def _log(self, response: flask.Response) -> None:
        """One line a request, with what both models said and nothing of the picture, the user or the address."""
        told = {**flask.g.told, "status": response.status_code, "reason": flask.g.get("reason", "")}
        told["latency_ms"] = round((time.perf_counter() - flask.g.began) * 1000, 1)
        trace = logs.trace_field(flask.request.headers.get("X-Cloud-Trace-Context", ""), self._project)
        told = {key: value for key, value in told.items() if value != ""}
        with logs.bind(service=SERVICE, **trace):
            log.info("asked about %s: %d", told["dataset"], response.status_code, extra={"prediction": told})


def phone_said(headers: Any) -> dict[str, Any]:
    """What the app's own model said, as far as it can be understood; it is for the log, and refuses nothing."""
    told: dict[str, Any] = {}
    label = urllib.parse.unquote(headers.get("X-Phone-Label", ""))
    if label and label.isprintable():
        told["phone_label"] = label[:200]
    version = headers.get("X-Phone-Version", "")
    if version and version.isprintable():
        told["phone_version"] = version[:80]
    for name, header, most in (("phone_confidence", "X-Phone-Confidence", 1.0), ("phone_kept", "X-Phone-Kept", 1e6)):
        try:
            number = float(headers.get(header, ""))
        except ValueError:
            continue
        if 0 <= number <= most:
            told[name] = number
    return told


def _picture() -> bytes:
    request = flask.request
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise NotAnswered(415, "encoding", "compressed bodies are not accepted: send the bytes of the picture")
    body = read_body(request, most=MAX_BODY_BYTES)
    if body is None:
        message = f"a picture may have {MAX_BODY_BYTES} bytes: resize it to what the model takes, and send a PNG"
        raise NotAnswered(413, "size", message)
    return body


def compose(
    *, ledger: Ledger, endpoints: Endpoints, settings: GatewaySettings, limit_seconds: float = LIMIT_SECONDS
) -> Service:
    """Wire the service together; touches nothing yet."""
    return Service(
        door=Doorkeeper(
            Tokens.of_app_check(settings.project, settings.app_check_keys_url),
            Tokens.of_auth(settings.project, settings.auth_keys_url),
            apps=frozenset(listed(settings.apps)),
            require_user=settings.require_user,
        ),
        quotas=Quotas(),
        limits=Limits.of(settings),
        predictions=Predictions(WhatServes(ledger), endpoints, slots=SLOTS, limit_seconds=limit_seconds),
        origins=frozenset(listed(settings.origins)),
        project=settings.project,
    )
