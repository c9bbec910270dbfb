"""Posting events and messages to services, over connections that the end of the local cloud breaks off."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import socket
import threading
import urllib.parse
from collections.abc import Iterator, Mapping

#: How much of an answer is read: it is for a log line, and a service may send anything.
_ANSWER_BYTES = 300


class NoAnswer(Exception):
    """The service did not answer; the message says why."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the service said; `complaint` is how the body of anything but a 2xx begins."""

    status: int
    complaint: str


class Poster:
    """Posts from any number of threads; `close` breaks off what is under way and refuses what comes after."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[http.client.HTTPConnection] = set()
        self._closed = False

    def post(self, url: str, *, headers: Mapping[str, str], body: bytes, timeout: float) -> Answer:
        """Post once, `timeout` being the longest silence in seconds. Raises NoAnswer."""
        try:
            parts = urllib.parse.urlsplit(url)
            target = parts.path or "/"
            with self._connected(parts, timeout) as connection:
                connection.request(
                    "POST", f"{target}?{parts.query}" if parts.query else target, body=body, headers=dict(headers)
                )
                response = connection.getresponse()
                return Answer(response.status, _complaint(response))
        except TimeoutError as exc:
            raise NoAnswer(f"no answer within {timeout:g} s") from exc
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise NoAnswer(f"{type(exc).__name__}: {exc}") from exc

    @contextlib.contextmanager
    def _connected(self, url: urllib.parse.SplitResult, timeout: float) -> Iterator[http.client.HTTPConnection]:
        # A connection per request: a kept-alive one that the service closes meanwhile would be a false refusal.
        connect = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        connection = connect(url.hostname or "", url.port, timeout=timeout)
        try:
            self._require_open()
            connection.connect()
            # From here on `close` finds the socket; if it came first, it could not.
            with self._lock:
                self._open.add(connection)
            self._require_open()
            yield connection
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _require_open(self) -> None:
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("the local cloud is stopping")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for connection in self._open:
                if connection.sock:
                    with contextlib.suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)


def _complaint(response: http.client.HTTPResponse) -> str:
    # The status is the answer: no body, however slow or broken, may turn it into another.
    if 200 <= response.status < 300:
        return ""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return response.read(_ANSWER_BYTES).decode(errors="replace")
    return ""
