"""Pull, streaming pull, acknowledgement, leases, ordering, retries and dead letters on pull subscriptions."""

from __future__ import annotations

import datetime
import threading
import time

import pytest
from google.api_core import exceptions
from google.cloud.pubsub_v1.subscriber.exceptions import AcknowledgeError, AcknowledgeStatus


def _datas(received):
    return [one.message.data for one in received]


def test_an_acknowledged_message_does_not_come_again(cloud):
    cloud.topic()
    cloud.subscription()
    cloud.publish(b"once")
    (received,) = cloud.pull()
    cloud.acknowledge(received)
    cloud.modify_ack_deadline(received, seconds=0)
    assert cloud.pull(timeout=0.2) == []


def test_a_leased_message_does_not_come_again_while_the_lease_holds(cloud):
    cloud.topic()
    cloud.subscription()
    cloud.publish(b"leased")
    assert _datas(cloud.pull()) == [b"leased"]
    assert cloud.pull(timeout=0.2) == []


def test_a_nacked_message_comes_again_with_another_ack_id(cloud):
    cloud.topic()
    cloud.subscription()
    cloud.publish(b"again")
    (first,) = cloud.pull()
    cloud.modify_ack_deadline(first, seconds=0)
    (second,) = cloud.pull()
    assert second.message.message_id == first.message.message_id
    assert second.ack_id != first.ack_id


def test_a_message_whose_lease_is_over_comes_again(cloud):
    cloud.topic()
    cloud.subscription()
    cloud.publish(b"again")
    (first,) = cloud.pull()
    before = time.monotonic()
    cloud.modify_ack_deadline(first, seconds=1)
    assert _datas(cloud.pull()) == [b"again"]
    assert time.monotonic() - before > 0.5


def test_an_extended_lease_holds(cloud):
    cloud.topic()
    cloud.subscription()
    cloud.publish(b"extended")
    (received,) = cloud.pull()
    cloud.modify_ack_deadline(received, seconds=1)
    cloud.modify_ack_deadline(received, seconds=60)
    assert cloud.pull(timeout=1.5) == []


def test_a_pull_returns_at_most_as_many_messages_as_asked_for(cloud):
    cloud.topic()
    cloud.subscription()
    cloud.publish_messages([{"data": b"%d" % n} for n in range(5)])
    first = cloud.pull(most=2)
    assert 1 <= len(first) <= 2
    rest = cloud.pull_all(count=5 - len(first))
    assert sorted(_datas(first + rest)) == [b"%d" % n for n in range(5)]


def test_a_pull_of_no_messages_is_refused(cloud):
    cloud.topic()
    cloud.subscription()
    with pytest.raises(exceptions.InvalidArgument):
        cloud.pull(most=0)


def test_a_waiting_pull_gets_a_message_as_soon_as_it_is_published(cloud):
    cloud.topic()
    name = cloud.subscription()
    publish = threading.Timer(0.3, cloud.publish, args=(b"at last",))
    publish.start()
    before = time.monotonic()
    response = cloud.subscriber.pull(subscription=name, max_messages=1, timeout=20)
    publish.join()
    assert _datas(response.received_messages) == [b"at last"]
    assert time.monotonic() - before < 15


@pytest.mark.parametrize(
    "seconds", [-1, pytest.param(601, marks=pytest.mark.emulator_differs("accepts more than 600 s"))]
)
def test_an_ack_deadline_modified_past_the_limits_is_refused(cloud, seconds):
    cloud.topic()
    cloud.subscription()
    cloud.publish(b"data")
    (received,) = cloud.pull()
    with pytest.raises(exceptions.InvalidArgument):
        cloud.modify_ack_deadline(received, seconds=seconds)


@pytest.mark.emulator_differs("serves pulls of a push subscription")
def test_a_push_subscription_cannot_be_pulled(cloud, endpoint):
    cloud.topic()
    cloud.subscription(push_config={"push_endpoint": endpoint.url})
    with pytest.raises(exceptions.FailedPrecondition):
        cloud.pull(timeout=0.2)


