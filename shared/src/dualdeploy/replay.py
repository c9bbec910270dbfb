"""`make replay`: what Pub/Sub gave up on, for people to read, and to send again once the cause is mended.

A dead letter goes back to the topic that its subscription reads, because Pub/Sub cannot publish to one subscription
alone. Every other subscriber of that topic therefore receives it again; our handlers bear that, as they must bear any
second delivery. A letter is acknowledged only after the topic has accepted it: dying in between repeats it, never
loses it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import google.api_core.exceptions as google_errors
from google.api_core.retry import Retry
from google.auth.exceptions import GoogleAuthError
from google.cloud import pubsub_v1
from google.pubsub_v1 import PublisherClient
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dualdeploy.errors import DualDeployError

SUBSCRIPTION = "dead-letters-replay"
DONE, NOT_ALL_DONE, USAGE = 0, 1, 2

#: Letters that one run looks at. Their acknowledgement ids, about 200 bytes each, fit into one request of 512 kB:
#: https://cloud.google.com/pubsub/quotas#resource_limits
MOST_LETTERS = 1000
_MOST_IN_ONE_PULL = 100
#: Seconds to wait for another letter. An empty answer alone proves nothing: a pull may miss what is there.
_PULL_SECONDS = 5.0
#: How any other call is made. The client's own defaults repeat a publish for ten minutes.
_CALL: Mapping[str, Any] = {"timeout": 10.0, "retry": Retry(timeout=20.0)}
#: The longest lease that there is; publishing hundreds of letters must not outlast it.
_LEASE_SECONDS = 600
#: What a subscription says of its topic when that was deleted. Source: google.pubsub.v1.Subscription.topic
_DELETED_TOPIC = "_deleted-topic_"
_SHOWN_BYTES = 120

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
            return "no subscription is named in it, so nobody knows where it came from"
        request = json.dumps({"dataset": dataset}, ensure_ascii=False)
        return (
            "Eventarc gave it up and names no subscription whose topic could repeat it; ask for the data set instead: "
            f"gcloud pubsub topics publish retrain-requested --message '{request}'"
        )


class DeadLetters:
    """The dead letters of a project. Use it as a context: on leaving, what was not replayed is there again at once."""

    def __init__(self, project: str, *, subscriber: Any, publisher: Any, pull_seconds: float = _PULL_SECONDS) -> None:
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
        """Up to `most` letters, oldest first. Raises google.api_core's errors."""
        # A pull that runs out of time looks like an empty one: that nobody answers at all is found out here.
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
        """Let nobody else have these while they are published."""
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


def main(
    arguments: Sequence[str] | None = None, *, console: Console | None = None, pull_seconds: float = _PULL_SECONDS
) -> int:
    """List dead letters and publish the chosen ones again. Returns 0, 1 (some were not) or 2 (usage, no Pub/Sub)."""
    console = console or Console()
    parser = _parser()
    try:
        options = parser.parse_args(arguments)
        if options.list and (options.all or options.ids):
            parser.error("--list only lists: leave it away to send letters again")
        if not options.project:
            parser.error("which project? Set GOOGLE_CLOUD_PROJECT or give --project")
    except SystemExit as exc:  # argparse has printed help (0) or what is wrong (2)
        return int(exc.code or 0)
    try:
        with _open(options.project, pull_seconds) as dead_letters:
            return _serve(dead_letters, options, console)
    except google_errors.NotFound as exc:
        _say(console, f"project {options.project} has no subscription {SUBSCRIPTION}: {exc.message}")
    except (google_errors.GoogleAPIError, GoogleAuthError) as exc:
        _say(console, f"Pub/Sub cannot be asked: {exc}")
    return USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="replay",
        description="List the messages that no service could handle, and publish chosen ones again. They go to the "
        "topic they came from, so every subscriber of that topic receives them once more.",
    )
    parser.add_argument("ids", nargs="*", metavar="ID", help="letters to publish again, by the id in the list")
    parser.add_argument("--all", action="store_true", help="publish all of them again")
    parser.add_argument("--list", action="store_true", help="only list, which is also what happens without ids")
    parser.add_argument(
        "--project", default=os.environ.get("GOOGLE_CLOUD_PROJECT", ""), help="default: GOOGLE_CLOUD_PROJECT"
    )
    return parser


@contextlib.contextmanager
def _open(project: str, pull_seconds: float) -> Iterator[DeadLetters]:
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


def _serve(dead_letters: DeadLetters, options: argparse.Namespace, console: Console) -> int:
    letters = dead_letters.pull()
    chosen = letters if options.all else [letter for letter in letters if letter.id in options.ids]
    console.print(_table(letters) if letters else "No dead letters.")
    if len(letters) == MOST_LETTERS:
        _say(console, f"these are the first {MOST_LETTERS}, there may be more")
    unknown = sorted(set(options.ids) - {letter.id for letter in letters})
    for letter_id in unknown:
        _say(console, f"{letter_id}: no dead letter has this id (one that was replayed and failed again has a new one)")
    if letters and not (chosen or unknown):
        _say(console, "Nothing was changed. Send some again with their ids, or all of them with --all (ALL=1 for make)")
    dead_letters.keep(chosen)
    return DONE if _replay(dead_letters, chosen, console) and not unknown else NOT_ALL_DONE


def _replay(dead_letters: DeadLetters, chosen: Sequence[DeadLetter], console: Console) -> bool:
    """Whether every one of them was published again."""
    refused = 0
    for letter in chosen:
        try:
            topic = dead_letters.replay(letter)
        except NotReplayed as exc:
            refused += 1
            _say(console, f"{letter.id}: not replayed: {exc}")
        else:
            _say(console, f"{letter.id}: sent again to {topic}, to every subscriber of it")
    return not refused


def _table(letters: Sequence[DeadLetter]) -> Table:
    count = f"{len(letters):,} dead letter{'' if len(letters) == 1 else 's'}"
    table = Table(title=count, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("id", no_wrap=True)
    table.add_column("given up (UTC)", overflow="fold")
    table.add_column("by", overflow="fold")
    table.add_column("tries", justify="right")
    table.add_column("attributes, data", overflow="fold", ratio=1)
    for letter in letters:
        at = f"{letter.at:%Y-%m-%d %H:%M:%S}"
        words = [f"{key}={value}" for key, value in sorted(letter.attributes.items())]
        cells = (letter.id, at, letter.origin, letter.deliveries, "\n".join([*words, _beginning(letter.data)]))
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _beginning(data: bytes) -> str:
    beginning = " ".join(data[:_SHOWN_BYTES].decode(errors="replace").split())
    return f"{beginning}… ({len(data):,} bytes)" if len(data) > _SHOWN_BYTES else beginning or "(no data)"


def printable(text: str) -> str:
    """Nothing in a message may steer the terminal of whoever looks at it."""
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)


def _say(console: Console, sentence: str) -> None:
    console.print(Text(printable(sentence)), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
