"""Softmax regression, held against what is known of its answer."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.loop import regression

RANDOM = np.random.default_rng(0)
TRUTH = np.arange(120) % 3
#: Three clouds of points, on an axis that is a thousand times as long as the other.
FEATURES = RANDOM.normal(0, [1, 1000], (120, 2)) + np.array([[0, 0], [6, 0], [0, 6000]])[TRUTH]
APART = np.arange(120) % 5 == 0


def probabilities(weights: np.ndarray) -> np.ndarray:
    scores = FEATURES @ weights[:-1] + weights[-1]
    found: np.ndarray = np.exp(scores - scores.max(1, keepdims=True))
    return found / found.sum(1, keepdims=True)


def fitted(counted: np.ndarray | None = None, smoothing: float = 0.05) -> np.ndarray:
    target = np.eye(3)[TRUTH] * (1 - smoothing) + smoothing / 3
    return regression.fit(FEATURES, target, np.ones(120) if counted is None else counted, APART)


def test_clouds_that_lie_apart_are_told_apart_whatever_the_scale_of_their_features() -> None:
    found = probabilities(fitted())
    assert (found.argmax(1) == TRUTH).mean() > 0.98
    # As sure as the smoothed target is, and not surer.
    assert np.median(found.max(1)) == pytest.approx(0.967, abs=0.02)


def test_on_average_the_answer_is_as_frequent_as_the_class() -> None:
    # The bias has no penalty: its gradient, the difference of both, is nothing at the least.
    assert probabilities(fitted()).mean(0) == pytest.approx([1 / 3] * 3, abs=1e-4)


def test_examples_that_count_nothing_teach_nothing() -> None:
    found = probabilities(fitted(counted=(TRUTH != 2).astype(float), smoothing=0.0))
    assert (found.argmax(1) != 2).all()


@pytest.mark.parametrize("spread", [1.0, 30.0, 1000.0])
def test_the_least_of_a_bowl_is_found_however_long_it_is(spread: float) -> None:
    scale, middle = np.geomspace(1, spread, 8), RANDOM.normal(0, 1, 8)
    least = regression.minimum(
        lambda x: (float((scale * (x - middle) ** 2).sum() / 2), scale * (x - middle)), np.zeros(8)
    )
    assert least == pytest.approx(middle, abs=1e-4)


def test_a_feature_that_hardly_differs_gets_no_large_weight() -> None:
    # Enough to tell the classes apart, were it blown up: then its weights are tens of thousands.
    weights = regression.fit(1 + 1e-4 * FEATURES / [1, 1000], np.eye(3)[TRUTH], np.ones(120), APART)
    assert np.abs(weights).max() < 100
