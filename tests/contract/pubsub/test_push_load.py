"""Many messages, slow endpoints and an idle process (local cloud only)."""

from __future__ import annotations

import threading
import time


def test_an_endpoint_that_hangs_does_not_starve_another(breakable, make_endpoint, eventually):
    cloud = breakable.cloud
    slow, quick, release = make_endpoint(), make_endpoint(), threading.Event()
    slow.before_answer = lambda _: release.wait(20)
    cloud.topic()
    cloud.subscription("slow", push_config={"push_endpoint": slow.url}, ack_deadline_seconds=60)
    cloud.subscription("quick", push_config={"push_endpoint": quick.url}, ack_deadline_seconds=60)
    cloud.publish_messages([{"data": b"%d" % n} for n in range(200)])
    quick.wait_for(200)
    assert len(slow.requests) < 20
    release.set()
    slow.wait_for(200)
    eventually(lambda: set(breakable.pubsub.backlog().values()) == {0})


def test_a_subscription_that_begins_late_still_finds_a_slot(breakable, make_endpoint):
    cloud = breakable.cloud
    slow, late, release = make_endpoint(), make_endpoint(), threading.Event()
    slow.before_answer = lambda _: release.wait(20)
    cloud.topic()
    cloud.subscription("slow", push_config={"push_endpoint": slow.url}, ack_deadline_seconds=60)
    cloud.publish_messages([{"data": b"%d" % n} for n in range(50)])
    slow.wait_for(16)
    cloud.topic("other")
    cloud.subscription("late", topic="other", push_config={"push_endpoint": late.url})
    cloud.publish(b"data", topic="other")
    late.wait_for(1)
    release.set()


def test_a_burst_of_2000_messages_is_pushed_within_seconds(breakable, endpoint, eventually):
    cloud = breakable.cloud
    topic = cloud.topic()
    cloud.subscription(push_config={"push_endpoint": endpoint.url})
    for n in range(2000):
        breakable.pubsub.publish(topic, b"%d" % n, {})
    # 2.7 s on two idle cores.
    requests = endpoint.wait_for(2000, timeout=60)
    assert len({request.message["messageId"] for request in requests}) == 2000
    eventually(lambda: set(breakable.pubsub.backlog().values()) == {0})


def test_an_idle_pubsub_takes_no_processor_time(breakable, endpoint):
    cloud = breakable.cloud
    cloud.topic()
    name = cloud.subscription("streamed")
    for n in range(10):
        cloud.subscription(f"push-{n}", push_config={"push_endpoint": endpoint.url})
    cloud.publish(b"data")
    endpoint.wait_for(10)
    future = cloud.subscriber.subscribe(name, lambda message: message.ack())
    time.sleep(0.5)
    before = time.process_time()
    time.sleep(1.0)
    used = time.process_time() - before
    future.cancel()
    future.result(timeout=5)
    # The whole process: the endpoint's and the client's own threads poll a little.
    assert used < 0.15
