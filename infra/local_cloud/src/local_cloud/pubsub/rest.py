"""Pub/Sub over REST: the same methods, as Google's transcoding maps them to paths.

Source of the rules: the google.api.http options of google/pubsub/v1/pubsub.proto and google/iam/v1/iam_policy.proto.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import flask
from google.protobuf import json_format

from local_cloud.api import SYSTEM_PARAMETERS, ApiError, caller, google_error
from local_cloud.pubsub.rpc import RpcTable

_TOPIC = "projects/*/topics/*"
_SUBSCRIPTION = "projects/*/subscriptions/*"

#: (HTTP method, path with one field of the request, method). What is not in the path is in the body of a POST, PUT or
#: PATCH, and in the query of the others.
RULES: Sequence[tuple[str, str, str]] = (
    ("PUT", f"{{name={_TOPIC}}}", "google.pubsub.v1.Publisher/CreateTopic"),
    ("PATCH", f"{{topic.name={_TOPIC}}}", "google.pubsub.v1.Publisher/UpdateTopic"),
    ("POST", f"{{topic={_TOPIC}}}:publish", "google.pubsub.v1.Publisher/Publish"),
    ("GET", f"{{topic={_TOPIC}}}", "google.pubsub.v1.Publisher/GetTopic"),
    ("GET", "{project=projects/*}/topics", "google.pubsub.v1.Publisher/ListTopics"),
    ("GET", f"{{topic={_TOPIC}}}/subscriptions", "google.pubsub.v1.Publisher/ListTopicSubscriptions"),
    ("DELETE", f"{{topic={_TOPIC}}}", "google.pubsub.v1.Publisher/DeleteTopic"),
    ("POST", f"{{subscription={_SUBSCRIPTION}}}:detach", "google.pubsub.v1.Publisher/DetachSubscription"),
    ("PUT", f"{{name={_SUBSCRIPTION}}}", "google.pubsub.v1.Subscriber/CreateSubscription"),
    ("GET", f"{{subscription={_SUBSCRIPTION}}}", "google.pubsub.v1.Subscriber/GetSubscription"),
    ("PATCH", f"{{subscription.name={_SUBSCRIPTION}}}", "google.pubsub.v1.Subscriber/UpdateSubscription"),
    ("GET", "{project=projects/*}/subscriptions", "google.pubsub.v1.Subscriber/ListSubscriptions"),
    ("DELETE", f"{{subscription={_SUBSCRIPTION}}}", "google.pubsub.v1.Subscriber/DeleteSubscription"),
    ("POST", f"{{subscription={_SUBSCRIPTION}}}:modifyAckDeadline", "google.pubsub.v1.Subscriber/ModifyAckDeadline"),
    ("POST", f"{{subscription={_SUBSCRIPTION}}}:acknowledge", "google.pubsub.v1.Subscriber/Acknowledge"),
    ("POST", f"{{subscription={_SUBSCRIPTION}}}:pull", "google.pubsub.v1.Subscriber/Pull"),
    ("POST", f"{{subscription={_SUBSCRIPTION}}}:modifyPushConfig", "google.pubsub.v1.Subscriber/ModifyPushConfig"),
    ("POST", f"{{subscription={_SUBSCRIPTION}}}:seek", "google.pubsub.v1.Subscriber/Seek"),
    *(
        (verb, f"{{resource={resource}}}:{name[0].lower()}{name[1:]}", f"google.iam.v1.IAMPolicy/{name}")
        for resource in (_TOPIC, _SUBSCRIPTION)
        for verb, name in (("GET", "GetIamPolicy"), ("POST", "SetIamPolicy"), ("POST", "TestIamPermissions"))
    ),
)

#: What says how to answer or who asks, and is not of the request's message.
_NOT_OF_THE_REQUEST = SYSTEM_PARAMETERS | {"$.xgafv", "$alt", "$httpHeaders"}


class _Waiting:
    """What a method is told of a caller over HTTP: it is there until it is answered."""

    def time_remaining(self) -> None:
        return None

    def add_callback(self, _callback: Any) -> bool:
        return True

    def is_active(self) -> bool:
        return True


def application(tables: Sequence[RpcTable]) -> flask.Flask:
    """The WSGI application for the methods of `tables`."""
    app = flask.Flask("local_cloud.pubsub")
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the default provider has it

    @app.route("/", defaults={"path": ""}, methods=["GET"])
    @app.route("/<path:path>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    def serve(path: str) -> Any:
        try:
            return _call(tables, path)
        except ApiError as error:
            body, code = google_error(error)
            return flask.jsonify(body), code

    return app


def _call(tables: Sequence[RpcTable], path: str) -> Mapping[str, Any]:
    method = flask.request.method
    for verb, template, name in RULES:
        matched = _pattern(template).fullmatch(path) if verb == method else None
        if matched is None:
            continue
        for table in tables:
            if table.has(f"/{name}"):
                field = template[1:].partition("=")[0]
                request = _request(table.request_type(f"/{name}"), {field: matched[1]})
                answer = table.call(f"/{name}", request, _Waiting(), caller())
                return json_format.MessageToDict(answer)
    raise ApiError(
        404, "NOT_FOUND", f"The local cloud has no {method} {flask.request.path}: COVERAGE.md lists what it has."
    )


def _pattern(template: str) -> re.Pattern[str]:
    field, _, rest = template[1:].partition("=")
    name, _, suffix = rest.partition("}")
    del field
    return re.compile(rf"v1/({name.replace('*', '[^/:]+')}){re.escape(suffix)}")


def _request(kind: Any, path_fields: Mapping[str, str]) -> Any:
    """The message that path, query and body make together. Raises ApiError 400 for what it does not have."""
    document: Any = {}
    if flask.request.method in {"POST", "PUT", "PATCH"}:
        if flask.request.get_data(cache=True):
            document = flask.request.get_json(force=True, silent=True)
        if not isinstance(document, dict):
            raise _invalid("the body must be a JSON object.")
    queried = {key: value for key, value in flask.request.args.items() if key not in _NOT_OF_THE_REQUEST}
    for name, value in [*queried.items(), *path_fields.items()]:
        *parents, leaf = name.split(".")
        inside = document
        for parent in parents:
            inside = inside.setdefault(parent, {})
        inside[leaf] = value
    try:
        return json_format.ParseDict(document, kind())
    except (json_format.ParseError, AttributeError) as exc:
        raise _invalid(str(exc)) from exc


def _invalid(what: str) -> ApiError:
    return ApiError(400, "INVALID_ARGUMENT", f"Invalid JSON payload received. {what}")
