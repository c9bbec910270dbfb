"""What can be published, and who gets it."""

from __future__ import annotations

import base64
import datetime

import pytest
from google.api_core import exceptions


def test_a_message_arrives_as_it_was_published(cloud):
    cloud.topic()
    cloud.subscription()
    before = datetime.datetime.now(datetime.UTC)
    message_id = cloud.publish(b"\x00\xff", run_id="flowers-1", target="cloud")
    (received,) = cloud.pull()
    assert received.message.data == b"\x00\xff"
    assert dict(received.message.attributes) == {"run_id": "flowers-1", "target": "cloud"}
    assert received.message.message_id == message_id
    assert abs(received.message.publish_time - before) < datetime.timedelta(seconds=5)
    assert received.ack_id


def test_every_message_has_an_id_of_its_own(cloud):
    cloud.topic()
    message_ids = cloud.publish_messages([{"data": b"same"}] * 50)
    assert len(set(message_ids)) == 50


def test_every_subscription_gets_every_message(cloud):
    cloud.topic()
    cloud.subscription("first")
    cloud.subscription("second")
    cloud.publish(b"news")
    assert [one.message.data for one in cloud.pull("first")] == [b"news"]
    assert [one.message.data for one in cloud.pull("second")] == [b"news"]


def test_a_subscription_gets_nothing_published_before_it_existed(cloud):
    cloud.topic()
    cloud.publish(b"too early")
    cloud.subscription()
    cloud.publish(b"in time")
    assert [one.message.data for one in cloud.pull_all(count=1)] == [b"in time"]


def test_publishing_to_a_missing_topic_is_not_found(cloud):
    with pytest.raises(exceptions.NotFound):
        cloud.publish(b"lost", topic="absent")


def test_a_message_with_attributes_only_is_accepted(cloud):
    cloud.topic()
    cloud.subscription()
    cloud.publish(target="cloud")
    (received,) = cloud.pull()
    assert received.message.data == b""
    assert dict(received.message.attributes) == {"target": "cloud"}


def test_an_empty_message_is_refused_and_nothing_of_its_request_is_published(cloud):
    cloud.topic()
    cloud.subscription()
    with pytest.raises(exceptions.InvalidArgument):
        cloud.publish_messages([{"data": b"fine"}, {}])
    assert cloud.pull(timeout=0.2) == []


@pytest.mark.emulator_differs("does not limit attributes")
@pytest.mark.parametrize(
    "attributes",
    [{f"key{n}": "value" for n in range(101)}, {"k" * 257: "value"}, {"key": "v" * 1025}],
    ids=["101 attributes", "a key of 257 bytes", "a value of 1025 bytes"],
)
def test_attributes_past_the_limits_are_refused(cloud, attributes):
    cloud.topic()
    with pytest.raises(exceptions.InvalidArgument):
        cloud.publish(b"data", **attributes)


def test_attributes_at_the_limits_are_accepted(cloud):
    cloud.topic()
    cloud.subscription()
    attributes = {f"{n:03d}".ljust(256, "k"): "v" * 1024 for n in range(100)}
    cloud.publish(b"data", **attributes)
    assert dict(cloud.pull()[0].message.attributes) == attributes


def test_ten_megabytes_of_data_are_delivered(cloud, endpoint):
    # By push: with PUBSUB_EMULATOR_HOST the client's own channel receives 4 MB at most.
    cloud.topic()
    cloud.subscription(push_config={"push_endpoint": endpoint.url})
    cloud.publish(b"x" * 10_000_000)
    assert base64.b64decode(endpoint.wait_for(1)[0].message["data"]) == b"x" * 10_000_000


@pytest.mark.emulator_differs("does not answer to more than 10 MB", run=False)
def test_more_than_ten_megabytes_of_data_are_refused(cloud):
    cloud.topic()
    with pytest.raises(exceptions.InvalidArgument):
        cloud.publish(b"x" * 10_000_100)


def test_the_high_level_publisher_delivers_what_it_batches(cloud):
    topic = cloud.topic()
    cloud.subscription()
    futures = [cloud.publisher.publish(topic, f"{n}".encode()) for n in range(30)]
    message_ids = {future.result(timeout=10) for future in futures}
    received = cloud.pull_all(count=30)
    assert {one.message.message_id for one in received} == message_ids
