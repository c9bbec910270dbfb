"""How closely the local cloud keeps to Google's rates and pauses: one setting for all of them."""

from __future__ import annotations

import dataclasses

from local_cloud.eventarc import RetryPolicy


@dataclasses.dataclass(frozen=True)
class Pace:
    """`object_burst`: changes of an idle object at once, before it is one a second. `backoff_scale`: what the back-offs

    of subscriptions are multiplied by, but never below `shortest_backoff` (seconds). `event_seconds`: how long Eventarc
    waits for an answer, and `event_retries` what it does without one.
    """

    object_burst: int
    backoff_scale: float
    shortest_backoff: float
    event_seconds: float
    event_retries: RetryPolicy

    def backoff(self, seconds: float | None) -> float | None:
        """A subscription's back-off at this pace."""
        return None if seconds is None else max(seconds * self.backoff_scale, self.shortest_backoff)


#: For a demonstration and for tests: nobody waits ten seconds for a retry. Below the shortest back-off, a retry loop
#: would be a busy loop.
QUICK = Pace(
    object_burst=10,
    backoff_scale=0.02,
    shortest_backoff=0.1,
    event_seconds=60.0,
    event_retries=RetryPolicy(),
)
#: As Google does it. Sources: the quotas of Cloud Storage (one change of an object a second), "Retry events" of
#: Eventarc (10 s to 600 s, for a day), and what Cloud Run's request logs show of its time-out.
REALISTIC = Pace(
    object_burst=1,
    backoff_scale=1.0,
    shortest_backoff=0.0,
    event_seconds=10.0,
    event_retries=RetryPolicy(first_backoff_seconds=10.0, last_backoff_seconds=600.0, max_attempts=150),
)
