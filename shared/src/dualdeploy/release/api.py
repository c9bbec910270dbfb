"""The HTTP interface for people and scripts, one for both cloud_deployer and mobile_publisher.

`POST /redeploy` brings a recorded run out again without training, `/rollback` the one that served before, `/abort`
stops what is under way, `/hold` keeps newer runs away, `/resume` ends that, `/retire` takes a data set down.
`GET /status/<dataset>` tells what serves, `/runs/<run_id>` how a run fared, `/openapi.json` describes all of it.
Who may call is Cloud Run's business (IAM); who did is in the history.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import flask
import pydantic
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from dualdeploy import clock as clocks
from dualdeploy import health
from dualdeploy.contracts.dataset_config import DATASET_NAME
from dualdeploy.contracts.quantization import Quantization
from dualdeploy.errors import CannotEverSucceed, RetryLater, UnknownRun
from dualdeploy.http.callers import CallerRefused, Callers
from dualdeploy.http.entrypoint import read_body
from dualdeploy.ledger import Ledger, Serving, Turn, dataset_of
from dualdeploy.ledger.standing import standing
from dualdeploy.release import openapi
from dualdeploy.release.commands import Commands, Refusal, Wanted

log = logging.getLogger(__name__)

#: The longest sensible request has a reason of 500 characters.
MAX_BODY_BYTES = 64 << 10


def _checked_run_id(value: str) -> str:
    if value and not DATASET_NAME.fullmatch(dataset_of(value)):
        raise ValueError(f"{value!r} is not a run id: one looks like flowers-0123456789ab")
    return value


Dataset = Annotated[str, pydantic.Field(pattern=f"^(?:{DATASET_NAME.pattern})$", examples=["flowers"])]
RunId = Annotated[str, pydantic.AfterValidator(_checked_run_id)]
Reason = Annotated[str, pydantic.Field(description="why; kept in the run's history, 500 characters of it")]


class _Body(pydantic.BaseModel):
    """Strict: a text is not a number, and an unknown key is a typing error of the caller."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class OfDataset(_Body):
    """`/hold` and `/resume`."""

    dataset: Dataset
    reason: Reason = ""


class Redeploy(_Body):
    """Exactly one of `dataset` (its live run, else its newest trained one) and `run_id`."""

    dataset: Dataset | None = None
    run_id: RunId | None = None
    force: bool = pydantic.Field(default=False, description="replace a newer run, pass a gate that refuses")
    canary: bool = pydantic.Field(
        default=True, description="false: everyone in one step (the cloud model is probed all the same)"
    )
    reason: Reason = ""

    @pydantic.model_validator(mode="after")
    def _one_of_both(self) -> Redeploy:
        if (self.dataset is None) == (self.run_id is None):
            raise ValueError("exactly one of dataset and run_id is needed")
        return self


class RedeployMobile(Redeploy):
    quantization: Quantization | None = pydantic.Field(
        default=None, description="the variant of the file, instead of the configuration's publishing.quantization"
    )


class Rollback(_Body):
    dataset: Dataset
    to_run: RunId = pydantic.Field(default="", description="instead of the run that served before")
    reason: Reason = ""

    @pydantic.model_validator(mode="after")
    def _of_the_data_set(self) -> Rollback:
        if self.to_run and dataset_of(self.to_run) != self.dataset:
            raise ValueError(f"{self.to_run} is not a run of {self.dataset}")
        return self


class Abort(_Body):
    dataset: Dataset
    run_id: RunId = pydantic.Field(default="", description="the run to stop, instead of the one that is under way")
    reason: Reason = ""

    @pydantic.model_validator(mode="after")
    def _of_the_data_set(self) -> Abort:
        if self.run_id and dataset_of(self.run_id) != self.dataset:
            raise ValueError(f"{self.run_id} is not a run of {self.dataset}")
        return self


class Retire(_Body):
    dataset: Dataset
    confirm: bool = pydantic.Field(default=False, description="true: take down what the answer without it shows")
    reason: Reason = ""


_EXAMPLES = {
    "redeploy": (
        'send {"dataset": "flowers"} or {"run_id": "flowers-0123456789ab"}, optionally "force", "reason" and "canary"'
    ),
    "rollback": 'send {"dataset": "flowers"}, optionally "to_run" and "reason"',
    "abort": 'send {"dataset": "flowers"}, optionally "run_id" and "reason"',
    "hold": 'send {"dataset": "flowers"}, optionally "reason"',
    "resume": 'send {"dataset": "flowers"}',
    "retire": 'send {"dataset": "flowers"}; "confirm": true takes down what the answer shows',
}


def bodies(target: str) -> dict[str, type[_Body]]:
    """What each command takes."""
    return {
        "redeploy": RedeployMobile if target == "mobile" else Redeploy,
        "rollback": Rollback,
        "abort": Abort,
        "hold": OfDataset,
        "resume": OfDataset,
        "retire": Retire,
    }


