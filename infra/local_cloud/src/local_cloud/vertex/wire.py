"""How Vertex AI reads requests and writes answers: JSON as protocol buffers have it.

A request is read as the message that its method takes, so what that message has not is refused; an answer is written
as the message that its method returns, so empty fields are left out and 64-bit numbers are text. The messages are those
of Google's own client library, imported at the first request: that takes half a second.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import flask
from google.longrunning import operations_pb2
from google.protobuf import json_format

from local_cloud.api import SYSTEM_PARAMETERS, Api, ApiError
from local_cloud.vertex.bodies import json_body

#: The versions of the API by the first segment of a path; `ui` is where generated clients poll operations.
_VERSIONS = "v1,v1beta1"
_PARENT = "/projects/<project>/locations/<location>"
_BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
#: Messages of google.longrunning.
_LONG_RUNNING = frozenset({"Operation", "ListOperationsResponse", "WaitOperationRequest", "CancelOperationRequest"})

Document = dict[str, Any]
#: How the request of a method is called, by the method's verb; `{}` is the resource.
_REQUESTS = {
    "create": "Create{}Request",
    "delete": "Delete{}Request",
    "get": "Get{}Request",
    "list": "List{}sRequest",
    "patch": "Update{}Request",
}


class Wire:
    """Registers methods whose bodies and answers are messages of the API."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def operation(
        self,
        name: str,
        method: str,
        path: str,
        view: Callable[..., Any],
        *,
        answer: str = "",
        body: str = "",
        field: str = "",
        verbatim: bool = False,
        surfaces: str = _VERSIONS,
        differs: str = "",
    ) -> None:
        """Serve `path`, which continues a location's, in every version.

        `answer` is the message that the view returns as a document; without a name it is sent as it is. `body` is the
        message that the view finds in `body()`: with every enum by its name, or as it was sent if `verbatim`. `field`
        is what errors call the body: `custom_job`.
        """

        def served(*, surface: str, **arguments: str) -> Any:
            flask.g.version = "v1beta1" if surface == "v1beta1" else "v1"
            _refuse_unknown_parameters(name, flask.g.version)
            flask.g.body = _read(body, flask.g.version, field, verbatim=verbatim) if body else {}
            answered = view(**arguments)
            return _written(answered, answer, flask.g.version) if answer else answered

        self._api.operation(name, method, f"/<any({surfaces}):surface>{_PARENT}{path}", differs=differs)(served)


def body() -> Document:
    """The body of the request that is being answered."""
    found: Document = flask.g.body
    return found


def version() -> str:
    """The version of the API that the request speaks."""
    return str(flask.g.version)


def _read(message: str, api_version: str, field: str, *, verbatim: bool) -> Document:
    document = json_body()
    kind = _kind(message, api_version)
    _refuse_unknown(document, kind.DESCRIPTOR, field)
    if verbatim:
        return document
    try:
        read = json_format.ParseDict(document, kind())
    except json_format.ParseError as exc:
        raise _bad_request(field, f"Invalid JSON payload received. {exc}") from exc
    return json_format.MessageToDict(read)


def _written(document: Document, message: str, api_version: str) -> Document:
    for each in _types_in(document):
        importlib.import_module(each)  # an answer within an operation can only be written once its type is known
    # What parameters of Google's transcoding are called: `$alt=json;enum-encoding=int`.
    numbers = "enum-encoding=int" in flask.request.args.get("$alt", "")
    # A resource may have been made through v1beta1, whose own fields v1 does not show.
    written = json_format.ParseDict(document, _kind(message, api_version)(), ignore_unknown_fields=True)
    return json_format.MessageToDict(written, use_integers_for_enums=numbers)


def _types_in(document: Mapping[str, Any]) -> set[str]:
    """The modules that have the messages of an operation's metadata and response."""
    operations = document.get("operations") or [document]
    parts = [operation.get(key) or {} for operation in operations for key in ("metadata", "response")]
    named = [part["@type"] for part in parts if "@type" in part]
    return {f"google.cloud.aiplatform_{name.split('.')[-2]}.types" for name in named if ".aiplatform." in name}


@functools.cache
def _kind(message: str, api_version: str) -> Any:
    """The class of a message of the API."""
    if message in _LONG_RUNNING:
        return getattr(operations_pb2, message)
    return getattr(importlib.import_module(f"google.cloud.aiplatform_{api_version}.types"), message).pb()


def _refuse_unknown(value: Any, descriptor: Any, where: str) -> None:
    """Refuse fields that a message has not, in Google's words. Raises ApiError 400."""
    if descriptor.full_name.startswith("google.protobuf.") or not isinstance(value, Mapping):
        return
    fields = {name: each for each in descriptor.fields for name in (each.name, each.json_name)}
    for key, inner in value.items():
        field = fields.get(key)
        if field is None:
            at = f" at '{where}'" if where else ""
            raise _bad_request(where, f'Invalid JSON payload received. Unknown name "{key}"{at}: Cannot find field.')
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        inside = f"{where}.{field.name}" if where else field.name
        if isinstance(inner, list):
            for position, each in enumerate(inner):
                _refuse_unknown(each, field.message_type, f"{inside}[{position}]")
        else:
            _refuse_unknown(inner, field.message_type, inside)


def _refuse_unknown_parameters(operation: str, api_version: str) -> None:
    """Refuse query parameters that the method's request does not have, in Google's words. Raises ApiError 400."""
    request = _request_of(operation, api_version)
    if request is None:
        return
    known = {name for each in request.DESCRIPTOR.fields for name in (each.name, each.json_name)} | SYSTEM_PARAMETERS
    for key in flask.request.args:
        # A dot leads into a message, a dollar is of the system.
        if key.partition(".")[0] not in known and not key.startswith("$"):
            message = (
                f"Invalid JSON payload received. Unknown name \"{key}\": Cannot bind query parameter. Field '{key}'"
                " could not be found in request message."
            )
            raise _bad_request("", message)


def _request_of(operation: str, api_version: str) -> Any:
    """The class of a standard method's request; None for a method of another kind."""
    *_, collection, verb = operation.split(".")
    if verb not in _REQUESTS or collection == "operations":
        return None
    resource = f"{collection[0].upper()}{collection[1:].removesuffix('s')}"
    with contextlib.suppress(AttributeError):
        return _kind(_REQUESTS[verb].format(resource), api_version)
    return None


def _bad_request(field: str, message: str) -> ApiError:
    violation = {"description": message, **({"field": field} if field else {})}
    return ApiError(400, "INVALID_ARGUMENT", message, details=[{"@type": _BAD_REQUEST, "fieldViolations": [violation]}])
