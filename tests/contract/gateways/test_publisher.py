"""Publishing: what was accepted is delivered, and everything else is one of our errors in time."""

from __future__ import annotations

import concurrent.futures
import time
from typing import Any

import pytest

from dualdeploy.contracts.events import TrainingCompleted, encode
from dualdeploy.errors import PermissionSpreads, RejectedByGoogle, ResourceConflict, ServiceUnavailable
from local_cloud.faults import Faults as CloudFaults

COMPLETED = TrainingCompleted("flowers-0123456789ab", "flowers", "cloud", "succeeded")


def test_a_message_arrives_with_its_data_and_attributes(publisher_side: Any) -> None:
    topic = publisher_side.topic()

    assert publisher_side.publisher.publish(topic, encode(COMPLETED), COMPLETED.attributes)

    assert publisher_side.received(topic, 1) == [(encode(COMPLETED), COMPLETED.attributes)]


@pytest.mark.parametrize(
    ("data", "attributes"),
    [
        (b"", {"tick": "1"}),
        (b"{}", {}),
        (bytes(range(256)), {"größe": "ja"}),
        (b"x" * 1_000_000, {"name": "grün 🌻", "empty": ""}),
    ],
    ids=["no data", "no attributes", "any bytes", "a megabyte"],
)
def test_any_message_arrives_as_it_was_sent(data: bytes, attributes: dict[str, str], publisher_side: Any) -> None:
    topic = publisher_side.topic()

    publisher_side.publisher.publish(topic, data, attributes)

    assert publisher_side.received(topic, 1) == [(data, attributes)]


def test_messages_have_ids_of_their_own(publisher_side: Any) -> None:
    topic = publisher_side.topic()

    ids = {publisher_side.publisher.publish(topic, str(number).encode(), {}) for number in range(5)}

    assert len(ids) == 5
    assert len(publisher_side.received(topic, 5)) == 5


def test_many_messages_are_all_accepted_before_the_call_returns(publisher_side: Any) -> None:
    topic = publisher_side.topic()
    messages = [(str(number).encode(), {"service": "cloud_deployer"}) for number in range(250)]

    publisher_side.publisher.publish_all(topic, messages)
    publisher_side.publisher.publish_all(topic, [])

    assert sorted(publisher_side.received(topic, 250)) == sorted(messages)


def test_many_threads_share_a_publisher(publisher_side: Any) -> None:
    topic = publisher_side.topic()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: publisher_side.publisher.publish(topic, str(number).encode(), {}), range(40)))

    received = {data for data, _ in publisher_side.received(topic, 40)}
    assert received == {str(number).encode() for number in range(40)}


@pytest.mark.parametrize("fault", ["return-429", "return-500", "return-503", "reset-connection", "lost-response"])
def test_one_transient_failure_is_not_even_noticed(fault: str, cloud_publisher: Any, cloud_faults: CloudFaults) -> None:
    topic = cloud_publisher.topic()

    with cloud_faults.plan({"pubsub.publish": [fault]}):
        assert cloud_publisher.publisher.publish(topic, b"x", {})

    # After a lost response the message may be there twice: receivers must bear that.
    assert {data for data, _ in cloud_publisher.received(topic, 1)} == {b"x"}


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("return-400", RejectedByGoogle),
        ("return-403", PermissionSpreads),
        ("return-404", RejectedByGoogle),
        ("return-408", ServiceUnavailable),
        ("return-409", ResourceConflict),
        ("return-429", ServiceUnavailable),
        ("return-500", ServiceUnavailable),
        ("return-503", ServiceUnavailable),
        ("return-504", ServiceUnavailable),
        ("hang:2", ServiceUnavailable),
    ],
)
def test_an_answer_becomes_an_error(
    fault: str, error: type[Exception], pubsub_emulator: Any, publisher_at: Any, cloud_faults: CloudFaults
) -> None:
    pubsub_emulator.ensure_topic("projects/demo-dualdeploy/topics/refused")
    with publisher_at(pubsub_emulator.address, timeout=0.8) as publisher:
        cloud_faults.add({"pubsub.publish": [fault] * 30})
        try:
            with pytest.raises(error, match="refused"):
                publisher.publish("refused", b"x", {})
            assert len(cloud_faults.pending()["pubsub.publish"]) < 30
        finally:
            cloud_faults.clear()


def test_a_topic_that_does_not_exist_is_told_by_name(cloud_publisher: Any) -> None:
    with pytest.raises(RejectedByGoogle, match="no-such-topic"):
        cloud_publisher.publisher.publish("no-such-topic", b"x", {})


def test_a_connection_that_is_refused_is_given_up_in_time(publisher_at: Any, unheard: str) -> None:
    began = time.monotonic()

    with publisher_at(unheard, timeout=1.0) as publisher, pytest.raises(ServiceUnavailable):
        publisher.publish("training-completed", b"x", {})

    assert time.monotonic() - began < 8
