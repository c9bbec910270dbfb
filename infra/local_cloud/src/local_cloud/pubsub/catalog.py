"""The topics and subscriptions that exist, in memory and on disk."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

from google.protobuf import field_mask_pb2

from local_cloud.faults import MESSAGE_DELIVERY, Faults
from local_cloud.pubsub import resources, wire
from local_cloud.pubsub.backlog import Delivery
from local_cloud.pubsub.messages import Message
from local_cloud.pubsub.store import Store, StoredDelivery
from local_cloud.pubsub.subscription import Subscription

_MUTABLE_TOPIC = frozenset({"labels", "message_retention_duration", "message_storage_policy", "kms_key_name"})
#: "Filter", "topic" and "enable_message_ordering" are fixed at creation. Source: google.pubsub.v1.Subscription.
_MUTABLE_SUBSCRIPTION = frozenset(
    {
        "ack_deadline_seconds",
        "dead_letter_policy",
        "enable_exactly_once_delivery",
        "expiration_policy",
        "labels",
        "message_retention_duration",
        "push_config",
        "retain_acked_messages",
        "retry_policy",
    }
)


_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def _locked(
    method: Callable[Concatenate[Catalog, _Arguments], _Result],
) -> Callable[Concatenate[Catalog, _Arguments], _Result]:
    def locked(self: Catalog, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with self.lock:
            return method(self, *args, **kwargs)

    functools.update_wrapper(locked, method)
    return locked


class Catalog:
    """Resources by name.

    Resources are replaced, never changed, so that a caller may read one after the lock is gone. Whoever needs
    two steps to be one holds `lock` around them; `attention` wakes whoever pushes when something changed.
    """

    def __init__(self, store: Store, *, faults: Faults) -> None:
        self.lock = threading.RLock()
        self.attention = threading.Condition(self.lock)
        self._store = store
        self._faults = faults
        self._topics: dict[str, Any] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._load()

    def _load(self) -> None:
        for body in self._store.topics():
            topic = wire.Topic.FromString(body)
            self._topics[topic.name] = topic
        for body in self._store.subscriptions():
            self._keep(wire.Subscription.FromString(body))
        messages = {number: Message.stored(number, body) for number, body in self._store.messages()}
        for row in self._store.deliveries():
            backlog = self._subscriptions[row.subscription].backlog
            delivery = Delivery(messages[row.number], row.attempts)
            if row.acked:
                backlog.add_retained(delivery)
            else:
                backlog.add(delivery)

    def _keep(self, resource: Any) -> Subscription:
        subscription = Subscription(resource, self.lock)
        self._subscriptions[resource.name] = subscription
        self._faults.register(subscription.delivery_operation, MESSAGE_DELIVERY)
        return subscription

    # Topics

    @_locked
    def create_topic(self, topic: Any) -> Any:
        resources.check_name("topics", topic.name)
        if topic.name in self._topics:
            raise resources.already_exists(topic.name)
        resources.check_topic(topic)
        created = _copy(topic)
        created.state = 1  # ACTIVE
        self._put_topic(created)
        return created

    @_locked
    def update_topic(self, changes: Any, paths: Iterable[str]) -> Any:
        merged = _merged(self.topic(changes.name), changes, paths, _MUTABLE_TOPIC)
        resources.check_topic(merged)
        self._put_topic(merged)
        return merged

    @_locked
    def topic(self, name: str) -> Any:
        resources.check_name("topics", name)
        if name not in self._topics:
            raise resources.not_found(name)
        return self._topics[name]

    @_locked
    def has_topic(self, name: str) -> bool:
        return name in self._topics

    @_locked
    def topics(self, project: str) -> list[Any]:
        """Every topic of `project` (`projects/<id>`), by name."""
        prefix = resources.check_project(project) + "/"
        return [topic for name, topic in sorted(self._topics.items()) if name.startswith(prefix)]

    @_locked
    def delete_topic(self, name: str) -> None:
        """Delete a topic; its subscriptions stay, and keep what they owe."""
        self.topic(name)
        with self._store.transaction():
            self._store.delete_topic(name)
            for subscription in self.subscribers(name):
                orphan = _copy(subscription.resource)
                orphan.topic = resources.DELETED_TOPIC
                self._replace(subscription, orphan)
        del self._topics[name]

    def _put_topic(self, topic: Any) -> None:
        self._store.put_topic(topic.name, topic.SerializeToString())
        self._topics[topic.name] = topic

    # Subscriptions

    @_locked
    def create_subscription(self, resource: Any, *, impatient: bool = False) -> Subscription:
        resources.check_name("subscriptions", resource.name)
        if resource.name in self._subscriptions:
            raise resources.already_exists(resource.name)
        self.topic(resource.topic)
        created = _copy(resource)
        self._check(created, impatient=impatient)
        self._store.put_subscription(created.name, created.SerializeToString())
        return self._keep(created)

    @_locked
    def update_subscription(self, changes: Any, paths: Iterable[str], *, impatient: bool = False) -> Subscription:
        subscription = self.subscription(changes.name)
        changed = list(paths)
        merged = _merged(subscription.resource, changes, changed, _MUTABLE_SUBSCRIPTION)
        # What the local cloud was allowed to set must not stand in the way of another change by a client.
        unchanged = not any(path.startswith(("ack_deadline_seconds", "dead_letter_policy")) for path in changed)
        self._check(merged, impatient=impatient or unchanged)
        self._replace(subscription, merged)
        return subscription

    @_locked
    def detach_subscription(self, name: str) -> None:
        subscription = self.subscription(name)
        detached = _copy(subscription.resource)
        detached.detached = True
        with self._store.transaction():
            self._store.delete_backlog(name)
            self._replace(subscription, detached)
        subscription.backlog = subscription.backlog.seek(lambda _: False, retain=False)

    @_locked
    def subscription(self, name: str) -> Subscription:
        resources.check_name("subscriptions", name)
        if name not in self._subscriptions:
            raise resources.not_found(name)
        return self._subscriptions[name]

    @_locked
    def find_subscription(self, name: str) -> Subscription | None:
        return self._subscriptions.get(name)

    @_locked
    def subscriptions(self, project: str) -> list[Subscription]:
        """Every subscription of `project` (`projects/<id>`), by name."""
        prefix = resources.check_project(project) + "/"
        return [one for name, one in sorted(self._subscriptions.items()) if name.startswith(prefix)]

    @_locked
    def all_subscriptions(self) -> list[Subscription]:
        return list(self._subscriptions.values())

    @_locked
    def subscribers(self, topic: str) -> list[Subscription]:
        """The attached subscriptions of a topic, by name."""
        return [
            one
            for _, one in sorted(self._subscriptions.items())
            if one.resource.topic == topic and not one.resource.detached
        ]

    @_locked
    def delete_subscription(self, name: str) -> None:
        subscription = self.subscription(name)
        self._store.delete_subscription(name)
        del self._subscriptions[name]
        subscription.deleted = True
        self.wake(subscription)

    @_locked
    def wake(self, subscription: Subscription) -> None:
        """Tell whoever pulls or pushes this subscription to look again."""
        subscription.changed.notify_all()
        self.attention.notify_all()

    @_locked
    def backlog_sizes(self) -> Mapping[str, int]:
        return {name: len(one.backlog) for name, one in sorted(self._subscriptions.items())}

    @_locked
    def waiting(self, now: float) -> Mapping[str, tuple[int, float]]:
        """Unacknowledged messages of each subscription, and the age in seconds of the oldest at `now`."""
        return {
            name: (len(one.backlog), max((now - each.message.published_at for each in one.backlog), default=0.0))
            for name, one in sorted(self._subscriptions.items())
        }

    def _check(self, resource: Any, *, impatient: bool) -> None:
        resources.fill_subscription(resource)
        resources.check_subscription(resource, impatient=impatient)
        if resource.HasField("dead_letter_policy"):
            # "The operation will fail if the topic does not exist." Source: google.pubsub.v1.DeadLetterPolicy.
            self.topic(resource.dead_letter_policy.dead_letter_topic)

    def _replace(self, subscription: Subscription, resource: Any) -> None:
        self._store.put_subscription(resource.name, resource.SerializeToString())
        subscription.replace(resource)
        self.wake(subscription)

    # What subscriptions owe

    @_locked
    def seek(self, name: str, moment: float) -> None:
        """Count messages published before `moment` (seconds since 1970) as acknowledged, the others as not."""
        subscription = self.subscription(name)
        retain = subscription.resource.retain_acked_messages
        sought = subscription.backlog.seek(lambda message: message.published_at >= moment, retain=retain)
        with self._store.transaction():
            kept = {delivery.message.number for delivery in [*sought, *sought.retained()]}
            for delivery in [*subscription.backlog, *subscription.backlog.retained()]:
                if delivery.message.number not in kept:
                    self._store.delete_delivery(name, delivery.message.number)
            rows = [StoredDelivery(d.message.number, name, d.attempts, acked=False) for d in sought]
            rows += [StoredDelivery(d.message.number, name, d.attempts, acked=True) for d in sought.retained()]
            self._store.put_deliveries(rows)
        subscription.backlog = sought
        self.wake(subscription)


def _copy(resource: Any) -> Any:
    copied = type(resource)()
    copied.CopyFrom(resource)
    return copied


def _merged(current: Any, changes: Any, paths: Iterable[str], allowed: frozenset[str]) -> Any:
    """A copy of `current` with the fields that `paths` names taken from `changes`."""
    listed = list(paths)
    resources.check_update_mask(listed, allowed)
    merged = _copy(current)
    mask = field_mask_pb2.FieldMask(paths=listed)
    try:
        mask.MergeMessage(changes, merged, replace_message_field=True, replace_repeated_field=True)
    except ValueError as exc:
        raise resources.invalid(f"Invalid update_mask provided in the request: {exc}.") from exc
    return merged
