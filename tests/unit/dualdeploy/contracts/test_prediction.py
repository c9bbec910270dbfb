"""Both forms of a prediction, read alike."""

from __future__ import annotations

from typing import Any

import pytest

from dualdeploy.contracts import prediction
from dualdeploy.contracts.prediction import Said

OURS = {"label": "roses", "confidence": 0.9, "probabilities": {"roses": 0.9, "tulips": 0.1}}
AUTOML = {"ids": ["5", "3"], "displayNames": ["roses", "tulips"], "confidences": [0.9, 0.1]}


@pytest.mark.parametrize("given", [OURS, AUTOML, {**OURS, **AUTOML}, {**OURS, "run": "flowers-0123456789ab"}])
def test_the_best_label_is_read_from_either_form(given: dict[str, Any]) -> None:
    assert prediction.said(given) == Said("roses", 0.9)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"error": "broken"},
        {"label": "roses"},
        {"label": "roses", "confidence": None},
        {"label": "roses", "confidence": "sure"},
        {"label": "roses", "confidence": float("nan")},
        {"ids": [], "displayNames": [], "confidences": []},
        {"displayNames": ["roses"]},
        {"displayNames": ["roses"], "confidences": []},
        {"displayNames": None, "confidences": [0.9]},
    ],
)
def test_an_answer_without_a_label_is_an_error(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a prediction with"):
        prediction.said(given)


@pytest.mark.parametrize(
    ("row", "steps", "are"),
    [
        ([0.2, 0.8], 0.0, True),
        ([1.0, 0.0], 0.0, True),
        ([2.0, -1.0], 0.0, False),
        ([0.5, 0.5, 0.5], 0.0, False),
        ([0.0, 0.0], 0.0, False),
        ([0.4961, 0.4961], 1 / 256, True),
        ([0.0] * 1000, 1 / 256, True),
        ([4.0] * 1000, 1 / 256, False),
    ],
)
def test_an_answer_has_a_probability_for_each_class(row: list[float], steps: float, are: bool) -> None:
    assert prediction.are_probabilities(row, steps=steps) is are


def test_a_picture_is_sent_in_either_form() -> None:
    assert prediction.instance(b"abc", "b64") == {"b64": "YWJj"}
    assert prediction.instance(b"abc", "content") == {"content": "YWJj"}
