"""Downloads: the bytes of objects, whole or in ranges, through the JSON API and through signed URLs."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any

import flask

from local_cloud.api import Api, ApiError
from local_cloud.storage.blobs import OpenBlob
from local_cloud.storage.customer_keys import has_key, require_key
from local_cloud.storage.errors import invalid
from local_cloud.storage.preconditions import Preconditions, generation_asked
from local_cloud.storage.records import StoredObject
from local_cloud.storage.state import State
from local_cloud.storage.wire import byte_range

#: Longest life of a V4 signed URL. Source: https://cloud.google.com/storage/docs/access-control/signed-urls
_LONGEST_SIGNED_SECONDS = 7 * 24 * 3600
_KEY_OF_IAM_LASTS = datetime.timedelta(hours=12)
#: How far the clock of the signer may be ahead.
_AHEAD = datetime.timedelta(minutes=15)

#: First segments of the JSON API's paths, which the XML API's `/<bucket>/<object>` would swallow.
JSON_API_SEGMENTS = frozenset({"storage", "upload", "download", "resumable", "batch", "v0"})


class Downloads:
    """The routes that give bytes; all of them are the operation storage.objects.get."""

    def __init__(self, api: Api, state: State, by_iam: Callable[[bytes], bool]) -> None:
        self._state = state
        self._by_iam = by_iam
        api.operation(
            "storage.objects.get",
            "GET",
            "/storage/v1/b/<bucket>/o/<name>",
            differs="only the live generation exists; `fields` and `projection` are ignored; "
            "gzip-encoded objects are never decompressed by the server",
        )(self.get)
        api.operation("storage.objects.get", "GET", "/download/storage/v1/b/<bucket>/o/<name>")(self.media)
        api.operation(
            "firebasestorage.objects.get",
            "GET",
            "/v0/b/<bucket>/o/<name>",
            differs="Cloud Storage for Firebase, as a phone fetches: CORS as the bucket says, no security rules",
        )(self.get)
        api.operation(
            "storage.objects.get",
            "GET",
            "/<bucket>/<path:name>",
            differs="XML API, for signed URLs: times are checked, the signature is not",
        )(self.signed)

    def get(self, bucket: str, name: str) -> Any:
        """The resource, or with `alt=media` the bytes."""
        if flask.request.args.get("alt") == "media":
            return self.media(bucket, name)
        stored = self._state.object(bucket, name, generation_asked())
        Preconditions.of_request().check(stored, reading=True)
        with_checksums = has_key(stored, flask.request.headers)
        return stored.resource(flask.request.host_url.rstrip("/"), with_checksums=with_checksums)

    def media(self, bucket: str, name: str) -> flask.Response:
        stored, blob = self._state.open_object(bucket, name, generation_asked(), Preconditions.of_request())
        try:
            require_key(stored, flask.request.headers)
            selected = byte_range(flask.request.headers.get("Range"), stored.content.size)
        except BaseException:
            blob.close()
            raise
        return _media_response(stored, blob, selected)

    def signed(self, bucket: str, name: str) -> flask.Response:
        """GET through the XML API's path, signed or not."""
        if bucket in JSON_API_SEGMENTS:
            path = flask.request.path
            raise ApiError(404, "NOT_FOUND", f"the local cloud has no GET {path}; COVERAGE.md lists what it has")
        _require_in_time(flask.request.args, self._by_iam)
        response = self.media(bucket, name)
        for parameter, header in (
            ("response-content-type", "Content-Type"),
            ("response-content-disposition", "Content-Disposition"),
        ):
            if parameter in flask.request.args:
                response.headers[header] = flask.request.args[parameter]
        return response


def _media_response(stored: StoredObject, blob: OpenBlob, selected: tuple[int, int] | None) -> flask.Response:
    size = stored.content.size
    start, stop = selected or (0, size)
    headers = _media_headers(stored)
    headers["Content-Length"] = str(stop - start)
    if selected:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    body: Any = blob.select(start, stop)
    if flask.request.method == "HEAD":
        blob.close()
        body = ()
    return flask.Response(body, status=206 if selected else 200, headers=headers, direct_passthrough=True)


def _media_headers(stored: StoredObject) -> dict[str, str]:
    """Source: https://cloud.google.com/storage/docs/xml-api/reference-headers"""
    content, properties = stored.content, stored.properties
    hashes = f"crc32c={content.crc32c}" + (f",md5={content.md5}" if content.md5 else "")
    headers = {
        "Content-Type": properties.get("contentType", "application/octet-stream"),
        "Accept-Ranges": "bytes",
        "Cache-Control": properties.get("cacheControl", "private, max-age=0"),
        "ETag": f'"{stored.etag}"',
        "X-Goog-Hash": hashes,
        "X-Goog-Generation": str(stored.generation),
        "X-Goog-Metageneration": str(stored.metageneration),
        "X-Goog-Storage-Class": properties.get("storageClass", "STANDARD"),
        "X-Goog-Stored-Content-Length": str(content.size),
        "X-Goog-Stored-Content-Encoding": properties.get("contentEncoding", "identity"),
    }
    optional = ("contentEncoding", "contentDisposition", "contentLanguage")
    for key, header in zip(optional, ("Content-Encoding", "Content-Disposition", "Content-Language"), strict=True):
        if key in properties:
            headers[header] = properties[key]
    for key, value in properties.get("metadata", {}).items():
        if _fits_header(key) and _fits_header(value):
            headers[f"x-goog-meta-{key}"] = value
    return headers


def _fits_header(text: str) -> bool:
    return text.isascii() and text.isprintable() and ":" not in text[:1]


def _require_in_time(query: Mapping[str, str], by_iam: Callable[[bytes], bool]) -> None:
    """Refuse a V4 signed URL whose time is over or has not come, and one that was signed for too long.

    Google replaces the keys that IAM signs with, and keeps each for 12 hours.
    Source: measured by kmoneil/zig-gcp, docs/storage/signed-urls.md, September 2026.
    """
    if "X-Goog-Signature" not in query:
        return
    try:
        signed_at = datetime.datetime.strptime(query["X-Goog-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
        seconds = int(query["X-Goog-Expires"])
    except (KeyError, ValueError):
        raise invalid("a signed URL needs X-Goog-Date and X-Goog-Expires", reason="invalidParameter") from None
    if not 0 < seconds <= _LONGEST_SIGNED_SECONDS:
        raise invalid(f"X-Goog-Expires={seconds} must lie between 1 and {_LONGEST_SIGNED_SECONDS}")
    now = datetime.datetime.now(datetime.UTC)
    if signed_at > now + _AHEAD:
        raise ApiError(403, "PERMISSION_DENIED", f"Request is dated {signed_at.isoformat()}.", reason="forbidden")
    if now > signed_at + _KEY_OF_IAM_LASTS and by_iam(_bytes(query["X-Goog-Signature"])):
        raise ApiError(403, "PERMISSION_DENIED", "The key of the signature is gone.", reason="signatureDoesNotMatch")
    if now > signed_at + datetime.timedelta(seconds=seconds):
        over = signed_at + datetime.timedelta(seconds=seconds)
        raise invalid(f"Request signature expired at: {over.isoformat()}", reason="expiredToken")


def _bytes(signature: str) -> bytes:
    try:
        return bytes.fromhex(signature)
    except ValueError:
        return b""
