"""What a restart keeps, orderly or by kill -9 (local cloud only)."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading

import pytest

from local_cloud.api import ApiError
from local_cloud.faults import Faults
from local_cloud.pubsub import PubSub
from local_cloud.pubsub.store import StoreUnusable

TOPIC = "projects/p/topics/news"
LETTERS = "projects/p/topics/letters"
READER = "projects/p/subscriptions/reader"

#: A local cloud in a process of its own that serves until it is killed.
SERVE = """
import pathlib, sys, threading
from local_cloud.faults import Faults
from local_cloud.pubsub import PubSub
pubsub = PubSub(faults=Faults(), state_dir=pathlib.Path(sys.argv[1])).start()
print(pubsub.address, flush=True)
threading.Event().wait()
"""


@contextlib.contextmanager
def _running(state_dir, **options):
    pubsub = PubSub(faults=Faults(), state_dir=state_dir, **options).start()
    try:
        yield pubsub
    finally:
        pubsub.close()


@contextlib.contextmanager
def _process(state_dir):
    command = [sys.executable, "-c", SERVE, str(state_dir)]
    environment = {"PYTHONPATH": ":".join(sys.path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.fixture
def connect():
    """Google's clients on an address, for as long as the test runs."""
    from google.cloud import pubsub_v1

    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:

        def make(address):
            patch.setenv("PUBSUB_EMULATOR_HOST", address)
            publisher, subscriber = pubsub_v1.PublisherClient(), pubsub_v1.SubscriberClient()
            stack.callback(subscriber.close)
            stack.callback(publisher.transport.close)
            stack.callback(publisher.stop)
            return publisher, subscriber

        yield make


def _pull(subscriber, most=10):
    return list(subscriber.pull(subscription=READER, max_messages=most, timeout=3).received_messages)


def test_after_kill_9_what_was_not_acknowledged_comes_again_and_the_rest_does_not(tmp_path, connect):
    with _process(tmp_path) as (process, address):
        publisher, subscriber = connect(address)
        publisher.create_topic(name=TOPIC)
        subscriber.create_subscription(name=READER, topic=TOPIC)
        futures = [publisher.publish(TOPIC, f"{n}".encode()) for n in range(20)]
        message_ids = [future.result(timeout=10) for future in futures]
        received = []
        while len(received) < 20:
            received += _pull(subscriber)
        acknowledged = received[:7]
        subscriber.acknowledge(subscription=READER, ack_ids=[one.ack_id for one in acknowledged])
        process.send_signal(signal.SIGKILL)
        process.wait()
    with _process(tmp_path) as (_, address):
        publisher, subscriber = connect(address)
        assert [topic.name for topic in publisher.list_topics(project="projects/p")] == [TOPIC]
        again = _pull(subscriber, most=50)
        handled = {one.message.message_id for one in acknowledged}
        assert {one.message.message_id for one in again} == set(message_ids) - handled
        assert publisher.publish(TOPIC, b"new").result(timeout=10) not in message_ids


def test_a_message_is_pushed_after_a_restart_with_its_attempts_counted_on(tmp_path, make_endpoint):
    endpoint = make_endpoint()
    endpoint.answer = 503
    with _running(tmp_path) as pubsub:
        pubsub.ensure_topic(TOPIC)
        pubsub.ensure_topic(LETTERS)
        pubsub.ensure_subscription(READER, topic=TOPIC, push_endpoint=endpoint.url, dead_letter_topic=LETTERS)
        pubsub.publish(TOPIC, b"patient", {"run_id": "flowers-1"})
        endpoint.wait_for(1)
    before = endpoint.requests[-1].envelope["deliveryAttempt"]
    seen = len(endpoint.requests)
    endpoint.answer = 204
    with _running(tmp_path) as pubsub:
        request = endpoint.wait_for(seen + 1)[-1]
        assert request.message["attributes"] == {"run_id": "flowers-1"}
        assert request.envelope["deliveryAttempt"] == before + 1
        assert set(pubsub.backlog()) == {READER}


