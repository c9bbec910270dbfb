"""One picture on its way to an endpoint, and what the endpoint says of it, in the two forms that there are.

    ours       {"b64": "…"}       {"label": "roses", "confidence": 0.93, "probabilities": {"daisy": 0.01, …}}
    AutoML's   {"content": "…"}   {"ids": ["5"], "displayNames": ["roses"], "confidences": [0.93]}, best first

services/predictor takes both and answers in both at once; AutoML's models take and answer their own alone. So what asks
for `content` and reads with `said` is answered on both roads, also while traffic is split between them. Predictors from
before it took `content` take `b64` alone.

Source: image_classification.ImageClassificationPredictionInstance and ClassificationPredictionResult of
google-cloud-aiplatform 2.7.0.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any, Literal

Form = Literal["b64", "content"]


def instance(picture: bytes, form: Form) -> dict[str, str]:
    """One of `instances` of a request."""
    return {form: base64.b64encode(picture).decode()}


def are_probabilities(row: Collection[float], *, steps: float = 0.0) -> bool:
    """Whether an answer is a probability for each class, and not scores; `steps`: it is rounded to whole ones of those.

    Whoever is told confidences, and phones that ask when they are unsure, take them for what they say.
    """
    miss = 0.01 + len(row) * steps / 2
    return min(row) >= -miss and abs(math.fsum(row) - 1) <= miss


@dataclasses.dataclass(frozen=True)
class Said:
    """The best label, and its probability."""

    label: str
    confidence: float


def said(prediction: Mapping[str, Any]) -> Said:
    """Read one of `predictions` of an answer. Raises ValueError when it is of neither form, or names no label."""
    try:
        if "label" in prediction:
            found = Said(str(prediction["label"]), float(prediction["confidence"]))
        else:
            found = Said(str(prediction["displayNames"][0]), float(prediction["confidences"][0]))
    except (LookupError, TypeError, ValueError) as exc:
        raise ValueError(f"a prediction without a label and a confidence: {exc!r}") from exc
    if not math.isfinite(found.confidence):
        raise ValueError(f"a prediction with the confidence {found.confidence}")
    return found
