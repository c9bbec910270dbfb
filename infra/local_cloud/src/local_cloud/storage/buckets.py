"""Buckets: their own routes, and those of the notification configs that hang on them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flask

from local_cloud.api import Api, ApiError, caller
from local_cloud.iam import AGENTS, Iam, StalePolicy, agent
from local_cloud.storage.errors import condition_not_met, invalid
from local_cloud.storage.events import refuse_too_many, require_notification
from local_cloud.storage.locations import location_type
from local_cloud.storage.permissions import bucket_name
from local_cloud.storage.preconditions import Preconditions
from local_cloud.storage.records import COMPUTED_BY_BUCKET, Bucket, require_bucket_name, require_bucket_properties
from local_cloud.storage.state import State
from local_cloud.storage.wire import json_object

_BUCKET = "/storage/v1/b/<bucket>"
_CONFIGS = f"{_BUCKET}/notificationConfigs"


class Buckets:
    """The routes of storage.buckets.* and storage.notifications.*."""

    def __init__(self, api: Api, state: State, iam: Iam, has_topic: Callable[[str], bool]) -> None:
        self._state = state
        self._iam = iam
        self._has_topic = has_topic
        kept = "lifecycle, versioning, retention and IAM settings are kept and shown, not applied"
        api.operation("storage.buckets.insert", "POST", "/storage/v1/b", differs=kept)(self.insert)
        api.operation("storage.buckets.list", "GET", "/storage/v1/b", differs="always one page")(self.list)
        api.operation("storage.buckets.get", "GET", _BUCKET)(self.get)
        api.operation("storage.buckets.patch", "PATCH", _BUCKET, differs=kept)(self.patch)
        api.operation("storage.buckets.update", "PUT", _BUCKET, differs=kept)(self.update)
        api.operation("storage.buckets.delete", "DELETE", _BUCKET)(self.delete)
        api.operation("storage.buckets.getIamPolicy", "GET", f"{_BUCKET}/iam")(self.get_policy)
        api.operation(
            "storage.buckets.setIamPolicy",
            "PUT",
            f"{_BUCKET}/iam",
            differs="the bindings of projectOwner, projectEditor and projectViewer cannot be taken away",
        )(self.set_policy)
        api.operation(
            "storage.buckets.testIamPermissions",
            "GET",
            f"{_BUCKET}/iam/testPermissions",
        )(self.test_permissions)
        api.operation("storage.buckets.getStorageLayout", "GET", f"{_BUCKET}/storageLayout")(self.layout)
        api.operation("storage.projects.serviceAccount.get", "GET", "/storage/v1/projects/<project>/serviceAccount")(
            self.service_agent
        )
        api.operation(
            "storage.notifications.insert", "POST", _CONFIGS, differs="triggers of Eventarc do not count as overlapping"
        )(self.insert_notification)
        api.operation("storage.notifications.list", "GET", _CONFIGS)(self.list_notifications)
        api.operation("storage.notifications.get", "GET", f"{_CONFIGS}/<notification>")(self.get_notification)
        api.operation("storage.notifications.delete", "DELETE", f"{_CONFIGS}/<notification>")(self.delete_notification)

    def insert(self) -> Any:
        document = json_object(flask.request.get_data())
        project = flask.request.args.get("project", "")
        if not project:
            raise invalid("Required parameter: project", reason="required")
        name = require_bucket_name(document.get("name"))
        properties = require_bucket_properties(_properties(document))
        return _resource(self._state.create_bucket(name, project, properties))

    def list(self) -> Any:
        query = flask.request.args
        buckets = self._state.buckets(query.get("project", ""), query.get("prefix", ""))
        return {"kind": "storage#buckets", **_items([_resource(bucket) for bucket in buckets])}

    def get(self, bucket: str) -> Any:
        found = self._state.bucket(bucket)
        Preconditions.of_request().check(found, reading=True)
        return _resource(found)

    def patch(self, bucket: str) -> Any:
        document = json_object(flask.request.get_data())
        changed = self._state.change_bucket(bucket, Preconditions.of_request(), lambda old: _patched(old, document))
        return _resource(changed)

    def update(self, bucket: str) -> Any:
        properties = require_bucket_properties(_properties(json_object(flask.request.get_data())))
        return _resource(self._state.change_bucket(bucket, Preconditions.of_request(), lambda _old: properties))

    def delete(self, bucket: str) -> Any:
        self._state.delete_bucket(bucket, Preconditions.of_request())
        return flask.Response(status=204)

    def get_policy(self, bucket: str) -> Any:
        self._state.bucket(bucket)
        policy = self._iam.policy(f"buckets/{bucket}")
        if flask.request.args.get("optionsRequestedPolicyVersion", "1") != "3":
            policy = _without_conditions(policy)
        return {"kind": "storage#policy", "resourceId": f"projects/_/buckets/{bucket}", **policy}

    def set_policy(self, bucket: str) -> Any:
        found = self._state.bucket(bucket)
        document = json_object(flask.request.get_data())
        for binding in document.get("bindings", ()):
            if not binding["role"].startswith(("roles/storage.", "projects/", "organizations/")):
                raise invalid(f"Role {binding['role']} is not supported for this resource.")
            if binding.get("condition") and not found.is_uniform:
                raise invalid("Conditions need a bucket with uniform bucket-level access.")
        self._state.count_change(bucket)
        try:
            policy = self._iam.set_policy(f"buckets/{bucket}", document)
        except StalePolicy:
            raise condition_not_met() from None
        except ValueError as exc:
            raise invalid(str(exc)) from exc
        return {"kind": "storage#policy", "resourceId": f"projects/_/buckets/{bucket}", **policy}

    def test_permissions(self, bucket: str) -> Any:
        self._state.bucket(bucket)
        asked = flask.request.args.getlist("permissions")
        permissions = self._iam.held(caller(), asked, bucket_name(bucket))
        return {"kind": "storage#testIamPermissionsResponse", "permissions": permissions}

    def layout(self, bucket: str) -> Any:
        found = self._state.bucket(bucket)
        return {
            "kind": "storage#storageLayout",
            "bucket": bucket,
            "location": found.location,
            "locationType": location_type(found.location),
        }

    def service_agent(self, project: str) -> Any:
        del project  # there is one
        return {"kind": "storage#serviceAccount", "email_address": AGENTS["Cloud Storage"]}

    def insert_notification(self, bucket: str) -> Any:
        config = require_notification(json_object(flask.request.get_data()))
        self._require_publisher(config["topic"].removeprefix("//pubsub.googleapis.com/"))
        refuse_too_many(config, self._state.notifications(bucket))
        return _notification(bucket, self._state.add_notification(bucket, config))

    def _require_publisher(self, topic: str) -> None:
        """Cloud Storage looks at once whether it may publish. Source: recorded answers, double "to" included."""
        if not self._has_topic(topic):
            raise invalid(
                f"Cloud Pub/Sub topic '{topic}' not found, or user '{caller().partition(':')[2]}' does not have"
                " permission to it."
            )
        publisher = agent("Cloud Storage")
        if not self._iam.allows(publisher, "pubsub.topics.publish", topic):
            raise ApiError(
                403,
                "PERMISSION_DENIED",
                f"The service account '{publisher.partition(':')[2]}' does not have permission to publish messages"
                f" to to the Cloud Pub/Sub topic '{topic}', or that topic does not exist.",
            )

    def list_notifications(self, bucket: str) -> Any:
        configs = self._state.notifications(bucket)
        items = [_notification(bucket, config) for config in configs]
        return {"kind": "storage#notifications", **_items(items)}

    def get_notification(self, bucket: str, notification: str) -> Any:
        for config in self._state.notifications(bucket):
            if config["id"] == notification:
                return _notification(bucket, config)
        raise _notification_not_found(bucket, notification)

    def delete_notification(self, bucket: str, notification: str) -> Any:
        if not self._state.delete_notification(bucket, notification):
            raise _notification_not_found(bucket, notification)
        return flask.Response(status=204)


def _without_conditions(policy: Mapping[str, Any]) -> dict[str, Any]:
    """As a policy is shown to who does not ask for version 3: a condition hides behind the name of its role.

    Source: https://docs.cloud.google.com/iam/docs/policies#versions
    """
    bindings = []
    for binding in policy["bindings"]:
        shown = {key: value for key, value in binding.items() if key != "condition"}
        if condition := binding.get("condition"):
            digest = hashlib.sha256(condition["expression"].encode()).hexdigest()[:20]
            shown["role"] = f"{binding['role']}_withcond_{digest}"
        bindings.append(shown)
    return {**policy, "version": 1, "bindings": bindings}


def _items(items: Sequence[Any]) -> dict[str, Any]:
    """A list without entries is left out."""
    return {"items": list(items)} if items else {}


def _properties(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in COMPUTED_BY_BUCKET and value is not None}


def _patched(old: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """JSON merge patch, which for the flat map of labels goes one level down."""
    merged = {**old, **patch}
    if isinstance(patch.get("labels"), Mapping):
        labels = {**old.get("labels", {}), **patch["labels"]}
        merged["labels"] = {key: value for key, value in labels.items() if value is not None}
    return require_bucket_properties(_properties(merged))


def _resource(bucket: Bucket) -> dict[str, Any]:
    return bucket.resource(flask.request.host_url.rstrip("/"))


def _notification(bucket: str, config: Mapping[str, Any]) -> dict[str, Any]:
    link = f"{flask.request.host_url}storage/v1/b/{bucket}/notificationConfigs/{config['id']}"
    return {"kind": "storage#notification", "selfLink": link, **config}


def _notification_not_found(bucket: str, notification: str) -> ApiError:
    return ApiError(404, "NOT_FOUND", f"No such notification config: {bucket}/{notification}")
