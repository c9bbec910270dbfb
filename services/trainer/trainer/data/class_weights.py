"""How much each class counts in the loss when some are rare."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

#: Below this ratio of the largest class to the smallest, weighting buys nothing and costs steadiness.
UNBALANCED = 1.5

#: A class with a handful of pictures must not drown all others.
LARGEST_WEIGHT = 10.0


def class_weights(counts: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """Weights float32 [classes], inverse to the pictures of each class, `counts` [classes].

    Their mean over all examples is 1, so that the learning rate means the same. None when the largest class has
    less than `UNBALANCED` times the pictures of the smallest, or a class has none.
    """
    if counts.min() == 0 or counts.max() < UNBALANCED * counts.min():
        return None
    weights = np.minimum(counts.sum() / (len(counts) * counts), LARGEST_WEIGHT)
    return np.asarray(weights * counts.sum() / (weights * counts).sum(), dtype=np.float32)
