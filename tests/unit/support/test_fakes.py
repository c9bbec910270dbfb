"""The fakes fail when told to, once, and say when a failure did not happen."""

from __future__ import annotations

import pytest

from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable
from support.fakes import Failing, FakeFirebaseMl, FakePublisher, Faults, ManualClock
from support.fakes.failing import ProcessDied


def test_planned_failures_happen_in_order_and_once() -> None:
    faults = Faults({"publish": [Failing(ServiceUnavailable("one")), Failing(RejectedByGoogle("two"))]})
    publisher = FakePublisher(faults=faults)

    with pytest.raises(ServiceUnavailable, match="one"):
        publisher.publish("t", b"", {})
    with pytest.raises(RejectedByGoogle, match="two"):
        publisher.publish("t", b"", {})
    assert publisher.publish("t", b'{"a": 1}', {"k": "v"}) == "1"

    assert [(message.topic, message.json(), message.attributes) for message in publisher.sent] == [
        ("t", {"a": 1}, {"k": "v"})
    ]
    assert faults.calls == {"publish": 3}


def test_a_lost_answer_is_a_failure_after_the_work() -> None:
    publisher = FakePublisher()
    publisher.faults.plan("publish", Failing(ServiceUnavailable("lost"), after=True))

    with pytest.raises(ServiceUnavailable):
        publisher.publish("t", b"", {})

    assert len(publisher.sent) == 1


def test_a_failure_that_did_not_happen_is_pending() -> None:
    faults = Faults({"publish": [Failing(ServiceUnavailable("x"))]})
    faults.plan("find", Failing(ServiceUnavailable("x")), Failing(ServiceUnavailable("y")))

    assert faults.pending() == {"publish": 1, "find": 2}


def test_a_dead_process_cannot_be_caught_as_an_exception() -> None:
    faults = Faults()

    def die(_name: str) -> None:
        raise ProcessDied

    faults.before = die
    with pytest.raises(ProcessDied):
        FakePublisher(faults=faults).publish("t", b"", {})
    assert not issubclass(ProcessDied, Exception)


def test_a_published_file_stays_locked_for_as_many_looks_as_told() -> None:
    firebase = FakeFirebaseMl(looks_locked=2)
    model = firebase.create("flowers", gcs_uri="gs://m/a.tflite", tags=["x"])
    assert model.locked

    looks = [firebase.find("flowers") for _ in range(3)]

    assert [look.locked for look in looks if look] == [True, True, False]


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock()
    before = clock()

    clock.advance(1.5)

    assert (clock() - before).total_seconds() == 1.5
    assert clock() == clock()
