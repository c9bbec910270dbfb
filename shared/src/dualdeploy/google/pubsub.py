"""Publishing to Pub/Sub: a message counts as published when Pub/Sub has answered with its id."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from dualdeploy import lazily
from dualdeploy.google.calls import call

if TYPE_CHECKING:
    from google.cloud import pubsub_v1

#: Seconds to wait for Pub/Sub's answer, repetitions included.
PUBLISH_TIMEOUT = 20.0


class Publisher(Protocol):
    """Sends one message to a topic of the project and waits until it is accepted."""

    def publish(self, topic: str, data: bytes, attributes: Mapping[str, str]) -> str:
        """Returns the message id. Raises what `google.errors` makes of Pub/Sub's answer."""

    def publish_all(self, topic: str, messages: Sequence[tuple[bytes, Mapping[str, str]]]) -> None:
        """Send many messages (data, attributes) and wait until all are accepted; raises as `publish` does, and then
        some of them may have been."""


class PubSubPublisher:
    """google-cloud-pubsub; honours PUBSUB_EMULATOR_HOST, as the library does by itself."""

    def __init__(self, project: str, *, timeout: float = PUBLISH_TIMEOUT) -> None:
        self._project = project
        self._timeout = timeout
        self._lock = threading.Lock()

    def publish(self, topic: str, data: bytes, attributes: Mapping[str, str]) -> str:
        return self._published(topic, [(data, attributes)])[0]

    def publish_all(self, topic: str, messages: Sequence[tuple[bytes, Mapping[str, str]]]) -> None:
        if messages:
            self._published(topic, messages)

    def _published(self, topic: str, messages: Sequence[tuple[bytes, Mapping[str, str]]]) -> list[str]:
        """The ids of the messages; the client sends them in batches of a hundred."""

        def published() -> list[str]:
            with self._lock:
                client = self._client
            path = client.topic_path(self._project, topic)
            retry = lazily.load("google.api_core.retry").Retry(timeout=self._timeout)
            options = {"retry": retry, "timeout": self._timeout / 2}
            futures = [client.publish(path, data, **options, **attributes) for data, attributes in messages]
            # Without this a message may never have left: publish() only queues it.
            return [str(future.result(timeout=self._timeout + 5)) for future in futures]

        return call(f"Pub/Sub, a message for {topic}", published)

    @functools.cached_property
    def _client(self) -> pubsub_v1.PublisherClient:
        client: pubsub_v1.PublisherClient = lazily.load("google.cloud.pubsub_v1").PublisherClient()
        return client
