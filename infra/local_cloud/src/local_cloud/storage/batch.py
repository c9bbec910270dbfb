"""Batch: several calls in one request, each answered as if it had come alone."""

from __future__ import annotations

import email.parser
import email.policy
import uuid
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

import flask
from werkzeug.test import EnvironBuilder, run_wsgi_app

from local_cloud.api import Api, caller
from local_cloud.http import CALLER
from local_cloud.storage.errors import invalid

#: Google takes 100 calls; its Python client sends up to 1000, and the service then refuses.
LARGEST_BATCH = 100


class Batch:
    """The batch route: multipart/mixed of application/http in, the same out."""

    def __init__(self, api: Api) -> None:
        self._app = api.app
        differs = "the calls run one after the other; uploads and downloads are not refused"
        api.operation("storage.batch", "POST", "/batch/storage/v1", differs=differs)(self.run)

    def run(self) -> Any:
        request = flask.request
        content_type = request.headers.get("Content-Type", "")
        head = f"Content-Type: {content_type}\r\nMIME-Version: 1.0\r\n\r\n".encode()
        parser = email.parser.BytesParser(policy=email.policy.HTTP)
        message = parser.parsebytes(head + request.get_data())
        if not message.is_multipart():
            raise invalid("a batch must be multipart/mixed with one application/http part per call")
        parts: list[Any] = list(message.iter_parts())
        if len(parts) > LARGEST_BATCH:
            raise invalid(f"The batch request cannot contain more than {LARGEST_BATCH} calls", reason="badRequest")
        boundary = f"batch_{uuid.uuid4().hex}"
        body = b"".join(self._answer(part, boundary) for part in parts) + f"--{boundary}--\r\n".encode()
        return flask.Response(body, content_type=f'multipart/mixed; boundary="{boundary}"')

    def _answer(self, part: Message, boundary: str) -> bytes:
        """One part of the answer: the status line, headers and body of one call."""
        payload = part.get_payload(decode=True)
        if not isinstance(payload, bytes):
            raise invalid("a part of the batch is not application/http")
        head, _, body = payload.replace(b"\r\n", b"\n").partition(b"\n\n")
        request_line, _, header_lines = head.decode("utf-8").partition("\n")
        method, _, target = request_line.strip().partition(" ")
        target = target.removesuffix(" HTTP/1.1")
        headers = email.parser.HeaderParser().parsestr(header_lines)
        status, answer = self._call(method, target, headers, body)
        identifier = str(part.get("Content-ID", "")).strip("<>")
        lines = [
            f"--{boundary}",
            "Content-Type: application/http",
            f"Content-ID: <response-{identifier}>",
            "",
            f"HTTP/1.1 {status}",
            "Content-Type: application/json; charset=UTF-8",
            f"Content-Length: {len(answer)}",
            "",
            "",
        ]
        return "\r\n".join(lines).encode() + answer + b"\r\n"

    def _call(self, method: str, target: str, headers: Message, body: bytes) -> tuple[str, bytes]:
        url = urlsplit(target)
        builder = EnvironBuilder(
            method=method,
            path="/",
            base_url=flask.request.host_url,
            query_string=url.query,
            headers=[(name, value) for name, value in headers.items() if name.lower() != "content-length"],
            data=body,
        )
        environ = builder.get_environ()
        environ[CALLER] = caller()
        # The path stays as it was sent, see `wire.RawPath`.
        environ["REQUEST_URI"] = url.path
        chunks, status, _ = run_wsgi_app(self._app, environ)
        return status, b"".join(chunks)
