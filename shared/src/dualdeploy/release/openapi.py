"""The OpenAPI description of the HTTP interface, served by each service: bodies from the models that check them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic

from dualdeploy.ledger.standing import Standing

_RUN_ID = {"type": "string", "pattern": "^[a-z][a-z0-9-]*-[0-9a-f]{12}(-r[1-9][0-9]*)?$"}
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
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string"},
        "send": {"type": "object", "description": "the request to send instead: path and body"},
        "candidates": {"type": "array", "items": _RUN_ID, "description": "runs to choose from"},
    },
}
_STATUS = {
    "type": "object",
    "required": ["dataset", "target", "live", "under_way", "hold", "refused", "at"],
    "properties": {
        "dataset": {"type": "string"},
        "live": {"type": ["object", "null"], "description": "current and previous release"},
        "under_way": {
            "type": "array",
            "items": {"type": "object"},
            "description": "what is under way, then what waits",
        },
        "hold": {"type": ["object", "null"], "description": "since when and by whom newer runs are kept away"},
        "refused": {"type": "array", "items": {"type": "object"}, "description": "data and requests refused lately"},
        "at": {"type": "string", "format": "date-time"},
        "cleanup": {
            "type": "object",
            "description": "of the cloud: what nothing needs any more, what of it is removed, what costs and stays",
        },
    },
}
_OBJECT = {"type": "object"}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "maxLength": 255},
    "description": "the same key with the same body begins one release, however often it is sent",
}

#: Of each command: what it does, whether a key makes it repeatable, the status and schema of its answer.
_COMMANDS: Mapping[str, tuple[str, bool, str, Mapping[str, Any]]] = {
    "redeploy": ("release a trained run again, without training", True, "202", _ACCEPTED),
    "rollback": ("back to what served before; newer runs are held", True, "202", _ACCEPTED),
    "abort": ("stop what is under way and leave everything as it was", False, "202", _ACCEPTED),
    "hold": ("keep releases of trainings away until /resume, or until newer data arrive", False, "200", _OBJECT),
    "resume": ("end a hold", False, "200", _OBJECT),
    "retire": ("show what the data set has; with confirm, take it down and free its names", True, "202", _OBJECT),
}


def describe(service: str, target: str, bodies: Mapping[str, type[pydantic.BaseModel]]) -> dict[str, Any]:
    """An OpenAPI 3.1 document of the routes of `service`, which brings out the models of `target`."""
    paths: dict[str, Any] = {f"/{name}": {"post": _command(name, bodies[name])} for name in _COMMANDS}
    run = Standing.model_json_schema(mode="serialization")
    paths |= {
        "/status/{dataset}": {"get": _query("what serves, and what is under way", "dataset", _STATUS)},
        "/runs/{run_id}": {"get": _query("one run: every step it took, who asked for it, why", "run_id", run)},
        "/healthz": {"get": {"summary": "whether the service is well", "responses": {"200": _json(_OBJECT)}}},
        "/openapi.json": {"get": {"summary": "this document", "responses": {"200": _json(_OBJECT)}}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": service, "version": "1", "description": f"Releases of the {target} model"},
        "paths": paths,
        "components": {"securitySchemes": {"google": {"type": "http", "scheme": "bearer", "bearerFormat": "OIDC"}}},
        "security": [{"google": []}],
    }


def _command(name: str, body: type[pydantic.BaseModel]) -> dict[str, Any]:
    summary, is_keyed, status, answer = _COMMANDS[name]
    answers = {status: _json(answer, "accepted" if status == "202" else "the answer")}
    if name == "retire":
        answers["200"] = _json(_OBJECT, "without confirm: what would be taken down")
    return {
        "summary": summary,
        "parameters": [_KEY] if is_keyed else [],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body.model_json_schema()}}},
        "responses": {
            **answers,
            "404": _json(_ERROR, "there is no such data set or run"),
            "409": _json(_ERROR, "not now, or not without a choice: the answer says what to send"),
            "413": _json(_ERROR, "the body is too large"),
            "422": _json(_ERROR, "the message says what to send"),
            "503": _json(_ERROR, "the ledger does not answer: send it again"),
        },
    }


def _query(summary: str, name: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    parameter = {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    responses = {
        "200": _json(answer),
        "404": _json(_ERROR, "nothing is known of it"),
        "503": _json(_ERROR, "try again"),
    }
    return {"summary": summary, "parameters": [parameter], "responses": responses}


def _json(schema: Mapping[str, Any], description: str = "the answer") -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
