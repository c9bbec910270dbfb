"""The two pictures of a training."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.loop.evaluation import measure
from trainer.outputs import charts

LABELS = ("daisy", "a label that is much longer than the cells are wide", "tulips")


def epoch(number: int, loss: float = 1.0) -> dict[str, Any]:
    return {"epoch": number, "loss": loss, "held_out_loss": loss, "accuracy": 0.5, "held_out_accuracy": 0.25}


def pixels(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"))


def count(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((image == colour).all(axis=2).sum())


def test_classes_that_are_always_right_are_a_full_diagonal() -> None:
    truth = np.array([0, 0, 1, 2], dtype=np.int32)
    right = pixels(charts.confusion(measure(np.eye(3)[truth], truth, LABELS), LABELS, title="t"))
    wrong = pixels(charts.confusion(measure(np.eye(3)[(truth + 1) % 3], truth, LABELS), LABELS, title="t"))
    assert count(right, charts.FULL) == pytest.approx(count(wrong, charts.FULL), rel=0.01)
    assert count(right, charts.FULL) > 3 * 80 * 80
    assert not np.array_equal(right, wrong)


@pytest.mark.parametrize("classes", [2, 40])
def test_a_confusion_matrix_fits_few_and_many_classes(classes: int) -> None:
    labels = [f"class {index}" for index in range(classes)]
    truth = np.arange(classes, dtype=np.int32)
    image = pixels(charts.confusion(measure(np.eye(classes), truth, labels), labels, title="many"))
    assert max(image.shape) < 1500


def test_a_class_without_examples_is_an_empty_row() -> None:
    truth = np.array([0, 2], dtype=np.int32)
    assert count(pixels(charts.confusion(measure(np.eye(3)[truth], truth, LABELS), LABELS, title="t")), charts.FULL)


def test_the_curves_show_both_lines_and_the_epoch_that_was_kept() -> None:
    history = [epoch(number, 2.0 / number) for number in range(1, 9)]
    kept = pixels(charts.curves(history, best_epoch=8, title="mobilenet"))
    none = pixels(charts.curves(history, best_epoch=0, title="mobilenet"))
    for colour in (charts.TRAIN, charts.HELD_OUT):
        assert count(kept, colour) > 300
    assert count(kept, charts.KEPT) > count(none, charts.KEPT) + 500


@pytest.mark.parametrize("history", [[], [epoch(1)], [epoch(1, 1e6), epoch(2, 0.0)], [epoch(n) for n in range(1, 301)]])
def test_any_course_can_be_drawn(history: list[dict[str, Any]]) -> None:
    assert pixels(charts.curves(history, best_epoch=len(history), title="t")).shape == (480, 1060, 3)


@pytest.mark.parametrize(("value", "top"), [(0.0, 1.0), (0.9, 1.0), (1.1, 2.0), (3.0, 4.0), (4.5, 5.0), (70.0, 100.0)])
def test_the_axis_ends_at_a_round_number(value: float, top: float) -> None:
    assert charts._round_up(value) == pytest.approx(top)
