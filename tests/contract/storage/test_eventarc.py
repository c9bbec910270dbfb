"""Finalized objects arriving at a service as CloudEvents: once, twice, late, and after it was away."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cloudevents.http import from_http

from local_cloud import eventarc
from local_cloud.eventarc import Eventarc, RetryPolicy
from local_cloud.faults import Faults
from local_cloud.storage import Storage
from local_cloud.topology import Trigger

TRIGGER = Trigger("arrivals", "data", eventarc.FINALIZED, "launcher", "/events/object-finalized")


class Service:
    """An HTTP service that remembers its requests and answers as it is told, then 204."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.requests: list[tuple[float, str, dict[str, str], bytes]] = []
        self.gate = threading.Event()  # closed, it keeps every request waiting
        self.gate.set()
        self._changed = threading.Condition()
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = service.received(self.path, dict(self.headers), body)
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                """Quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def received(self, path: str, headers: dict[str, str], body: bytes) -> int:
        with self._changed:
            self.requests.append((time.monotonic(), path, headers, body))
            self._changed.notify_all()
            status = self.answers.pop(0) if self.answers else 204
        self.gate.wait(10)
        return status

    def wait_for(self, count: int, seconds: float = 30.0) -> list[tuple[float, str, dict[str, str], bytes]]:
        with self._changed:
            arrived = self._changed.wait_for(lambda: len(self.requests) >= count, seconds)
        assert arrived, f"{len(self.requests)} of {count} requests after {seconds} s"
        return self.requests

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.close()


@pytest.fixture
def own_faults() -> Faults:
    return Faults()


@pytest.fixture
def open_eventarc(tmp_path: Path, own_faults: Faults) -> Iterator[Callable[..., Eventarc]]:
    opened: list[Eventarc] = []

    def open_one(services: dict[str, str], **arguments: Any) -> Eventarc:
        one = Eventarc(
            **{
                "faults": own_faults,
                "state_dir": tmp_path / "eventarc",
                "triggers": [TRIGGER],
                "services": services,
                **arguments,
            }
        ).start()
        opened.append(one)
        return one

    yield open_one
    for one in opened:
        one.close()


def finalized(name: str = "flowers/train-00000", generation: int = 1795410017921605) -> dict[str, Any]:
    return {
        "kind": "storage#object",
        "bucket": "data",
        "name": name,
        "generation": str(generation),
        "timeCreated": "2026-11-23T05:00:17.921Z",
        "size": "5",
    }


def settled(one: Eventarc) -> bool:
    deadline = time.monotonic() + 30
    while one.pending() and time.monotonic() < deadline:
        time.sleep(0.02)
    return one.pending() == 0


def test_an_upload_arrives_as_a_cloud_event(
    service: Service,
    open_eventarc: Callable[..., Eventarc],
    open_storage: Callable[..., Storage],
    connect: Callable[..., Any],
) -> None:
    one = open_eventarc({"launcher": service.address})
    storage = open_storage(on_finalize=one.accept)
    storage.ensure_bucket("data", project="demo-dualdeploy")
    storage.ensure_bucket("elsewhere", project="demo-dualdeploy")
    with connect(storage.address) as client:
        client.bucket("elsewhere").blob("ignored").upload_from_string("x")
        blob = client.bucket("data").blob("flowers/train 100%-ä")
        blob.upload_from_string("hello")

    _, path, headers, body = service.wait_for(1)[0]
    event = from_http(headers, body)
    assert path == "/events/object-finalized?__GCP_CloudEventsMode=GCS_NOTIFICATION"  # as Eventarc adds it
    assert event["type"] == "google.cloud.storage.object.v1.finalized"
    assert event["source"] == "//storage.googleapis.com/projects/_/buckets/data"
    assert event["bucket"] == "data"
    assert headers["ce-subject"] == "objects/flowers/train%20100%25-%C3%A4"
    assert (event.data["name"], event.data["generation"]) == (blob.name, str(blob.generation))
    assert (event.data["size"], event.data["crc32c"]) == ("5", "mnG7TA==")
    assert settled(one)
    assert len(service.requests) == 1


@pytest.mark.parametrize("refusal", [400, 404, 429, 500, 503])
def test_a_refused_event_comes_again_later_and_later(
    service: Service, open_eventarc: Callable[..., Eventarc], refusal: int
) -> None:
    service.answers = [refusal, refusal]
    open_eventarc({"launcher": service.address}).accept(finalized())

    first, second, third = service.wait_for(3)
    assert first[2]["ce-id"] == second[2]["ce-id"] == third[2]["ce-id"]
    assert 0.15 < second[0] - first[0] < third[0] - second[0]


def test_an_event_for_a_service_that_is_not_there_yet_waits_without_losing_attempts(
    service: Service, open_eventarc: Callable[..., Eventarc]
) -> None:
    services: dict[str, str] = {}
    one = open_eventarc(services)
    one.accept(finalized())
    time.sleep(0.5)
    assert one.pending() == 1

    services["launcher"] = service.address
    service.wait_for(1)
    assert settled(one)


def test_events_survive_a_restart(service: Service, open_eventarc: Callable[..., Eventarc]) -> None:
    away = open_eventarc({})
    for number in range(5):
        away.accept(finalized(f"shard-{number}"))
    away.close()

    open_eventarc({"launcher": service.address})
    names = {json.loads(body)["name"] for _, _, _, body in service.wait_for(5)}
    assert names == {f"shard-{number}" for number in range(5)}


def test_the_same_object_accepted_twice_is_on_its_way_once(open_eventarc: Callable[..., Eventarc]) -> None:
    one = open_eventarc({})
    one.accept(finalized())
    one.accept(finalized())
    one.accept(finalized(generation=1795410017921606))

    assert one.pending() == 2


def test_a_service_that_is_down_is_tried_until_the_event_is_given_up_to_the_dead_letters(
    open_eventarc: Callable[..., Eventarc], collector: Any
) -> None:
    one = open_eventarc(
        {"launcher": "127.0.0.1:1"},
        publish=collector,
        dead_letter_topic="projects/p/topics/dead",
        retry_policy=RetryPolicy(first_backoff_seconds=0.001, last_backoff_seconds=0.002),
    )
    one.accept(finalized())

    topic, data, attributes = collector.wait_for(1)[0]
    assert topic == "projects/p/topics/dead"
    assert json.loads(data)["name"] == "flowers/train-00000"
    assert (attributes["trigger"], attributes["attempts"]) == ("arrivals", "20")
    assert attributes["ce-type"] == "google.cloud.storage.object.v1.finalized"
    assert "ConnectionRefusedError" in attributes["reason"]
    assert settled(one)


def test_dead_letters_that_cannot_be_published_keep_the_event(open_eventarc: Callable[..., Eventarc]) -> None:
    tried = threading.Event()

    def publish(*_arguments: object) -> None:
        tried.set()
        raise ConnectionError("Pub/Sub is down too")

    one = open_eventarc(
        {"launcher": "127.0.0.1:1"},
        publish=publish,
        dead_letter_topic="projects/p/topics/dead",
        retry_policy=RetryPolicy(max_attempts=1),
    )
    one.accept(finalized())

    assert tried.wait(5)
    time.sleep(0.05)
    assert one.pending() == 1


@pytest.mark.parametrize(
    ("instruction", "requests"),
    [("duplicate", 2), ("lost-response", 2), ("return-503", 1), ("drop", 1), ("reset-connection", 1), ("hang:0.1", 1)],
)
def test_planned_faults_happen_and_the_event_still_arrives(
    service: Service,
    open_eventarc: Callable[..., Eventarc],
    own_faults: Faults,
    instruction: str,
    requests: int,
) -> None:
    one = open_eventarc({"launcher": service.address})
    with own_faults.plan({"delivery.arrivals": [instruction]}):
        one.accept(finalized())
        service.wait_for(requests)
        assert settled(one)

    assert len(service.requests) == requests


def test_a_delayed_event_is_overtaken_by_a_later_one(
    service: Service, open_eventarc: Callable[..., Eventarc], own_faults: Faults
) -> None:
    one = open_eventarc({"launcher": service.address})
    with own_faults.plan({"delivery.arrivals": ["delay:0.4"]}):
        one.accept(finalized("early"))
        deadline = time.monotonic() + 30
        while own_faults.pending() and time.monotonic() < deadline:
            time.sleep(0.01)
        one.accept(finalized("late"))
        service.wait_for(2)

    assert [json.loads(body)["name"] for _, _, _, body in service.requests] == ["late", "early"]


def test_a_hanging_service_does_not_delay_another(open_eventarc: Callable[..., Eventarc]) -> None:
    slow, quick = Service(), Service()
    slow.gate.clear()
    hanging = Trigger("slow-arrivals", "data", eventarc.FINALIZED, "slow", "/slow")
    services = {"slow": slow.address, "launcher": quick.address}
    count = 2 * eventarc.CONCURRENT_DELIVERIES_PER_TRIGGER
    try:
        one = open_eventarc(services, triggers=[hanging, TRIGGER])
        for number in range(count):
            one.accept(finalized(f"shard-{number}"))
        quick.wait_for(count)
        assert len(slow.requests) <= eventarc.CONCURRENT_DELIVERIES_PER_TRIGGER
        slow.gate.set()
        slow.wait_for(count)
    finally:
        slow.gate.set()
        slow.close()
        quick.close()


def test_closing_breaks_off_what_hangs_and_it_is_delivered_after_the_next_start(
    service: Service, open_eventarc: Callable[..., Eventarc]
) -> None:
    service.gate.clear()
    count = eventarc.CONCURRENT_DELIVERIES_PER_TRIGGER
    given_up: list[object] = []
    arguments = {
        "publish": lambda *event: given_up.append(event),
        "dead_letter_topic": "projects/p/topics/dead",
        # With one attempt only, a delivery that was broken off would be lost if it counted as one.
        "retry_policy": RetryPolicy(max_attempts=1),
    }
    first = open_eventarc({"launcher": service.address}, **arguments)
    for number in range(count):
        first.accept(finalized(f"shard-{number}"))
    service.wait_for(count)
    begun = time.monotonic()
    first.close()

    assert time.monotonic() - begun < 20, "it waited for a service that does not answer"
    assert given_up == []
    service.gate.set()
    second = open_eventarc({"launcher": service.address}, **arguments)
    service.wait_for(2 * count)
    assert settled(second)


def test_closing_does_not_wait_for_a_planned_hang(
    service: Service, open_eventarc: Callable[..., Eventarc], own_faults: Faults
) -> None:
    one = open_eventarc({"launcher": service.address})
    with own_faults.plan({"delivery.arrivals": ["hang:60"]}):
        one.accept(finalized())
        deadline = time.monotonic() + 30
        while own_faults.pending() and time.monotonic() < deadline:
            time.sleep(0.01)
    begun = time.monotonic()
    one.close()

    assert time.monotonic() - begun < 20
    assert service.requests == []
