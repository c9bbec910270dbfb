"""`dualdeploy replay` at the local cloud: nothing that was given up is lost, and nothing is sent again unasked."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.cloud import pubsub_v1

from dualdeploy_cli import dead_letters as replay
from local_cloud.faults import Faults
from local_cloud.pubsub import PubSub
from support.command_line import invoke

PROJECT = "demo-dualdeploy"
DATA = b'{"run_id": "flowers-0123456789ab"}'
ATTRIBUTES = {"target": "cloud", "retry": "an attribute that a client library also has an argument for"}
#: What Pub/Sub adds: https://cloud.google.com/pubsub/docs/handling-failures#dead_letter_topic
GIVEN_UP = {
    "CloudPubSubDeadLetterSourceDeliveryCount": "20",
    "CloudPubSubDeadLetterSourceSubscription": "deployer",
    "CloudPubSubDeadLetterSourceSubscriptionProject": PROJECT,
}


def topic_name(topic: str) -> str:
    return f"projects/{PROJECT}/topics/{topic}"


def subscription_name(subscription: str) -> str:
    return f"projects/{PROJECT}/subscriptions/{subscription}"


@dataclasses.dataclass
class Cloud:
    """A Pub/Sub with one topic, its two subscribers, and the dead letters of the first."""

    pubsub: PubSub
    faults: Faults
    subscriber: Any

    def publish(self, topic: str = "training-completed", data: bytes = DATA, **attributes: str) -> str:
        return self.pubsub.publish(topic_name(topic), data, attributes)

    def pull(self, subscription: str, *, timeout: float = 3.0) -> list[Any]:
        """The messages that are there now, none of them acknowledged."""
        response = self.subscriber.pull(
            subscription=subscription_name(subscription), max_messages=100, timeout=timeout, retry=None
        )
        return list(response.received_messages)

    def acknowledge(self, subscription: str) -> None:
        ids = [one.ack_id for one in self.pull(subscription)]
        self.subscriber.acknowledge(subscription=subscription_name(subscription), ack_ids=ids)

    def give_up(self, data: bytes = DATA, **attributes: str) -> str:
        """Let the deployer's subscription fail with a message until it is a dead letter; the letter's id."""
        before = self.dead_letters()
        self.publish(data=data, **attributes)
        while (after := self.dead_letters()) == before:
            for received in self.pull("deployer"):
                self.subscriber.modify_ack_deadline(
                    subscription=subscription_name("deployer"), ack_ids=[received.ack_id], ack_deadline_seconds=0
                )
        self.acknowledge("auditor")
        return next(iter(after - before))

    def dead_letters(self) -> set[str]:
        """The ids of all that can be had at once: a letter that somebody still holds is missing."""
        if not self.pubsub.backlog()[subscription_name(replay.SUBSCRIPTION)]:
            return set()
        received = self.pull(replay.SUBSCRIPTION, timeout=0.5)
        if received:
            self.subscriber.modify_ack_deadline(
                subscription=subscription_name(replay.SUBSCRIPTION),
                ack_ids=[one.ack_id for one in received],
                ack_deadline_seconds=0,
            )
        return {one.message.message_id for one in received}

    def received(self, subscription: str) -> list[tuple[bytes, dict[str, str]]]:
        if not self.pubsub.backlog()[subscription_name(subscription)]:
            return []
        return [(one.message.data, dict(one.message.attributes)) for one in self.pull(subscription)]


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    faults = Faults()
    pubsub = PubSub(faults=faults, state_dir=tmp_path).start()
    for topic in ("training-completed", "dead-letters"):
        pubsub.ensure_topic(topic_name(topic))
    pubsub.ensure_subscription(subscription_name(replay.SUBSCRIPTION), topic=topic_name("dead-letters"))
    pubsub.ensure_subscription(subscription_name("auditor"), topic=topic_name("training-completed"))
    pubsub.ensure_subscription(
        subscription_name("deployer"),
        topic=topic_name("training-completed"),
        dead_letter_topic=topic_name("dead-letters"),
        max_delivery_attempts=2,
        minimum_backoff=0.01,
        maximum_backoff=0.01,
    )
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.address)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", PROJECT)
    with pubsub_v1.SubscriberClient() as subscriber:
        yield Cloud(pubsub, faults, subscriber)
    pubsub.close()


def run(*arguments: str) -> tuple[int, str]:
    """The command's exit status and all that it printed."""
    return invoke("replay", "--wait", 0.4, *arguments)


