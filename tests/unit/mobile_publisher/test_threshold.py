"""When the phone is sure enough: by hand where that can be done, else on answers that a demo's models gave."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from dualdeploy.contracts import answers
from dualdeploy.contracts.answers import Answer, Pair
from dualdeploy.contracts.routing import ASK_ALWAYS, Wish
from mobile_publisher import threshold

FIXTURES = Path(__file__).parents[2] / "fixtures"


def stored(target: str) -> list[Answer]:
    """What the model of `make demo` answered to its 600 held-out pictures."""
    path = FIXTURES / "answers" / f"{target}.csv.gz"
    return answers.decode(path.read_bytes(), source=path.name)


def pairs(*, both: int = 0, phone: int = 0, cloud: int = 0, neither: int = 0, sure: float = 0.9) -> list[Pair]:
    """So many pictures that both, only one or neither has right, the phone equally sure of all."""
    counts = {(True, True): both, (True, False): phone, (False, True): cloud, (False, False): neither}
    return [Pair("a", sure, *right) for right, count in counts.items() for _ in range(count)]


# What the demo's models have answered: all three outcomes --------------------------------------------------------


def test_asking_pays_where_the_cloud_is_the_better_one() -> None:
    paired = answers.pair(stored("mobile"), stored("cloud"))
    fit = threshold.fit(paired, Wish())
    assert fit.outcome == "asks"
    assert 0.2 < fit.point.share < 0.8
    cloud_alone = sum(pair.cloud_right for pair in paired) / len(paired)
    assert fit.point.accuracy > cloud_alone - 0.01
    assert fit.loss_at_most is not None
    assert fit.loss_at_most <= 0.01
    assert f"{fit.point.share * 100:.3g} % of the pictures" in fit.note


def test_a_phone_that_is_better_asks_nothing() -> None:
    # The same two models in exchanged places.
    fit = threshold.fit(answers.pair(stored("cloud"), stored("mobile")), Wish())
    assert (fit.outcome, fit.point.threshold, fit.point.share) == ("phone_is_better", 0.0, 0.0)
    assert "is the better one" in fit.note


def test_pictures_that_are_too_few_prove_nothing_and_it_says_how_many_would() -> None:
    paired = random.Random(5).sample(answers.pair(stored("mobile"), stored("cloud")), 100)
    fit = threshold.fit(paired, Wish())
    assert (fit.outcome, fit.point.threshold, fit.loss_at_most) == ("not_proven", ASK_ALWAYS, None)
    assert "100 held-out pictures cannot prove" in fit.note
    assert "285 and more pictures can" in fit.note


def test_labels_that_are_always_asked_about_are_not_kept_at_any_threshold() -> None:
    paired = answers.pair(stored("mobile"), stored("cloud"))
    asked = sum(pair.predicted == "roses" for pair in paired) / len(paired)
    points = threshold.steps(paired, ["roses"])
    assert points[-1].share == pytest.approx(asked)
    assert threshold.fit(paired, Wish(ask_about=("roses",), max_loss=0.5)).point.share == pytest.approx(asked)


def test_the_largest_share_goes_before_the_loss_and_says_what_it_costs() -> None:
    paired = answers.pair(stored("mobile"), stored("cloud"))
    fit = threshold.fit(paired, Wish(max_share=0.1))
    assert fit.outcome == "limited"
    assert 0.08 < fit.point.share <= 0.1
    assert fit.loss_at_most is not None
    assert fit.loss_at_most > 0.01
    assert "routing.max_share" in fit.note
    more = threshold.fit(paired, Wish(max_share=0.05, ask_about=("roses",)))
    assert more.point.threshold == 0.0
    assert "routing.ask_about alone takes" in more.note


def test_the_curve_goes_from_the_phone_alone_to_the_cloud_alone_in_few_points() -> None:
    paired = answers.pair(stored("mobile"), stored("cloud"))
    rows = threshold.curve(threshold.steps(paired))
    assert len(rows) <= 51
    assert rows == tuple(sorted(rows))
    assert rows[0][:2] == (0.0, 0.0)
    assert rows[0][2] == pytest.approx(sum(pair.phone_right for pair in paired) / len(paired), abs=1e-6)
    assert rows[-1][:2] == (ASK_ALWAYS, 1.0)
    assert rows[-1][2] == pytest.approx(sum(pair.cloud_right for pair in paired) / len(paired), abs=1e-6)


# By hand ---------------------------------------------------------------------------------------------------------


def by_search(harm: int, helped: int, n: int, loss: float) -> float:
    """The score statistic with the most likely shares that have this loss, found by search instead of by formula."""

    def likelihood(share: float) -> float:
        counts = {share + loss: harm, share: helped, 1 - 2 * share - loss: n - harm - helped}
        return sum(count * math.log(max(of, 1e-300)) for of, count in counts.items() if count)

    low, high = max(0.0, -loss), (1 - loss) / 2
    for _ in range(200):
        third = (high - low) / 3
        low, high = (low + third, high) if likelihood(low + third) < likelihood(high - third) else (low, high - third)
    share = (low + high) / 2
    return (harm - helped - n * loss) / math.sqrt(n * (2 * share + loss - loss * loss))


@pytest.mark.parametrize(("harm", "helped", "n"), [(14, 30, 160), (1, 2, 62), (0, 5, 44), (86, 150, 1144), (3, 0, 600)])
def test_tangos_limit_is_where_the_score_reaches_z(harm: int, helped: int, n: int) -> None:
    limit = threshold.upper_limit(harm, helped, n, confidence=0.95)
    assert by_search(harm, helped, n, limit) == pytest.approx(-1.6449, abs=1e-3)


@pytest.mark.parametrize("n", [100, 600])
def test_without_a_differing_pair_the_limit_is_not_0(n: int) -> None:
    assert threshold.upper_limit(0, 0, n, confidence=0.95) == pytest.approx(1.6449**2 / (n + 1.6449**2), rel=1e-3)


def test_equal_confidences_go_together_and_the_threshold_lies_between_two() -> None:
    mixed = [*pairs(both=3, sure=0.75), *pairs(cloud=2, sure=0.5), *pairs(both=1, sure=0.5)]
    found = [(point.threshold, point.kept, point.harm) for point in threshold.steps(mixed)]
    assert found == [(ASK_ALWAYS, 0, 0), (0.625, 3, 0), (0.0, 6, 2)]


def test_the_walk_stops_at_the_first_failure_although_later_ones_would_pass_again() -> None:
    # In between the loss is 20 of 1000; at the end helps and harms are even. Without the phone alone being proven.
    walk = [
        *pairs(both=300, sure=0.9),
        *pairs(cloud=20, sure=0.8),
        *pairs(phone=30, both=500, sure=0.7),
        *pairs(cloud=150, sure=0.6),
    ]
    fit = threshold.fit(walk, Wish(max_loss=0.01))
    assert fit.outcome == "asks"
    assert fit.point.threshold == pytest.approx(0.85)


def test_models_that_never_differ_need_no_cloud() -> None:
    fit = threshold.fit(pairs(both=500, neither=100), Wish())
    assert fit.outcome == "phone_is_better"


def test_a_phone_that_loses_little_enough_is_enough() -> None:
    fit = threshold.fit(pairs(both=5000, cloud=10), Wish())
    assert fit.outcome == "phone_is_enough"
    assert "loses at most" in fit.note


def test_a_phone_that_looks_better_by_chance_is_not_believed() -> None:
    # 41 against 40 of 160: the estimate says that the phone is better, and proves nothing.
    fit = threshold.fit(pairs(both=79, phone=41, cloud=40), Wish())
    assert fit.outcome == "not_proven"


def test_so_many_pictures_that_every_confidence_cannot_be_looked_at() -> None:
    spread = [Pair("a", number / 20_000, number % 3 > 0, number % 5 > 0) for number in range(20_000)]
    points = threshold.steps(spread)
    assert len(points) <= 1001
    assert (points[-1].threshold, points[-1].kept) == (0.0, 20_000)
