"""Outcomes of handling become HTTP codes, and so acknowledgements, in one place."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import flask
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.test import Client

from dualdeploy import errors
from dualdeploy.contracts.events import Envelope
from dualdeploy.errors import CannotEverSucceed, RetryLater
from dualdeploy.google.object_store import ObjectMissing
from dualdeploy.http import entrypoint
from dualdeploy.http.entrypoint import MAX_BODY_BYTES, Receiver
from dualdeploy.ledger import Ledger
from dualdeploy.outcome import Outcome, already_done, done, ignored
from support.fakes import Failing, ManualClock, MemoryObjectStore
from support.fakes.callers import cloud_run_callers, from_sender
from support.fakes.failing import ProcessDied


class Handler:
    """Answers, or raises, what the test says; remembers what it was given."""

    def __init__(self) -> None:
        self.answer: Any = done("did it")
        self.seen: list[Envelope] = []

    def __call__(self, envelope: Envelope) -> Outcome:
        self.seen.append(envelope)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]  # the test chose it


def client_of(handler: Handler, ledger: Ledger, clock: ManualClock) -> Client:
    """The receiver behind Flask, as functions-framework has it: every path and method reaches it."""
    handlers = {"object-finalized": handler, "tick": handler}
    receiver = Receiver("tester", handlers, ledger=ledger, project="demo", callers=cloud_run_callers(), clock=clock)
    app = flask.Flask("tester")
    methods = ["GET", "POST", "PUT", "DELETE", "PATCH"]
    app.add_url_rule("/", "root", lambda: receiver(flask.request), methods=methods)
    app.add_url_rule("/<path:_path>", "any", lambda _path: receiver(flask.request), methods=methods)

    def as_sender(environ: dict[str, Any], start_response: Any) -> Any:
        environ.setdefault("HTTP_AUTHORIZATION", from_sender()["Authorization"])
        return app(environ, start_response)

    return Client(as_sender)


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
def client(handler: Handler, ledger: Ledger, clock: ManualClock) -> Client:
    return client_of(handler, ledger, clock)


def records(store: MemoryObjectStore) -> list[dict[str, Any]]:
    return [json.loads(store.read(name).data) for name in store.names() if name.startswith("rejected/")]


ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.DualDeployError)]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (done("x"), 204),
        (already_done("x"), 204),
        (ignored("x"), 204),
        (errors.NotForUs("x"), 204),
        *((kind("x"), 503) for kind in ERRORS if issubclass(kind, RetryLater)),
        *((kind("x"), 204) for kind in ERRORS if issubclass(kind, CannotEverSucceed)),
        (ObjectMissing("x"), 500),
        (RuntimeError("x"), 500),
        (KeyError("x"), 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else getattr(value, "kind", str(value)),
)
def test_an_outcome_has_one_answer(
    answer: Any, status: int, handler: Handler, client: Client, store: MemoryObjectStore
) -> None:
    handler.answer = answer

    response = client.post("/events/tick", json={"message": {"messageId": "1"}})

    assert response.status_code == status
    assert ("Retry-After" in response.headers) == (status == 503)
    assert len(records(store)) == isinstance(answer, CannotEverSucceed)


def test_the_table_covers_both_families_of_errors() -> None:
    families = [kind for kind in ERRORS if issubclass(kind, RetryLater | CannotEverSucceed)]

    assert len(families) == len(ERRORS) - 2  # all but their common base, and what is passed over
    assert len(families) >= 10


def test_the_handler_gets_what_was_inside_the_envelope(
    handler: Handler, client: Client, delivery: Callable[[str], Any]
) -> None:
    headers, body = delivery("storage_finalized_binary")

    client.post("/events/object-finalized", data=body, headers=headers)

    assert handler.seen[0].event_id == "17326619998700001"
    assert handler.seen[0].json()["bucket"] == "demo-dualdeploy-data"


def test_at_the_root_the_type_of_the_cloud_event_says_which_event_it_is(
    handler: Handler, client: Client, delivery: Callable[[str], Any]
) -> None:
    headers, body = delivery("storage_finalized_binary")
    assert client.post("/", data=body, headers=headers).status_code == 204
    assert len(handler.seen) == 1

    other = {**headers, "ce-type": "google.cloud.storage.object.v1.deleted"}
    assert client.post("/", data=body, headers=other).status_code == 404
    assert len(handler.seen) == 1


@pytest.mark.parametrize("name", ["pubsub_push_tick", "pubsub_push_not_json"])
def test_an_unknown_path_is_not_acknowledged(
    name: str, handler: Handler, client: Client, store: MemoryObjectStore, delivery: Callable[[str], Any]
) -> None:
    headers, body = delivery(name)

    response = client.post("/events/clok", data=body, headers=headers)

    assert response.status_code == 404
    assert "/events/tick" in response.get_json()["error"]
    assert handler.seen == []
    assert store.names() == []


def test_an_unknown_path_with_a_malformed_body_is_still_not_acknowledged(
    client: Client, store: MemoryObjectStore
) -> None:
    assert client.post("/events/clok", data=b"junk").status_code == 404
    assert store.names() == []


@pytest.mark.parametrize("path", ["/healthz", "/"])
def test_health_touches_neither_ledger_nor_handler(
    path: str, handler: Handler, client: Client, store: MemoryObjectStore
) -> None:
    response = client.get(path)

    assert response.get_json() == {"status": "ok", "service": "tester"}
    assert handler.seen == []
    assert not store.faults.calls


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_events_come_by_post_alone(method: str, handler: Handler, client: Client) -> None:
    assert client.open("/events/tick", method=method).status_code == 405
    assert handler.seen == []


def test_a_body_over_the_limit_is_refused_before_it_is_read(handler: Handler, client: Client) -> None:
    response = client.post("/events/tick", environ_overrides={"CONTENT_LENGTH": str(MAX_BODY_BYTES + 2)})

    assert response.status_code == 413
    assert handler.seen == []


def test_a_chunked_body_is_held_to_the_limit_too(
    handler: Handler, client: Client, monkeypatch: pytest.MonkeyPatch, delivery: Callable[[str], Any]
) -> None:
    monkeypatch.setattr(entrypoint, "MAX_BODY_BYTES", 4096)
    headers, body = delivery("pubsub_push_tick")
    # What gunicorn says of a body without Content-Length: it ends where the stream ends.
    chunked = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": ""}

    small = client.post("/events/tick", data=body, headers=headers, environ_overrides=chunked)
    large = client.post("/events/tick", data=body + b" " * 4096, headers=headers, environ_overrides=chunked)

    assert (small.status_code, large.status_code) == (204, 413)
    assert len(handler.seen) == 1


def test_a_rejection_says_what_why_when_and_where(
    handler: Handler, client: Client, store: MemoryObjectStore, delivery: Callable[[str], Any]
) -> None:
    handler.answer = errors.UnknownDataset("no data set 'roses'")
    headers, body = delivery("pubsub_push_training_completed")

    client.post("/events/tick", data=body, headers=headers)

    [record] = records(store)
    assert record["at"] == "2026-11-23T12:00:00.000Z"
    assert (record["service"], record["kind"]) == ("tester", "tick")
    assert record["reason"] == "UnknownDataset: no data set 'roses'"
    assert record["event"]["id"] == "13500"
    assert record["event"]["attributes"]["target"] == "mobile"
    assert json.loads(record["event"]["data"])["run_id"] == "flowers-0123456789ab"


def test_a_malformed_body_is_recorded_as_it_came_and_acknowledged(
    handler: Handler, client: Client, store: MemoryObjectStore
) -> None:
    assert client.post("/events/tick", data=b"\xff" + b"x" * 9000).status_code == 204

    [record] = records(store)
    assert record["reason"].startswith("MalformedEvent: ")
    assert record["event"]["data"] == "\ufffd" + "x" * 4095
    assert handler.seen == []


def test_an_event_that_comes_again_is_recorded_once(
    handler: Handler, client: Client, store: MemoryObjectStore, delivery: Callable[[str], Any]
) -> None:
    handler.answer = CannotEverSucceed("x")
    headers, body = delivery("pubsub_push_tick")

    for _ in range(3):
        assert client.post("/events/tick", data=body, headers=headers).status_code == 204

    assert len(records(store)) == 1


def test_different_events_without_an_id_are_recorded_apart(
    handler: Handler, client: Client, store: MemoryObjectStore
) -> None:
    handler.answer = CannotEverSucceed("x")

    for data in ("YQ==", "Yg==", "Yg=="):
        client.post("/events/tick", data=json.dumps({"message": {"data": data}}))

    assert len(records(store)) == 2
    ids = [envelope.event_id for envelope in handler.seen]
    assert ids[0] != ids[1] == ids[2]
    assert all(ids)


@pytest.mark.parametrize(
    "failure",
    [
        errors.ServiceUnavailable("no answer"),
        errors.RejectedByGoogle("403"),
        ObjectMissing("no bucket"),
        RuntimeError("bug"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_rejection_that_cannot_be_recorded_is_not_acknowledged(
    failure: Exception, handler: Handler, client: Client, store: MemoryObjectStore, delivery: Callable[[str], Any]
) -> None:
    handler.answer = CannotEverSucceed("x")
    store.faults.plan("put", Failing(failure))
    headers, body = delivery("pubsub_push_tick")

    refused = client.post("/events/tick", data=body, headers=headers)
    again = client.post("/events/tick", data=body, headers=headers)

    assert (refused.status_code, again.status_code) == (503, 204)
    assert "could not record the rejection" in refused.get_json()["error"]
    assert len(records(store)) == 1


def test_a_rejection_whose_recording_lost_its_answer_is_recorded_once(
    handler: Handler, client: Client, store: MemoryObjectStore, delivery: Callable[[str], Any]
) -> None:
    handler.answer = CannotEverSucceed("x")
    store.faults.plan("put", Failing(errors.ServiceUnavailable("lost"), after=True))
    headers, body = delivery("pubsub_push_tick")

    assert client.post("/events/tick", data=body, headers=headers).status_code == 503
    assert client.post("/events/tick", data=body, headers=headers).status_code == 204
    assert len(records(store)) == 1


def test_text_that_utf8_cannot_carry_is_malformed_and_recorded(
    handler: Handler, client: Client, store: MemoryObjectStore
) -> None:
    body = b'{"message": {"messageId": "1", "attributes": {"\\ud800": "\\udfff"}}}'

    assert client.post("/events/tick", data=body).status_code == 204
    assert handler.seen == []
    assert "not Unicode" in records(store)[0]["reason"]


def test_an_unexpected_error_is_logged_with_the_event_and_not_shown(
    handler: Handler, client: Client, caplog: pytest.LogCaptureFixture, delivery: Callable[[str], Any]
) -> None:
    handler.answer = RuntimeError("the password is hunter2")
    headers, body = delivery("pubsub_push_tick")

    with caplog.at_level(logging.ERROR):
        response = client.post("/events/tick", data=body, headers=headers)

    assert "hunter2" not in response.text
    assert caplog.records[0].exc_info
    assert "tick" in caplog.records[0].getMessage()


def test_a_process_that_dies_answers_nothing(handler: Handler, client: Client, delivery: Callable[[str], Any]) -> None:
    handler.answer = ProcessDied()
    headers, body = delivery("pubsub_push_tick")

    with pytest.raises(ProcessDied):
        client.post("/events/tick", data=body, headers=headers)


@settings(deadline=None)  # a loaded machine says nothing of the code
@given(body=st.binary(), path=st.sampled_from(["/", "/events/tick", "/events/object-finalized"]))
def test_no_body_makes_the_receiver_fail(body: bytes, path: str) -> None:
    clock = ManualClock()
    client = client_of(Handler(), Ledger(MemoryObjectStore(), clock=clock), clock)

    assert client.post(path, data=body).status_code in (204, 404)
