"""Publishing, handing out and settling messages: the rules between topics and subscriptions.

Every rule that a retry, a duplicate or a restart meets is here; sockets and threads are not.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from local_cloud.api import ApiError
from local_cloud.faults import Faults
from local_cloud.iam import Iam, Refused, agent
from local_cloud.pubsub import resources, wire
from local_cloud.pubsub.backlog import Delivery
from local_cloud.pubsub.catalog import Catalog
from local_cloud.pubsub.clock import Clock
from local_cloud.pubsub.messages import Message, check_publishable, timestamp
from local_cloud.pubsub.store import Store, StoredDelivery
from local_cloud.pubsub.subscription import Subscription

_LOG = logging.getLogger("local_cloud.pubsub")

#: Message numbers are reserved on disk in blocks: one write per block instead of one per publish.
_NUMBERS_PER_RESERVATION = 1_000


@dataclasses.dataclass(frozen=True, slots=True)
class Lease:
    """One message handed out: who settles it names `ack_id`, until the lease is over.

    `fault` is a planned fault that happens on the way to a push endpoint; `resource` the subscription as it was.
    """

    subscription: Subscription
    resource: Any
    ack_id: str
    message: Message
    attempt: int
    fault: str = ""

    @property
    def delivery_attempt(self) -> int:
        """Counted for those with a dead-letter policy; 0 otherwise. Source: google.pubsub.v1.ReceivedMessage."""
        return self.attempt if self.resource.HasField("dead_letter_policy") else 0


class UnknownAckIds(ApiError):
    """Exactly-once delivery: the leases that these acknowledgement ids stood for are over."""

    def __init__(self, ack_ids: Sequence[str]) -> None:
        super().__init__(
            400,
            "FAILED_PRECONDITION",
            "Some acknowledgement IDs in the request were invalid. This could be because the acknowledgement "
            "IDs have expired or the acknowledgement IDs were malformed.",
            reason="EXACTLY_ONCE_ACKID_FAILURE",
        )
        self.ack_ids = list(ack_ids)


class Broker:
    """Messages of every topic and subscription. Public methods lock; time comes from `clock`."""

    def __init__(self, catalog: Catalog, store: Store, *, faults: Faults, clock: Clock, iam: Iam) -> None:
        self._iam = iam
        self.catalog = catalog
        self.clock = clock
        self._store = store
        self._faults = faults
        self._next_number = 0
        self._reserved_until = 0
        # An acknowledgement id of an earlier run must never settle a lease of this one.
        self._ack_ids = (f"{secrets.token_hex(4)}-{count}" for count in itertools.count(1))

    def publish(self, topic: str, sent: Sequence[Any]) -> list[str]:
        """Publish google.pubsub.v1.PubsubMessages, all or none; on disk when this returns their ids."""
        check_publishable(sent)
        with self.catalog.lock, self._store.transaction():
            self.catalog.topic(topic)
            return [str(self._publish(topic, message).number) for message in sent]

    def _publish(self, topic: str, sent: Any) -> Message:
        message = Message.published(sent, number=self._take_number(), published_at=self.clock.time())
        attributes = dict(message.body.attributes)
        matching = [one for one in self.catalog.subscribers(topic) if one.matches(attributes)]
        self._store.add_message(message.number, message.body.SerializeToString(), [s.name for s in matching])
        for subscription in matching:
            subscription.backlog.add(Delivery(message, due=self.clock.monotonic()))
            self.catalog.wake(subscription)
        return message

    def _take_number(self) -> int:
        if self._next_number >= self._reserved_until:
            self._next_number = self._store.reserve_numbers(_NUMBERS_PER_RESERVATION)
            self._reserved_until = self._next_number + _NUMBERS_PER_RESERVATION
        self._next_number += 1
        return self._next_number - 1

    # Handing out

    def wait_for_messages(
        self,
        name: str,
        *,
        limit: Callable[[], int],
        lease_seconds: Callable[[Any], float],
        until: float,
        interrupted: Callable[[], bool],
    ) -> list[Lease]:
        """Pull: up to `limit()` messages as soon as there is one; none at `until` (monotonic) or when interrupted.

        Raises NOT_FOUND when the subscription is, or gets, deleted; FAILED_PRECONDITION when it pushes.
        """
        with self.catalog.lock:
            while True:
                subscription = self._pullable(name)
                self.sweep(subscription)
                wanted = 0 if interrupted() else limit()
                leases = self._take(subscription, wanted, lease_seconds(subscription.resource), push=False)
                now = self.clock.monotonic()
                if leases or now >= until or interrupted():
                    return leases
                # With no room left only a settled or ended lease can change anything.
                due = subscription.backlog.next_due_time() if wanted else math.inf
                wake = min(until, due, subscription.backlog.next_lease_end())
                subscription.changed.wait(max(wake - now, 0.001))

    def interrupt(self, name: str) -> None:
        """Wake the pulls of a subscription, if it still exists, to see whether they were interrupted."""
        with self.catalog.lock:
            if subscription := self.catalog.find_subscription(name):
                subscription.changed.notify_all()

    def _pullable(self, name: str) -> Subscription:
        subscription = self.catalog.subscription(name)
        if subscription.resource.detached:
            raise resources.failed_precondition(f"Subscription {name} is detached from its topic.")
        if subscription.is_push:
            raise resources.failed_precondition(
                f"This method is not supported for this subscription type: {name} pushes to "
                f"{subscription.resource.push_config.push_endpoint}."
            )
        return subscription

    def take_pushes(self, subscription: Subscription, limit: int) -> list[Lease]:
        """Push: up to `limit` messages that may go to the endpoint now. The caller holds the lock."""
        return self._take(subscription, limit, subscription.resource.ack_deadline_seconds, push=True)

    def _take(self, subscription: Subscription, limit: int, lease_seconds: float, *, push: bool) -> list[Lease]:
        backlog, now = subscription.backlog, self.clock.monotonic()
        leases: list[Lease] = []
        rows: list[StoredDelivery] = []
        failed: list[Delivery] = []
        while len(leases) < limit and (delivery := backlog.next_due(now)):
            fault = self._faults.take(subscription.delivery_operation) or ""
            if self._put_off(subscription, delivery, fault, push=push):
                continue
            backlog.lease(delivery, ack_id=next(self._ack_ids), until=now + lease_seconds)
            rows.append(StoredDelivery(delivery.message.number, subscription.name, delivery.attempts, acked=False))
            if fault.startswith("return-") or fault == "reset-connection":
                failed.append(delivery)
            elif fault != "drop" and (push or fault != "lost-response"):
                leases.append(self._leased(subscription, delivery, fault, push=push))
        if rows:
            self._store.put_deliveries(rows)
        for delivery in failed:
            self._failed(subscription, delivery, f"planned fault at {subscription.delivery_operation}")
        if (leases and not push) or failed:
            self._passed(subscription)
        return leases

    def _put_off(self, subscription: Subscription, delivery: Delivery, fault: str, *, push: bool) -> bool:
        """Planned: let `delivery` wait for a time (`delay`), or for another message to pass it (`reorder`)."""
        if fault == "reorder":
            subscription.backlog.hold(delivery)
            return True
        # A pull has no request that could hang: the message just comes later.
        if fault.startswith("delay:") or (fault.startswith("hang:") and not push):
            seconds = float(fault.partition(":")[2])
            subscription.backlog.wait(delivery, due=self.clock.monotonic() + seconds)
            return True
        return False

    def _leased(self, subscription: Subscription, delivery: Delivery, fault: str, *, push: bool) -> Lease:
        if fault == "duplicate" and not push:
            delivery.redeliver_after_ack = True
        return Lease(subscription, subscription.resource, delivery.ack_id, delivery.message, delivery.attempts, fault)

    def _passed(self, subscription: Subscription) -> None:
        """A message got through: those that a planned `reorder` held back follow it."""
        if subscription.backlog.release_held(self.clock.monotonic()):
            self.catalog.wake(subscription)

    # Settling

    def acknowledge(self, name: str, ack_ids: Sequence[str]) -> None:
        """Acknowledge leases; raises UnknownAckIds, after the others, under exactly-once delivery.

        Without exactly-once an ended lease is passed over in silence: the message will come again.
        """
        with self.catalog.lock:
            subscription = self.catalog.subscription(name)
            self._settle(subscription, ack_ids, lambda delivery: self._acked(subscription, delivery))

    def modify_ack_deadline(self, name: str, ack_ids: Sequence[str], seconds: int) -> None:
        """Let leases end `seconds` (0 to 600) from now; 0 is a nack. Errors as for `acknowledge`."""
        if not 0 <= seconds <= resources.MAXIMUM_ACK_DEADLINE:
            raise resources.invalid(f"ack_deadline_seconds is {seconds}: must be 0 to 600 seconds.")
        with self.catalog.lock:
            subscription = self.catalog.subscription(name)
            until = self.clock.monotonic() + seconds
            self._settle(
                subscription,
                ack_ids,
                lambda delivery: (
                    subscription.backlog.extend(delivery, until=until)
                    if seconds
                    else self._failed(subscription, delivery, "nack")
                ),
            )

    def answered(self, lease: Lease, *, acked: bool, answer: str) -> None:
        """Push: the endpoint answered, or did not; `answer` says how, for the log."""
        subscription = lease.subscription
        with self.catalog.lock:
            delivery = subscription.backlog.leased(lease.ack_id)
            if subscription.deleted or not delivery:
                return  # the lease ended first: the message is already on its way again
            if acked:
                self._acked(subscription, delivery)
            else:
                self._failed(subscription, delivery, answer)
            self._passed(subscription)

    def _settle(self, subscription: Subscription, ack_ids: Sequence[str], settle: Callable[[Delivery], None]) -> None:
        self.sweep(subscription)
        unknown = []
        with self._store.transaction():
            for ack_id in ack_ids:
                if delivery := subscription.backlog.leased(ack_id):
                    settle(delivery)
                else:
                    unknown.append(ack_id)
        self.catalog.wake(subscription)
        if unknown and subscription.resource.enable_exactly_once_delivery:
            raise UnknownAckIds(unknown)

    def _acked(self, subscription: Subscription, delivery: Delivery) -> None:
        now, number = self.clock.monotonic(), delivery.message.number
        if delivery.redeliver_after_ack:  # planned: this acknowledgement never arrives
            delivery.redeliver_after_ack = False
            subscription.backlog.wait(delivery, due=now)
        elif subscription.resource.retain_acked_messages:
            self._store.put_deliveries([StoredDelivery(number, subscription.name, delivery.attempts, acked=True)])
            subscription.backlog.remove(delivery, now=now, retain=True)
        else:
            self._store.delete_delivery(subscription.name, number)
            subscription.backlog.remove(delivery, now=now)

    def _failed(self, subscription: Subscription, delivery: Delivery, problem: str) -> None:
        """A delivery was nacked or its lease is over: try again after the back-off, or make it a dead letter."""
        now = self.clock.monotonic()
        maximum = subscription.maximum_attempts
        if maximum and delivery.attempts >= maximum and self._forward_dead_letter(subscription, delivery):
            return
        delay = subscription.schedule.delay(delivery.attempts)
        _LOG.warning(
            "message %d was not acknowledged by %s: %s (attempt %d, again in %.1f s)",
            delivery.message.number,
            resources.identifier(subscription.name),
            problem,
            delivery.attempts,
            delay,
        )
        subscription.backlog.wait(delivery, due=now + delay)

    def _forward_dead_letter(self, subscription: Subscription, delivery: Delivery) -> bool:
        """Publish to the dead-letter topic and owe no longer, in one step.

        False while that topic is missing, or Pub/Sub's own account may not publish there or take the message away:
        then it is delivered for ever. Source: https://cloud.google.com/pubsub/docs/handling-failures#grant_forwarding_permissions
        """
        topic = subscription.resource.dead_letter_policy.dead_letter_topic
        if not self._may_forward(subscription.name, topic):
            return False
        try:
            self.catalog.topic(topic)
        except ApiError:
            _LOG.error("dead-letter topic %s of %s does not exist: create it", topic, subscription.name)
            return False
        with self._store.transaction():
            forwarded = self._publish(topic, _dead_letter(subscription, delivery))
            self._store.delete_delivery(subscription.name, delivery.message.number)
        subscription.backlog.remove(delivery, now=self.clock.monotonic())
        _LOG.warning(
            "message %d is a dead letter of %s after %d attempts: forwarded to %s as message %d",
            delivery.message.number,
            resources.identifier(subscription.name),
            delivery.attempts,
            resources.identifier(topic),
            forwarded.number,
        )
        return True

    def _may_forward(self, subscription: str, topic: str) -> bool:
        try:
            self._iam.require(agent("Pub/Sub"), "pubsub.topics.publish", topic)
            self._iam.require(agent("Pub/Sub"), "pubsub.subscriptions.consume", subscription)
        except Refused:
            return False
        return True

    # Time passes

    def sweep(self, subscription: Subscription) -> None:
        """Do what time demands: end leases that are over, forget messages past their retention."""
        with self.catalog.lock:
            now = self.clock.monotonic()
            for delivery in subscription.backlog.overdue(now):
                self._failed(subscription, delivery, "ack deadline exceeded")
            oldest_kept = self.clock.time() - subscription.retention
            if subscription.backlog.oldest_publish_time() >= oldest_kept:
                return
            with self._store.transaction():
                for delivery in subscription.backlog.published_before(oldest_kept):
                    self._store.delete_delivery(subscription.name, delivery.message.number)
                    subscription.backlog.forget(delivery, now=now)

    def next_sweep(self, subscription: Subscription) -> float:
        """When `sweep` next has something to do, on the monotonic clock; infinity for never."""
        oldest = subscription.backlog.oldest_publish_time()
        retention_ends = self.clock.monotonic() + (oldest + subscription.retention - self.clock.time())
        return min(retention_ends, subscription.backlog.next_lease_end())

    def backlog_sizes(self) -> Mapping[str, int]:
        return self.catalog.backlog_sizes()


def _dead_letter(subscription: Subscription, delivery: Delivery) -> Any:
    """The message as it is forwarded. Source: https://cloud.google.com/pubsub/docs/handling-failures."""
    letter = wire.PubsubMessage()
    letter.CopyFrom(delivery.message.body)
    letter.ClearField("message_id")
    letter.ClearField("publish_time")
    source = "CloudPubSubDeadLetterSource"
    letter.attributes[f"{source}DeliveryCount"] = str(delivery.attempts)
    letter.attributes[f"{source}Subscription"] = resources.identifier(subscription.name)
    letter.attributes[f"{source}SubscriptionProject"] = resources.project(subscription.name)
    letter.attributes[f"{source}TopicPublishTime"] = timestamp(delivery.message.published_at)
    return letter
