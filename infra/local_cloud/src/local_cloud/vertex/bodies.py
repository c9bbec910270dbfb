"""Request bodies and update masks, read the way Google's JSON transcoding reads them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import flask

from local_cloud.vertex.errors import invalid_argument

Document = dict[str, Any]


def json_body() -> Document:
    """The request's JSON object; no body at all counts as an empty one."""
    if not flask.request.get_data(cache=True):
        return {}
    body = flask.request.get_json(force=True, silent=True)
    if not isinstance(body, dict):
        raise invalid_argument("Invalid JSON payload received: the body must be a JSON object.")
    return body


def update_mask(allowed: Mapping[str, str]) -> list[str]:
    """The document keys that the request's updateMask names.

    Args:
        allowed: document key by the path as written in a mask, in camelCase.

    Raises:
        ApiError: 400 when the mask is missing or names what cannot be updated.
    """
    text = flask.request.args.get("updateMask") or flask.request.args.get("update_mask") or ""
    paths = [camel_case(path.strip()) for path in text.split(",") if path.strip()]
    if not paths:
        raise invalid_argument("update_mask is required.")
    unknown = [path for path in paths if path not in allowed]
    if unknown:
        raise invalid_argument(f"update_mask: {', '.join(unknown)} cannot be updated; {', '.join(allowed)} can.")
    return [allowed[path] for path in paths]


def camel_case(path: str) -> str:
    return re.sub(r"_([a-z])", lambda matched: matched[1].upper(), path)


def whole_number(value: object, field: str, default: int = 0) -> int:
    """An integer that may come as a number or, as protobuf writes int64, as a string."""
    if value is None:
        return default
    try:
        return int(str(value))
    except ValueError:
        raise invalid_argument(f"{field} must be a whole number, got {value!r}.") from None


def refuse_unknown(document: object, known: Collection[str], where: str) -> None:
    """Refuse fields that a message does not have, in the words of Google's APIs. Raises ApiError 400."""
    if isinstance(document, Mapping) and (unknown := [key for key in document if key not in known]):
        raise invalid_argument(
            f"Invalid JSON payload received. Unknown name \"{unknown[0]}\" at '{where}': Cannot find field."
        )
