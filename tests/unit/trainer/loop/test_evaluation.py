"""Metrics against counts done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer.data.examples import Examples
from trainer.loop.evaluation import evaluate, measure

LABELS = ("daisy", "roses", "tulips")

#: Two daisies (one taken for a rose), two roses (both found), one tulip (taken for a daisy).
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25]], dtype=np.float32
)
TRUTH = np.array([0, 0, 1, 1, 2], dtype=np.int32)


def test_the_confusion_matrix_has_a_row_for_each_true_class() -> None:
    metrics = measure(PROBABILITIES, TRUTH, LABELS)
    assert metrics.confusion == ((1, 1, 0), (0, 2, 0), (1, 0, 0))
    assert metrics.accuracy == pytest.approx(3 / 5)
    assert metrics.examples == 5


def test_precision_and_recall_of_each_class() -> None:
    per_class = measure(PROBABILITIES, TRUTH, LABELS).per_class
    daisy, roses = per_class["daisy"], per_class["roses"]
    assert (daisy.precision, daisy.recall, daisy.f1, daisy.examples) == (0.5, 0.5, 0.5, 2)
    assert (roses.precision, roses.recall, roses.examples) == (pytest.approx(2 / 3), 1.0, 2)
    assert roses.f1 == pytest.approx(0.8)


def test_a_class_that_was_never_found_has_zeros_not_a_division_by_zero() -> None:
    tulips = measure(PROBABILITIES, TRUTH, LABELS).per_class["tulips"]
    assert (tulips.precision, tulips.recall, tulips.f1, tulips.examples) == (0.0, 0.0, 0.0, 1)


def test_a_class_without_examples_is_counted_as_such() -> None:
    metrics = measure(PROBABILITIES[:4], TRUTH[:4], LABELS)
    assert metrics.per_class["tulips"].examples == 0
    assert metrics.confusion[2] == (0, 0, 0)


def test_the_loss_is_the_mean_cross_entropy_and_stays_finite_when_a_probability_is_zero() -> None:
    expected = -(math.log(0.8) + math.log(0.2) + math.log(0.8) + math.log(0.5) + math.log(0.25)) / 5
    assert measure(PROBABILITIES, TRUTH, LABELS).loss == pytest.approx(expected, rel=1e-6)
    certain_and_wrong = np.array([[0.0, 1.0, 0.0]], dtype=np.float32)
    assert math.isfinite(measure(certain_and_wrong, np.array([0], dtype=np.int32), LABELS).loss)


def test_every_picture_is_asked_about_once_and_in_order_also_when_the_last_batch_is_short() -> None:
    asked: list[int] = []
    pixels = np.zeros((150, 2, 2, 3), dtype=np.float32)
    pixels[:, 0, 0, 0] = np.arange(150)

    def predict(batch: np.ndarray) -> np.ndarray:
        asked.extend(int(picture[0, 0, 0]) for picture in batch)
        return np.eye(3, dtype=np.float32)[(batch[:, 0, 0, 0] % 3).astype(int)]

    examples = Examples(pixels, (np.arange(150) % 3).astype(np.int32))
    metrics, predicted, confidence = evaluate(predict, examples, LABELS)
    assert asked == list(range(150))
    assert predicted.tolist() == [number % 3 for number in range(150)]
    assert set(confidence.tolist()) == {1.0}
    assert metrics.accuracy == 1.0
    assert metrics.images_per_second is not None
    assert metrics.images_per_second > 0


def test_top_2_counts_what_is_second_best() -> None:
    # Rows 1 to 4 have their class first or second; the tulip's own probability ties for last.
    assert measure(PROBABILITIES[:4], TRUTH[:4], LABELS).top_2 == 1.0
    third = np.array([[0.6, 0.3, 0.1]], dtype=np.float32)
    assert measure(third, np.array([2], dtype=np.int32), LABELS).top_2 == 0.0
    assert measure(third, np.array([1], dtype=np.int32), LABELS).top_2 == 1.0


def test_of_two_classes_the_right_one_is_always_among_the_best_two() -> None:
    two = np.array([[0.9, 0.1]], dtype=np.float32)
    assert measure(two, np.array([1], dtype=np.int32), ("a", "b")).top_2 == 1.0


def test_the_calibration_error_is_the_distance_of_confidence_and_accuracy_in_each_bin() -> None:
    # Four answers at 0.9, one of them wrong: 0.15 too sure. Two at 0.5, both right: 0.5 too modest.
    sure = [[0.9, 0.05, 0.05]] * 4
    modest = [[0.5, 0.25, 0.25]] * 2
    truth = np.array([0, 0, 0, 1, 0, 0], dtype=np.int32)
    metrics = measure(np.array(sure + modest), truth, LABELS)
    assert metrics.calibration_error == pytest.approx((4 * 0.15 + 2 * 0.5) / 6)


def test_a_model_that_is_certain_and_right_is_calibrated() -> None:
    certain = np.eye(3)
    assert measure(certain, np.arange(3, dtype=np.int32), LABELS).calibration_error == pytest.approx(0.0)
