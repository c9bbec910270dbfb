"""How good a model is on pictures it has not learned from: in memory that grows with the pictures and with the classes.

Neither the probabilities of all pictures nor a matrix of all pairs of classes is ever held: with thousands of classes
both are gigabytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dualdeploy.contracts.training import MOST_CLASSES_IN_A_MATRIX, MOST_CONFUSED, ClassMetrics, Confused, Metrics
from trainer.data.examples import Examples

BATCH = 64


#: Intervals of confidence for the calibration error: 15 of equal width, as in Guo et al. (2017).
CALIBRATION_BINS = 15


class Evaluation(NamedTuple):
    """`predicted` class indices and `confidence`, the probability of each, are in the order of the examples."""

    metrics: Metrics
    predicted: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]


def evaluate(predict: Callable[[Any], Any], examples: Examples, labels: Sequence[str]) -> Evaluation:
    """Run `predict` (pixels [batch, side, side, 3] to probabilities [batch, classes]) over all examples."""
    tally, seconds = Tally(), 0.0
    for start in range(0, len(examples), BATCH):
        began = time.perf_counter()
        answers = np.asarray(predict(np.ascontiguousarray(examples.pixels[start : start + BATCH])))
        seconds += time.perf_counter() - began
        tally.add(answers, examples.labels[start : start + BATCH])
    metrics = tally.metrics(labels)
    metrics = metrics.model_copy(update={"images_per_second": round(len(examples) / max(seconds, 1e-9), 1)})
    return Evaluation(metrics, tally.predicted, tally.confidence)


def measure(probabilities: npt.NDArray[Any], truth: npt.NDArray[np.int32], labels: Sequence[str]) -> Metrics:
    """Metrics of probabilities [examples, classes] against true class indices [examples]."""
    tally = Tally()
    tally.add(probabilities, truth)
    return tally.metrics(labels)


class Tally:
    """What metrics need to know of each answer: four numbers, whatever the number of classes."""

    def __init__(self) -> None:
        self._parts: list[tuple[npt.NDArray[Any], ...]] = []

    def add(self, probabilities: npt.NDArray[Any], truth: npt.NDArray[np.int32]) -> None:
        """Take answers: probabilities [examples, classes] and true class indices [examples]."""
        best_two = np.argpartition(-probabilities, 1, axis=1)[:, :2]
        self._parts.append(
            (
                np.asarray(truth, np.int64),
                probabilities.argmax(axis=1),
                probabilities.max(axis=1).astype(float),
                probabilities[np.arange(len(truth)), truth].astype(float),
                (best_two == truth[:, None]).any(axis=1),
            )
        )

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """Index of the most probable class of each answer."""
        return np.concatenate([part[1] for part in self._parts])

    @property
    def confidence(self) -> npt.NDArray[np.float64]:
        """Its probability."""
        return np.concatenate([part[2] for part in self._parts])

    def metrics(self, labels: Sequence[str]) -> Metrics:
        """Metrics of all answers, of which there must be one."""
        columns = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        truth, predicted, confidence, likelihood, in_top_2 = columns
        return Metrics(
            accuracy=float((truth == predicted).mean()),
            loss=float(-np.log(np.clip(likelihood, 1e-7, 1.0)).mean()),
            examples=len(truth),
            per_class=_per_class(truth, predicted, labels),
            confusion=_confusion(truth, predicted, len(labels)),
            confused=_confused(truth, predicted, labels),
            # Share of the examples whose class is among the two most probable; with two classes that is all of them.
            top_2=float(in_top_2.mean()),
            calibration_error=_calibration_error(confidence, truth == predicted),
        )


def _confusion(
    truth: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], classes: int
) -> tuple[tuple[int, ...], ...]:
    if classes > MOST_CLASSES_IN_A_MATRIX:
        return ()
    counts = np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    return tuple(tuple(row) for row in counts.tolist())


def _confused(
    truth: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], labels: Sequence[str]
) -> tuple[Confused, ...]:
    wrong = truth != predicted
    pairs, counts = np.unique(truth[wrong] * len(labels) + predicted[wrong], return_counts=True)
    most = np.argsort(-counts, kind="stable")[:MOST_CONFUSED]
    return tuple(
        Confused(label=labels[pair // len(labels)], taken_for=labels[pair % len(labels)], examples=count)
        for pair, count in zip(pairs[most].tolist(), counts[most].tolist(), strict=True)
    )


def _calibration_error(confidence: npt.NDArray[Any], right: npt.NDArray[np.bool_]) -> float:
    """Mean distance of confidence and accuracy over bins of confidence, weighted by their examples."""
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    # |mean confidence - accuracy| * examples is |sum of confidence - number right|.
    gaps = np.bincount(bins, confidence - right, CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def _per_class(
    truth: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], labels: Sequence[str]
) -> dict[str, ClassMetrics]:
    counted = [np.bincount(each, minlength=len(labels)) for each in (truth[truth == predicted], predicted, truth)]
    return {label: ClassMetrics.of(*map(int, counts)) for label, *counts in zip(labels, *counted, strict=True)}
