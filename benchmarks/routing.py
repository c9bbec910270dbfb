"""Is the promise of the threshold kept: a loss of at most `max_loss`, with `confidence`?

Pictures are drawn from a population whose truth is known, a threshold is fitted on them, and its loss is looked up in
the population. The promise is broken where that is more than `max_loss` although the fit says that it is proven. The
populations: what the demo's two models answered (tests/fixtures/answers), the same with exchanged roles, and made-up
pairs of models, among them such that are nearly alike, which a choice by the estimate gets wrong most often.

    python -m benchmarks.routing [--draws 400]

Ends with an error where a promise is broken in more than the promised share plus two standard errors of the draws.
"""

from __future__ import annotations

import argparse
import bisect
import dataclasses
import itertools
import math
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.report import Row, append_rows

ROOT = Path(__file__).resolve().parent.parent
for source in ("shared/src", "services/mobile_publisher"):
    sys.path.insert(0, str(ROOT / source))

from dualdeploy.contracts import answers  # noqa: E402
from dualdeploy.contracts.answers import Answer, Pair  # noqa: E402
from dualdeploy.contracts.routing import ASK_ALWAYS, NEVER_ASK, Wish  # noqa: E402
from mobile_publisher import threshold  # noqa: E402

CONFIDENCE = 0.95
PICTURES = (160, 300, 600, 2000)
LOSSES = (0.01, 0.02, 0.05)

#: Phone right, cloud right, and how alike it is what they find hard.
MADE_UP = ((0.76, 0.93, 0.7), (0.76, 0.813, 0.6), (0.80, 0.83, 0.5), (0.80, 0.82, 0.5), (0.80, 0.81, 0.8))
MADE_UP_SIZE = 20_000


class Population:
    """Pairs of answers, and what a threshold really costs on all of them."""

    def __init__(self, name: str, pairs: Sequence[Pair]) -> None:
        self.name = name
        self.pairs = pairs
        surest_first = sorted(pairs, key=lambda pair: -pair.confidence)
        self._confidences = [-pair.confidence for pair in surest_first]
        lost = itertools.accumulate((pair.cloud_right - pair.phone_right for pair in surest_first), initial=0)
        self._lost = [each / len(pairs) for each in lost]

    def loss(self, limit: float) -> float:
        """Against asking the cloud about every picture."""
        return self._lost[self._kept(limit)]

    def share(self, limit: float) -> float:
        """Of the pictures, asked about."""
        return 1 - self._kept(limit) / len(self.pairs)

    def _kept(self, limit: float) -> int:
        return bisect.bisect_right(self._confidences, -limit)


@dataclasses.dataclass
class Tally:
    """Over all draws: broken promises, and the mean share that is asked about."""

    broken: float = 0.0
    share: float = 0.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every population; raises SystemExit where a promise is broken more often than is promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=400)
    options = parser.parse_args(arguments)
    allowed = 1 - CONFIDENCE + 2 * math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / options.draws)
    worst: dict[str, float] = {}
    sent: dict[str, list[float]] = {}
    print(f"{'population':<34} {'n':>5} {'max_loss':>8}   proven: broken, asks   by estimate: broken, asks")
    for population, n, loss in itertools.product(populations(), PICTURES, LOSSES):
        ways = {"proven": proven, "estimate": by_estimate}
        found = {name: measured(population, n, loss, way, draws=options.draws) for name, way in ways.items()}
        for name, tally in found.items():
            worst[name] = max(worst.get(name, 0.0), tally.broken)
            sent.setdefault(name, []).append(tally.share)
        shown = "   ".join(f"{tally.broken:>14.1%} {tally.share:>7.0%}" for tally in found.values())
        print(f"{population.name:<34} {n:>5} {loss:>8.0%} {shown}", flush=True)
    how = f"worst of all populations, {PICTURES} pictures, max_loss {LOSSES}; {options.draws} draws each"
    asked = sum(sent["proven"]) / len(sent["proven"])
    append_rows(
        [
            Row("routing.broken", worst["proven"], "of the draws", None, allowed, f"proven; {how}"),
            Row("routing.broken_by_estimate", worst["estimate"], "of the draws", None, None, f"the estimate; {how}"),
            Row("routing.asked", asked, "of the pictures", None, None, f"mean of all; {how}"),
        ]
    )
    if worst["proven"] > allowed:
        raise SystemExit(f"the promise is broken in {worst['proven']:.1%} of the draws, more than {allowed:.1%}")


