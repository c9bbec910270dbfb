"""How long a message waits after a failed delivery."""

from __future__ import annotations

import dataclasses
from typing import Any

#: A retry policy that leaves a bound out gets Google's: "minimum_backoff defaults to 10 seconds",
#: "maximum_backoff defaults to 600 seconds". Source: google.pubsub.v1.RetryPolicy.
MINIMUM_BACKOFF = 10.0
MAXIMUM_BACKOFF = 600.0

#: 2 to this power times any back-off is past every maximum; larger exponents would overflow a float.
_MAXIMUM_DOUBLINGS = 32


@dataclasses.dataclass(frozen=True)
class RetrySchedule:
    """Exponential back-off between two bounds, in seconds."""

    minimum: float
    maximum: float

    def delay(self, attempts: int) -> float:
        """Seconds to wait after delivery attempt number `attempts` (from 1) failed."""
        doublings = min(max(attempts - 1, 0), _MAXIMUM_DOUBLINGS)
        return float(min(self.maximum, self.minimum * 2**doublings))


#: Without a policy a pull subscription redelivers "as soon as possible".
IMMEDIATELY = RetrySchedule(0.0, 0.0)
#: Without a policy push backs off from 100 ms to 60 s. Source: https://cloud.google.com/pubsub/docs/push
PUSH_BACKOFF = RetrySchedule(0.1, 60.0)


def schedule_of(subscription: Any) -> RetrySchedule:
    """The schedule of a google.pubsub.v1.Subscription."""
    if not subscription.HasField("retry_policy"):
        return PUSH_BACKOFF if subscription.push_config.push_endpoint else IMMEDIATELY
    policy = subscription.retry_policy
    minimum = _seconds(policy, "minimum_backoff", MINIMUM_BACKOFF)
    maximum = _seconds(policy, "maximum_backoff", MAXIMUM_BACKOFF)
    return RetrySchedule(minimum, max(minimum, maximum))


def _seconds(policy: Any, field: str, default: float) -> float:
    if not policy.HasField(field):
        return default
    return float(getattr(policy, field).ToTimedelta().total_seconds())
