"""Payloads as the platform sends them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

EVENTS = Path(__file__).parents[2] / "events"


class Delivery(NamedTuple):
    """One HTTP delivery: what `unwrap` takes."""

    headers: dict[str, str]
    body: bytes


def read_delivery(name: str) -> Delivery:
    document = json.loads((EVENTS / f"{name}.json").read_text(encoding="utf-8"))
    return Delivery(document["headers"], json.dumps(document["body"]).encode())


@pytest.fixture
def delivery() -> Callable[[str], Delivery]:
    """`delivery("pubsub_push_tick")` is tests/events/pubsub_push_tick.json as it comes in."""
    return read_delivery
