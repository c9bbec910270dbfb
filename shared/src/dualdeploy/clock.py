"""Time as a dependency: handlers are given a clock, so that tests need not wait."""

from __future__ import annotations

import datetime
from collections.abc import Callable

#: Answers the current time, always in UTC and always aware.
Clock = Callable[[], datetime.datetime]


def utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def to_text(moment: datetime.datetime) -> str:
    """RFC 3339 with milliseconds, as Google's APIs write it: `2026-11-23T04:40:00.123Z`."""
    return moment.astimezone(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def for_people(text: str) -> str:
    """What `to_text` wrote, as people write it: `2026-11-23 04:40:00`. All times are UTC."""
    return text[:19].replace("T", " ")


def from_text(text: str) -> datetime.datetime:
    """The reverse of `to_text`; accepts any RFC 3339 time. Raises ValueError when `text` is none."""
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; write RFC 3339, for example 2026-11-23T04:40:00Z")
    return moment
