"""JSON log lines that Cloud Logging understands: severity, message, trace, and our own fields.

Source of the special names: https://cloud.google.com/logging/docs/structured-logging
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import os
import sys
import time
import traceback
import types
from collections.abc import Iterator, Mapping
from typing import Any

_context: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar(
    "log_context", default=types.MappingProxyType({})
)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line; fields given by `extra=` and by `bind` become fields of the entry."""

    converter = staticmethod(time.gmtime)  # the `Z` below says UTC

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "severity": record.levelname,
            "message": record.getMessage(),
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z",
            "logger": record.name,
            **_context.get(),
        }
        entry.update({name: value for name, value in vars(record).items() if name not in _STANDARD})
        if record.exc_info and record.exc_info[0] is not None:
            # Error Reporting recognises a stack trace inside the message.
            entry["message"] += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return json.dumps(entry, default=str, ensure_ascii=False)


class PlainFormatter(logging.Formatter):
    """For a person at a terminal: time (UTC), message, and the bound fields in brackets."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        fields = {**_context.get(), **{k: v for k, v in vars(record).items() if k not in _STANDARD}}
        tail = " ".join(f"{name}={value}" for name, value in fields.items() if value not in ("", None))
        line = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname:<7} {record.getMessage()}"
        line = f"{line}  [{tail}]" if tail else line
        if record.exc_info and record.exc_info[0] is not None:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure(*, level: str | None = None) -> None:
    """Send every log line to stdout: JSON unless stdout is a terminal. LOG_LEVEL sets the level (default INFO)."""
    handler = logging.StreamHandler(sys.stdout)
    formatter = PlainFormatter() if sys.stdout.isatty() else JsonFormatter()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level or os.environ.get("LOG_LEVEL", "INFO").upper())
    # These two log every connection at INFO or every retry at DEBUG, and say nothing that we do not say better.
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    logging.getLogger("google").setLevel(logging.WARNING)


@contextlib.contextmanager
def bind(**fields: Any) -> Iterator[None]:
    """Add `fields` (run_id, target, event_id …) to every line logged inside the block."""
    token = _context.set({**_context.get(), **{k: v for k, v in fields.items() if v not in ("", None)}})
    try:
        yield
    finally:
        _context.reset(token)


def trace_field(header: str, project: str) -> dict[str, str]:
    """The field that ties a line to its request, from an `X-Cloud-Trace-Context` header (`TRACE/SPAN;o=1`)."""
    trace = header.split("/", 1)[0]
    return {"logging.googleapis.com/trace": f"projects/{project}/traces/{trace}"} if trace else {}
