"""The HTTP interface for people and scripts, one for both cloud_deployer and mobile_publisher.

`POST /redeploy` brings a recorded run out again without training, `POST /rollback` the one that was live before,
`POST /abort` stops what is under way; `GET /status/<dataset>` tells what serves, `GET /runs/<run_id>` how a run fared.
`GET /openapi.json` describes all of it. Who may call is Cloud Run's business (IAM); who did is in the history.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import typing
from collections.abc import Callable, Mapping
from typing import Any

import flask
from werkzeug.exceptions import RequestEntityTooLarge

from dualdeploy import clock as clocks
from dualdeploy import openapi
from dualdeploy.branches import branch_under_way
from dualdeploy.callers import CallerRefused, Callers
from dualdeploy.clock import Clock
from dualdeploy.dataset_config import DATASET_NAME, Quantization
from dualdeploy.errors import CannotEverSucceed, EndNotAnnounced, RetryLater, UnknownRun
from dualdeploy.ledger import Branch, Ledger, State, Versioned, dataset_of
from dualdeploy.release_request import Kind, ReleaseRequest

log = logging.getLogger(__name__)

#: After these steps of a branch the release is out: what is left is tidying, which cannot be aborted.
_OUT = frozenset({"record", "aliases", "undeploy"})

#: Of several branches that wait or are at work, an abort means the last of these.
_ABORTED_FIRST = (State.TRAINED, State.GATING, State.DEPLOYING, State.CANARY)

#: The longest sensible request has a reason of 500 characters.
MAX_BODY_BYTES = 64 << 10

_EXAMPLES = {
    "redeploy": (
        'send {"dataset": "flowers"} or {"run_id": "flowers-0123456789ab"}, optionally "force", "reason" and "canary"'
    ),
    "rollback": 'send {"dataset": "flowers"}, optionally "to_run" and "reason"',
    "abort": 'send {"dataset": "flowers"}, optionally "reason"',
}


#: What only one of the two targets knows how to redeploy with.
_REDEPLOY_EXTRAS = {"cloud": frozenset[str](), "mobile": frozenset({"quantization"})}


class Refusal(Exception):
    """An HTTP answer that is not what the caller hoped for; the message says what to send or what to wait for."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a caller asked for, checked; an Idempotency-Key makes repeating it harmless."""

    kind: str
    dataset: str = ""
    run_id: str = ""
    to_run: str = ""
    force: bool = False
    canary: bool = True
    quantization: str = ""
    reason: str = ""
    by: str = ""
    key: str = ""

    def digest(self) -> str:
        """Of what is asked, not of who asks: the same key with another request is a mistake."""
        asked = [self.kind, self.dataset, self.run_id, self.to_run, self.force, self.canary, self.reason]
        if self.quantization:
            # Only if given, so that keys of before it could be given keep their meaning.
            asked.append(self.quantization)
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def blueprint(
    service: str,
    target: str,
    *,
    ledger: Ledger,
    lease_seconds: float,
    clock: Clock,
    callers: Callers,
    about: Callable[[str], Mapping[str, Any]] = lambda _: {},
) -> flask.Blueprint:
    """The routes of one service, whose `advance` heeds `ReleaseRequest`; register it on the Flask application.

    `about`: what else the service has to say in the status of a data set.
    """
    routes = flask.Blueprint("release_api", service)
    releases = Releases(target, ledger=ledger, lease_seconds=lease_seconds, clock=clock)

    @routes.post("/redeploy")
    def redeploy() -> tuple[flask.Response, int]:
        return _accepted(releases.reopen(_wanted("redeploy", flask.request, target, callers)))

    @routes.post("/rollback")
    def rollback() -> tuple[flask.Response, int]:
        return _accepted(releases.reopen(_wanted("rollback", flask.request, target, callers)))

    @routes.post("/abort")
    def abort() -> tuple[flask.Response, int]:
        return _accepted(releases.abort(_wanted("abort", flask.request, target, callers)))

    @routes.get("/status/<dataset>")
    def status(dataset: str) -> flask.Response:
        return flask.jsonify({**_status(ledger, dataset, target, clock=clock), **about(dataset)})

    @routes.get("/runs/<run_id>")
    def run(run_id: str) -> flask.Response:
        if not DATASET_NAME.fullmatch(dataset_of(run_id)):
            raise Refusal(404, f"{run_id!r} is no run id")
        return flask.jsonify(_branch(ledger, run_id, target).document.model_dump(mode="json"))

    @routes.get("/healthz")
    def healthz() -> flask.Response:
        return flask.jsonify(status="ok", service=service)

    @routes.get("/openapi.json")
    def description() -> flask.Response:
        return flask.jsonify(openapi.describe(service, target))

    @routes.errorhandler(Refusal)
    def refuse(exc: Refusal) -> tuple[flask.Response, int]:
        return flask.jsonify(error=str(exc)), exc.status

    @routes.errorhandler(CallerRefused)
    def refuse_caller(exc: CallerRefused) -> tuple[flask.Response, int]:
        return flask.jsonify(error=str(exc)), exc.status

    @routes.errorhandler(RetryLater)
    def retry_later(exc: RetryLater) -> tuple[flask.Response, int]:
        return flask.jsonify(error=f"try again in a moment: {exc}"), 503

    @routes.errorhandler(CannotEverSucceed)
    def cannot(exc: CannotEverSucceed) -> tuple[flask.Response, int]:
        return flask.jsonify(error=str(exc)), 409

    return routes


