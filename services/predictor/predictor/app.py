"""The two routes of Vertex AI's contract: health and predict."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import flask
from werkzeug.exceptions import HTTPException

from dualdeploy import logs
from predictor import instances
from predictor.answers import Answer, Fault, Prediction, Wanted
from predictor.batching import Batcher, Overloaded
from predictor.instances import BadRequest, Picture
from predictor.readiness import Readiness
from predictor.settings import PredictorSettings

_access_log = logging.getLogger("predictor.access")
_log = logging.getLogger("predictor")

#: How loud a request's line is; all others are a matter of the sender's.
_LEVELS = {429: logging.WARNING, 500: logging.ERROR, 503: logging.WARNING}


def create_app(settings: PredictorSettings, readiness: Readiness) -> flask.Flask:
    """Build the WSGI application; it answers from the first moment on, with 503 until `readiness` is."""
    app = flask.Flask("predictor", static_folder=None)
    # Enforced by werkzeug for bodies with a length and for chunked ones alike.
    app.config["MAX_CONTENT_LENGTH"] = settings.max_request_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the default provider has it
    admission = threading.BoundedSemaphore(settings.in_flight)

    @app.get(settings.health_route)
    def health() -> tuple[dict[str, Any], int]:
        return readiness.describe(), 200 if readiness.healthy else 503

    @app.post(settings.predict_route)
    def predict() -> flask.Response | dict[str, Any]:
        batcher = readiness.batcher
        if batcher is None:
            return _error(503, f"the model is not loaded yet: {readiness.describe()['reason']}", retry_after=1)
        # Never waits: threads that wait here would be missing for health checks.
        if not admission.acquire(blocking=False):
            message = f"{settings.in_flight} requests are being answered already: try again"
            return _error(429, message, retry_after=1)
        try:
            return _predict(batcher, settings)
        finally:
            admission.release()

    _answer_errors(app, settings)
    _log_access(app, settings)
    return app


def _predict(batcher: Batcher, settings: PredictorSettings) -> flask.Response | dict[str, Any]:
    if flask.request.headers.get("Content-Encoding", "identity") != "identity":
        return _error(415, "compressed bodies are not accepted: send plain JSON")
    try:
        asked = instances.parse(_body(), max_instances=settings.max_instances)
        flask.g.instances = len(asked.items)
        answers = _answers(batcher, asked.items)
    except BadRequest as exc:
        return _error(400, exc.message)
    except Overloaded as exc:
        return _error(429, f"the server is overloaded ({exc}): try again", retry_after=exc.retry_after)
    faults = {index: answer.reason for index, answer in enumerate(answers) if isinstance(answer, Fault)}
    flask.g.faults = len(faults)
    if len(faults) == len(answers):
        return _error(400, instances.describe(faults))
    # Vertex AI passes on no header of ours: whoever needs to know which run answered finds it here.
    run = {"run": settings.model_version} if settings.model_version else {}
    return {"predictions": [_as_json(answer, asked.wanted, run) for answer in answers]}


def _as_json(answer: Answer, wanted: Wanted, run: Mapping[str, str]) -> dict[str, Any]:
    return {**answer.as_json(wanted), **run} if isinstance(answer, Prediction) else answer.as_json()


def _answers(batcher: Batcher, parsed: Sequence[Picture | Fault]) -> list[Answer]:
    """One for each instance, in order: a wrong one keeps its fault, and the model never sees it."""
    pictures = [item for item in parsed if isinstance(item, Picture)]
    predicted = iter(batcher.predict(pictures) if pictures else ())
    return [next(predicted) if isinstance(item, Picture) else item for item in parsed]


def _body() -> bytes:
    body = flask.request.get_data(cache=False)
    # A chunked body states no length: werkzeug stops reading it at the limit and says so only when asked for more.
    flask.request.stream.read(1)
    return body


def _error(code: int, message: str, *, retry_after: int = 0) -> flask.Response:
    response = flask.jsonify({"error": message})
    response.status_code = code
    if retry_after:
        response.headers["Retry-After"] = str(retry_after)
    flask.g.error = message
    return response


def _answer_errors(app: flask.Flask, settings: PredictorSettings) -> None:
    """Every answer is JSON, whoever raised."""

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> flask.Response:
        if error.code == 413:
            return _error(413, f"the request is larger than {settings.max_request_bytes} bytes: send fewer pictures")
        response = _error(error.code or 500, error.description or error.name)
        if error.code == 405:
            response.headers["Allow"] = dict(error.get_headers()).get("Allow", "")
        return response

    @app.errorhandler(Exception)
    def bug(error: Exception) -> flask.Response:
        _log.exception("a prediction failed", extra=_trace(settings))
        return _error(
            500, f"the server failed ({type(error).__name__}): it is not your request; the log has the reason"
        )


def _log_access(app: flask.Flask, settings: PredictorSettings) -> None:
    """One JSON line a request, in the field that Cloud Logging draws as a request."""

    @app.before_request
    def begin() -> None:
        flask.g.started = time.perf_counter()

    @app.after_request
    def end(response: flask.Response) -> flask.Response:
        if settings.model_version:
            response.headers["X-Model-Version"] = settings.model_version
        if flask.request.path == settings.health_route:
            return response  # every few seconds, for ever; what loading does is logged by itself
        seconds = time.perf_counter() - flask.g.started
        fields = {
            "httpRequest": {
                "requestMethod": flask.request.method,
                "requestUrl": flask.request.path,
                "status": response.status_code,
                "requestSize": str(flask.request.content_length or 0),
                "responseSize": str(response.content_length or 0),
                "latency": f"{seconds:.6f}s",
            },
            "instances": flask.g.get("instances", 0),
            "faults": flask.g.get("faults", 0),
            "model_version": settings.model_version,
            "error": flask.g.get("error", ""),
            **_trace(settings),
        }
        level = _LEVELS.get(response.status_code, logging.INFO)
        _access_log.log(level, "%s %s %d", flask.request.method, flask.request.path, response.status_code, extra=fields)
        return response


def _trace(settings: PredictorSettings) -> dict[str, str]:
    """What ties a line to its request: Google's header, or else the W3C's (`00-TRACE-SPAN-01`)."""
    headers = flask.request.headers
    trace = headers.get("X-Cloud-Trace-Context") or headers.get("traceparent", "").partition("-")[2].partition("-")[0]
    return logs.trace_field(trace, settings.project or settings.project_number)
