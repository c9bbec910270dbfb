"""How much rare classes count."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.data.class_weights import LARGEST_WEIGHT, class_weights


def test_classes_of_similar_size_count_the_same() -> None:
    assert class_weights(np.array([100, 120, 140])) is None


def test_a_class_with_a_third_of_the_pictures_counts_three_times_as_much() -> None:
    weights = class_weights(np.array([300, 100]))
    assert weights is not None
    assert weights[1] / weights[0] == pytest.approx(3.0)


@pytest.mark.parametrize("counts", [(300, 100), (1000, 10, 1), (5, 900, 40, 40)])
def test_the_mean_weight_of_a_picture_is_one_so_that_the_learning_rate_means_the_same(counts: tuple[int, ...]) -> None:
    weights = class_weights(np.array(counts))
    assert weights is not None
    assert np.average(weights, weights=counts) == pytest.approx(1.0)


def test_a_handful_of_pictures_does_not_drown_all_others() -> None:
    weights = class_weights(np.array([100_000, 100_000, 1]))
    assert weights is not None
    assert weights[2] / weights[0] < 2 * LARGEST_WEIGHT


def test_a_class_without_pictures_does_not_divide_by_zero() -> None:
    assert class_weights(np.array([10, 0, 5])) is None
