"""google.pubsub.v1.Subscriber, but for the stream, which `streaming_pull` has."""

from __future__ import annotations

import functools
from typing import Any

from local_cloud.pubsub import resources, wire
from local_cloud.pubsub.broker import Broker, Lease
from local_cloud.pubsub.paging import page
from local_cloud.pubsub.rpc import Empty, RpcTable
from local_cloud.pubsub.streaming_pull import StreamingPull

#: A pull without messages answers empty after "a bounded amount of time"; Google does not say which.
_PULL_SECONDS = 10.0
#: Left of the client's deadline when an empty pull answers, so that the answer still arrives.
_ANSWER_SECONDS = 0.2


def register_subscriber(table: RpcTable, broker: Broker) -> None:
    """Serve the Subscriber's methods from `broker`."""
    subscriber = _Subscriber(broker)
    table.unary(
        "Subscriber",
        "CreateSubscription",
        wire.Subscription,
        subscriber.create_subscription,
        differs="push endpoints may be http; export to BigQuery, Cloud Storage or Bigtable is UNIMPLEMENTED",
    )
    table.unary("Subscriber", "GetSubscription", wire.GetSubscriptionRequest, subscriber.get_subscription)
    table.unary("Subscriber", "UpdateSubscription", wire.UpdateSubscriptionRequest, subscriber.update_subscription)
    table.unary("Subscriber", "ListSubscriptions", wire.ListSubscriptionsRequest, subscriber.list_subscriptions)
    table.unary("Subscriber", "DeleteSubscription", wire.DeleteSubscriptionRequest, subscriber.delete_subscription)
    table.unary("Subscriber", "ModifyPushConfig", wire.ModifyPushConfigRequest, subscriber.modify_push_config)
    table.unary(
        "Subscriber",
        "Pull",
        wire.PullRequest,
        subscriber.pull,
        differs="with ordering, a response has at most one message of each key",
    )
    table.streaming(
        "Subscriber",
        "StreamingPull",
        wire.StreamingPullRequest,
        StreamingPull(broker).serve,
        differs="max_outstanding_bytes is not applied; with ordering, one message of each key at a time",
    )
    table.unary("Subscriber", "Acknowledge", wire.AcknowledgeRequest, subscriber.acknowledge)
    table.unary("Subscriber", "ModifyAckDeadline", wire.ModifyAckDeadlineRequest, subscriber.modify_ack_deadline)
    table.unary(
        "Subscriber",
        "Seek",
        wire.SeekRequest,
        subscriber.seek,
        differs="to a time only; the topic's own message retention is not applied",
    )


class _Subscriber:
    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._catalog = broker.catalog

    def create_subscription(self, resource: Any, _: Any) -> Any:
        return self._catalog.create_subscription(resource).resource

    def get_subscription(self, request: Any, _: Any) -> Any:
        return self._catalog.subscription(request.subscription).resource

    def update_subscription(self, request: Any, _: Any) -> Any:
        updated = self._catalog.update_subscription(request.subscription, request.update_mask.paths)
        return updated.resource

    def list_subscriptions(self, request: Any, _: Any) -> Any:
        resource_by_name = {one.name: one.resource for one in self._catalog.subscriptions(request.project)}
        names, token = page(resource_by_name, size=request.page_size, token=request.page_token)
        return wire.ListSubscriptionsResponse(
            subscriptions=[resource_by_name[name] for name in names], next_page_token=token
        )

    def delete_subscription(self, request: Any, _: Any) -> Any:
        self._catalog.delete_subscription(request.subscription)
        return Empty()

    def modify_push_config(self, request: Any, _: Any) -> Any:
        changes = wire.Subscription(name=request.subscription, push_config=request.push_config)
        self._catalog.update_subscription(changes, ["push_config"])
        return Empty()

    def pull(self, request: Any, context: Any) -> Any:
        if request.max_messages < 1:
            raise resources.invalid(f"max_messages is {request.max_messages}: must be positive.")
        name, now = request.subscription, self._broker.clock.monotonic()
        wait = 0.0 if request.return_immediately else _PULL_SECONDS
        if (left := context.time_remaining()) is not None:
            wait = max(0.0, min(wait, left - _ANSWER_SECONDS))
        # A caller that went away must not take messages with it.
        context.add_callback(functools.partial(self._broker.interrupt, name))
        leases = self._broker.wait_for_messages(
            name,
            limit=lambda: int(request.max_messages),
            lease_seconds=lambda resource: float(resource.ack_deadline_seconds),
            until=now + wait,
            interrupted=lambda: not context.is_active(),
        )
        return wire.PullResponse(received_messages=[received(lease) for lease in leases])

    def acknowledge(self, request: Any, _: Any) -> Any:
        self._broker.acknowledge(request.subscription, request.ack_ids)
        return Empty()

    def modify_ack_deadline(self, request: Any, _: Any) -> Any:
        self._broker.modify_ack_deadline(request.subscription, request.ack_ids, request.ack_deadline_seconds)
        return Empty()

    def seek(self, request: Any, _: Any) -> Any:
        if not request.HasField("time"):
            raise resources.invalid("The local cloud seeks to a time only: it has no snapshots.")
        self._catalog.seek(request.subscription, request.time.ToMicroseconds() / 1e6)
        return wire.SeekResponse()


def received(lease: Lease) -> Any:
    """A google.pubsub.v1.ReceivedMessage."""
    return wire.ReceivedMessage(
        ack_id=lease.ack_id, message=lease.message.body, delivery_attempt=lease.delivery_attempt
    )
