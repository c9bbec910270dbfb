"""When is the phone sure enough? The smallest share of pictures to ask the cloud about that costs at most `max_loss`.

Pictures that both models were never trained on were answered by both. With threshold t the phone's answer stands where
its confidence is t or more, else the cloud is asked. What that loses, against asking the cloud about every picture, is
(harm - help) / n: of the kept pictures, those that only the cloud has right, less those that only the phone has right.

    1. Does the phone alone lose at most max_loss? Then it never asks.
    2. Else walk from "ask always" down, one confidence after the other, while the loss is proven to be at most
       max_loss; the last threshold before the first failure is the one.

Proven: the upper limit of Tango's score interval for paired proportions is at most max_loss. The order of the walk is
fixed before a picture is looked at, so testing often needs no correction (fixed-sequence testing, as in Learn then
Test, Angelopoulos et al. 2021, arXiv:2110.01052). The two questions share the permitted error: a tenth goes to the
first. Choosing by the estimate alone would break the promise in about every second case (benchmarks/routing.py).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import statistics
from collections.abc import Collection, Iterator, Sequence

from dualdeploy.contracts.answers import Pair
from dualdeploy.contracts.routing import ASK_ALWAYS, MOST_POINTS, NEVER_ASK, Wish

#: The part of the permitted error (1 - confidence) that is spent on the question whether the phone alone is enough.
_OF_PHONE_ALONE = 0.1

#: So many thresholds are looked at, however many pictures there are.
_MOST_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class Point:
    """One threshold: how many of the `n` pictures are kept on the phone, and what that helps and harms."""

    threshold: float
    n: int
    kept: int
    harm: int
    help: int
    cloud_right: int

    @property
    def share(self) -> float:
        """Of the pictures, asked about."""
        return (self.n - self.kept) / self.n

    @property
    def accuracy(self) -> float:
        """Of both together."""
        return (self.cloud_right - self.harm + self.help) / self.n

    def loss_at_most(self, confidence: float) -> float:
        """Upper limit of the loss against asking the cloud always."""
        return upper_limit(self.harm, self.help, self.n, confidence=confidence)

    def keeps(self, max_loss: float, confidence: float) -> bool:
        """Whether that limit is at most `max_loss`."""
        return _score(self.harm, self.help, self.n, max_loss) <= -_z(confidence)


@dataclasses.dataclass(frozen=True)
class Fit:
    """The chosen one of `points`; `loss_at_most` is None where nothing is proven."""

    outcome: str
    point: Point
    loss_at_most: float | None
    note: str
    points: Sequence[Point]


def fit(pairs: Sequence[Pair], wish: Wish) -> Fit:
    """Choose the threshold from at least one picture that both models have answered."""
    points = steps(pairs, wish.ask_about)
    alone = points[-1]
    phone_right = sum(pair.phone_right for pair in pairs)
    level = 1 - wish.confidence
    # With so few pictures the walk fails at its first step, whatever they show: nothing is to be spent on it.
    spent = 1.0 if len(pairs) < fewest_pictures(wish) else _OF_PHONE_ALONE
    confidence = 1 - level * spent
    if alone.keeps(wish.max_loss, confidence):
        chosen = alone
    else:
        confidence = 1 - level * (1 - _OF_PHONE_ALONE)
        passed = itertools.takewhile(lambda point: point.keeps(wish.max_loss, confidence), points[1:])
        chosen = functools.reduce(lambda _, point: point, passed, points[0])
    if wish.max_share is not None and chosen.share > wish.max_share:
        return _limited(points, wish)
    if chosen is points[0]:
        return Fit("not_proven", chosen, None, _not_proven(chosen, phone_right, wish), points)
    bound = max(0.0, chosen.loss_at_most(confidence))
    if chosen is not alone:
        return Fit("asks", chosen, bound, _asks(chosen, bound, wish), points)
    if phone_right >= chosen.cloud_right:
        return Fit("phone_is_better", chosen, bound, _alone("is the better one", chosen, phone_right, wish), points)
    note = _alone(f"loses at most {_percent(bound)}", chosen, phone_right, wish)
    return Fit("phone_is_enough", chosen, bound, note, points)


def steps(pairs: Sequence[Pair], ask_about: Collection[str] = ()) -> list[Point]:
    """From asking always to never asking: one point for each confidence, equal ones together, or for 1,000 of them.

    What the phone calls one of `ask_about` is asked about at every point.
    """
    n, cloud_right = len(pairs), sum(pair.cloud_right for pair in pairs)
    points = [Point(ASK_ALWAYS, n, 0, 0, 0, cloud_right)]
    kept = harm = helped = 0
    surest_first = sorted(pairs, key=lambda pair: -pair.confidence)
    groups = [(sure, list(group)) for sure, group in itertools.groupby(surest_first, key=lambda pair: pair.confidence)]
    wanted = set(_spread(len(groups), _MOST_STEPS))
    for number, (sure, group) in enumerate(groups):
        for pair in group:
            if pair.predicted not in ask_about:
                kept += 1
                harm += pair.cloud_right and not pair.phone_right
                helped += pair.phone_right and not pair.cloud_right
        if number in wanted:
            # Between two confidences: an eight-bit file answers in steps, and the phone may round otherwise.
            last = number == len(groups) - 1
            threshold = NEVER_ASK if last else (sure + groups[number + 1][0]) / 2
            points.append(Point(threshold, n, kept, harm, helped, cloud_right))
    return points


def curve(points: Sequence[Point]) -> tuple[tuple[float, float, float], ...]:
    """Threshold, share asked about and accuracy of both, from never asking to always."""
    chosen = (points[len(points) - 1 - place] for place in _spread(len(points), MOST_POINTS))
    return tuple((round(each.threshold, 6), round(each.share, 6), round(each.accuracy, 6)) for each in chosen)


# Sentences -----------------------------------------------------------------------------------------------------


def _asks(chosen: Point, bound: float, wish: Wish) -> str:
    return (
        f"asking the cloud about {_percent(chosen.share)} of the pictures loses at most {_percent(bound)} of them"
        f" against asking always (with {_percent(wish.confidence)} confidence, {chosen.n} held-out pictures)"
    )


def _alone(what: str, chosen: Point, phone_right: int, wish: Wish) -> str:
    asked = f", but for {', '.join(sorted(wish.ask_about))}" if wish.ask_about else ""
    return (
        f"the phone's model {what}: right on {_percent(phone_right / chosen.n)} of {chosen.n} held-out pictures, the"
        f" cloud's on {_percent(chosen.cloud_right / chosen.n)}; there is nothing to ask the cloud for{asked}"
    )


def _not_proven(always: Point, phone_right: int, wish: Wish) -> str:
    return (
        f"{always.n} held-out pictures cannot prove that any phone's answer may stand with a loss of at most"
        f" {_percent(wish.max_loss)}, so it always asks (phone right on {_percent(phone_right / always.n)}, cloud on"
        f" {_percent(always.cloud_right / always.n)}); {fewest_pictures(wish)} and more pictures can, or a larger"
        " routing.max_loss"
    )


def _limited(points: Sequence[Point], wish: Wish) -> Fit:
    """The most that `max_share` allows to ask about; how many that is depends on confidences alone."""
    most = wish.max_share or 0.0
    chosen = next((point for point in points if point.share <= most), points[-1])
    bound = max(0.0, chosen.loss_at_most(wish.confidence))
    note = (
        f"routing.max_share allows to ask about {_percent(most)} of the pictures: that loses at most {_percent(bound)}"
        f" against asking always, not the {_percent(wish.max_loss)} of routing.max_loss ({chosen.n} held-out pictures)"
    )
    if chosen.share > most:
        note += f"; routing.ask_about alone takes {_percent(chosen.share)}"
    return Fit("limited", chosen, bound, note, points)


def fewest_pictures(wish: Wish) -> int:
    """With fewer, no answer may stand even if the two models never differ: about 2.9 / max_loss at 95 %."""
    z = _z(1 - (1 - wish.confidence) * (1 - _OF_PHONE_ALONE))
    return math.ceil(z * z * (1 - wish.max_loss) / wish.max_loss)


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


# Tango's interval ----------------------------------------------------------------------------------------------


def upper_limit(harm: int, helped: int, n: int, *, confidence: float) -> float:
    """One-sided upper limit of (harm - helped) / n, by Tango's score interval for paired proportions.

    Source: Tango (1998), Statistics in Medicine 17, 891-908. With no differing pair at all it is z² / (n + z²), and
    not 0 as a bootstrap's would be.
    """
    low, high, z = (harm - helped) / n, 1.0, _z(confidence)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _score(harm, helped, n, middle) > -z else (low, middle)
    return high


def _score(harm: int, helped: int, n: int, loss: float) -> float:
    """Tango's statistic of the hypothesis that the loss is `loss`; below -z, the loss is smaller."""
    b = -harm - helped + (2 * n - harm + helped) * loss
    c = -helped * loss * (1 - loss)
    q = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
    variance = n * (2 * q + loss * (1 - loss))
    distance = harm - helped - n * loss
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance) if distance else 0.0


@functools.lru_cache
def _z(confidence: float) -> float:
    return statistics.NormalDist().inv_cdf(confidence)


def _spread(count: int, most: int) -> Iterator[int]:
    """At most so many of 0 … count - 1, evenly, the first and the last among them."""
    if count <= most:
        return iter(range(count))
    return iter(sorted({round(place * (count - 1) / (most - 1)) for place in range(most)}))