# Streaming pull, as the high-level client does it


def test_a_subscriber_receives_and_acknowledges(cloud):
    cloud.topic()
    name = cloud.subscription()
    cloud.publish_messages([{"data": b"%d" % n} for n in range(20)])
    received, done = [], threading.Event()

    def callback(message):
        received.append(message.data)
        message.ack()
        if len(received) == 25:
            done.set()

    future = cloud.subscriber.subscribe(name, callback)
    cloud.publish_messages([{"data": b"%d" % n} for n in range(20, 25)])
    assert done.wait(10)
    future.cancel()
    future.result(timeout=10)
    assert sorted(received) == sorted(b"%d" % n for n in range(25))
    assert cloud.pull(timeout=0.2) == []


def test_a_message_that_a_subscriber_nacks_comes_again(cloud):
    cloud.topic()
    name = cloud.subscription()
    cloud.publish(b"again")
    message_ids, done = [], threading.Event()

    def callback(message):
        message_ids.append(message.message_id)
        if len(message_ids) < 3:
            message.nack()
        else:
            message.ack()
            done.set()

    future = cloud.subscriber.subscribe(name, callback)
    assert done.wait(10)
    future.cancel()
    future.result(timeout=10)
    assert len(set(message_ids)) == 1


def test_a_stream_ends_when_its_subscription_is_deleted(cloud):
    cloud.topic()
    name = cloud.subscription()
    future = cloud.subscriber.subscribe(name, lambda message: message.ack())
    time.sleep(0.2)
    cloud.subscriber.delete_subscription(subscription=name)
    with pytest.raises(exceptions.NotFound):
        future.result(timeout=2)


# Exactly-once delivery


def test_an_ack_id_whose_lease_is_over_is_refused_under_exactly_once_delivery(cloud):
    cloud.topic()
    cloud.subscription(enable_exactly_once_delivery=True)
    cloud.publish(b"once")
    (first,) = cloud.pull()
    cloud.modify_ack_deadline(first, seconds=1)
    (second,) = cloud.pull()
    with pytest.raises(exceptions.GoogleAPICallError) as refused:
        cloud.acknowledge(first)
    assert refused.value.code == 400
    assert refused.value.reason == "EXACTLY_ONCE_ACKID_FAILURE"
    assert refused.value.metadata == {first.ack_id: "PERMANENT_FAILURE_INVALID_ACK_ID"}
    cloud.acknowledge(second)


def test_a_subscriber_learns_whether_its_acknowledgement_counted(cloud):
    cloud.topic()
    name = cloud.subscription(enable_exactly_once_delivery=True)
    cloud.publish(b"once")
    outcomes, done = [], threading.Event()

    def callback(message):
        outcomes.append(message.ack_with_response().result(timeout=5))
        try:
            message.ack_with_response().result(timeout=5)
        except AcknowledgeError as error:
            outcomes.append(error.error_code)
        done.set()

    future = cloud.subscriber.subscribe(name, callback)
    assert done.wait(10)
    future.cancel()
    future.result(timeout=10)
    assert outcomes[0] == AcknowledgeStatus.SUCCESS


# Seek


def test_a_seek_to_the_future_acknowledges_everything(cloud):
    cloud.topic()
    name = cloud.subscription()
    cloud.publish(b"gone")
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=1)
    cloud.subscriber.seek(request={"subscription": name, "time": moment})
    assert cloud.pull(timeout=0.2) == []


def test_a_seek_to_the_past_brings_back_what_is_retained(cloud):
    cloud.topic()
    name = cloud.subscription(retain_acked_messages=True)
    cloud.publish(b"back")
    cloud.acknowledge(*cloud.pull())
    assert cloud.pull(timeout=0.2) == []
    moment = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=1)
    cloud.subscriber.seek(request={"subscription": name, "time": moment})
    assert _datas(cloud.pull()) == [b"back"]


# Ordering


