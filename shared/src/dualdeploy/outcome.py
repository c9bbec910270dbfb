"""What handling an event came to. Pure: `entrypoint` alone turns it into an HTTP answer."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Outcome:
    """`message` is for the log."""

    kind: Literal["done", "already_done", "ignored"]
    message: str


def done(message: str) -> Outcome:
    return Outcome("done", message)


def already_done(message: str) -> Outcome:
    return Outcome("already_done", message)


def ignored(message: str) -> Outcome:
    return Outcome("ignored", message)
