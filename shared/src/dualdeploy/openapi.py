"""The OpenAPI description of the HTTP interface: served by each service.

Written by hand, and held against the routes and their answers by tests: a generator would describe what the code does,
not what it promises.
"""

from __future__ import annotations

import typing
from typing import Any

from dualdeploy.dataset_config import Quantization

_DATASET = {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,38}$", "example": "flowers"}
_RUN_ID = {"type": "string", "pattern": "^[a-z][a-z0-9-]*-[0-9a-f]{12}(-r[1-9][0-9]*)?$"}
_REASON = {"type": "string", "description": "why; kept in the run's history, 500 characters of it"}

_ACCEPTED = {
    "type": "object",
    "required": ["run_id", "target", "state", "release", "status"],
    "properties": {
        "run_id": _RUN_ID,
        "target": {"enum": ["cloud", "mobile"]},
        "state": {"type": "string"},
        "release": {"type": "integer", "description": "counts how often this run was sent out"},
        "status": {"type": "string", "description": "where to look what comes of it"},
    },
}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_BRANCH = {
    "type": "object",
    "required": ["run_id", "dataset", "target", "state", "reason", "release", "history"],
    "properties": {
        "run_id": _RUN_ID,
        "state": {"type": "string"},
        "reason": {"type": "string"},
        "history": {"type": "array", "items": {"type": "object", "required": ["at", "state", "note"]}},
    },
}
_STATUS = {
    "type": "object",
    "required": ["dataset", "target", "live", "under_way", "at"],
    "properties": {
        "dataset": _DATASET,
        "live": {"type": ["object", "null"], "description": "current and previous release"},
        "under_way": {"type": "array", "items": {"type": "object"}},
        "at": {"type": "string", "format": "date-time"},
        "hygiene": {
            "type": "object",
            "description": (
                "of the cloud: what nothing needs any more, what of it is removed, what costs and stays;"
                " only `unreadable`, with the reason, when its record cannot be read"
            ),
        },
    },
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "maxLength": 255},
    "description": "the same key with the same body begins one release, however often it is sent",
}


def describe(service: str, target: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document of the service's routes."""
    redeploy: dict[str, Any] = {
        "dataset": {**_DATASET, "description": "its live run, else its newest trained one; or run_id"},
        "run_id": _RUN_ID,
        "force": {"type": "boolean", "description": "replace a newer run, pass a gate that refuses"},
        "canary": {
            "type": "boolean",
            "description": "false: everybody in one step (the cloud model is probed all the same)",
        },
        "reason": _REASON,
    }
    if target == "mobile":
        what = "the variant of the file, instead of the configuration's publishing.quantization"
        redeploy["quantization"] = {"enum": list(typing.get_args(Quantization)), "description": what}
    rollback = {
        "dataset": _DATASET,
        "to_run": {**_RUN_ID, "description": "else what was live before"},
        "reason": _REASON,
    }
    abort = {"dataset": _DATASET, "reason": _REASON}
    stop = "stop what is under way and leave everything as it was"
    paths = {
        "/redeploy": {"post": _command("bring a trained run out again, without training", redeploy, required=[])},
        "/rollback": {"post": _command("back to an earlier run", rollback, required=["dataset"])},
        "/abort": {"post": _command(stop, abort, required=["dataset"], keyed=False)},
        "/status/{dataset}": {"get": _query("what serves, and what is under way", "dataset", _STATUS)},
        "/runs/{run_id}": {"get": _query("one run: every step it took, who asked for it, why", "run_id", _BRANCH)},
        "/healthz": {
            "get": {"summary": "whether the service answers", "responses": {"200": _json({"type": "object"})}}
        },
        "/openapi.json": {"get": {"summary": "this document", "responses": {"200": _json({"type": "object"})}}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": service, "version": "1"},
        "paths": paths,
        "components": {"securitySchemes": {"google": {"type": "http", "scheme": "bearer", "bearerFormat": "OIDC"}}},
        "security": [{"google": []}],
    }


def _command(summary: str, properties: dict[str, Any], *, required: list[str], keyed: bool = True) -> dict[str, Any]:
    body = {"type": "object", "additionalProperties": False, "required": required, "properties": properties}
    return {
        "summary": summary,
        "parameters": [_KEY] if keyed else [],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "202": _json(_ACCEPTED, "accepted: goes on at the next tick of the clock"),
            "404": _json(_ERROR, "there is no such data set or run"),
            "409": _json(_ERROR, "not now, or not without force: the message says which"),
            "413": _json(_ERROR, "the body is too large"),
            "422": _json(_ERROR, "the message says what to send"),
            "503": _json(_ERROR, "somebody is at work on it, or the ledger does not answer: send it again"),
        },
    }


def _query(summary: str, name: str, answer: dict[str, Any]) -> dict[str, Any]:
    parameter = {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    responses = {
        "200": _json(answer),
        "404": _json(_ERROR, "nothing is known of it"),
        "503": _json(_ERROR, "try again"),
    }
    return {"summary": summary, "parameters": [parameter], "responses": responses}


def _json(schema: dict[str, Any], description: str = "the answer") -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
