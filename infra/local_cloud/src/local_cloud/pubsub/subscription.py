"""A subscription at work: its resource, what it owes, and who waits for it."""

from __future__ import annotations

import threading
from typing import Any

from local_cloud.pubsub.backlog import Backlog
from local_cloud.pubsub.filters import compile_filter
from local_cloud.pubsub.resources import identifier
from local_cloud.pubsub.retry import schedule_of


class Subscription:
    """Everything known about one subscription; guarded by the lock of the catalog that holds it."""

    def __init__(self, resource: Any, lock: threading.RLock) -> None:
        self.resource = resource
        self.backlog = Backlog(ordered=resource.enable_message_ordering)
        self.matches = compile_filter(resource.filter)
        self.schedule = schedule_of(resource)
        #: Notified when a message may be available or a lease has ended: pulls wait on it.
        self.changed = threading.Condition(lock)
        #: Requests to the push endpoint under way.
        self.in_flight = 0
        self.deleted = False

    @property
    def name(self) -> str:
        return str(self.resource.name)

    @property
    def delivery_operation(self) -> str:
        """The name under which faults of this subscription's deliveries are planned."""
        return f"delivery.{identifier(self.name)}"

    @property
    def is_push(self) -> bool:
        return bool(self.resource.push_config.push_endpoint) and not self.resource.detached

    @property
    def retention(self) -> float:
        """Seconds that a message is kept after it was published."""
        return float(self.resource.message_retention_duration.ToTimedelta().total_seconds())

    @property
    def maximum_attempts(self) -> int:
        """Delivery attempts after which a message is a dead letter; 0 is never."""
        has_policy = self.resource.HasField("dead_letter_policy")
        return int(self.resource.dead_letter_policy.max_delivery_attempts) if has_policy else 0

    def replace(self, resource: Any) -> None:
        """Take on a changed resource; filter and ordering never change."""
        self.resource = resource
        self.schedule = schedule_of(resource)
