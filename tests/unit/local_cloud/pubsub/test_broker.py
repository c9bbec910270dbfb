"""The rules between topics and subscriptions, on a clock that the test moves."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from google.pubsub_v1 import types
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from local_cloud.api import ApiError
from local_cloud.faults import Faults
from local_cloud.iam import Iam
from local_cloud.pubsub.broker import Broker, UnknownAckIds
from local_cloud.pubsub.catalog import Catalog
from local_cloud.pubsub.store import Store

TOPIC = "projects/p/topics/news"
LETTERS = "projects/p/topics/letters"
READER = "projects/p/subscriptions/reader"
UNDERTAKER = "projects/p/subscriptions/undertaker"
DAY = 24 * 3600


class SetClock:
    """A clock that stands still until it is moved."""

    def __init__(self):
        self.seconds = 1_000.0

    def time(self):
        return 1_800_000_000.0 + self.seconds

    def monotonic(self):
        return self.seconds


class World:
    """A broker over a real store, which can be stopped and started again."""

    def __init__(self, folder: Path):
        self.folder, self.clock, self.faults = folder, SetClock(), Faults()
        self.start()

    def start(self):
        self.store = Store(self.folder)
        self.catalog = Catalog(self.store, faults=self.faults)
        self.broker = Broker(self.catalog, self.store, faults=self.faults, clock=self.clock, iam=Iam.of_one_owner())

    def restart(self):
        self.store.close()
        self.start()

    def subscribe(self, name=READER, topic=TOPIC, **fields):
        for needed in (topic, fields.get("dead_letter_policy", {}).get("dead_letter_topic", topic)):
            if needed not in {one.name for one in self.catalog.topics("projects/p")}:
                self.catalog.create_topic(types.Topic.pb(types.Topic(name=needed)))
        resource = types.Subscription({"name": name, "topic": topic, **fields})
        self.catalog.create_subscription(types.Subscription.pb(resource))

    def publish(self, *datas, key="", **attributes):
        messages = [{"data": data, "attributes": attributes, "ordering_key": key} for data in datas]
        return self.broker.publish(TOPIC, [types.PubsubMessage.pb(types.PubsubMessage(m)) for m in messages])

    def pull(self, name=READER, most=100, lease_seconds=10.0):
        return self.broker.wait_for_messages(
            name,
            limit=lambda: most,
            lease_seconds=lambda _: lease_seconds,
            until=0,
            interrupted=lambda: False,
        )

    def acknowledge(self, *leases, name=READER):
        self.broker.acknowledge(name, [lease.ack_id for lease in leases])

    def nack(self, *leases, name=READER):
        self.broker.modify_ack_deadline(name, [lease.ack_id for lease in leases], 0)


def _datas(leases):
    return [lease.message.body.data for lease in leases]


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.store.close()


def test_a_lease_ends_exactly_at_its_deadline(world):
    world.subscribe()
    world.publish(b"data")
    (first,) = world.pull()
    world.clock.seconds += 9.9
    assert world.pull() == []
    world.clock.seconds += 0.1
    (second,) = world.pull()
    assert (first.attempt, second.attempt) == (1, 2)


def test_an_ended_lease_settles_nothing(world):
    world.subscribe()
    world.publish(b"data")
    (first,) = world.pull()
    world.clock.seconds += 10
    world.acknowledge(first)
    (second,) = world.pull()
    world.nack(first)
    assert world.pull() == []
    world.acknowledge(second)
    assert world.broker.backlog_sizes() == {READER: 0}


def test_an_extended_lease_can_be_shortened_again(world):
    world.subscribe()
    world.publish(b"data")
    (lease,) = world.pull()
    world.broker.modify_ack_deadline(READER, [lease.ack_id], 600)
    world.clock.seconds += 500
    assert world.pull() == []
    world.broker.modify_ack_deadline(READER, [lease.ack_id], 10)
    world.clock.seconds += 10
    assert _datas(world.pull()) == [b"data"]


def test_a_lease_extended_to_the_same_moment_ends_once(world):
    world.subscribe(dead_letter_policy={"dead_letter_topic": LETTERS, "max_delivery_attempts": 5})
    world.publish(b"data")
    (lease,) = world.pull()
    world.broker.modify_ack_deadline(READER, [lease.ack_id], 10)
    world.clock.seconds += 10
    assert [lease.attempt for lease in world.pull()] == [2]


def test_a_message_older_than_the_retention_is_forgotten(world):
    world.subscribe(message_retention_duration=datetime.timedelta(minutes=10))
    world.publish(b"old")
    world.clock.seconds += 599
    world.publish(b"young")
    world.clock.seconds += 1.5
    assert _datas(world.pull()) == [b"young"]
    world.restart()
    assert world.broker.backlog_sizes() == {READER: 1}


def test_retention_unblocks_the_ordering_key_of_the_message_it_takes(world):
    world.subscribe(message_retention_duration=datetime.timedelta(minutes=10), enable_message_ordering=True)
    world.publish(b"old", key="k")
    world.clock.seconds += 300
    world.publish(b"young", key="k")
    world.pull(lease_seconds=600)
    world.clock.seconds += 301
    assert _datas(world.pull()) == [b"young"]


def test_the_back_off_of_a_retry_policy_applies_to_nacks_and_to_ended_leases(world):
    policy = {"minimum_backoff": datetime.timedelta(seconds=10), "maximum_backoff": datetime.timedelta(seconds=30)}
    world.subscribe(retry_policy=policy)
    world.publish(b"data")
    waits = []
    for number in range(4):
        (lease,) = world.pull()
        if number % 2:
            world.nack(lease)
        else:
            world.clock.seconds += 10
            assert world.pull() == []
        start = world.clock.seconds
        while not (leases := world.pull()):
            world.clock.seconds += 1
        waits.append(world.clock.seconds - start)
        world.broker.modify_ack_deadline(READER, [leases[0].ack_id], 0)
        world.clock.seconds += 600
    assert waits[0] == 10
    assert waits[1:] == [30, 30, 30]


def test_a_dead_letter_keeps_its_body_and_says_where_it_comes_from(world):
    world.subscribe(UNDERTAKER, topic=LETTERS)
    world.subscribe(dead_letter_policy={"dead_letter_topic": LETTERS, "max_delivery_attempts": 5})
    published = world.clock.time()
    world.publish(b"poison", key="k", run_id="flowers-1")
    for _ in range(5):
        (lease,) = world.pull()
        world.clock.seconds += 3
        world.nack(lease)
    (letter,) = world.pull(UNDERTAKER)
    assert letter.message.body.data == b"poison"
    assert letter.message.body.ordering_key == "k"
    assert letter.message.body.message_id != lease.message.body.message_id
    attributes = dict(letter.message.body.attributes)
    moment = attributes.pop("CloudPubSubDeadLetterSourceTopicPublishTime")
    assert datetime.datetime.fromisoformat(moment).timestamp() == published
    assert attributes == {
        "run_id": "flowers-1",
        "CloudPubSubDeadLetterSourceDeliveryCount": "5",
        "CloudPubSubDeadLetterSourceSubscription": "reader",
        "CloudPubSubDeadLetterSourceSubscriptionProject": "p",
    }
    assert world.broker.backlog_sizes() == {READER: 0, UNDERTAKER: 1}
    world.restart()
    assert world.broker.backlog_sizes() == {READER: 0, UNDERTAKER: 1}


def test_a_dead_letter_without_its_topic_is_tried_on(world):
    world.subscribe(dead_letter_policy={"dead_letter_topic": LETTERS, "max_delivery_attempts": 5})
    world.publish(b"poison")
    world.catalog.delete_topic(LETTERS)
    for attempt in range(1, 8):
        (lease,) = world.pull()
        assert lease.attempt == attempt
        world.nack(lease)


def test_attempts_survive_a_restart(world):
    world.subscribe()
    world.publish(b"data")
    world.nack(*world.pull())
    world.pull()
    world.restart()
    assert [lease.attempt for lease in world.pull()] == [3]


def test_message_ids_are_not_used_again_after_a_restart(world):
    world.subscribe()
    before = world.publish(b"one", b"two")
    world.acknowledge(*world.pull())
    world.restart()
    after = world.publish(b"three")
    assert not set(before) & set(after)


def test_an_expired_ack_id_is_refused_under_exactly_once_delivery_and_the_others_count(world):
    world.subscribe(enable_exactly_once_delivery=True)
    world.publish(b"one", b"two")
    one, two = world.pull()
    world.broker.modify_ack_deadline(READER, [two.ack_id], 60)
    world.clock.seconds += 10
    with pytest.raises(UnknownAckIds) as refused:
        world.acknowledge(one, two)
    assert refused.value.ack_ids == [one.ack_id]
    assert _datas(world.pull()) == [b"one"]


def test_a_seek_keeps_what_is_newer(world):
    world.subscribe(retain_acked_messages=True)
    world.publish(b"old")
    world.clock.seconds += 10
    moment = world.clock.time()
    world.publish(b"new")
    world.acknowledge(*world.pull())
    world.catalog.seek(READER, moment)
    assert _datas(world.pull()) == [b"new"]
    world.restart()
    assert _datas(world.pull()) == [b"new"]
    world.catalog.seek(READER, 0)
    assert _datas(world.pull()) == [b"old", b"new"]


def test_a_detached_subscription_owes_nothing_and_cannot_be_pulled(world):
    world.subscribe()
    world.publish(b"data")
    world.catalog.detach_subscription(READER)
    world.publish(b"more")
    with pytest.raises(ApiError, match="detached"):
        world.pull()
    world.restart()
    assert world.broker.backlog_sizes() == {READER: 0}


def test_a_deleted_subscription_leaves_no_message_behind(world):
    world.subscribe()
    world.subscribe(UNDERTAKER)
    world.publish(b"data")
    world.catalog.delete_subscription(READER)
    assert len(list(world.store.messages())) == 1
    world.catalog.delete_subscription(UNDERTAKER)
    assert list(world.store.messages()) == []


class Deliveries(RuleBasedStateMachine):
    """At least once: whatever happens, each message is owed until it was acknowledged, and then no more."""

    folder: Path

    def __init__(self):
        super().__init__()
        import tempfile

        self.directory = tempfile.TemporaryDirectory()
        self.world = World(Path(self.directory.name))
        self.world.subscribe(enable_message_ordering=True)
        self.owed, self.leases, self.order = set(), [], {}

    @rule(keys=st.lists(st.sampled_from(["", "a", "b"]), min_size=1, max_size=4))
    def publish(self, keys):
        for key in keys:
            (message_id,) = self.world.publish(b"data", key=key)
            self.owed.add(message_id)
            self.order.setdefault(key, []).append(message_id)

    @rule(most=st.integers(1, 4))
    def pull(self, most):
        for lease in self.world.pull(most=most):
            body = lease.message.body
            assert body.message_id in self.owed
            if body.ordering_key:
                first_owed = next(one for one in self.order[body.ordering_key] if one in self.owed)
                assert body.message_id == first_owed
            self.leases.append((lease, self.world.clock.seconds + 10))

    @rule(data=st.data())
    def acknowledge_one(self, data):
        if self.leases:
            lease, until = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
            self.world.acknowledge(lease)
            if self.world.clock.seconds < until:
                self.owed.discard(lease.message.body.message_id)

    @rule(data=st.data())
    def nack_one(self, data):
        if self.leases:
            self.world.nack(self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))[0])

    @rule(seconds=st.sampled_from([1, 9, 10, 30]))
    def time_passes(self, seconds):
        self.world.clock.seconds += seconds

    @rule()
    def restart(self):
        self.world.restart()
        self.leases = []

    @invariant()
    def everything_unacknowledged_is_owed(self):
        assert self.world.broker.backlog_sizes() == {READER: len(self.owed)}

    def teardown(self):
        # All that is owed can still be had: no message is stuck behind another for good.
        for _ in range(len(self.owed) + 1):
            self.world.clock.seconds += 60
            leases = self.world.pull()
            self.owed -= {lease.message.body.message_id for lease in leases}
            self.world.acknowledge(*leases)
        assert not self.owed
        self.world.store.close()
        self.directory.cleanup()


TestDeliveries = Deliveries.TestCase
TestDeliveries.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
