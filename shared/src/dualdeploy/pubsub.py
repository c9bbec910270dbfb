"""Publishing to Pub/Sub: a message counts as published when Pub/Sub has answered with its id."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable

if TYPE_CHECKING:
    from google.cloud import pubsub_v1

#: Seconds to wait for Pub/Sub's answer, repetitions included.
PUBLISH_TIMEOUT = 20.0


class Publisher(Protocol):
    """Sends one message to a topic of the project and waits until it is accepted."""

    def publish(self, topic: str, data: bytes, attributes: Mapping[str, str]) -> str:
        """Returns the message id. Raises ServiceUnavailable or RejectedByGoogle."""

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
        import google.api_core.exceptions as google_errors  # noqa: PLC0415
        from google.api_core.retry import Retry  # noqa: PLC0415

        with self._lock:
            client = self._client
        path = client.topic_path(self._project, topic)
        try:
            future = client.publish(
                path, data, retry=Retry(timeout=self._timeout), timeout=self._timeout / 2, **attributes
            )
            # Without this the message may never have left: publish() only queues it.
            return str(future.result(timeout=self._timeout + 5))
        except (google_errors.ServerError, google_errors.TooManyRequests, google_errors.RetryError) as exc:
            raise ServiceUnavailable(f"Pub/Sub did not accept a message for {topic}: {exc}") from exc
        except (google_errors.Aborted, google_errors.Cancelled) as exc:
            raise ServiceUnavailable(f"Pub/Sub aborted a message for {topic}: {exc}") from exc
        except google_errors.GoogleAPICallError as exc:
            raise RejectedByGoogle(f"Pub/Sub refused a message for {topic}: {exc}") from exc
        except TimeoutError as exc:
            raise ServiceUnavailable(f"Pub/Sub did not answer for {topic}") from exc

    @functools.cached_property
    def _client(self) -> pubsub_v1.PublisherClient:
        from google.cloud import pubsub_v1  # noqa: PLC0415  # 0.4 s that a service which never publishes must not pay

        return pubsub_v1.PublisherClient()
