"""Wire: how names, ranges and multipart bodies look in HTTP, before they mean anything."""

from __future__ import annotations

import dataclasses
import email.parser
import json
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from werkzeug.routing import BaseConverter

from local_cloud.storage.blobs import CHUNK
from local_cloud.storage.errors import RangeNotSatisfiable, invalid

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


class RawPath:
    """WSGI middleware: routes see the path as it was sent.

    Decoded, `a%2Fb/copyTo` could be the object `a/b/copyTo` or a copy of `a/b`; the encoded slash tells.
    """

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        target: str = environ.get("REQUEST_URI") or urllib.parse.quote(environ["PATH_INFO"], encoding="latin-1")
        if target.startswith(("http://", "https://")):  # absolute form, as proxies send it
            target = "/" + target.split("/", 3)[3] if target.count("/") >= 3 else "/"
        environ["PATH_INFO"] = target.split("?", 1)[0]
        return self._application(environ, start_response)


class Quoted(BaseConverter):
    """One path segment, percent-decoded after routing."""

    def to_python(self, value: str) -> str:
        return unquote(value)


class QuotedPath(BaseConverter):
    """The rest of the path with its slashes, percent-decoded after routing."""

    regex = ".+"
    part_isolating = False

    def to_python(self, value: str) -> str:
        return unquote(value)


def unquote(text: str) -> str:
    """Percent-decode as UTF-8, refusing what is not."""
    try:
        return urllib.parse.unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise invalid(f"{text!r} is not percent-encoded UTF-8") from None


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The half-open range that a Range header selects; None: all, also for headers nobody understands.

    Raises RangeNotSatisfiable where no byte is selected (RFC 9110, section 14.1.2).
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(size - int(last), 0), size
    else:
        start, stop = int(first), size if not last else min(int(last) + 1, size)
    if last and first and int(last) < int(first):
        return None
    if start >= stop:
        raise RangeNotSatisfiable(size)
    return start, stop


@dataclasses.dataclass(frozen=True)
class ContentRange:
    """What a request to an upload session carries: bytes `start` to `stop` (half open) of `total`."""

    start: int | None  # None: no bytes, a question for the status
    stop: int | None
    total: int | None  # None: not known yet

    @classmethod
    def parse(cls, header: str | None, length: int) -> ContentRange:
        """Without a header the request carries all bytes at once."""
        if header is None:
            return cls(0, length, length)
        match = _CONTENT_RANGE.fullmatch(header.strip())
        if match is None:
            raise invalid(f"Content-Range {header!r} must be 'bytes A-B/TOTAL', 'bytes A-B/*' or 'bytes */*'")
        first, last, total = match.groups()
        known = None if total == "*" else int(total)
        if first is None:
            return cls(None, None, known)
        result = cls(int(first), int(last) + 1, known)
        if int(last) < int(first) or (known is not None and int(last) >= known):
            raise invalid(f"Content-Range {header!r}: the range must lie within the total")
        if int(last) + 1 - int(first) != length:
            raise invalid(f"Content-Range {header!r} announces another length than the body's {length} bytes")
        return result


def chunks_of(stream: IO[bytes], *, skip: int = 0) -> Iterator[bytes]:
    """The rest of a stream after `skip` bytes."""
    while skip > 0:
        skipped = stream.read(min(CHUNK, skip))
        if not skipped:
            return
        skip -= len(skipped)
    while chunk := stream.read(CHUNK):
        yield chunk


def json_object(body: bytes) -> dict[str, Any]:
    """A JSON object; an empty body stands for an empty one."""
    if not body.strip():
        return {}
    try:
        document = json.loads(body)
    except ValueError:
        raise invalid("Parse Error: the body is not JSON", reason="parseError") from None
    if not isinstance(document, dict):
        raise invalid(f"the body must be a JSON object, got {type(document).__name__}", reason="parseError")
    return document


class RelatedParts:
    """A multipart/related upload: metadata first, media second, read without holding the media in memory.

    Lines end as the first one does: RFC 2046 asks for CRLF, `gcloud storage` writes LF, and Google takes both.
    """

    def __init__(self, stream: IO[bytes], content_type: str) -> None:
        delimiter = b"--" + _boundary(content_type)
        self._source = _Splitter(stream)
        self._source.take(delimiter)
        self._line_end = b"\r\n" if self._source.take(b"\n").endswith(b"\r") else b"\n"
        self._delimiter = self._line_end + delimiter
        self._part_headers()
        self.metadata = json_object(self._source.take(self._delimiter))
        self._source.take(self._line_end)  # the rest of the delimiter's own line
        self.media_type: str | None = self._part_headers().get("content-type")

    def media(self) -> Iterator[bytes]:
        """The media's bytes; raises ApiError 400 where the closing delimiter is missing."""
        yield from self._source.until(self._delimiter)

    def _part_headers(self) -> dict[str, str]:
        lines = []
        while line := self._source.take(self._line_end):
            lines.append(line)
        message = email.parser.BytesHeaderParser().parsebytes(b"\r\n".join(lines))
        return {name.lower(): str(value) for name, value in message.items()}


class _Splitter:
    """Reads a stream up to delimiters, a block at a time."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._buffer = b""

    def take(self, delimiter: bytes) -> bytes:
        return b"".join(self.until(delimiter))

    def until(self, delimiter: bytes) -> Iterator[bytes]:
        """The bytes before the next `delimiter`, which is consumed too."""
        while (found := self._buffer.find(delimiter)) < 0:
            # A delimiter may straddle two blocks: its possible beginning stays in the buffer.
            ready = len(self._buffer) - len(delimiter) + 1
            if ready > 0:
                yield self._buffer[:ready]
                self._buffer = self._buffer[ready:]
            block = self._stream.read(CHUNK)
            if not block:
                raise invalid("the multipart body ends before its closing boundary", reason="parseError")
            self._buffer += block
        yield self._buffer[:found]
        self._buffer = self._buffer[found + len(delimiter) :]


def _boundary(content_type: str) -> bytes:
    message = email.parser.HeaderParser().parsestr(f"Content-Type: {content_type}\n")
    boundary = message.get_param("boundary")
    if not message.get_content_type().startswith("multipart/") or not isinstance(boundary, str):
        raise invalid(f"Content-Type must be multipart/related with a boundary, got {content_type!r}")
    return boundary.strip("'").encode("latin-1")  # gcloud storage puts it into single quotes
