"""Planned faults: what a caller or an endpoint sees when Pub/Sub fails on command (local cloud only)."""

from __future__ import annotations

import base64
import datetime
import threading
import time

import pytest
from google.api_core import exceptions

from local_cloud.faults import UnknownOperation


def _datas(requests):
    return [base64.b64decode(request.message["data"]) for request in requests]


@pytest.fixture
def pushing(breakable, endpoint):
    """A push subscription `reader` with quick retries, and deadlines of 1 s."""
    cloud = breakable.cloud
    cloud.topic()
    breakable.pubsub.ensure_subscription(
        cloud.subscription_name(),
        topic=cloud.topic_name(),
        push_endpoint=endpoint.url,
        ack_deadline_seconds=1,
        minimum_backoff=0.1,
        maximum_backoff=0.1,
    )
    return breakable


# Calls


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("return-503", exceptions.ServiceUnavailable),
        ("return-429", exceptions.ResourceExhausted),
        ("return-403", exceptions.PermissionDenied),
        ("return-500", exceptions.InternalServerError),
        ("reset-connection", exceptions.ServiceUnavailable),
    ],
)
def test_a_failed_publish_publishes_nothing(breakable, fault, error):
    cloud = breakable.cloud
    cloud.topic()
    cloud.subscription()
    with breakable.faults.plan({"pubsub.publish": [fault]}), pytest.raises(error):
        cloud.publish(b"lost")
    assert cloud.pull(timeout=0.1) == []


def test_a_publish_whose_response_is_lost_has_published(breakable):
    cloud = breakable.cloud
    cloud.topic()
    cloud.subscription()
    with (
        breakable.faults.plan({"pubsub.publish": ["lost-response"]}),
        pytest.raises(exceptions.ServiceUnavailable),
    ):
        cloud.publish(b"published")
    assert [one.message.data for one in cloud.pull()] == [b"published"]


def test_the_high_level_publisher_repeats_a_publish_whose_response_was_lost(breakable):
    cloud = breakable.cloud
    topic = cloud.topic()
    cloud.subscription()
    with breakable.faults.plan({"pubsub.publish": ["lost-response"]}):
        cloud.publisher.publish(topic, b"twice").result(timeout=10)
    received = cloud.pull_all(count=2)
    assert [one.message.data for one in received] == [b"twice", b"twice"]
    assert len({one.message.message_id for one in received}) == 2


def test_a_call_that_hangs_is_done_after_that_time(breakable):
    cloud = breakable.cloud
    cloud.topic()
    with breakable.faults.plan({"pubsub.publish": ["hang:0.4"]}):
        before = time.monotonic()
        cloud.publish(b"late")
    assert time.monotonic() - before >= 0.4


def test_a_lost_acknowledgement_brings_the_message_again(breakable):
    cloud = breakable.cloud
    cloud.topic()
    cloud.subscription()
    cloud.publish(b"again")
    (received,) = cloud.pull()
    cloud.modify_ack_deadline(received, seconds=1)
    with breakable.faults.plan({"pubsub.acknowledge": ["return-500"]}), pytest.raises(exceptions.InternalServerError):
        cloud.acknowledge(received)
    assert [one.message.data for one in cloud.pull()] == [b"again"]


def test_a_stream_that_breaks_is_opened_again_by_the_client(breakable, eventually):
    cloud = breakable.cloud
    cloud.topic()
    name = cloud.subscription()
    received = []

    def callback(message):
        received.append(message.data)
        message.ack()

    with breakable.faults.plan({"pubsub.streamingPull": ["return-503", "reset-connection"]}):
        future = cloud.subscriber.subscribe(name, callback)
        eventually(lambda: not breakable.faults.pending())
        cloud.publish(b"in the end")
        eventually(lambda: received == [b"in the end"])
    future.cancel()
    future.result(timeout=5)


def test_every_method_is_an_operation_of_its_own(breakable):
    operations = {operation.name: operation for operation in breakable.pubsub.operations}
    assert operations["pubsub.publish"].path == "google.pubsub.v1.Publisher/Publish"
    assert operations["pubsub.streamingPull"].method == "gRPC"
    assert set(operations) <= set(breakable.faults.operations())
    assert len(operations) == len(breakable.pubsub.operations)


# Deliveries


def test_faults_of_deliveries_are_planned_by_the_name_of_the_subscription(breakable):
    cloud = breakable.cloud
    cloud.topic()
    with pytest.raises(UnknownOperation):
        breakable.faults.add({"delivery.reader": ["drop"]})
    cloud.subscription()
    breakable.faults.add({"delivery.reader": ["drop"]})