def test_a_list_shows_what_was_given_up_and_by_whom(cloud: Cloud) -> None:
    letter = cloud.give_up(**ATTRIBUTES)

    status, output = run()

    assert status == 0
    [line] = [line for line in output.splitlines() if line.split()[:1] == [letter]]
    assert line.split()[3:5] == ["deployer", "2"]
    assert time.strftime("%Y-%m-%d", time.gmtime()) in line
    assert "target=cloud" in output
    assert DATA.decode() in output
    assert "CloudPubSub" not in output


def test_a_list_changes_nothing_and_leaves_the_letters_to_be_had_at_once(cloud: Cloud) -> None:
    letters = {cloud.give_up(), cloud.give_up()}

    assert run()[0] == 0

    assert cloud.dead_letters() == letters
    assert cloud.received("deployer") == cloud.received("auditor") == []


def test_a_chosen_letter_goes_back_as_it_was_published_and_the_others_stay(cloud: Cloud) -> None:
    other = cloud.give_up(b"another")
    letter = cloud.give_up(**ATTRIBUTES)

    status, output = run(letter)

    assert status == 0
    assert f"{letter}: sent again to training-completed" in output
    assert cloud.received("deployer") == [(DATA, ATTRIBUTES)]
    assert cloud.dead_letters() == {other}


def test_every_subscriber_of_the_topic_receives_it_again_and_is_announced_to(cloud: Cloud) -> None:
    letter = cloud.give_up()

    assert "to every subscriber of it" in run(letter)[1]

    assert cloud.received("auditor") == [(DATA, {})]


def test_all_sends_all_of_them(cloud: Cloud) -> None:
    for number in range(3):
        cloud.give_up(str(number).encode())

    assert run("--all")[0] == 0

    assert sorted(data for data, _ in cloud.received("deployer")) == [b"0", b"1", b"2"]
    assert cloud.dead_letters() == set()
    assert run("--all") == (0, "No dead letters.\n")


def test_a_letter_that_fails_again_is_a_new_letter_without_old_marks(cloud: Cloud) -> None:
    first = cloud.give_up(**ATTRIBUTES)
    assert run(first)[0] == 0
    while not (letters := cloud.dead_letters()):
        for received in cloud.pull("deployer"):
            cloud.subscriber.modify_ack_deadline(
                subscription=subscription_name("deployer"), ack_ids=[received.ack_id], ack_deadline_seconds=0
            )

    assert first not in letters
    assert run("--all")[0] == 0
    assert cloud.received("deployer") == [(DATA, ATTRIBUTES)]


def test_more_letters_than_one_pull_gives_are_all_found(cloud: Cloud) -> None:
    for number in range(230):
        cloud.publish("dead-letters", str(number).encode(), **GIVEN_UP)

    assert run("--all")[0] == 0

    assert cloud.pubsub.backlog()[subscription_name("deployer")] == 230
    assert cloud.pubsub.backlog()[subscription_name(replay.SUBSCRIPTION)] == 0


# What cannot be sent again -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("--all",), ("ID",)])
def test_what_the_topic_refuses_stays_a_dead_letter(arguments: tuple[str, ...], cloud: Cloud) -> None:
    letter = cloud.give_up()

    with cloud.faults.plan({"pubsub.publish": ["return-403"]}):
        status, output = run(*(letter if one == "ID" else one for one in arguments))

    assert status == 1
    assert f"{letter}: not replayed: {topic_name('training-completed')} did not accept it" in output
    assert cloud.dead_letters() == {letter}
    assert cloud.received("deployer") == []


def test_one_refusal_does_not_keep_the_others_from_being_sent(cloud: Cloud) -> None:
    refused, accepted = cloud.give_up(b"first"), cloud.give_up(b"second")

    with cloud.faults.plan({"pubsub.publish": ["return-403"]}):
        status, output = run("--all")

    assert status == 1
    assert f"{accepted}: sent again" in output
    assert cloud.dead_letters() == {refused}
    assert cloud.received("deployer") == [(b"second", {})]


@pytest.mark.parametrize(
    ("operation", "fault"),
    [
        # Not a lost answer to a pull: what it had leased comes back when the lease is over, and nobody waits for that.
        ("pubsub.pull", "return-503"),
        ("pubsub.getSubscription", "return-503"),
        ("pubsub.publish", "return-503"),
        ("pubsub.publish", "lost-response"),
        ("pubsub.acknowledge", "return-503"),
        ("pubsub.acknowledge", "lost-response"),
    ],
)
def test_one_transient_failure_loses_nothing_and_keeps_nothing(operation: str, fault: str, cloud: Cloud) -> None:
    letter = cloud.give_up()

    with cloud.faults.plan({operation: [fault]}):
        assert run(letter)[0] == 0

    # After a lost response the message may be there twice: receivers must bear that.
    assert {data for data, _ in cloud.received("deployer")} == {DATA}
    assert cloud.dead_letters() == set()


