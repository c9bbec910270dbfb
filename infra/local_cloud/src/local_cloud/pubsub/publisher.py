"""google.pubsub.v1.Publisher."""

from __future__ import annotations

from typing import Any

from local_cloud.pubsub import wire
from local_cloud.pubsub.broker import Broker
from local_cloud.pubsub.paging import page
from local_cloud.pubsub.rpc import Empty, RpcTable


def register_publisher(table: RpcTable, broker: Broker) -> None:
    """Serve the Publisher's methods from `broker`."""
    publisher = _Publisher(broker)
    table.unary(
        "Publisher", "CreateTopic", wire.Topic, publisher.create_topic, differs="schemas and ingestion are not applied"
    )
    table.unary("Publisher", "UpdateTopic", wire.UpdateTopicRequest, publisher.update_topic)
    table.unary("Publisher", "GetTopic", wire.GetTopicRequest, publisher.get_topic)
    table.unary("Publisher", "ListTopics", wire.ListTopicsRequest, publisher.list_topics)
    table.unary("Publisher", "DeleteTopic", wire.DeleteTopicRequest, publisher.delete_topic)
    table.unary("Publisher", "Publish", wire.PublishRequest, publisher.publish)
    table.unary(
        "Publisher",
        "ListTopicSubscriptions",
        wire.ListTopicSubscriptionsRequest,
        publisher.list_topic_subscriptions,
    )
    table.unary("Publisher", "DetachSubscription", wire.DetachSubscriptionRequest, publisher.detach_subscription)


class _Publisher:
    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._catalog = broker.catalog

    def create_topic(self, topic: Any, _: Any) -> Any:
        return self._catalog.create_topic(topic)

    def update_topic(self, request: Any, _: Any) -> Any:
        return self._catalog.update_topic(request.topic, request.update_mask.paths)

    def get_topic(self, request: Any, _: Any) -> Any:
        return self._catalog.topic(request.topic)

    def list_topics(self, request: Any, _: Any) -> Any:
        topics = {topic.name: topic for topic in self._catalog.topics(request.project)}
        names, token = page(topics, size=request.page_size, token=request.page_token)
        return wire.ListTopicsResponse(topics=[topics[name] for name in names], next_page_token=token)

    def delete_topic(self, request: Any, _: Any) -> Any:
        self._catalog.delete_topic(request.topic)
        return Empty()

    def publish(self, request: Any, _: Any) -> Any:
        return wire.PublishResponse(message_ids=self._broker.publish(request.topic, request.messages))

    def list_topic_subscriptions(self, request: Any, _: Any) -> Any:
        self._catalog.topic(request.topic)
        subscribers = [one.name for one in self._catalog.subscribers(request.topic)]
        names, token = page(subscribers, size=request.page_size, token=request.page_token)
        return wire.ListTopicSubscriptionsResponse(subscriptions=names, next_page_token=token)

    def detach_subscription(self, request: Any, _: Any) -> Any:
        self._catalog.detach_subscription(request.subscription)
        return wire.DetachSubscriptionResponse()