def _accepted(answer: tuple[Mapping[str, Any], bool]) -> tuple[flask.Response, int]:
    document, is_replayed = answer
    response = flask.jsonify(document)
    if is_replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response, 202


# What is asked -------------------------------------------------------------------------------------------------


def _wanted(kind: str, request: flask.Request, target: str, callers: Callers) -> Wanted:
    body = _read_json(request)
    key = request.headers.get("Idempotency-Key", "").strip()
    if len(key) > 255:
        raise Refusal(422, "Idempotency-Key has more than 255 characters: send a UUID")
    checks: dict[str, Callable[[Any, str], dict[str, Any]]] = {
        "redeploy": lambda body, kind: _redeploy_fields(body, kind, _REDEPLOY_EXTRAS[target]),
        "rollback": _dataset_fields,
        "abort": _dataset_fields,
    }
    if not isinstance(body, Mapping):
        raise Refusal(422, f"the body is no JSON object: {_EXAMPLES[kind]}")
    return Wanted(kind=kind, by=callers.identity(request.headers), key=key, **checks[kind](body, kind))


def _read_json(request: flask.Request) -> Any:
    """What the body says, whatever its content type: `curl -d` sends another one unless told. None if it is no JSON."""
    # A chunked body announces no length, and werkzeug cuts it silently: hence one byte more.
    request.max_content_length = MAX_BODY_BYTES + 1
    try:
        body = request.get_data()
    except RequestEntityTooLarge:
        body = bytes(MAX_BODY_BYTES + 1)
    if len(body) > MAX_BODY_BYTES:
        raise Refusal(413, f"a request may have {MAX_BODY_BYTES} bytes")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _redeploy_fields(body: Mapping[str, Any], kind: str, extras: frozenset[str]) -> dict[str, Any]:
    example = _EXAMPLES[kind] + "".join(f' and "{key}"' for key in extras)
    _check_keys(body, {"dataset", "run_id", "force", "reason", "canary", *extras}, example)
    dataset, run_id, reason = body.get("dataset", ""), body.get("run_id", ""), body.get("reason", "")
    force, canary = body.get("force", False), body.get("canary", True)
    if not all(isinstance(text, str) for text in (dataset, run_id, reason)) or not isinstance(force, bool):
        raise Refusal(422, f"dataset, run_id and reason are texts, force is true or false: {example}")
    if not isinstance(canary, bool):
        raise Refusal(422, f"canary is true or false: {example}")
    if bool(dataset) == bool(run_id):
        raise Refusal(422, f"exactly one of dataset and run_id is needed: {example}")
    _check_run_id(run_id, example)
    _check_dataset(dataset, example)
    return {
        "dataset": dataset,
        "run_id": run_id,
        "force": force,
        "reason": reason[:500],
        "canary": canary,
        "quantization": _quantization(body),
    }


