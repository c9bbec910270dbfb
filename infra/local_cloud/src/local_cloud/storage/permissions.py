"""Who asks Cloud Storage, and what of: buckets, objects that are read, objects that will be."""

from __future__ import annotations

from collections.abc import Iterator

import flask

from local_cloud.api import ApiError, caller
from local_cloud.iam import Iam, Refused, refusals
from local_cloud.storage.downloads import JSON_API_SEGMENTS
from local_cloud.storage.errors import ObjectNotFound
from local_cloud.storage.state import State
from local_cloud.storage.wire import json_object


def bucket_name(bucket: str) -> str:
    """As conditions have it; the underscore is literal."""
    return f"projects/_/buckets/{bucket}"


def object_name(bucket: str, name: str) -> str:
    return f"{bucket_name(bucket)}/objects/{name}"


def asker() -> str:
    """Who sends the current request: of a signed URL the account that signed it."""
    credential = flask.request.args.get("X-Goog-Credential", "")
    return f"serviceAccount:{credential.split('/')[0]}" if credential else caller()


class Permissions:
    """What the routes and the state ask the judge."""

    def __init__(self, iam: Iam, state: State) -> None:
        self._iam = iam
        self._state = state
        state.may_write = self._require_write

    def resources_of(self, kind: str, request: flask.Request) -> Iterator[str]:
        """The resources that a request names. Raises ApiError 404 for a bucket that does not exist: anyone may know."""
        names = request.view_args or {}
        if kind == "project":
            yield f"projects/{request.args.get('project', self._iam.project)}"
            return
        if names["bucket"] in JSON_API_SEGMENTS:
            return  # no bucket at all: a path that the JSON API does not have, as the view will say
        self._state.bucket(names["bucket"])
        if kind == "bucket":
            yield bucket_name(names["bucket"])
        elif kind == "object":
            yield object_name(names["bucket"], names["name"])
        elif kind == "sources":
            yield from self._sources(request, names["bucket"])
        # A written object is asked for when its name is known and what it replaces: `_require_write`.

    def _sources(self, request: flask.Request, bucket: str) -> Iterator[str]:
        for source in json_object(request.get_data()).get("sourceObjects") or ():
            if isinstance(source, dict) and isinstance(source.get("name"), str):
                yield object_name(bucket, source["name"])

    def _require_write(self, bucket: str, name: str, *, replaces: bool) -> None:
        """Replacing what is there takes the permission to delete it, too.

        Source: https://cloud.google.com/storage/docs/access-control/iam-permissions
        """
        permission = "storage.objects.delete" if replaces else "storage.objects.create"
        self._iam.require(asker(), permission, object_name(bucket, name))

    def missing(self, error: ObjectNotFound) -> ApiError:
        """What a caller is told of an object that is missing: who may not list is not told that it is."""
        if flask.request.path.startswith("/v0/"):
            return error  # a phone, which security rules judge
        try:
            self._iam.require(asker(), "storage.objects.list", bucket_name(error.bucket))
        except Refused as refused:
            return refusals.of_cloud_storage(refused)
        return error
