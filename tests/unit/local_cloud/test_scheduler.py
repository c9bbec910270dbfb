"""The clock beats, also after a beat that failed, and stops when told."""

from __future__ import annotations

import json
import queue

import pytest

from local_cloud.scheduler import Scheduler
from local_cloud.topology import Schedule

CLOCK = Schedule("clock", "clock-topic", "* * * * *", {"v": 1})


def test_every_beat_publishes_every_schedule() -> None:
    published: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
    other = Schedule("other", "other-topic", "* * * * *", {})
    scheduler = Scheduler(
        schedules={"clock": CLOCK, "other": other},
        publish=lambda topic, data, _attributes: published.put((topic, data)),
        clock_seconds=0.01,
    ).start()
    beats = [published.get(timeout=5) for _ in range(4)]
    scheduler.close()

    assert [topic for topic, _ in beats] == ["clock-topic", "other-topic"] * 2
    assert json.loads(beats[0][1]) == {"v": 1}


def test_a_failing_publisher_does_not_stop_the_clock() -> None:
    beats: queue.SimpleQueue[str] = queue.SimpleQueue()

    def publish(topic: str, _data: bytes, _attributes: dict[str, str]) -> None:
        beats.put(topic)
        raise ConnectionError("Pub/Sub is away")

    scheduler = Scheduler(schedules={"clock": CLOCK}, publish=publish, clock_seconds=0.01).start()
    beats.get(timeout=5)
    beats.get(timeout=5)
    scheduler.close()


def test_nothing_is_published_after_closing() -> None:
    beats: list[str] = []
    scheduler = Scheduler(
        schedules={"clock": CLOCK}, publish=lambda topic, _data, _attributes: beats.append(topic), clock_seconds=30
    ).start()
    scheduler.close()

    assert beats == []


@pytest.mark.parametrize("seconds", [0, -1])
def test_a_clock_that_cannot_tick_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="clock_seconds"):
        Scheduler(schedules={}, publish=lambda *_: None, clock_seconds=seconds)
