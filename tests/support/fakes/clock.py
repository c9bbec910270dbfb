"""A clock that moves only when told to."""

from __future__ import annotations

import datetime


class ManualClock:
    """Callable like `dualdeploy.clock.utc_now`."""

    def __init__(self, now: str = "2026-11-23T12:00:00+00:00") -> None:
        self.now = datetime.datetime.fromisoformat(now)

    def __call__(self) -> datetime.datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += datetime.timedelta(seconds=seconds)
