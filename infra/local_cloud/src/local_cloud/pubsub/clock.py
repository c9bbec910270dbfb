"""Time, as something that tests can set."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """The two clocks that a broker reads."""

    def time(self) -> float:
        """Seconds since 1970: publish times and retention."""

    def monotonic(self) -> float:
        """Seconds that never jump: leases and back-off."""


class SystemClock:
    """The machine's clocks."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()
