"""How often a name may be changed."""

from __future__ import annotations

import pytest

from local_cloud.api import ApiError
from local_cloud.storage.rates import Rates


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_followed_by_one_change_a_second_and_comes_back_with_time() -> None:
    clock = Clock()
    rates = Rates(3, clock)
    for _ in range(3):
        rates.take("b/x")
    with pytest.raises(ApiError, match="b/x exceeded the rate limit") as refused:
        rates.take("b/x")
    assert (refused.value.code, refused.value.reason) == (429, "rateLimitExceeded")
    rates.take("b/another")
    clock.now = 1.0
    rates.take("b/x")
    with pytest.raises(ApiError):
        rates.take("b/x")
    clock.now = 100.0
    for _ in range(3):
        rates.take("b/x")
    with pytest.raises(ApiError):
        rates.take("b/x")


def test_a_refused_change_costs_nothing() -> None:
    clock = Clock()
    rates = Rates(1, clock)
    rates.take("b/x")
    clock.now = 0.5
    with pytest.raises(ApiError):
        rates.take("b/x")
    clock.now = 1.0
    rates.take("b/x")