def _quantization(body: Mapping[str, Any]) -> str:
    known = typing.get_args(Quantization)
    asked = body.get("quantization", "")
    if "quantization" in body and asked not in known:
        raise Refusal(422, f"quantization is one of {', '.join(known)}, not {asked!r}")
    return str(asked)


def _dataset_fields(body: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Of a rollback and of an abort."""
    example = _EXAMPLES[kind]
    _check_keys(body, {"dataset", "reason", *(["to_run"] if kind == "rollback" else [])}, example)
    dataset, to_run, reason = body.get("dataset", ""), body.get("to_run", ""), body.get("reason", "")
    if not all(isinstance(text, str) for text in (dataset, to_run, reason)):
        raise Refusal(422, f"{', '.join(sorted(body))} are texts: {example}")
    if not dataset:
        raise Refusal(422, f"dataset is needed: {example}")
    _check_dataset(dataset, example)
    _check_run_id(to_run, example)
    if to_run and dataset_of(to_run) != dataset:
        raise Refusal(422, f"{to_run} is no run of {dataset}: {example}")
    return {"dataset": dataset, "to_run": to_run, "reason": reason[:500]}


def _check_keys(body: Mapping[str, Any], known: set[str], example: str) -> None:
    if unknown := set(body) - known:
        raise Refusal(422, f"unknown keys {sorted(unknown)}: {example}")


def _check_run_id(run_id: str, example: str) -> None:
    if run_id and not DATASET_NAME.fullmatch(dataset_of(run_id)):
        raise Refusal(422, f"{run_id!r} is no run id: {example}")


def _check_dataset(dataset: str, example: str) -> None:
    if dataset and not DATASET_NAME.fullmatch(dataset):
        raise Refusal(422, f"{dataset!r} is no data set's name: {example}")


# What is done --------------------------------------------------------------------------------------------------


class Releases:
    """Sends recorded runs out again, and stops what is under way, for one target."""

    def __init__(self, target: str, *, ledger: Ledger, lease_seconds: float, clock: Clock) -> None:
        self._target = target
        self._ledger = ledger
        self._lease_seconds = lease_seconds
        self._clock = clock

    def reopen(self, wanted: Wanted) -> tuple[dict[str, Any], bool]:
        """Begin another release of a run; returns the answer and whether it was given before.

        Under the lease the intent is written first, then the branch: a repetition after a death in between carries
        out what was intended, and does not choose anew among runs that have changed places meanwhile.
        """
        dataset = wanted.dataset or dataset_of(wanted.run_id)
        with self._lease(dataset):
            intent = self._intent(wanted)
            if intent and _branch(self._ledger, intent["run_id"], self._target).document.release >= intent["release"]:
                return intent["answer"], True
            run_id = intent["run_id"] if intent else self._choose(wanted)
            versioned = _branch(self._ledger, run_id, self._target)
            self._check(versioned.document, wanted)
            reopened = self._reopened(versioned.document, wanted)
            answer = _answer(reopened)
            if wanted.key and not intent:
                intent = {"digest": wanted.digest(), "run_id": run_id, "release": reopened.release, "answer": answer}
                self._ledger.write_once(self._intent_name(wanted), json.dumps(intent, indent=1).encode())
            # The marker first: the clock simply unmarks a branch that is final, and would forget one without a marker.
            self._ledger.mark_active_anew(run_id, self._target)
            self._ledger.write_branch(reopened, expect=versioned.generation)
            # And once more: to a clock that comes in between, after this lease ran out, the marker looked left over.
            self._ledger.mark_active(run_id, self._target)
        log.info("%s accepted for %s", ReleaseRequest.of(reopened).describe(), run_id)
        return answer, False

    def abort(self, wanted: Wanted) -> tuple[dict[str, Any], bool]:
        """Ask the branch at work to stop; one that waits for its turn ends at once. Repeating it changes nothing."""
        with self._lease(wanted.dataset):
            branch = self._abortable(wanted.dataset)
            if ReleaseRequest.abort_of(branch.document):
                return _answer(branch.document), True
            asked = ReleaseRequest.with_abort(branch.document, by=wanted.by, reason=wanted.reason, at=self._clock())
            if asked.state is State.TRAINED:
                asked = asked.moved(State.FAILED, at=self._clock(), note=ReleaseRequest.abort_of(asked))
            self._ledger.write_branch(asked, expect=branch.generation)
        log.info("%s: %s", branch.document.run_id, ReleaseRequest.abort_of(asked))
        return _answer(asked), False

    def _lease(self, dataset: str) -> contextlib.AbstractContextManager[None]:
        return self._ledger.lease(f"{dataset}/{self._target}", seconds=self._lease_seconds)

    def _intent_name(self, wanted: Wanted) -> str:
        return f"requests/{self._target}/{hashlib.sha256(wanted.key.encode()).hexdigest()}.json"

    def _intent(self, wanted: Wanted) -> dict[str, Any] | None:
        """What the first request with this key set out to do."""
        written = self._ledger.read_bytes(self._intent_name(wanted)) if wanted.key else None
        if written is None:
            return None
        intent: dict[str, Any] = json.loads(written)
        if intent["digest"] != wanted.digest():
            raise Refusal(422, "this Idempotency-Key came with another request before: send a new key")
        return intent

    def _choose(self, wanted: Wanted) -> str:
        if wanted.kind == "rollback":
            return self._choose_previous(wanted)
        return wanted.run_id or _choose_run(self._ledger, wanted.dataset, self._target)

    def _choose_previous(self, wanted: Wanted) -> str:
        """The release to go back to: the one that was live before, unless it was itself taken back."""
        found = self._ledger.read_live(wanted.dataset, self._target)
        if found is None:
            raise Refusal(404, f"nothing of data set {wanted.dataset!r} is live for {self._target}: redeploy a run")
        current, previous = found.document.current, found.document.previous
        if wanted.to_run:
            if wanted.to_run == current.run_id:
                raise Refusal(409, f"{wanted.to_run} is live already; to bring it out anew, send it to /redeploy")
            return wanted.to_run
        if previous is None:
            raise Refusal(409, f"nothing was live before {current.run_id}; send to_run to choose a run")
        if _branch(self._ledger, previous.run_id, self._target).document.state is State.ROLLED_BACK:
            raise Refusal(409, f"{previous.run_id} was itself rolled back; send to_run to choose a run")
        return previous.run_id

    def _check(self, branch: Branch, wanted: Wanted) -> None:
        _refuse_while_under_way(self._ledger, branch)
        if not branch.was_trained:
            why = f"{branch.run_id} is {branch.state} and has no trained {self._target} model: {branch.reason}"
            raise Refusal(409, why)
        if not branch.deployment_announced and branch.run_id in self._ledger.active(self._target):
            raise EndNotAnnounced(f"that {branch.run_id} is {branch.state} is announced at the next tick of the clock")
        if wanted.force or wanted.kind == "rollback":
            return
        live = self._ledger.read_live(branch.dataset, self._target)
        created_at = self._ledger.read_run(branch.run_id).created_at
        if live and live.document.current.run_created_at > created_at:
            newer = live.document.current.run_id
            raise Refusal(409, f"{newer} is newer and live; send force: true to replace it by {branch.run_id}")

    def _reopened(self, branch: Branch, wanted: Wanted) -> Branch:
        kind: Kind = "rollback" if wanted.kind == "rollback" else "redeploy"
        request = ReleaseRequest(
            kind=kind,
            by=wanted.by,
            reason=wanted.reason,
            # Back to a model that has served everybody: at once, and probed all the same.
            canary=wanted.canary and kind == "redeploy",
            quantization=wanted.quantization,
            release=branch.release + 1,
        )
        reopened = branch.moved(
            State.GATING,
            at=self._clock(),
            note=request.describe(),
            release=request.release,
            forced=wanted.force or kind == "rollback",
            deployment_announced=False,
        )
        return request.recorded(reopened)

    def _abortable(self, dataset: str) -> Versioned[Branch]:
        """The branch to stop: of several, the one that users already see something of."""
        found = []
        for run_id in self._ledger.active(self._target):
            if dataset_of(run_id) != dataset:
                continue
            with contextlib.suppress(CannotEverSucceed):
                found.append(self._ledger.read_branch(run_id, self._target))
        waiting = [each for each in found if each.document.was_trained and not each.document.is_final]
        if not waiting:
            raise Refusal(409, f"nothing of {dataset} is under way for {self._target}; see /status/{dataset}")
        chosen = max(waiting, key=lambda each: _ABORTED_FIRST.index(each.document.state))
        if chosen.document.step in _OUT:
            raise Refusal(409, f"{chosen.document.run_id} serves already; send the data set to /rollback")
        return chosen


def _answer(branch: Branch) -> dict[str, Any]:
    return {
        "run_id": branch.run_id,
        "target": branch.target,
        "state": str(branch.state),
        "release": branch.release,
        "status": f"/status/{branch.dataset}",
    }


def _branch(ledger: Ledger, run_id: str, target: str) -> Versioned[Branch]:
    try:
        return ledger.read_branch(run_id, target)
    except UnknownRun as exc:
        raise Refusal(404, str(exc)) from exc


def _choose_run(ledger: Ledger, dataset: str, target: str) -> str:
    """The live run of a data set, else its newest run that was trained."""
    live = ledger.read_live(dataset, target)
    if live:
        return live.document.current.run_id
    trained = []
    for run_id in ledger.run_ids(dataset):
        try:
            branch = ledger.read_branch(run_id, target).document
        except UnknownRun:
            continue
        if branch.was_trained:
            trained.append((ledger.read_run(run_id).created_at, run_id))
    if not trained:
        raise Refusal(404, f"data set {dataset!r} has no trained {target} run; send data or a retrain request first")
    return max(trained)[1]


def _refuse_while_under_way(ledger: Ledger, branch: Branch) -> None:
    if not branch.is_final:
        raise Refusal(409, _under_way(branch))
    if rival := branch_under_way(ledger, branch.dataset, branch.target):
        raise Refusal(409, _under_way(rival))


def _under_way(branch: Branch) -> str:
    where = f"see /status/{branch.dataset}"
    return f"{branch.run_id} is {branch.state}: wait until it is through or stop it by /abort, {where}"


def _status(ledger: Ledger, dataset: str, target: str, *, clock: Clock) -> dict[str, Any]:
    if not DATASET_NAME.fullmatch(dataset):
        raise Refusal(404, f"{dataset!r} is no data set's name")
    live = ledger.read_live(dataset, target)
    active = [run_id for run_id in ledger.active(target) if dataset_of(run_id) == dataset]
    refused = ledger.refused_lately(dataset)
    if live is None and not active and not refused and not ledger.run_ids(dataset):
        raise Refusal(404, f"nothing is known of a data set {dataset!r}")
    return {
        "dataset": dataset,
        "target": target,
        "live": live.document.model_dump(mode="json") if live else None,
        "under_way": [_unfinished(ledger, run_id, target) for run_id in active],
        "refused": [{"at": each.at, "kind": each.kind, "reason": each.reason} for each in refused],
        "at": clocks.to_text(clock()),
    }


def _unfinished(ledger: Ledger, run_id: str, target: str) -> dict[str, Any]:
    try:
        return ledger.read_branch(run_id, target).document.model_dump(mode="json")
    except CannotEverSucceed as exc:
        # Said rather than failed on: it is just when something is wrong that people ask for the status.
        return {"run_id": run_id, "target": target, "state": "unreadable", "reason": str(exc)}
