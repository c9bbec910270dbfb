"""The HTTP interface for people and scripts, one for both cloud_deployer and mobile_publisher.

`POST /redeploy` brings a recorded run out again without training; `GET /status/<dataset>` tells what serves and what is
under way. Who may call is Cloud Run's business (IAM); what is said here is what would be sent to the ledger anyway.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import flask

from dualdeploy import clock as clocks
from dualdeploy.branches import branch_under_way
from dualdeploy.clock import Clock
from dualdeploy.dataset_config import DATASET_NAME
from dualdeploy.errors import CannotEverSucceed, RetryLater, UnknownRun
from dualdeploy.ledger import Branch, Ledger, State, Versioned, dataset_of

log = logging.getLogger(__name__)

_KEYS = {"dataset", "run_id", "force", "reason"}


class Refusal(Exception):
    """An HTTP answer that is not what the caller hoped for; the message says what to send or what to wait for."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def blueprint(service: str, target: str, *, ledger: Ledger, lease_seconds: float, clock: Clock) -> flask.Blueprint:
    """The routes of one service; register it on the Flask application."""
    routes = flask.Blueprint("release_api", service)

    @routes.post("/redeploy")
    def redeploy() -> tuple[flask.Response, int]:
        # Whatever the content type says: `curl -d` sends another one unless told.
        request = _parse(flask.request.get_json(force=True, silent=True))
        run_id = request["run_id"] or _choose_run(ledger, request["dataset"], target)
        with ledger.lease(f"{dataset_of(run_id)}/{target}", seconds=lease_seconds):
            branch = _reopen(ledger, run_id, target, request, clock=clock)
        log.info("redeploy of %s accepted: %s", run_id, request["reason"] or "no reason given")
        answer = {
            "run_id": run_id,
            "target": target,
            "state": str(branch.state),
            "release": branch.release,
            "status": f"/status/{branch.dataset}",
        }
        return flask.jsonify(answer), 202

    @routes.get("/status/<dataset>")
    def status(dataset: str) -> flask.Response:
        return flask.jsonify(_status(ledger, dataset, target, clock=clock))

    @routes.get("/healthz")
    def healthz() -> flask.Response:
        return flask.jsonify(status="ok", service=service)

    @routes.errorhandler(Refusal)
    def refuse(exc: Refusal) -> tuple[flask.Response, int]:
        return flask.jsonify(error=str(exc)), exc.status

    @routes.errorhandler(RetryLater)
    def retry_later(exc: RetryLater) -> tuple[flask.Response, int]:
        return flask.jsonify(error=f"try again in a moment: {exc}"), 503

    @routes.errorhandler(CannotEverSucceed)
    def cannot(exc: CannotEverSucceed) -> tuple[flask.Response, int]:
        return flask.jsonify(error=str(exc)), 409

    return routes


def _parse(body: Any) -> dict[str, Any]:
    example = 'send {"dataset": "flowers"} or {"run_id": "flowers-0123456789ab"}, optionally "force" and "reason"'
    if not isinstance(body, Mapping):
        raise Refusal(422, f"the body is no JSON object: {example}")
    if unknown := set(body) - _KEYS:
        raise Refusal(422, f"unknown keys {sorted(unknown)}: {example}")
    dataset, run_id = body.get("dataset", ""), body.get("run_id", "")
    force, reason = body.get("force", False), body.get("reason", "")
    if not all(isinstance(text, str) for text in (dataset, run_id, reason)) or not isinstance(force, bool):
        raise Refusal(422, f"dataset, run_id and reason are texts, force is true or false: {example}")
    if bool(dataset) == bool(run_id):
        raise Refusal(422, f"exactly one of dataset and run_id is needed: {example}")
    if run_id and not DATASET_NAME.fullmatch(dataset_of(run_id)):
        raise Refusal(422, f"{run_id!r} is no run id: {example}")
    if dataset and not DATASET_NAME.fullmatch(dataset):
        raise Refusal(422, f"{dataset!r} is no data set's name: {example}")
    return {"dataset": dataset, "run_id": run_id, "force": force, "reason": reason[:500]}


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


def _reopen(ledger: Ledger, run_id: str, target: str, request: Mapping[str, Any], *, clock: Clock) -> Branch:
    try:
        versioned: Versioned[Branch] = ledger.read_branch(run_id, target)
    except UnknownRun as exc:
        raise Refusal(404, str(exc)) from exc
    branch = versioned.document
    _refuse_while_under_way(ledger, branch)
    if not branch.was_trained:
        raise Refusal(409, f"{run_id} is {branch.state} and has no trained {target} model: {branch.reason}")
    live = ledger.read_live(branch.dataset, target)
    created_at = ledger.read_run(run_id).created_at
    if live and live.document.current.run_created_at > created_at and not request["force"]:
        newer = live.document.current.run_id
        raise Refusal(409, f"{newer} is newer and live; send force: true to replace it by {run_id}")
    note = "redeploy" + (f": {request['reason']}" if request["reason"] else "")
    reopened = branch.moved(
        State.GATING,
        at=clock(),
        note=note,
        release=branch.release + 1,
        forced=request["force"],
        deployment_announced=False,
    )
    # The marker first: the clock simply unmarks a branch that is final, and would forget one without a marker.
    ledger.mark_active(run_id, target)
    return ledger.write_branch(reopened, expect=versioned.generation).document


def _refuse_while_under_way(ledger: Ledger, branch: Branch) -> None:
    if not branch.is_final:
        raise Refusal(409, f"{branch.run_id} is {branch.state}: wait until it is through, see /status/{branch.dataset}")
    if rival := branch_under_way(ledger, branch.dataset, branch.target):
        raise Refusal(409, f"{rival.run_id} is {rival.state}: wait until it is through, see /status/{branch.dataset}")


def _status(ledger: Ledger, dataset: str, target: str, *, clock: Clock) -> dict[str, Any]:
    if not DATASET_NAME.fullmatch(dataset):
        raise Refusal(404, f"{dataset!r} is no data set's name")
    live = ledger.read_live(dataset, target)
    active = [run_id for run_id in ledger.active(target) if dataset_of(run_id) == dataset]
    if live is None and not active and not ledger.run_ids(dataset):
        raise Refusal(404, f"nothing is known of a data set {dataset!r}")
    return {
        "dataset": dataset,
        "target": target,
        "live": live.document.model_dump(mode="json") if live else None,
        "under_way": [_unfinished(ledger, run_id, target) for run_id in active],
        "at": clocks.to_text(clock()),
    }


def _unfinished(ledger: Ledger, run_id: str, target: str) -> dict[str, Any]:
    try:
        return ledger.read_branch(run_id, target).document.model_dump(mode="json")
    except CannotEverSucceed as exc:
        # Said rather than failed on: it is just when something is wrong that people ask for the status.
        return {"run_id": run_id, "target": target, "state": "unreadable", "reason": str(exc)}
