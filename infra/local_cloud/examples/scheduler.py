"""Cloud Scheduler: the topology has a schedule, and each of its beats is a message."""

from __future__ import annotations

import os

from google.cloud import pubsub_v1


def main() -> None:
    with pubsub_v1.SubscriberClient() as subscriber:
        path = subscriber.subscription_path(os.environ["GOOGLE_CLOUD_PROJECT"], "ticks")
        answer = subscriber.pull(subscription=path, max_messages=1, timeout=30)
        subscriber.acknowledge(subscription=path, ack_ids=[each.ack_id for each in answer.received_messages])
    print("a tick says", answer.received_messages[0].message.data.decode())


if __name__ == "__main__":
    main()