def blueprint(
    service: str,
    target: str,
    commands: Commands[Any, Any],
    *,
    ledger: Ledger,
    serving_kind: type[Serving],
    callers: Callers,
    about: Callable[[str], Mapping[str, Any]] = lambda _: {},
) -> flask.Blueprint:
    """The routes of one service; register it on the Flask application.

    `about`: what else the service has to say in the status of a data set.
    """
    routes = flask.Blueprint("release_api", service)
    taken = bodies(target)

    def wanted(kind: str) -> Wanted:
        return _wanted(kind, taken[kind], flask.request, callers)

    @routes.post("/redeploy")
    def redeploy() -> tuple[flask.Response, int]:
        return _accepted(commands.redeploy(wanted("redeploy")))

    @routes.post("/rollback")
    def rollback() -> tuple[flask.Response, int]:
        return _accepted(commands.rollback(wanted("rollback")))

    @routes.post("/abort")
    def abort() -> tuple[flask.Response, int]:
        return _accepted(commands.abort(wanted("abort")))

    @routes.post("/retire")
    def retire() -> tuple[flask.Response, int]:
        asked = wanted("retire")
        response, status = _accepted(commands.retire(asked))
        return response, status if asked.confirm else 200

    @routes.post("/hold")
    def hold() -> flask.Response:
        return flask.jsonify(commands.hold(wanted("hold")))

    @routes.post("/resume")
    def resume() -> flask.Response:
        return flask.jsonify(commands.resume(wanted("resume")))

    @routes.get("/status/<dataset>")
    def status(dataset: str) -> flask.Response:
        return flask.jsonify({**_status(ledger, serving_kind, dataset, target), **about(dataset)})

    @routes.get("/runs/<run_id>")
    def run(run_id: str) -> flask.Response:
        if not DATASET_NAME.fullmatch(dataset_of(run_id)):
            raise Refusal(404, f"{run_id!r} is not a run id")
        try:
            return flask.jsonify(standing(ledger, run_id, target).model_dump(mode="json"))
        except UnknownRun as exc:
            raise Refusal(404, str(exc)) from exc

    @routes.get("/openapi.json")
    def description() -> flask.Response:
        return flask.jsonify(openapi.describe(service, target, taken))

    @routes.errorhandler(Refusal)
    def refuse(exc: Refusal) -> tuple[flask.Response, int]:
        return flask.jsonify({"error": str(exc), **exc.more}), exc.status

    @routes.errorhandler(CallerRefused)
    def refuse_caller(exc: CallerRefused) -> tuple[flask.Response, int]:
        return flask.jsonify(error=str(exc)), exc.status

    @routes.errorhandler(RetryLater)
    def retry_later(exc: RetryLater) -> tuple[flask.Response, int]:
        return flask.jsonify(error=f"try again in a moment: {exc}"), 503

    @routes.errorhandler(CannotEverSucceed)
    def cannot(exc: CannotEverSucceed) -> tuple[flask.Response, int]:
        return flask.jsonify(error=str(exc)), 409

    @routes.errorhandler(Exception)
    def unexpected(exc: Exception) -> ResponseReturnValue:
        if isinstance(exc, HTTPException):
            return exc
        health.PROCESS.judge(exc)
        log.error("unexpected error while answering %s", flask.request.path, exc_info=exc)
        return flask.jsonify(error="unexpected error; the log has it"), 500

    return routes


def _accepted(answer: tuple[Mapping[str, Any], bool]) -> tuple[flask.Response, int]:
    document, is_replayed = answer
    response = flask.jsonify(document)
    if is_replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response, 202


# What is asked -------------------------------------------------------------------------------------------------


def _wanted(kind: str, body: type[_Body], request: flask.Request, callers: Callers) -> Wanted:
    by = callers.identity(request.headers)
    asked = _read_json(request)
    key = request.headers.get("Idempotency-Key", "").strip()
    if len(key) > 255:
        raise Refusal(422, "Idempotency-Key has more than 255 characters: send a UUID")
    if not isinstance(asked, Mapping):
        raise Refusal(422, f"the body is not a JSON object: {_EXAMPLES[kind]}")
    try:
        checked = body.model_validate(asked)
    except pydantic.ValidationError as exc:
        raise Refusal(422, f"{'; '.join(_fault(error) for error in exc.errors())}: {_EXAMPLES[kind]}") from exc
    given = {name: value for name, value in checked.model_dump().items() if value is not None}
    given["reason"] = given.get("reason", "")[:500]
    return Wanted(kind=kind, by=by, key=key, **given)


def _fault(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key {where!r}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _read_json(request: flask.Request) -> Any:
    """What the body says, whatever its content type (`curl -d` sends another one). None if it is not JSON."""
    body = read_body(request, most=MAX_BODY_BYTES)
    if body is None:
        raise Refusal(413, f"a request may have {MAX_BODY_BYTES} bytes")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


# What is told --------------------------------------------------------------------------------------------------


def _status(ledger: Ledger, kind: type[Serving], dataset: str, target: str) -> dict[str, Any]:
    if not DATASET_NAME.fullmatch(dataset):
        raise Refusal(404, f"{dataset!r} is not the name of a data set")
    found = ledger.find_serving(kind, target, dataset)
    serving = found.document if found else kind(dataset=dataset, target=target)
    refused = ledger.refused_lately(dataset)
    if found is None and not refused and not ledger.run_ids(dataset):
        raise Refusal(404, f"nothing is known of a data set {dataset!r}")
    told = serving.model_dump(mode="json", exclude={"v", "dataset", "target", "under_way", "waiting", "hold"})
    under_way = [serving.under_way] if serving.under_way else []
    return {
        "dataset": dataset,
        "target": target,
        "live": told if serving.current else None,
        "under_way": [_unfinished(ledger, turn, target) for turn in (*under_way, *serving.waiting)],
        "hold": serving.hold.model_dump(mode="json") if serving.hold else None,
        "refused": [{"at": each.at, "kind": each.kind, "reason": each.reason} for each in refused],
        "at": clocks.to_text(ledger.clock()),
    }


def _unfinished(ledger: Ledger, turn: Turn, target: str) -> dict[str, Any]:
    try:
        return standing(ledger, turn.run_id, target).model_dump(mode="json")
    except CannotEverSucceed as exc:
        # Said rather than failed on: it is just when something is wrong that people ask for the status.
        return {"run_id": turn.run_id, "target": target, "state": "unreadable", "reason": str(exc)}
