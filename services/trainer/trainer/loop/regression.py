"""Softmax regression in NumPy: the weights that tell classes apart best, found by L-BFGS in a second or so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

#: How strongly large weights are held against a regression; one is chosen by the examples that are set apart.
STRENGTHS = (1e-3, 1e-2, 1e-1)

#: Features that differ less between examples are not blown up to be of use: their weights would be so large that the
#: first step of fine-tuning, which moves every feature a little, would turn all answers over.
LEAST_SPREAD = 0.05

_STEPS, _MEMORY = 100, 10

Floats = npt.NDArray[np.float64]


def fit(features: Floats, target: Floats, counted: Floats, apart: npt.NDArray[np.bool_]) -> Floats:
    """Weights [features + 1, classes], the bias last, for features [examples, features] and `target` probabilities.

    `counted` [examples] is how much each counts; those set `apart` choose the strength, and then count like others.
    """
    middle, spread = features.mean(0), np.maximum(features.std(0), LEAST_SPREAD)
    scaled = (features - middle) / spread
    strength = _best_strength(scaled, target, counted, apart) if 0 < apart.sum() < len(apart) else STRENGTHS[-1]
    weights = _regression(scaled, target, counted, strength)
    kernel = weights[:-1] / spread[:, None]
    return np.vstack([kernel, weights[-1] - middle @ kernel])


def _best_strength(features: Floats, target: Floats, counted: Floats, apart: npt.NDArray[np.bool_]) -> float:
    def loss(strength: float) -> float:
        weights = _regression(features[~apart], target[~apart], counted[~apart], strength)
        return _loss(features[apart], target[apart], counted[apart], 0.0)(weights)[0]

    return min(STRENGTHS, key=loss)


def _regression(features: Floats, target: Floats, counted: Floats, strength: float) -> Floats:
    """Weights [features + 1, classes], the bias last."""
    of = _loss(features, target, counted, strength)
    start = np.zeros((features.shape[1] + 1, target.shape[1]))
    return minimum(lambda flat: _flat(of(flat.reshape(start.shape))), start.ravel()).reshape(start.shape)


def _flat(found: tuple[float, Floats]) -> tuple[float, Floats]:
    return found[0], found[1].ravel()


def _loss(
    features: Floats, target: Floats, counted: Floats, strength: float
) -> Callable[[Floats], tuple[float, Floats]]:
    """Cross-entropy and half the strength times the sum of squares of all weights but the bias, with the gradient."""

    def of(weights: Floats) -> tuple[float, Floats]:
        scores = features @ weights[:-1] + weights[-1]
        scores -= scores.max(1, keepdims=True)
        logarithms = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        each = counted[:, None] * (np.exp(logarithms) - target) / len(target)
        slope = np.vstack([features.T @ each + strength * weights[:-1], each.sum(0)])
        loss = -(counted[:, None] * target * logarithms).sum() / len(target)
        return float(loss + strength / 2 * (weights[:-1] ** 2).sum()), slope

    return of


def minimum(of: Callable[[Floats], tuple[float, Floats]], start: Floats) -> Floats:
    """Where a smooth convex function is least, by L-BFGS with halving steps; `of` returns its value and gradient.

    Source: J. Nocedal and S. Wright, Numerical Optimization, algorithms 7.4, 7.5 and 3.1.
    """
    place, (value, slope) = start, of(start)
    known: list[tuple[Floats, Floats]] = []
    for _ in range(_STEPS):
        if np.abs(slope).max() < 1e-6:
            break
        direction = -_times_inverse(known, slope)
        downhill, step = float(slope @ direction), 1.0
        while True:
            there = place + step * direction
            value_there, slope_there = of(there)
            if value_there <= value + 1e-4 * step * downhill or step < 1e-8:
                break
            step /= 2
        moved, turned = there - place, slope_there - slope
        if moved @ turned > 1e-12:
            known = [*known, (moved, turned)][-_MEMORY:]
        place, value, slope = there, value_there, slope_there
    return place


def _times_inverse(known: list[tuple[Floats, Floats]], slope: Floats) -> Floats:
    """The approximate inverse of the second derivatives times `slope`."""
    rest, shares = slope.copy(), list[float]()
    for moved, turned in reversed(known):
        shares.append(float(moved @ rest / (moved @ turned)))
        rest -= shares[-1] * turned
    if known:
        moved, turned = known[-1]
        rest *= float(moved @ turned / (turned @ turned))
    for (moved, turned), share in zip(known, reversed(shares), strict=True):
        rest += (share - float(turned @ rest / (moved @ turned))) * moved
    return rest
