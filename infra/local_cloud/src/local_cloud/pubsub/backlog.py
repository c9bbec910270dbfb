"""What one subscription still owes, and when each message may go out: no clock, no lock, no I/O.

waiting ── lease ──► leased ── ack ──► gone (or retained, for seek)
   ▲                   │
   └── due after ──────┘ nack, or the lease is over
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import heapq
import math
from collections.abc import Callable, Iterator

from local_cloud.pubsub.messages import Message


class State(enum.Enum):
    """Where a delivery stands."""

    WAITING = "waiting"
    LEASED = "leased"
    HELD = "held"


@dataclasses.dataclass(slots=True, eq=False)
class Delivery:
    """One message on its way to one subscription; `attempts` counts every time it was handed out."""

    message: Message
    attempts: int = 0
    state: State = State.WAITING
    due: float = 0.0
    ack_id: str = ""
    lease_until: float = 0.0
    redeliver_after_ack: bool = False


class Backlog:
    """The unacknowledged deliveries of one subscription; with `ordered`, one at a time per ordering key.

    Both heaps are lazy: an entry counts only while the delivery still says the same.
    """

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._deliveries: dict[int, Delivery] = {}
        self._retained: dict[int, Delivery] = {}
        self._leased: dict[str, Delivery] = {}
        self._held: list[Delivery] = []
        self._by_key: dict[str, collections.deque[int]] = {}
        self._due: list[tuple[float, int]] = []
        self._ends: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._deliveries)

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self._deliveries.values())

    def add(self, delivery: Delivery) -> None:
        """Owe a message; messages are added in the order of their numbers."""
        self._deliveries[delivery.message.number] = delivery
        key = self._key(delivery)
        if key:
            queue = self._by_key.setdefault(key, collections.deque())
            queue.append(delivery.message.number)
            if queue[0] != delivery.message.number:
                return  # waits behind an older message of its key
        self._wait(delivery, delivery.due)

    def next_due(self, now: float) -> Delivery | None:
        """The delivery that may go out now and has waited longest, still waiting."""
        while self._due and self._due[0][0] <= now:
            delivery = self._waiting(self._due[0])
            if delivery:
                return delivery
            heapq.heappop(self._due)
        return None

    def lease(self, delivery: Delivery, *, ack_id: str, until: float) -> None:
        """Hand `delivery` out; it counts as one attempt."""
        delivery.state = State.LEASED
        delivery.attempts += 1
        delivery.ack_id = ack_id
        self._leased[ack_id] = delivery
        self._end_at(delivery, until)

    def leased(self, ack_id: str) -> Delivery | None:
        """The delivery that `ack_id` was given out for, while its lease holds."""
        return self._leased.get(ack_id)

    def extend(self, delivery: Delivery, *, until: float) -> None:
        """Move the end of a lease, earlier or later."""
        self._end_at(delivery, until)

    def overdue(self, now: float) -> list[Delivery]:
        """The deliveries whose lease is over; each must now be nacked or removed."""
        found = []
        while self._ends and self._ends[0][0] <= now:
            delivery = self._ending(heapq.heappop(self._ends))
            if delivery:
                delivery.lease_until = math.nan  # equal to nothing: a second entry for the same end is stale
                found.append(delivery)
        return found

    def wait(self, delivery: Delivery, *, due: float) -> None:
        """Put a leased or waiting delivery back, to go out at `due`."""
        self._end_lease(delivery)
        self._wait(delivery, due)

    def hold(self, delivery: Delivery) -> None:
        """Keep a delivery back until `release_held`."""
        delivery.state = State.HELD
        self._held.append(delivery)

    def release_held(self, now: float) -> bool:
        """Let the held deliveries go out; says whether there were any."""
        held, self._held = self._held, []
        for delivery in held:
            if delivery.message.number in self._deliveries:
                self._wait(delivery, now)
        return bool(held)

    def remove(self, delivery: Delivery, *, now: float, retain: bool = False) -> None:
        """Owe this message no longer; `retain` keeps it for a later `seek`."""
        self._end_lease(delivery)
        self._deliveries.pop(delivery.message.number, None)
        if retain:
            self._retained[delivery.message.number] = delivery
        self._unblock_key(delivery, now)

    def retained(self) -> Iterator[Delivery]:
        return iter(self._retained.values())

    def add_retained(self, delivery: Delivery) -> None:
        self._retained[delivery.message.number] = delivery

    def published_before(self, moment: float) -> list[Delivery]:
        """Deliveries, owed and retained, of messages older than `moment` (seconds since 1970)."""
        found = []
        for deliveries in (self._deliveries, self._retained):
            for delivery in deliveries.values():
                if delivery.message.published_at >= moment:
                    break  # the others are newer: numbers and publish times grow together
                found.append(delivery)
        return found

    def forget(self, delivery: Delivery, *, now: float) -> None:
        """Drop a delivery for good, whether it was owed or retained."""
        if self._retained.pop(delivery.message.number, None) is None:
            self.remove(delivery, now=now)

    def seek(self, is_owed: Callable[[Message], bool], *, retain: bool) -> Backlog:
        """A backlog that owes exactly the known messages that `is_owed` says; leases are over.

        The others are kept for the next seek if `retain`, and forgotten if not.
        """
        sought = Backlog(ordered=self._ordered)
        known = {**self._retained, **self._deliveries}
        for _, delivery in sorted(known.items()):
            fresh = Delivery(delivery.message, delivery.attempts)
            if is_owed(delivery.message):
                sought.add(fresh)
            elif retain:
                sought.add_retained(fresh)
        return sought

    def next_due_time(self) -> float:
        """When the next waiting delivery may go out; infinity when none waits."""
        while self._due and not self._waiting(self._due[0]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else math.inf

    def next_lease_end(self) -> float:
        """When the next lease is over; infinity when nothing is leased."""
        while self._ends and not self._ending(self._ends[0]):
            heapq.heappop(self._ends)
        return self._ends[0][0] if self._ends else math.inf

    def oldest_publish_time(self) -> float:
        """Publish time of the oldest message known, seconds since 1970; infinity when there is none."""
        oldest = math.inf
        for deliveries in (self._deliveries, self._retained):
            for delivery in deliveries.values():
                oldest = min(oldest, delivery.message.published_at)
                break
        return oldest

    def _key(self, delivery: Delivery) -> str:
        return delivery.message.body.ordering_key if self._ordered else ""

    def _wait(self, delivery: Delivery, due: float) -> None:
        delivery.state = State.WAITING
        delivery.due = due
        heapq.heappush(self._due, (due, delivery.message.number))

    def _waiting(self, entry: tuple[float, int]) -> Delivery | None:
        due, number = entry
        delivery = self._deliveries.get(number)
        return delivery if delivery and delivery.state is State.WAITING and delivery.due == due else None

    def _end_at(self, delivery: Delivery, until: float) -> None:
        delivery.lease_until = until
        heapq.heappush(self._ends, (until, delivery.message.number))

    def _ending(self, entry: tuple[float, int]) -> Delivery | None:
        until, number = entry
        delivery = self._deliveries.get(number)
        return delivery if delivery and delivery.state is State.LEASED and delivery.lease_until == until else None

    def _end_lease(self, delivery: Delivery) -> None:
        self._leased.pop(delivery.ack_id, None)
        delivery.ack_id = ""

    def _unblock_key(self, delivery: Delivery, now: float) -> None:
        key = self._key(delivery)
        queue = self._by_key.get(key)
        if not queue:
            return
        was_head = queue[0] == delivery.message.number
        try:
            queue.remove(delivery.message.number)
        except ValueError:
            return  # already removed: a retained delivery is forgotten later
        if not queue:
            del self._by_key[key]
        elif was_head:
            self._wait(self._deliveries[queue[0]], now)
