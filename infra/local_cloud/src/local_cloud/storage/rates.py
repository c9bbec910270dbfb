"""How often one object or one bucket may be changed: about once a second for long, with bursts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from local_cloud.api import STATUS_BY_CODE, ApiError

#: What an idle name may be written at once, unless the local cloud is told to be as slow as Google.
BURST = 10
#: Names are forgotten when they have their whole burst again; until so many are known nobody looks.
_MANY = 10_000


@dataclasses.dataclass
class _Allowance:
    tokens: float
    filled_at: float


class Rates:
    """Tokens for each name, one more a second up to a burst. The caller holds a lock.

    Source: https://docs.cloud.google.com/storage/quotas#objects
    """

    def __init__(self, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._clock = clock
        self._allowances: dict[str, _Allowance] = {}

    def take(self, name: str) -> None:
        """Count a change of `name`, such as `bucket/object`. Raises ApiError 429 when it comes too soon."""
        now = self._clock()
        known = self._allowances.setdefault(name, _Allowance(self._burst, now))
        known.tokens = min(self._burst, known.tokens + now - known.filled_at)
        known.filled_at = now
        if known.tokens < 1:
            raise ApiError(
                429,
                STATUS_BY_CODE[429],
                f"The object {name} exceeded the rate limit for object mutation operations (create, update, and"
                " delete). Please reduce your request rate. See https://cloud.google.com/storage/docs/gcs429.",
                reason="rateLimitExceeded",
            )
        known.tokens -= 1
        if len(self._allowances) > _MANY:
            self._forget(now)

    def _forget(self, now: float) -> None:
        for name, known in list(self._allowances.items()):
            if known.tokens + now - known.filled_at >= self._burst:
                del self._allowances[name]
