"""The emulated Cloud Storage as one thing: state, routes, outbox and HTTP server."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flask

from local_cloud.api import Api, ApiError
from local_cloud.faults import Faults
from local_cloud.http import HttpServer
from local_cloud.iam import Gate, Iam, refusals
from local_cloud.storage.batch import Batch
from local_cloud.storage.buckets import Buckets
from local_cloud.storage.downloads import JSON_API_SEGMENTS, Downloads
from local_cloud.storage.errors import BucketExists, NotModified, ObjectNotFound, RangeNotSatisfiable, render_error
from local_cloud.storage.events import EventsOf, OnFinalize, Outbox, Publish, require_notification
from local_cloud.storage.objects import Objects
from local_cloud.storage.permissions import Permissions, asker
from local_cloud.storage.rates import BURST, Rates
from local_cloud.storage.records import require_bucket_name, require_bucket_properties
from local_cloud.storage.state import State
from local_cloud.storage.uploads import Uploads
from local_cloud.storage.wire import Quoted, QuotedPath, RawPath
from local_cloud.storage.xml_errors import as_xml

#: What Google's Cloud Storage has and this one has not; COVERAGE.md repeats it.
ABSENT = (
    "object versioning and soft delete: one live version, an older generation is 404",
    "ACLs, HMAC keys, signed policy documents",
    "XML multipart uploads (`transfer_manager.upload_chunks_concurrently`), signed resumable uploads",
    "object holds, retention, lifecycle rules, autoclass, requester pays, encryption of what lies here",
    "folders, managed folders, anywhere caches, channels (watchAll), the gRPC API",
    "server-side decompression of gzip-encoded objects",
)


#: Cloud Storage for Firebase.
_DOWNLOAD = re.compile(r"/v0/b/(?P<bucket>[^/]+)/o/")


class Storage:
    """Cloud Storage's JSON API for the unmodified google-cloud-storage client.

    Everything lives under `state_dir` and survives a restart. `publish(topic, data, attributes)` receives the
    notifications (topic: `projects/P/topics/T`), `on_finalize(resource)` every finalized object; each topic, and
    `on_finalize`, is called from a background thread of its own, in order, again and again until it returns. A
    notification that Pub/Sub refuses for ever (Refused, ApiError NOT_FOUND, INVALID_ARGUMENT) is logged and dropped.
    `iam` judges callers (default: there is the owner alone). `has_topic(projects/P/topics/T)` says whether a topic is
    there, `signed_by_iam` whether a signature came from IAM and not from a key of one's own. An object can be changed
    `burst` times at once, and else once a second.
    """

    def __init__(
        self,
        *,
        faults: Faults,
        state_dir: Path | str,
        publish: Publish | None = None,
        on_finalize: OnFinalize | None = None,
        iam: Iam | None = None,
        has_topic: Callable[[str], bool] = lambda _topic: True,
        signed_by_iam: Callable[[bytes], bool] = lambda _signature: False,
        burst: int = BURST,
        port: int = 0,
    ) -> None:
        events_of = EventsOf(to_topics=publish is not None, to_eventarc=on_finalize is not None)
        self.state = State(Path(state_dir), events_of=events_of, rates=Rates(burst))
        iam = iam or Iam.of_one_owner()
        self._permissions = Permissions(iam, self.state)
        self.api = Api(
            "storage",
            faults=faults,
            render_error=render_error,
            gate=Gate(iam, self._permissions.resources_of),
            refuse=refusals.of_cloud_storage,
            caller=asker,
        )
        _accept_any_name(self.api)
        self.api.app.register_error_handler(
            ObjectNotFound, lambda error: self.api.answer(self._permissions.missing(error))
        )
        self.api.app.register_error_handler(NotModified, _answer_not_modified)
        self.api.app.register_error_handler(RangeNotSatisfiable, self._answer_range)
        self.api.app.after_request(_as_its_api_writes)
        self.api.app.after_request(self._allow_origin)
        Buckets(self.api, self.state, iam, has_topic)
        Objects(self.api, self.state)
        Downloads(self.api, self.state, signed_by_iam)
        Uploads(self.api, self.state)
        Batch(self.api)
        self._outbox = Outbox(self.state, publish, on_finalize)
        self._server = HttpServer(self.api.app, name="storage", port=port, callers=iam.callers)
        self.address, self.addresses = self._server.address, self._server.addresses
        events_of.base_url = f"http://{self.address}"

    def start(self) -> Storage:
        self._outbox.start()
        self._server.start()
        return self

    def close(self) -> None:
        """Stop answering, then stop delivering; undelivered events wait in the state."""
        self._server.close()
        self._outbox.close()
        self.state.close()

    def ensure_bucket(self, name: str, *, project: str, location: str = "US") -> None:
        """Create a bucket with uniform access unless it is there; works before the server is started."""
        properties = {"location": location, "iamConfiguration": {"uniformBucketLevelAccess": {"enabled": True}}}
        with contextlib.suppress(BucketExists):
            self.state.create_bucket(require_bucket_name(name), project, require_bucket_properties(properties))

    def has_objects(self, folder: str) -> bool:
        """Whether something lies under a folder, `gs://bucket/folder`."""
        bucket, _, prefix = folder.removeprefix("gs://").partition("/")
        prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        with self.state.reading():
            first = next(iter(self.state.objects(bucket, prefix)), None)
        return first is not None and first.name.startswith(prefix)

    def ensure_notification(
        self, bucket: str, *, topic: str, event_types: Sequence[str] = (), object_name_prefix: str = ""
    ) -> None:
        """Publish the bucket's events to `topic` (`projects/P/topics/T`), unless a config already says so."""
        wanted = require_notification(
            {
                "topic": f"//pubsub.googleapis.com/{topic}",
                "payload_format": "JSON_API_V1",
                "event_types": list(event_types),
                "object_name_prefix": object_name_prefix,
            }
        )
        there = [
            {key: value for key, value in config.items() if key not in {"id", "etag"}}
            for config in self.state.notifications(bucket)
        ]
        if wanted not in there:
            self.state.add_notification(bucket, wanted)

    def __enter__(self) -> Storage:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _answer_missing(self, error: ObjectNotFound) -> flask.Response:
        return self.api.answer(self._permissions.missing(error))

    def _allow_origin(self, response: flask.Response) -> flask.Response:
        """CORS where phones and pages download, by the rules of the bucket.

        Source: https://cloud.google.com/storage/docs/cross-origin
        """
        request = flask.request
        origin, download = request.headers.get("Origin", ""), _DOWNLOAD.match(request.path)
        if not origin or not download:
            return response
        method = request.headers.get("Access-Control-Request-Method", request.method)
        rule = self._cors_rule(download["bucket"], origin, method)
        if rule is None:
            return response
        response.headers["Access-Control-Allow-Origin"] = "*" if "*" in rule["origin"] else origin
        response.headers["Vary"] = "Origin"
        is_preflight = request.method == "OPTIONS"
        if headers := ", ".join(rule.get("responseHeader", ())):
            name = "Access-Control-Allow-Headers" if is_preflight else "Access-Control-Expose-Headers"
            response.headers[name] = headers
        if is_preflight:
            response.headers["Access-Control-Allow-Methods"] = ", ".join(rule["method"])
            response.headers["Access-Control-Max-Age"] = str(rule.get("maxAgeSeconds", 3600))
        return response

    def _cors_rule(self, bucket: str, origin: str, method: str) -> Mapping[str, Any] | None:
        """The first rule of the bucket that allows the method to the origin."""
        try:
            rules: Sequence[Mapping[str, Any]] = self.state.bucket(bucket).properties.get("cors", ())
        except ApiError:
            return None
        for rule in rules:
            if {"*", origin} & set(rule.get("origin", ())) and method in rule.get("method", ()):
                return rule
        return None

    def _answer_range(self, error: RangeNotSatisfiable) -> flask.Response:
        document: dict[str, Any] = {
            "code": 416,
            "message": str(error),
            "errors": [{"message": str(error), "domain": "global", "reason": "requestedRangeNotSatisfiable"}],
        }
        response = flask.jsonify({"error": document})
        response.status_code = 416
        response.headers["Content-Range"] = f"bytes */{error.size}"
        return response


def _as_its_api_writes(response: flask.Response) -> flask.Response:
    """Errors at the XML API's paths are XML."""
    segment = flask.request.path.split("/")[1]
    is_error = response.status_code >= 400 and response.is_json
    return as_xml(response) if is_error and segment not in JSON_API_SEGMENTS else response


def _accept_any_name(api: Api) -> None:
    """Let object names contain whatever Cloud Storage lets them contain."""
    api.app.wsgi_app = RawPath(api.app.wsgi_app)  # type: ignore[method-assign]  # Flask's documented way
    api.app.url_map.merge_slashes = False
    api.app.url_map.converters |= {"default": Quoted, "path": QuotedPath}


def _answer_not_modified(_error: NotModified) -> flask.Response:
    return flask.Response(status=304)
