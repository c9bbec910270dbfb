"""How good a model is on pictures it has not learned from."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dualdeploy.training import ClassMetrics, Metrics
from trainer.examples import Examples

BATCH = 64


#: Intervals of confidence for the calibration error: 15 of equal width, as in Guo et al. (2017).
CALIBRATION_BINS = 15


def evaluate(predict: Callable[[Any], Any], examples: Examples, labels: Sequence[str]) -> Metrics:
    """Run `predict` (pixels [batch, side, side, 3] to probabilities [batch, classes]) over all examples."""
    began = time.perf_counter()
    parts = [
        np.asarray(predict(np.ascontiguousarray(examples.pixels[start : start + BATCH])))
        for start in range(0, len(examples), BATCH)
    ]
    seconds = time.perf_counter() - began
    metrics = measure(np.concatenate(parts), examples.labels, labels)
    return metrics.model_copy(update={"images_per_second": round(len(examples) / max(seconds, 1e-9), 1)})


def measure(probabilities: npt.NDArray[Any], truth: npt.NDArray[np.int32], labels: Sequence[str]) -> Metrics:
    """Metrics of probabilities [examples, classes] against true class indices [examples].

    A class that was never predicted has precision 0, one that has no example recall 0.
    """
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(confusion, (truth, predicted), 1)
    likelihood = probabilities[np.arange(len(truth)), truth].astype(float)
    per_class = {label: _class_metrics(confusion, index) for index, label in enumerate(labels)}
    return Metrics(
        accuracy=float(np.trace(confusion) / len(truth)),
        loss=float(-np.log(np.clip(likelihood, 1e-7, 1.0)).mean()),
        examples=len(truth),
        per_class=per_class,
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        top_2=_top_2(probabilities, truth),
        calibration_error=_calibration_error(probabilities, predicted == truth),
    )


def _top_2(probabilities: npt.NDArray[Any], truth: npt.NDArray[np.int32]) -> float:
    """Share of the examples whose class is among the two most probable; with two classes that is all of them."""
    best_two = np.argpartition(-probabilities, 1, axis=1)[:, :2]
    return float((best_two == truth[:, None]).any(axis=1).mean())


def _calibration_error(probabilities: npt.NDArray[Any], right: npt.NDArray[np.bool_]) -> float:
    """Mean distance of confidence and accuracy over bins of confidence, weighted by their examples."""
    confidence = probabilities.max(axis=1).astype(float)
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    # |mean confidence - accuracy| * examples is |sum of confidence - number right|.
    gaps = np.bincount(bins, confidence - right, CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def _class_metrics(confusion: npt.NDArray[Any], index: int) -> ClassMetrics:
    hits, predicted, examples = confusion[index, index], confusion[:, index].sum(), confusion[index].sum()
    precision = float(hits / predicted) if predicted else 0.0
    recall = float(hits / examples) if examples else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return ClassMetrics(precision=precision, recall=recall, f1=f1, examples=int(examples))
