"""What comes of one picture: a prediction, or a sentence about what is wrong with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The best label, its probability, and the probability of every label."""

    label: str
    confidence: float
    probabilities: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "confidence": self.confidence,
            "probabilities": dict(self.probabilities),
        }


@dataclasses.dataclass(frozen=True)
class Fault:
    """Why this picture has no prediction, and what to send instead."""

    reason: str

    def as_json(self) -> dict[str, Any]:
        return {"error": self.reason}


Answer = Prediction | Fault
