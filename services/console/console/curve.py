"""The routing curve as a picture: how often both models together are right, by the share of pictures that is sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dualdeploy.contracts.routing import Routing

WIDTH, HEIGHT = 320, 180
_LEFT, _BOTTOM, _TOP, _RIGHT = 44, 28, 10, 10


@dataclasses.dataclass(frozen=True)
class Curve:
    """Points in the picture's own units; `rows` are share, accuracy and threshold for those who read the table."""

    line: str
    chosen: tuple[float, float] | None
    rows: Sequence[tuple[float, float, float]]
    lowest: float
    highest: float
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def bottom(self) -> float:
        return HEIGHT - _BOTTOM

    @property
    def left(self) -> float:
        return _LEFT


def draw(routing: Routing) -> Curve | None:
    """None where there is nothing to draw."""
    rows = [(share, accuracy, threshold) for threshold, share, accuracy in routing.curve]
    if len(rows) < 2:
        return None
    lowest, highest = min(row[1] for row in rows), max(row[1] for row in rows)
    margin = max(0.02, (highest - lowest) * 0.15)
    bottom, top = max(0.0, lowest - margin), min(1.0, highest + margin)

    def at(share: float, accuracy: float) -> tuple[float, float]:
        x = _LEFT + share * (WIDTH - _LEFT - _RIGHT)
        y = _TOP + (top - accuracy) / (top - bottom) * (HEIGHT - _TOP - _BOTTOM)
        return round(x, 1), round(y, 1)

    line = " ".join(f"{x},{y}" for x, y in (at(share, accuracy) for share, accuracy, _ in rows))
    chosen = None
    if routing.share is not None and routing.accuracy is not None:
        chosen = at(routing.share, routing.accuracy)
    return Curve(line, chosen, rows, bottom, top)