def test_messages_of_one_ordering_key_come_in_order(cloud):
    cloud.topic()
    cloud.subscription(enable_message_ordering=True)
    cloud.publish_messages([{"data": b"%d" % n, "ordering_key": "k"} for n in range(5)])
    in_order = []
    while len(in_order) < 5:
        received = cloud.pull()
        assert received
        in_order += _datas(received)
        assert {one.message.ordering_key for one in received} == {"k"}
        cloud.acknowledge(*received)
    assert in_order == [b"%d" % n for n in range(5)]


@pytest.mark.emulator_differs("lets the next message of a key pass a nacked one")
def test_the_next_of_a_key_waits_until_the_one_before_is_acknowledged(cloud):
    cloud.topic()
    cloud.subscription(enable_message_ordering=True)
    cloud.publish_messages([{"data": data, "ordering_key": "k"} for data in (b"first", b"second")])
    (first,) = cloud.pull(most=1)
    assert first.message.data == b"first"
    assert cloud.pull(timeout=0.2) == []
    cloud.modify_ack_deadline(first, seconds=0)
    (again,) = cloud.pull(most=1)
    assert again.message.data == b"first"
    cloud.acknowledge(again)
    assert _datas(cloud.pull()) == [b"second"]


def test_another_key_does_not_wait(cloud):
    cloud.topic()
    cloud.subscription(enable_message_ordering=True)
    cloud.publish(b"first", ordering_key="a")
    assert _datas(cloud.pull()) == [b"first"]
    cloud.publish(b"other", ordering_key="b")
    cloud.publish(b"no key")
    assert sorted(_datas(cloud.pull_all(count=2))) == [b"no key", b"other"]


# Retries and dead letters


@pytest.mark.emulator_differs("does not keep the minimum of a retry policy", run=False)
def test_a_nacked_message_waits_for_the_minimum_backoff_and_then_twice_that(cloud):
    cloud.topic()
    backoff = {"minimum_backoff": datetime.timedelta(seconds=0.4), "maximum_backoff": datetime.timedelta(seconds=9)}
    cloud.subscription(retry_policy=backoff)
    cloud.publish(b"again")
    gaps = []
    (received,) = cloud.pull()
    for _ in range(2):
        nacked = time.monotonic()
        cloud.modify_ack_deadline(received, seconds=0)
        (received,) = cloud.pull()
        gaps.append(time.monotonic() - nacked)
    assert 0.4 <= gaps[0] < 4
    assert 0.8 <= gaps[1] < 4


def test_a_message_that_fails_too_often_becomes_a_dead_letter(cloud):
    cloud.topic()
    letters = cloud.topic("letters")
    cloud.subscription("undertaker", topic="letters")
    cloud.subscription(dead_letter_policy={"dead_letter_topic": letters, "max_delivery_attempts": 5})
    cloud.publish(b"poison", run_id="flowers-1")
    attempts = []
    for _ in range(5):
        (received,) = cloud.pull()
        attempts.append(received.delivery_attempt)
        cloud.modify_ack_deadline(received, seconds=0)
    assert attempts == [1, 2, 3, 4, 5]
    assert cloud.pull(timeout=0.2) == []
    (letter,) = cloud.pull("undertaker")
    assert letter.message.data == b"poison"
    assert letter.message.attributes["run_id"] == "flowers-1"
    assert letter.message.attributes["CloudPubSubDeadLetterSourceDeliveryCount"] == "5"
    assert letter.message.attributes["CloudPubSubDeadLetterSourceSubscription"] == "reader"
    assert letter.message.attributes["CloudPubSubDeadLetterSourceSubscriptionProject"] == cloud.project
    assert datetime.datetime.fromisoformat(
        letter.message.attributes["CloudPubSubDeadLetterSourceTopicPublishTime"]
    ).tzinfo


def test_attempts_are_not_counted_without_a_dead_letter_policy(cloud):
    cloud.topic()
    cloud.subscription()
    cloud.publish(b"data")
    assert not cloud.pull()[0].delivery_attempt
