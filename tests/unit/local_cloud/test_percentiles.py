"""Where installations lie for a condition by `percent`: evenly, always in one place, elsewhere for another seed."""

from __future__ import annotations

import pytest

from local_cloud.remote_config.conditions import holds, percentile

INSTALLATIONS = [f"installation-{number}" for number in range(100_000)]


@pytest.mark.parametrize("seed", ["0123456789ab", "flowers", ""])
def test_shares_are_kept_to_half_a_point(seed: str) -> None:
    places = sorted(percentile(seed, each) for each in INSTALLATIONS)
    for share in (1, 10, 50, 90):
        below = sum(place <= share for place in places)
        assert abs(below / 1000 - share) < 0.5


def test_another_seed_draws_others() -> None:
    few = INSTALLATIONS[:10_000]
    first = {each for each in few if holds("percent('a') <= 10", each)}
    second = {each for each in few if holds("percent('b') <= 10", each)}
    # A tenth of a tenth, if the two draws have nothing to do with each other.
    assert 60 < len(first & second) < 140


def test_a_larger_share_has_everyone_of_a_smaller_one() -> None:
    few = INSTALLATIONS[:2_000]
    shares = [{each for each in few if holds(f"percent('a') <= {share}", each)} for share in (0, 10, 50, 100)]
    assert shares[0] < shares[1] < shares[2] < shares[3] == set(few)
