"""The evaluation of a classifier as Vertex AI writes it, from what the classifier said of the test pictures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

#: The points of `confidenceMetrics`; Google has about as many.
_THRESHOLDS = (0.0, *(step / 20 for step in range(1, 20)), 0.99)
_SMALLEST = 1e-7

Document = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a classifier said of the test set: `truths` are places in `labels`, `scores` a row for each picture."""

    labels: Sequence[str]
    ids: Sequence[str]
    truths: Sequence[int]
    scores: Sequence[Sequence[float]]


def metrics(tested: Answers) -> Document:
    """ClassificationMetrics over all labels. Rows of the confusion matrix are truths, columns predictions."""
    size = len(tested.labels)
    rows = [[0] * size for _ in range(size)]
    for truth, scores in zip(tested.truths, tested.scores, strict=True):
        rows[truth][max(range(size), key=scores.__getitem__)] += 1
    pairs = [
        (score, place == truth)
        for truth, scores in zip(tested.truths, tested.scores, strict=True)
        for place, score in enumerate(scores)
    ]
    specs = [{"id": identity, "displayName": label} for identity, label in zip(tested.ids, tested.labels, strict=True)]
    return _present(
        {
            "auPrc": _area(pairs),
            "logLoss": _loss(tested),
            "confidenceMetrics": [_at(threshold, pairs) for threshold in _THRESHOLDS],
            "confusionMatrix": {"annotationSpecs": specs, "rows": rows},
        }
    )


def metrics_of_label(tested: Answers, place: int) -> Document:
    """ClassificationMetrics of one label against all others: a slice."""
    pairs = [(row[place], truth == place) for truth, row in zip(tested.truths, tested.scores, strict=True)]
    return _present({"auPrc": _area(pairs), "confidenceMetrics": [_at(threshold, pairs) for threshold in _THRESHOLDS]})


def _present(document: Document) -> Document:
    """Without zeros: Google leaves out what is 0, but for numbers in lists."""
    return {key: value for key, value in document.items() if value != 0}


def _at(threshold: float, pairs: Sequence[tuple[float, bool]]) -> Document:
    taken = [is_true for score, is_true in pairs if score >= threshold]
    precision = sum(taken) / len(taken) if taken else 1.0
    positives = sum(is_true for _, is_true in pairs)
    recall = sum(taken) / positives if positives else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return _present({"confidenceThreshold": threshold, "precision": precision, "recall": recall, "f1Score": f1})


def _area(pairs: Sequence[tuple[float, bool]]) -> float:
    """The area under the curve of precision and recall, as average precision."""
    positives, hits, area = sum(is_true for _, is_true in pairs), 0, 0.0
    for seen, (_, is_true) in enumerate(sorted(pairs, key=lambda pair: -pair[0]), start=1):
        if is_true:
            hits += 1
            area += hits / seen
    return area / positives if positives else 0.0


def _loss(tested: Answers) -> float:
    losses = [
        -math.log(max(scores[truth], _SMALLEST)) for truth, scores in zip(tested.truths, tested.scores, strict=True)
    ]
    return sum(losses) / len(losses)
