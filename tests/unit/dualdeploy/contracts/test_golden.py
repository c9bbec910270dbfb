"""The golden pictures: with what a model answered, or with the true labels alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dualdeploy.contracts.golden import Picture, decode, encode
from dualdeploy.errors import UnusableResult

LABELS = ("daisy", "roses")
ANSWERED = Picture(image=b"jpeg", label="daisy", probabilities=(0.25, 0.75))
LABELLED = Picture(image=b"png", label="roses")


def example(**change: Any) -> bytes:
    usual = {"image_bytes": {"b64": "anBlZw=="}, "label": "daisy", "probabilities": [0.25, 0.75]}
    return json.dumps({"v": 1, "examples": [{**usual, **change}]}).encode()


def test_both_kinds_survive_being_written_and_read() -> None:
    assert decode(encode([ANSWERED, LABELLED]), labels=LABELS, source="x") == [ANSWERED, LABELLED]


def test_a_picture_without_an_answer_does_not_mention_one() -> None:
    assert "probabilities" not in json.loads(encode([LABELLED]))["examples"][0]


def test_an_answer_is_written_as_exactly_as_a_float32_is() -> None:
    one = Picture(image=b"x", label="daisy", probabilities=(0.12345678901234, 0.87654321098766))

    assert json.loads(encode([one]))["examples"][0]["probabilities"] == [0.1234568, 0.8765432]


def test_a_newer_writer_may_say_more_and_an_older_one_less() -> None:
    assert decode(example(taken_on="Monday"), labels=LABELS, source="x") == [ANSWERED]
    unlabelled = {"image_bytes": {"b64": "anBlZw=="}, "probabilities": [1.0, 0.0]}
    assert decode(json.dumps({"examples": [unlabelled]}).encode(), labels=LABELS, source="x")[0].label == ""


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"{", "Invalid JSON"),
        (b"[]", "golden set"),
        (b'{"examples": []}', "at least 1 item"),
        (example(image_bytes={}), "b64"),
        (example(image_bytes={"b64": "?"}), "not base64"),
        (example(probabilities=[1.0]), "1 probabilities, 2 labels"),
        (example(probabilities=[3.0, -1.2]), "sums to 1.8, and probabilities to 1: end the network with a softmax"),
        (example(probabilities=None, label=""), "neither probabilities nor a label that is known"),
        (example(probabilities=None, label="tulips"), "'tulips'"),
    ],
)
def test_what_proves_nothing_is_refused_by_name(data: bytes, says: str) -> None:
    with pytest.raises(UnusableResult, match=r"gs://m/golden\.json is not a golden set") as caught:
        decode(data, labels=LABELS, source="gs://m/golden.json")
    assert says in str(caught.value)
