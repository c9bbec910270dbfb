"""Uploads: the three ways bytes become an object: media, multipart and resumable."""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Mapping
from typing import Any

import flask
from werkzeug.datastructures import Headers

from local_cloud.api import Api, ApiError
from local_cloud.storage.customer_keys import encryption_of
from local_cloud.storage.errors import invalid
from local_cloud.storage.preconditions import Preconditions
from local_cloud.storage.records import Content, StoredObject, require_object_name, writable_properties
from local_cloud.storage.state import Session, State
from local_cloud.storage.wire import ContentRange, RelatedParts, chunks_of, json_object

#: All chunks but the last are a multiple of this.
#: Source: https://cloud.google.com/storage/docs/performing-resumable-uploads#chunked-upload
CHUNK_MULTIPLE = 256 * 1024

#: What the session protocol answers to a cancelled upload; no other protocol has this code.
CLIENT_CLOSED_REQUEST = 499


class Uploads:
    """The routes that take bytes; all of them are the operation storage.objects.insert."""

    def __init__(self, api: Api, state: State) -> None:
        self._state = state
        self._session_locks: collections.defaultdict[str, threading.Lock] = collections.defaultdict(threading.Lock)
        differs = "ACLs and KMS parameters are ignored; Content-Encoding of a request is not undone"
        # Firebase's and older clients send resumable requests to a path of their own.
        for prefix in ("/upload", "/resumable/upload"):
            path = f"{prefix}/storage/v1/b/<bucket>/o"
            api.operation("storage.objects.insert", "POST", path, differs=differs)(self.insert)
            api.operation("storage.objects.insert", "PUT", path, differs="a chunk of a resumable upload")(
                self.continue_session
            )
            api.operation("storage.objects.insert", "DELETE", path, differs="cancels a resumable upload")(
                self.cancel_session
            )
        api.operation(
            "storage.objects.insert",
            "PUT",
            "/<bucket>/<path:name>",
            differs="XML API, for signed URLs: the signature is not verified",
        )(self.insert_signed)

    def insert(self, bucket: str) -> Any:
        kind = flask.request.args.get("uploadType", "")
        if kind == "media":
            return self._insert_media(bucket)
        if kind == "multipart":
            return self._insert_multipart(bucket)
        if kind == "resumable":
            return self._begin_session(bucket)
        raise invalid(f"uploadType={kind!r} must be media, multipart or resumable")

    def insert_signed(self, bucket: str, name: str) -> Any:
        """PUT of a whole object, as browsers do with a signed URL."""
        request = flask.request
        stored = self._store(
            bucket, require_object_name(name), {"contentType": request.content_type}, request.stream, request.headers
        )
        return flask.Response(headers={"ETag": f'"{stored.etag}"', "x-goog-generation": str(stored.generation)})

    def _insert_media(self, bucket: str) -> Any:
        request = flask.request
        name = require_object_name(request.args.get("name"))
        properties = {
            "contentType": request.content_type,
            "contentEncoding": request.args.get("contentEncoding"),
        }
        return self._resource(self._store(bucket, name, properties, request.stream, request.headers))

    def _insert_multipart(self, bucket: str) -> Any:
        request = flask.request
        parts = RelatedParts(request.stream, request.headers.get("Content-Type", ""))
        name = require_object_name(request.args.get("name", parts.metadata.get("name")))
        preconditions = Preconditions.of_request()
        self._state.require_writable(bucket, name, preconditions)
        properties = writable_properties({"contentType": parts.media_type, **parts.metadata})
        properties |= encryption_of(request.headers)
        content = self._state.blobs.write(parts.media())
        self._require_checksums(content, parts.metadata, request.headers)
        stored = self._state.put_object(bucket, name, content, properties=properties, preconditions=preconditions)
        return self._resource(stored)

    def _store(
        self, bucket: str, name: str, metadata: Mapping[str, Any], stream: Any, headers: Headers
    ) -> StoredObject:
        preconditions = Preconditions.of_request()
        # Refused before the bytes are written, and again, under the same lock as the write, after that.
        self._state.require_writable(bucket, name, preconditions)
        content = self._state.blobs.write(chunks_of(stream))
        self._require_checksums(content, {}, headers)
        properties = writable_properties(metadata) | encryption_of(flask.request.headers)
        return self._state.put_object(bucket, name, content, properties=properties, preconditions=preconditions)

    # --- resumable -------------------------------------------------------------------------------------------

    def _begin_session(self, bucket: str) -> Any:
        request = flask.request
        metadata = json_object(request.get_data())
        name = require_object_name(request.args.get("name", metadata.get("name")))
        preconditions = Preconditions.of_request()
        self._state.require_writable(bucket, name, preconditions)
        media_type = request.headers.get("X-Upload-Content-Type")
        total = request.headers.get("X-Upload-Content-Length")
        if total is not None and not total.isdigit():
            raise invalid(f"X-Upload-Content-Length {total!r} must be a number of bytes")
        session = self._state.begin_session(
            bucket,
            name,
            {
                "properties": writable_properties({"contentType": media_type, **metadata})
                | encryption_of(request.headers),
                "checksums": {key: metadata.get(key) for key in ("crc32c", "md5Hash")},
                "preconditions": dataclasses.asdict(preconditions),
                "total": None if total is None else int(total),
            },
        )
        location = f"{request.base_url}?uploadType=resumable&upload_id={session}"
        return flask.Response(headers={"Location": location, "X-GUploader-UploadID": session})

    def continue_session(self, bucket: str) -> Any:
        """A chunk, or a question for the status (`Content-Range: bytes */N`)."""
        identifier = self._session_of(bucket).id
        # A client that gave up waiting may send a chunk again while the first is still being written.
        with self._session_locks[identifier]:
            session = self._session_of(bucket)
            if session.finished is not None:
                # The answer to the last chunk was lost and the chunk came again: the object is there.
                return self._resource(session.finished)
            return self._receive(session)

    def _receive(self, session: Session) -> Any:
        request = flask.request
        # The HTTP server reads a request to its end first, so that chunked encoding has a length here too.
        piece = ContentRange.parse(request.headers.get("Content-Range"), request.content_length or 0)
        total = session.request["total"] if piece.total is None else piece.total
        received = session.received
        if piece.start is not None and piece.stop is not None:
            received = self._write(session, piece.start, piece.stop, total, request.stream)
        if total is None or received < total:
            return _incomplete(received)
        return self._finish(session, total, request.headers)

    def _write(self, session: Session, start: int, stop: int, total: int | None, body: Any) -> int:
        if start > session.received:
            raise invalid(f"the chunk starts at {start}, but only {session.received} bytes have arrived before it")
        if total is not None and stop > total:
            raise invalid(f"the chunk ends at {stop}, after the announced total of {total} bytes")
        if (stop - start) % CHUNK_MULTIPLE and stop != total:
            raise invalid(f"every chunk but the last must be a multiple of {CHUNK_MULTIPLE} bytes")
        if stop <= session.received:
            return session.received
        chunks = chunks_of(body, skip=session.received - start)
        received = self._state.blobs.write_at(session.blob, session.received, chunks)
        self._state.advance_session(session.id, received)
        return received

    def _finish(self, session: Session, total: int, headers: Headers) -> Any:
        # Cuts off what a process that died between writing and recording may have left behind the end.
        self._state.blobs.write_at(session.blob, total, ())
        content = self._state.blobs.measure(session.blob)
        try:
            self._require_checksums(content, session.request["checksums"], headers)
            stored = self._state.put_object(
                session.bucket,
                session.name,
                content,
                properties=session.request["properties"],
                preconditions=Preconditions.of_stored(session.request["preconditions"]),
                session=session.id,
            )
        except ApiError:
            self._state.end_session(session)
            raise
        return self._resource(stored)

    def cancel_session(self, bucket: str) -> Any:
        self._state.end_session(self._session_of(bucket))
        return flask.Response(status=CLIENT_CLOSED_REQUEST)

    def _session_of(self, bucket: str) -> Session:
        identifier = flask.request.args.get("upload_id", "")
        session = self._state.session(identifier)
        if session is None or session.bucket != bucket:
            raise ApiError(404, "NOT_FOUND", f"No such upload session: {identifier!r}; begin a new upload")
        return session

    # --- common ----------------------------------------------------------------------------------------------

    def _require_checksums(self, content: Content, metadata: Mapping[str, Any], headers: Headers) -> None:
        """Refuse bytes that are not those whose checksum was sent along."""
        for label, wanted, found in _checksums(content, metadata, headers):
            if wanted is not None and wanted != found:
                self._state.blobs.discard(content.blob)
                raise invalid(f'Provided {label} "{wanted}" doesn\'t match calculated {label} "{found}".')

    def _resource(self, stored: StoredObject) -> dict[str, Any]:
        return stored.resource(flask.request.host_url.rstrip("/"), with_checksums=True)


def _checksums(
    content: Content, metadata: Mapping[str, Any], headers: Headers
) -> list[tuple[str, str | None, str | None]]:
    """(label, wanted, found) from the metadata, from X-Goog-Hash and from Content-MD5."""
    hashes: dict[str, str] = {}
    for item in headers.get("X-Goog-Hash", "").split(","):
        label, _, value = item.strip().partition("=")
        hashes[label] = value
    return [
        ("CRC32C", metadata.get("crc32c"), content.crc32c),
        ("MD5 hash", metadata.get("md5Hash"), content.md5),
        ("CRC32C", hashes.get("crc32c"), content.crc32c),
        ("MD5 hash", hashes.get("md5"), content.md5),
        ("MD5 hash", headers.get("Content-MD5"), content.md5),
    ]


def _incomplete(received: int) -> flask.Response:
    """308, which in this protocol means: go on from here. Without a Range header: from the first byte."""
    headers = {"Range": f"bytes=0-{received - 1}"} if received else {}
    return flask.Response(status=308, headers=headers)
