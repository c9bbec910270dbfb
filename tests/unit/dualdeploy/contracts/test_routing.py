"""The object that tells phones when to ask the cloud model."""

from __future__ import annotations

import json

import pydantic
import pytest

from dualdeploy.contracts import routing
from dualdeploy.contracts.routing import Routing

SAID = {
    "v": 1,
    "name": "flowers",
    "dataset": "flowers",
    "at": "2026-11-28T07:00:00Z",
    "phone": {"run_id": "flowers-0123456789ab", "version": "0123456789ab-accd01234567", "sha256": "ac" * 32},
    "cloud": {"run_id": "flowers-0123456789ab", "input": {"px": 48}},
    "mode": "prefer_on_device",
    "threshold": 0.63,
    "max_loss": 0.01,
    "confidence": 0.95,
    "outcome": "asks",
    "note": "41 % of the pictures are asked about",
    "curve": [[0.0, 0.0, 0.76], [1.01, 1.0, 0.81]],
}


def test_what_a_newer_version_says_survives() -> None:
    newer = {**SAID, "outcome": "asks_twice", "phone": {**SAID["phone"], "os": "any"}, "hint": 1}  # type: ignore[dict-item]
    again = json.loads(Routing.model_validate(newer).model_dump_json())
    assert {key: again[key] for key in newer} == newer


@pytest.mark.parametrize("wrong", [{"mode": "cloud"}, {"threshold": -0.1}, {"phone": {"version": "1"}}])
def test_what_no_phone_could_follow_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(pydantic.ValidationError):
        Routing.model_validate({**SAID, **wrong})


def test_a_version_is_found_in_the_name_of_its_object() -> None:
    name = routing.object_name("flowers", "0123456789ab-accd01234567")
    assert name.startswith(routing.folder("flowers"))
    assert routing.version_of(name) == "0123456789ab-accd01234567"
