"""What Pub/Sub gave up on, for people to read, and to send again once the cause is mended.

A dead letter goes back to the topic that its subscription reads, because Pub/Sub cannot publish to one subscription
alone. Every other subscriber of that topic therefore receives it again; our handlers bear that, as they must bear any
second delivery. A letter is acknowledged only after the topic has accepted it: dying in between repeats it, never
loses it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import google.api_core.exceptions as google_errors
from google.api_core.retry import Retry
from google.cloud import pubsub_v1
from google.pubsub_v1 import PublisherClient

from dualdeploy.errors import DualDeployError

SUBSCRIPTION = "dead-letters-replay"

#: Letters that one run looks at. Their acknowledgement ids, about 200 bytes each, fit into one request of 512 kB:
#: https://cloud.google.com/pubsub/quotas#resource_limits
MOST_LETTERS = 1000
_MOST_IN_ONE_PULL = 100
#: How any other call is made. The client's own defaults repeat a publish for ten minutes.
_CALL: Mapping[str, Any] = {"timeout": 10.0, "retry": Retry(timeout=20.0)}
#: The longest lease that there is; publishing hundreds of letters must not outlast it.
_LEASE_SECONDS = 600
#: What a subscription says of its topic when that was deleted. Source: google.pubsub.v1.Subscription.topic
_DELETED_TOPIC = "_deleted-topic_"

# https://cloud.google.com/pubsub/docs/handling-failures#dead_letter_topic
_SOURCE = "CloudPubSubDeadLetterSource"


class NotReplayed(DualDeployError):
    """This letter stays where it is; the message says why and what to do instead."""


@dataclasses.dataclass(frozen=True)
class DeadLetter:
    """A message that was given up. `subscription` is the full name of the one that could not deliver it, empty when
    none is known; `attributes` are those that it was published with."""

    id: str
    ack_id: str
    at: datetime.datetime
    subscription: str
    deliveries: str
    attributes: Mapping[str, str]
    data: bytes
    ordering_key: str

    @classmethod
    def of(cls, received: Any) -> DeadLetter:
        """From a google.pubsub.v1.ReceivedMessage."""
        message = received.message
        own = dict(message.attributes)
        added = [key for key in own if key.startswith(_SOURCE)]
        source = {key.removeprefix(_SOURCE): own.pop(key) for key in added}
        name, project = source.get("Subscription", ""), source.get("SubscriptionProject", "")
        return cls(
            id=message.message_id,
            ack_id=received.ack_id,
            at=message.publish_time,
            subscription=f"projects/{project}/subscriptions/{name}" if name and project else "",
            deliveries=source.get("DeliveryCount") or own.get("attempts", ""),
            attributes=own,
            data=message.data,
            ordering_key=message.ordering_key,
        )

    @property
    def origin(self) -> str:
        """Who gave it up: a subscription, or a trigger of Eventarc, which has no topic of ours behind it."""
        if self.subscription:
            return self.subscription.rsplit("/", 1)[-1]
        trigger = self.attributes.get("trigger", "")
        return f"Eventarc trigger {trigger}" if trigger else "unknown"

    @property
    def remedy(self) -> str:
        """What to do with a letter that cannot be published again."""
        dataset = self.attributes.get("ce-subject", "").removeprefix("objects/").split("/")[0]
        if not dataset:
            return "it does not name a subscription, so its topic is not known"
        request = json.dumps({"dataset": dataset}, ensure_ascii=False)
        return (
            "Eventarc gave it up and names no subscription whose topic could repeat it; ask for the data set instead: "
            f"gcloud pubsub topics publish retrain-requested --message '{request}'"
        )


class DeadLetters:
    """The dead letters of a project. Use it as a context: on leaving, what was not replayed is there again at once."""

    def __init__(self, project: str, *, subscriber: Any, publisher: Any, pull_seconds: float) -> None:
        self._name = f"projects/{project}/subscriptions/{SUBSCRIPTION}"
        self._subscriber = subscriber
        self._publisher = publisher
        self._pull_seconds = pull_seconds
        self._held: dict[str, DeadLetter] = {}

    def __enter__(self) -> DeadLetters:
        return self

    def __exit__(self, *_: object) -> None:
        # Should this fail too, they come back by themselves when their lease is over.
        with contextlib.suppress(google_errors.GoogleAPIError):
            self._set_deadline(list(self._held.values()), 0)

    def pull(self, most: int = MOST_LETTERS) -> list[DeadLetter]:
        """Up to `most` letters, oldest first. Raises google.api_core's errors.

        It ends after `pull_seconds` without another letter: an empty answer alone proves nothing.
        """
        # A pull that runs out of time looks like an empty one: that Pub/Sub does not answer at all is found out here.
        self._subscriber.get_subscription(subscription=self._name, **_CALL)
        while len(self._held) < most:
            wanted = min(_MOST_IN_ONE_PULL, most - len(self._held))
            try:
                response = self._subscriber.pull(
                    subscription=self._name, max_messages=wanted, timeout=self._pull_seconds, retry=_CALL["retry"]
                )
            except google_errors.DeadlineExceeded:
                break
            if not response.received_messages:
                break
            letters = map(DeadLetter.of, response.received_messages)
            self._held |= {letter.id: letter for letter in letters}
        return sorted(self._held.values(), key=lambda letter: (letter.at, letter.id))

    def keep(self, letters: Sequence[DeadLetter]) -> None:
        """Keep these from other subscribers while they are published."""
        self._set_deadline(letters, _LEASE_SECONDS)

    def replay(self, letter: DeadLetter) -> str:
        """Publish it again to the topic it came from, then acknowledge it. Returns the topic. Raises NotReplayed."""
        if not letter.subscription:
            raise NotReplayed(letter.remedy)
        try:
            topic = str(self._subscriber.get_subscription(subscription=letter.subscription, **_CALL).topic)
        except google_errors.GoogleAPIError as exc:
            raise NotReplayed(f"{letter.subscription} cannot be asked for its topic: {exc}") from exc
        if topic == _DELETED_TOPIC:
            raise NotReplayed(f"the topic of {letter.subscription} was deleted")
        message = {"data": letter.data, "attributes": letter.attributes, "ordering_key": letter.ordering_key}
        try:
            # The plain call: it returns when the topic has the message, and takes attributes of any name.
            PublisherClient.publish(self._publisher, request={"topic": topic, "messages": [message]}, **_CALL)
        except google_errors.GoogleAPIError as exc:
            raise NotReplayed(f"{topic} did not accept it: {exc}") from exc
        try:
            self._subscriber.acknowledge(subscription=self._name, ack_ids=[letter.ack_id], **_CALL)
        except google_errors.GoogleAPIError as exc:
            raise NotReplayed(f"it was sent again, but stays among the dead letters: {exc}") from exc
        del self._held[letter.id]
        return topic.rsplit("/", 1)[-1]

    def _set_deadline(self, letters: Sequence[DeadLetter], seconds: int) -> None:
        if letters:
            self._subscriber.modify_ack_deadline(
                subscription=self._name,
                ack_ids=[letter.ack_id for letter in letters],
                ack_deadline_seconds=seconds,
                **_CALL,
            )


@contextlib.contextmanager
def open_dead_letters(project: str, *, pull_seconds: float) -> Iterator[DeadLetters]:
    """Through Google's clients, which honour PUBSUB_EMULATOR_HOST by themselves."""
    with pubsub_v1.SubscriberClient() as subscriber:
        publisher = pubsub_v1.PublisherClient()
        try:
            with DeadLetters(
                project, subscriber=subscriber, publisher=publisher, pull_seconds=pull_seconds
            ) as dead_letters:
                yield dead_letters
        finally:
            publisher.stop()
            publisher.transport.close()
