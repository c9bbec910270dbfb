"""Messages: what a publisher may send, and what is kept of it."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any

from local_cloud.pubsub import wire
from local_cloud.pubsub.resources import invalid

#: Source of these limits: https://cloud.google.com/pubsub/quotas#resource_limits. Google's 10 MB are decimal.
MAXIMUM_REQUEST_BYTES = 10_000_000
MAXIMUM_MESSAGES = 1_000
MAXIMUM_ATTRIBUTES = 100
MAXIMUM_KEY_BYTES = 256
MAXIMUM_VALUE_BYTES = 1_024
MAXIMUM_ORDERING_KEY_BYTES = 1_024


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """One published message; `number` is its message id, and grows with every publish."""

    number: int
    published_at: float  # seconds since 1970
    body: Any  # google.pubsub.v1.PubsubMessage, message_id and publish_time included

    @classmethod
    def published(cls, sent: Any, *, number: int, published_at: float) -> Message:
        """`sent` with the id and the time that publishing gives it."""
        body = wire.PubsubMessage()
        body.CopyFrom(sent)
        body.message_id = str(number)
        body.publish_time.FromMicroseconds(round(published_at * 1e6))
        return cls(number, published_at, body)

    @classmethod
    def stored(cls, number: int, serialized: bytes) -> Message:
        body = wire.PubsubMessage.FromString(serialized)
        return cls(number, body.publish_time.ToMicroseconds() / 1e6, body)


def check_publishable(messages: Sequence[Any]) -> None:
    """Refuse, with INVALID_ARGUMENT, what Google refuses to publish; nothing of such a request is published."""
    if not messages:
        raise invalid("The request contains no messages: at least one is needed.")
    if len(messages) > MAXIMUM_MESSAGES:
        raise invalid(f"The request contains {len(messages)} messages: at most {MAXIMUM_MESSAGES} are accepted.")
    size = sum(message.ByteSize() for message in messages)
    if size > MAXIMUM_REQUEST_BYTES + _overhead(messages):
        raise invalid(f"The request is {size} bytes: at most {MAXIMUM_REQUEST_BYTES} are accepted.")
    for message in messages:
        _check_message(message)


def _overhead(messages: Sequence[Any]) -> int:
    """What the encoding adds: a message of exactly 10 MB of data is accepted."""
    return 16 * len(messages)


def _check_message(message: Any) -> None:
    if not message.data and not message.attributes:
        raise invalid("Some messages are empty: a message needs data or at least one attribute.")
    if len(message.attributes) > MAXIMUM_ATTRIBUTES:
        count = len(message.attributes)
        raise invalid(f"A message has {count} attributes: at most {MAXIMUM_ATTRIBUTES} are accepted.")
    for key, value in message.attributes.items():
        # Google's own client libraries put a trace there.
        if not key or (key.lower().startswith("goog") and not key.startswith("googclient_")):
            raise invalid(f"The attribute key {key!r} is reserved: it must not be empty or begin with goog.")
        if len(key.encode()) > MAXIMUM_KEY_BYTES:
            raise invalid(f"The attribute key {key[:40]!r}... has more than {MAXIMUM_KEY_BYTES} bytes: shorten it.")
        if len(value.encode()) > MAXIMUM_VALUE_BYTES:
            raise invalid(
                f"The value of attribute {key!r} has more than {MAXIMUM_VALUE_BYTES} bytes: put it in the data."
            )
    if len(message.ordering_key.encode()) > MAXIMUM_ORDERING_KEY_BYTES:
        raise invalid(f"The ordering key has more than {MAXIMUM_ORDERING_KEY_BYTES} bytes: shorten it.")


def timestamp(seconds: float) -> str:
    """RFC 3339 with milliseconds, as push bodies write it."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
