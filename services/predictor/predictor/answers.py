"""What comes of one picture: a prediction, or a sentence about what is wrong with it."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Mapping
from typing import Any

#: What AutoML's models answer unless they are asked for more or less (ImageClassificationPredictionParams).
MOST_LABELS, LEAST_CONFIDENCE = 10, 0.0


@dataclasses.dataclass(frozen=True)
class Wanted:
    """How many labels the list of the best ones may hold, and how sure the model must be of each."""

    labels: int = MOST_LABELS
    confidence: float = LEAST_CONFIDENCE


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The best label, its probability, and the probability of every label."""

    label: str
    confidence: float
    probabilities: Mapping[str, float]

    def as_json(self, wanted: Wanted = Wanted()) -> dict[str, Any]:
        """Our own form and that of AutoML's models in one: see `dualdeploy.contracts.prediction`.

        An id is the label's place in the output; AutoML's are numbers of its data set.
        """
        places = {label: str(place) for place, label in enumerate(self.probabilities)}
        likely = ((share, label) for label, share in self.probabilities.items() if share >= wanted.confidence)
        best = heapq.nlargest(wanted.labels, likely, key=lambda each: each[0])
        return {
            "label": self.label,
            "confidence": self.confidence,
            "probabilities": dict(self.probabilities),
            "ids": [places[label] for _, label in best],
            "displayNames": [label for _, label in best],
            "confidences": [share for share, _ in best],
        }


@dataclasses.dataclass(frozen=True)
class Fault:
    """Why this picture has no prediction, and what to send instead."""

    reason: str

    def as_json(self) -> dict[str, Any]:
        return {"error": self.reason}


Answer = Prediction | Fault