def test_a_letter_that_was_sent_but_not_acknowledged_is_told_and_stays(cloud: Cloud) -> None:
    letter = cloud.give_up()

    with cloud.faults.plan({"pubsub.acknowledge": ["return-403"]}):
        status, output = run(letter)

    assert status == 1
    assert "it was sent again, but stays among the dead letters" in output
    assert cloud.received("deployer") == [(DATA, {})]
    assert cloud.dead_letters() == {letter}


def test_a_letter_whose_subscription_is_gone_stays_and_says_so(cloud: Cloud) -> None:
    letter = cloud.give_up()
    cloud.subscriber.delete_subscription(subscription=subscription_name("deployer"))

    status, output = run("--all")

    assert status == 1
    assert f"{subscription_name('deployer')} cannot be asked for its topic" in output
    assert cloud.dead_letters() == {letter}


def test_a_letter_whose_topic_is_gone_stays_and_says_so(cloud: Cloud) -> None:
    letter = cloud.give_up()
    publisher = pubsub_v1.PublisherClient()
    publisher.delete_topic(topic=topic_name("training-completed"))
    publisher.stop()
    publisher.transport.close()

    status, output = run("--all")

    assert status == 1
    assert f"the topic of {subscription_name('deployer')} was deleted" in output
    assert cloud.dead_letters() == {letter}


def test_what_eventarc_gave_up_says_why_and_what_to_do_instead(cloud: Cloud) -> None:
    attributes = {
        "ce-subject": "objects/flowers/train-00000-of-00002.tfrecord",
        "trigger": "data-object-finalized",
        "attempts": "20",
        "reason": "127.0.0.1:1: ConnectionRefusedError",
    }
    letter = cloud.publish("dead-letters", b"{}", **attributes)

    status, output = run("--all")

    assert status == 1
    [line] = [line for line in output.splitlines() if line.strip().startswith(letter) and "Eventarc trigger" in line]
    assert "Eventarc trigger data-object-finalized" in line
    assert " 20 " in line
    assert "reason=127.0.0.1:1: ConnectionRefusedError" in output
    assert """publish retrain-requested --message '{"dataset": "flowers"}'""" in output
    assert cloud.dead_letters() == {letter}


def test_a_letter_of_unknown_origin_stays(cloud: Cloud) -> None:
    letter = cloud.publish("dead-letters", b"by hand")

    status, output = run(letter)

    assert status == 1
    assert "it does not name a subscription" in output
    assert cloud.dead_letters() == {letter}


def test_an_unknown_id_is_named_and_the_known_one_is_sent(cloud: Cloud) -> None:
    letter = cloud.give_up()

    status, output = run("12345", letter)

    assert status == 1
    assert "12345: there is no dead letter with this id" in output
    assert cloud.received("deployer") == [(DATA, {})]


# What people see ---------------------------------------------------------------------------------------------------


def test_a_message_cannot_steer_the_terminal_nor_the_table(cloud: Cloud) -> None:
    cloud.give_up(b"\x1b[2J\x07[bold]x[/]\r\n" + bytes(range(128, 256)), note="\x1b]0;title\x07[/]")

    output = run()[1]

    assert not any(ord(character) < 32 for character in output.replace("\n", ""))
    assert "[bold]x[/]" in output
    assert "�]0;title�[/]" in output


def test_of_a_long_message_only_the_beginning_is_shown(cloud: Cloud) -> None:
    cloud.give_up(b"x" * 5000)

    output = run()[1]

    assert "(5,000 bytes)" in output
    assert output.count("x") < 200


def test_a_missing_project_and_a_missing_subscription_are_said(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    status, output = run("--project", "another-project")
    assert status == 1
    assert "project another-project has no subscription dead-letters-replay" in output

    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT")
    status, output = run()
    assert (status, "GOOGLE_CLOUD_PROJECT" in output or "--project" in output) == (2, True)


def test_a_refused_call_is_said_with_the_words_of_google(cloud: Cloud) -> None:
    with cloud.faults.plan({"pubsub.pull": ["return-403"]}):
        status, output = run()

    assert status == 3
    assert "403" in output
    assert "Traceback" not in output


def test_the_topology_names_this_command_as_the_reader_of_this_subscription() -> None:
    topology = json.loads((Path(__file__).parents[3] / "infra" / "topology.json").read_text(encoding="utf-8"))

    assert topology["subscriptions"][replay.SUBSCRIPTION]["reader"] == "make replay"