def test_a_duplicated_delivery_arrives_twice_at_once(pushing, endpoint):
    # Neither is answered before both have come.
    both = threading.Barrier(2, timeout=0.9)
    endpoint.before_answer = lambda _: both.wait()
    with pushing.faults.plan({"delivery.reader": ["duplicate"]}):
        message_id = pushing.cloud.publish(b"twice")
        first, second = endpoint.wait_for(2)
    assert first.message["messageId"] == second.message["messageId"] == message_id
    time.sleep(0.8)
    assert len(endpoint.requests) == 2


def test_a_duplicated_pull_arrives_again_after_its_acknowledgement(breakable):
    cloud = breakable.cloud
    cloud.topic()
    cloud.subscription()
    with breakable.faults.plan({"delivery.reader": ["duplicate"]}):
        cloud.publish(b"twice")
        (first,) = cloud.pull()
    cloud.acknowledge(first)
    (second,) = cloud.pull()
    cloud.acknowledge(second)
    assert first.message.message_id == second.message.message_id
    assert cloud.pull(timeout=0.2) == []


def test_a_dropped_delivery_comes_after_the_ack_deadline(pushing, endpoint):
    with pushing.faults.plan({"delivery.reader": ["drop"]}):
        before = time.monotonic()
        pushing.cloud.publish(b"late")
        (request,) = endpoint.wait_for(1)
    assert request.at - before >= 1.0


def test_a_delayed_delivery_comes_later_and_the_next_one_before_it(pushing, endpoint):
    with pushing.faults.plan({"delivery.reader": ["delay:1.5"]}):
        before = time.monotonic()
        pushing.cloud.publish(b"delayed")
        pushing.cloud.publish(b"prompt")
        requests = endpoint.wait_for(2)
    assert _datas(requests) == [b"prompt", b"delayed"]
    assert requests[1].at - before >= 1.5


def test_a_reordered_delivery_follows_the_next_one(pushing, endpoint):
    with pushing.faults.plan({"delivery.reader": ["reorder"]}):
        pushing.cloud.publish(b"first")
        time.sleep(0.3)
        assert endpoint.requests == []
        pushing.cloud.publish(b"second")
        assert _datas(endpoint.wait_for(2)) == [b"second", b"first"]


def test_a_reordered_pull_follows_the_next_one(breakable):
    cloud = breakable.cloud
    cloud.topic()
    cloud.subscription()
    with breakable.faults.plan({"delivery.reader": ["reorder"]}):
        cloud.publish(b"first")
        assert cloud.pull(timeout=0.1) == []
        cloud.publish(b"second")
        assert [one.message.data for one in cloud.pull()] == [b"second"]
    assert [one.message.data for one in cloud.pull()] == [b"first"]


@pytest.mark.parametrize("fault", ["return-503", "reset-connection"])
def test_a_failed_delivery_never_reaches_the_endpoint_and_is_retried(pushing, endpoint, fault):
    with pushing.faults.plan({"delivery.reader": [fault, fault]}):
        pushing.cloud.publish(b"third time lucky")
        endpoint.wait_for(1)
    time.sleep(0.3)
    assert len(endpoint.requests) == 1


def test_a_lost_answer_brings_the_message_again_though_it_was_handled(pushing, endpoint):
    with pushing.faults.plan({"delivery.reader": ["lost-response"]}):
        pushing.cloud.publish(b"handled")
        assert _datas(endpoint.wait_for(2)) == [b"handled", b"handled"]


def test_a_delivery_that_hangs_past_its_deadline_comes_twice(pushing, endpoint):
    with pushing.faults.plan({"delivery.reader": ["hang:1.3"]}):
        pushing.cloud.publish(b"slow")
        assert _datas(endpoint.wait_for(2)) == [b"slow", b"slow"]


def test_an_endpoint_slower_than_the_ack_deadline_gets_the_message_again(pushing, endpoint):
    endpoint.before_answer = lambda request: time.sleep(1.4 if request is endpoint.requests[0] else 0)
    pushing.cloud.publish(b"slow")
    first, second = endpoint.wait_for(2)
    assert second.at - first.at >= 0.9
    time.sleep(0.6)
    assert len(endpoint.requests) == 2


def test_a_fault_counts_as_a_delivery_attempt(breakable, endpoint):
    cloud = breakable.cloud
    cloud.topic()
    letters = cloud.topic("letters")
    cloud.subscription(
        push_config={"push_endpoint": endpoint.url},
        dead_letter_policy={"dead_letter_topic": letters, "max_delivery_attempts": 5},
        retry_policy={"minimum_backoff": datetime.timedelta(0), "maximum_backoff": datetime.timedelta(0)},
    )
    cloud.subscription("undertaker", topic="letters")
    with breakable.faults.plan({"delivery.reader": ["return-503"] * 5}):
        cloud.publish(b"poison")
        (letter,) = cloud.pull("undertaker")
    assert letter.message.data == b"poison"
    assert endpoint.requests == []