def populations() -> list[Population]:
    """The same ones every time."""
    phone, cloud = (_stored(target) for target in ("mobile", "cloud"))
    found = [
        Population("the demo's models", answers.pair(phone, cloud)),
        Population("the same in exchanged roles", answers.pair(cloud, phone)),
    ]
    for at, (phone_right, cloud_right, alike) in enumerate(MADE_UP):
        made = made_up(phone_right, cloud_right, alike, random.Random(at))
        found.append(Population(f"made up: phone {phone_right:.0%}, cloud {cloud_right:.1%}", made))
    return found


def _stored(target: str) -> list[Answer]:
    path = ROOT / "tests" / "fixtures" / "answers" / f"{target}.csv.gz"
    return answers.decode(path.read_bytes(), source=path.name)


def made_up(phone_right: float, cloud_right: float, alike: float, chance: random.Random) -> list[Pair]:
    """Pictures are more or less hard for each model; the phone's confidence says how hard for it."""
    hard = [chance.gauss() for _ in range(MADE_UP_SIZE)]
    also = [alike * each + math.sqrt(1 - alike * alike) * chance.gauss() for each in hard]
    ease = {"phone": _ease(hard, phone_right), "cloud": _ease(also, cloud_right)}
    return [
        Pair("a", 0.2 + 0.8 * phone, chance.random() < phone, chance.random() < cloud)
        for phone, cloud in zip(ease["phone"], ease["cloud"], strict=True)
    ]


def _ease(hard: Sequence[float], mean: float) -> list[float]:
    """The chance to be right about each picture, of this mean."""
    low, high = -10.0, 10.0
    for _ in range(40):
        middle = (low + high) / 2
        found = [1 / (1 + math.exp(2 * each - middle)) for each in hard]
        low, high = (middle, high) if sum(found) / len(found) < mean else (low, middle)
    return found


def measured(
    population: Population,
    n: int,
    loss: float,
    choose: Callable[[Sequence[Pair], float], tuple[float, bool]],
    *,
    draws: int,
) -> Tally:
    """Draw `n` pictures again and again, each with the same chance."""
    chance, tally = random.Random(f"{population.name} {n} {loss}"), Tally()
    for _ in range(draws):
        limit, is_promised = choose(chance.choices(population.pairs, k=n), loss)
        tally.broken += (is_promised and population.loss(limit) > loss + 1e-12) / draws
        tally.share += population.share(limit) / draws
    return tally


def proven(drawn: Sequence[Pair], loss: float) -> tuple[float, bool]:
    """What mobile_publisher does: the threshold, and whether anything is promised of it."""
    found = threshold.fit(drawn, Wish(max_loss=loss, confidence=CONFIDENCE))
    return found.point.threshold, found.outcome != "not_proven"


def by_estimate(drawn: Sequence[Pair], loss: float) -> tuple[float, bool]:
    """What one would do without statistics: never ask if the phone is right more often, else ask about as few as the
    estimate allows."""
    points = threshold.steps(drawn)
    if points[-1].accuracy >= points[0].accuracy:
        return NEVER_ASK, True
    chosen = [point for point in points if point.accuracy >= points[0].accuracy - loss]
    return (chosen[-1].threshold if chosen else ASK_ALWAYS), True


if __name__ == "__main__":
    main()