def test_an_ack_id_of_before_the_restart_settles_nothing(tmp_path, connect):
    with _running(tmp_path) as pubsub:
        pubsub.ensure_topic(TOPIC)
        pubsub.ensure_subscription(READER, topic=TOPIC)
        pubsub.publish(TOPIC, b"data", {})
        (before,) = _pull(connect(pubsub.address)[1])
    with _running(tmp_path) as pubsub:
        _, subscriber = connect(pubsub.address)
        (after,) = _pull(subscriber)
        subscriber.acknowledge(subscription=READER, ack_ids=[before.ack_id])
        assert pubsub.backlog() == {READER: 1}
        subscriber.acknowledge(subscription=READER, ack_ids=[after.ack_id])
        assert pubsub.backlog() == {READER: 0}


def test_stopping_does_not_wait_for_an_endpoint_that_hangs(tmp_path, make_endpoint, eventually):
    endpoint, release = make_endpoint(), threading.Event()
    endpoint.before_answer = lambda _: release.wait(20)
    pubsub = PubSub(faults=Faults(), state_dir=tmp_path).start()
    pubsub.ensure_topic(TOPIC)
    pubsub.ensure_subscription(READER, topic=TOPIC, push_endpoint=endpoint.url, ack_deadline_seconds=600)
    pubsub.publish(TOPIC, b"data", {})
    endpoint.wait_for(1)
    stopping = threading.Thread(target=pubsub.close)
    stopping.start()
    stopping.join(timeout=3)
    release.set()
    assert not stopping.is_alive()
    with _running(tmp_path) as pubsub:
        endpoint.wait_for(2)
        eventually(lambda: pubsub.backlog() == {READER: 0})


def test_a_second_local_cloud_on_the_same_folder_is_refused(tmp_path):
    with _running(tmp_path), pytest.raises(StoreUnusable, match="another local cloud uses it"):
        PubSub(faults=Faults(), state_dir=tmp_path)


def test_a_second_local_cloud_on_the_same_port_is_refused(tmp_path):
    with _running(tmp_path / "one") as pubsub, pytest.raises(OSError, match="another local cloud"):
        PubSub(faults=Faults(), state_dir=tmp_path / "two", port=pubsub.port)


def test_a_folder_with_something_else_in_it_is_refused_by_name(tmp_path):
    (tmp_path / "pubsub.sqlite3").write_bytes(b"this is not a database, and long enough to see that" * 50)
    with pytest.raises(StoreUnusable, match=r"pubsub\.sqlite3: move it away"):
        PubSub(faults=Faults(), state_dir=tmp_path)


# Bringing a cloud to the state that a topology describes


def test_ensuring_twice_changes_nothing_and_keeps_what_is_owed(tmp_path):
    with _running(tmp_path) as pubsub:
        for _ in range(2):
            pubsub.ensure_topic(TOPIC)
            pubsub.ensure_subscription(READER, topic=TOPIC, filter='attributes.target = "cloud"')
            pubsub.publish(TOPIC, b"data", {"target": "cloud"})
            pubsub.publish(TOPIC, b"data", {"target": "mobile"})
        assert pubsub.backlog() == {READER: 2}


def test_ensuring_another_endpoint_moves_the_deliveries_there(tmp_path, make_endpoint):
    old, new = make_endpoint(), make_endpoint()
    old.close()
    with _running(tmp_path) as pubsub:
        pubsub.ensure_topic(TOPIC)
        pubsub.ensure_subscription(READER, topic=TOPIC, push_endpoint=old.url, minimum_backoff=0.1)
        pubsub.publish(TOPIC, b"data", {})
        pubsub.ensure_subscription(READER, topic=TOPIC, push_endpoint=new.url)
        new.wait_for(1)


def test_ensuring_another_filter_is_refused_because_filters_never_change(tmp_path):
    with _running(tmp_path) as pubsub:
        pubsub.ensure_topic(TOPIC)
        pubsub.ensure_subscription(READER, topic=TOPIC, filter="attributes:a")
        with pytest.raises(ApiError, match="filter 'attributes:a'"):
            pubsub.ensure_subscription(READER, topic=TOPIC, filter="attributes:b")


def test_a_client_can_change_a_subscription_with_a_deadline_only_the_local_cloud_may_set(
    tmp_path, connect, make_endpoint
):
    with _running(tmp_path) as pubsub:
        pubsub.ensure_topic(TOPIC)
        pubsub.ensure_subscription(READER, topic=TOPIC, ack_deadline_seconds=1)
        endpoint = make_endpoint()
        _, subscriber = connect(pubsub.address)
        subscriber.modify_push_config(subscription=READER, push_config={"push_endpoint": endpoint.url})
        pubsub.publish(TOPIC, b"data", {})
        endpoint.wait_for(1)
