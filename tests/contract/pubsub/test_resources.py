"""Topics and subscriptions: created, read, listed, changed, deleted, and refused."""

from __future__ import annotations

import datetime

import pytest
from google.api_core import exceptions
from google.protobuf import field_mask_pb2


def _mask(*paths):
    return field_mask_pb2.FieldMask(paths=list(paths))


def test_a_created_topic_can_be_read(cloud):
    name = cloud.topic()
    assert cloud.publisher.get_topic(topic=name).name == name


def test_a_second_topic_of_the_same_name_is_refused(cloud):
    name = cloud.topic()
    with pytest.raises(exceptions.AlreadyExists):
        cloud.publisher.create_topic(name=name)


def test_a_missing_topic_is_not_found(cloud):
    with pytest.raises(exceptions.NotFound):
        cloud.publisher.get_topic(topic=cloud.topic_name("absent"))
    with pytest.raises(exceptions.NotFound):
        cloud.publisher.delete_topic(topic=cloud.topic_name("absent"))


@pytest.mark.parametrize("identifier", ["1abc", "ab", "google-news", "with space", "a/b"])
def test_a_topic_name_outside_the_syntax_is_refused(cloud, identifier):
    with pytest.raises(exceptions.InvalidArgument):
        cloud.publisher.create_topic(name=cloud.topic_name(identifier))


def test_topics_are_listed_page_by_page_within_their_project(cloud):
    created = [cloud.topic(f"topic-{letter}") for letter in "abc"]
    request = {"project": f"projects/{cloud.project}", "page_size": 2}
    pages = list(cloud.publisher.list_topics(request=request).pages)
    assert sorted(topic.name for page in pages for topic in page.topics) == created
    assert [len(page.topics) for page in pages] == [2, 1]


@pytest.mark.emulator_differs("cannot change the labels of a topic")
def test_the_labels_of_a_topic_can_change(cloud):
    name = cloud.topic()
    changes = {"name": name, "labels": {"team": "vision"}}
    cloud.publisher.update_topic(topic=changes, update_mask=_mask("labels"))
    assert dict(cloud.publisher.get_topic(topic=name).labels) == {"team": "vision"}


def test_a_created_subscription_can_be_read_with_its_defaults(cloud):
    topic = cloud.topic()
    name = cloud.subscription()
    subscription = cloud.subscriber.get_subscription(subscription=name)
    assert subscription.topic == topic
    assert subscription.ack_deadline_seconds == 10
    assert subscription.message_retention_duration == datetime.timedelta(days=7)
    assert not subscription.push_config.push_endpoint


def test_a_second_subscription_of_the_same_name_is_refused(cloud):
    cloud.topic()
    cloud.subscription()
    with pytest.raises(exceptions.AlreadyExists):
        cloud.subscription()


def test_a_subscription_needs_an_existing_topic(cloud):
    with pytest.raises(exceptions.NotFound):
        cloud.subscription(topic="absent")


def test_a_missing_subscription_is_not_found(cloud):
    name = cloud.subscription_name("absent")
    with pytest.raises(exceptions.NotFound):
        cloud.subscriber.get_subscription(subscription=name)
    with pytest.raises(exceptions.NotFound):
        cloud.subscriber.delete_subscription(subscription=name)
    with pytest.raises(exceptions.NotFound):
        cloud.subscriber.acknowledge(subscription=name, ack_ids=["1"])
    with pytest.raises(exceptions.NotFound):
        cloud.pull("absent")


@pytest.mark.parametrize("seconds", [-1, pytest.param(9, marks=pytest.mark.emulator_differs("accepts 9 s")), 601])
def test_an_ack_deadline_outside_10_to_600_seconds_is_refused(cloud, seconds):
    cloud.topic()
    with pytest.raises(exceptions.InvalidArgument):
        cloud.subscription(ack_deadline_seconds=seconds)


def test_subscriptions_are_listed_by_project_and_by_topic(cloud):
    topic = cloud.topic()
    cloud.topic("other")
    first, second = cloud.subscription("first"), cloud.subscription("second")
    other = cloud.subscription("third", topic="other")
    listed = cloud.subscriber.list_subscriptions(project=f"projects/{cloud.project}")
    assert sorted(one.name for one in listed) == [first, second, other]
    assert sorted(cloud.publisher.list_topic_subscriptions(topic=topic)) == [first, second]


def test_the_fields_in_the_mask_change_and_no_others(cloud):
    cloud.topic()
    name = cloud.subscription(labels={"team": "vision"})
    changes = {"name": name, "ack_deadline_seconds": 77, "labels": {"team": "other"}}
    cloud.subscriber.update_subscription(subscription=changes, update_mask=_mask("ack_deadline_seconds"))
    updated = cloud.subscriber.get_subscription(subscription=name)
    assert updated.ack_deadline_seconds == 77
    assert dict(updated.labels) == {"team": "vision"}


def test_the_filter_of_a_subscription_cannot_change(cloud):
    cloud.topic()
    name = cloud.subscription(filter='attributes.a = "b"')
    changes = {"name": name, "filter": 'attributes.a = "c"'}
    with pytest.raises(exceptions.InvalidArgument):
        cloud.subscriber.update_subscription(subscription=changes, update_mask=_mask("filter"))


def test_an_update_without_a_mask_is_refused(cloud):
    cloud.topic()
    name = cloud.subscription()
    with pytest.raises(exceptions.InvalidArgument):
        cloud.subscriber.update_subscription(subscription={"name": name}, update_mask=_mask())


def test_a_subscription_outlives_its_topic_and_keeps_its_messages(cloud):
    topic = cloud.topic()
    name = cloud.subscription()
    cloud.publish(b"kept")
    cloud.publisher.delete_topic(topic=topic)
    assert cloud.subscriber.get_subscription(subscription=name).topic == "_deleted-topic_"
    assert [one.message.data for one in cloud.pull()] == [b"kept"]


def test_a_topic_created_again_does_not_get_its_old_subscriptions_back(cloud):
    topic = cloud.topic()
    cloud.subscription()
    cloud.publisher.delete_topic(topic=topic)
    cloud.topic()
    cloud.publish(b"not for the old subscription")
    assert cloud.pull(timeout=0.2) == []


@pytest.mark.emulator_differs("accepts any number of delivery attempts")
def test_a_dead_letter_policy_with_too_few_attempts_is_refused(cloud):
    cloud.topic()
    letters = cloud.topic("letters")
    with pytest.raises(exceptions.InvalidArgument):
        cloud.subscription(dead_letter_policy={"dead_letter_topic": letters, "max_delivery_attempts": 4})


def test_a_dead_letter_policy_needs_an_existing_topic(cloud):
    cloud.topic()
    absent = cloud.topic_name("absent")
    with pytest.raises(exceptions.NotFound):
        cloud.subscription(dead_letter_policy={"dead_letter_topic": absent, "max_delivery_attempts": 5})


@pytest.mark.emulator_differs("has snapshots")
def test_a_method_that_is_missing_answers_unimplemented(cloud):
    cloud.topic()
    name = cloud.subscription()
    snapshot = f"projects/{cloud.project}/snapshots/snapshot"
    with pytest.raises(exceptions.MethodNotImplemented, match="CreateSnapshot"):
        cloud.subscriber.create_snapshot(name=snapshot, subscription=name)
