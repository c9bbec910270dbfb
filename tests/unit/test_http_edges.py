"""Every HTTP endpoint of every service as it is composed: large bodies are refused, and no secret gets out."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask
import pytest
from werkzeug.test import TestResponse

from dualdeploy import logs, settings
from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable
from dualdeploy.google.firebase_ml import credential_of_key
from dualdeploy.google.object_store import ABSENT
from dualdeploy.http import entrypoint
from dualdeploy.http.entrypoint import MAX_BODY_BYTES, Receiver
from dualdeploy.ledger import Ledger
from dualdeploy.release import api
from mobile_publisher import signing_key
from mobile_publisher.settings import PublisherSettings
from support.fakes import ManualClock, MemoryObjectStore
from support.fakes.callers import CALLER_ENVIRONMENT, checked_token, cloud_run_callers, from_sender

REPOSITORY = Path(__file__).resolve().parents[2]
TOPOLOGY = json.loads((REPOSITORY / "infra" / "topology.json").read_text(encoding="utf-8"))
SERVICES = sorted(TOPOLOGY["services"])
RELEASING = ("cloud_deployer", "mobile_publisher")

#: Where a service answers events, and people.
EVENTS = sorted(
    {(each["service"], each["path"]) for each in TOPOLOGY["subscriptions"].values() if "path" in each}
    | {
        (trigger["service"], trigger["path"])
        for bucket in TOPOLOGY["buckets"].values()
        for trigger in bucket.get("triggers", [])
    }
)
REQUESTS = sorted((service, path) for service in RELEASING for path in ("/redeploy", "/rollback", "/abort"))

ENVIRONMENT = {
    **CALLER_ENVIRONMENT,
    "GOOGLE_CLOUD_PROJECT": "demo",
    "GOOGLE_CLOUD_REGION": "us-central1",
    "TRAINER_IMAGE": "trainer@sha256:1",
    "PREDICTOR_IMAGE": "predictor@sha256:1",
    **{f"{name}_BUCKET": name.lower() for name in ("LEDGER", "CONFIG", "MODELS", "DATA")},
}


@pytest.fixture
def said() -> Iterator[Callable[[], str]]:
    """All that is logged from now on, at the lowest level, as Cloud Logging gets it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG)
    yield stream.getvalue
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """`client("job_notifier")` talks to the service as its main.py composes it; no client of Google's is built."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)

    def compose(service: str) -> Any:
        spec = importlib.util.spec_from_file_location(f"{service}_main", REPOSITORY / "services" / service / "main.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        try:
            spec.loader.exec_module(module)
            if hasattr(module, "create_app"):
                return module.create_app().test_client()
        finally:
            # Composing sends the log to stdout, where a test does not listen.
            root.handlers[:] = handlers
            root.setLevel(level)
        app = flask.Flask(service)
        app.add_url_rule("/<path:path>", "on_event", lambda path: module.on_event(flask.request), methods=["POST"])
        return app.test_client()

    return compose


# Bodies ------------------------------------------------------------------------------------------------------------


def chunked(client: Any, path: str, size: int, **headers: str) -> TestResponse:
    """A body that does not announce its length."""
    answer: TestResponse = client.post(
        path,
        input_stream=io.BytesIO(b"x" * size),
        headers=headers,
        environ_overrides={"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": ""},
    )
    return answer


def test_every_service_has_an_endpoint_that_is_tried() -> None:
    assert {service for service, _ in EVENTS} == set(SERVICES)


@pytest.mark.parametrize(("service", "path"), EVENTS)
def test_an_event_larger_than_pubsub_allows_is_refused(client: Callable[[str], Any], service: str, path: str) -> None:
    calls = client(service)
    announced = calls.post(path, data=b"x" * (MAX_BODY_BYTES + 1), headers=from_sender())

    assert announced.status_code == 413
    assert chunked(calls, path, MAX_BODY_BYTES + 1, **from_sender()).status_code == 413


@pytest.mark.parametrize(("service", "path"), REQUESTS)
def test_a_request_larger_than_any_sensible_one_is_refused(
    client: Callable[[str], Any], service: str, path: str
) -> None:
    calls = client(service)
    padded = json.dumps({"dataset": "flowers", "reason": "x" * api.MAX_BODY_BYTES}).encode()
    announced = calls.post(path, data=padded)

    assert announced.status_code == 413
    assert str(api.MAX_BODY_BYTES) in announced.json["error"]
    assert chunked(calls, path, api.MAX_BODY_BYTES + 1).status_code == 413


@pytest.mark.parametrize(("service", "path"), REQUESTS)
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 60_000, b'"flowers"'])
def test_a_body_that_says_nothing_sensible_is_a_422(
    client: Callable[[str], Any], service: str, path: str, body: bytes
) -> None:
    assert client(service).post(path, data=body).status_code == 422


def test_a_caller_who_may_not_send_events_may_not_send_large_ones_either(client: Callable[[str], Any]) -> None:
    answer = client("job_notifier").post("/events/tick", data=b"x" * (MAX_BODY_BYTES + 1))

    assert answer.status_code == 401


# Secrets -----------------------------------------------------------------------------------------------------------

#: Nothing of it is a secret; only its looks are.
SIGNATURE = "planted-signature-that-nobody-may-read"


@pytest.mark.parametrize(
    "token",
    [
        checked_token(signature=SIGNATURE),
        checked_token(signature=SIGNATURE, exp=1),
        f"{SIGNATURE}",
        f"{SIGNATURE}.{SIGNATURE}.SIGNATURE_REMOVED_BY_GOOGLE",
        f"eyJhbGciOiJub25lIn0.{SIGNATURE}.{SIGNATURE}",
        SIGNATURE * 400,
    ],
)
@pytest.mark.parametrize(("service", "path"), [*EVENTS[:1], *REQUESTS[:1]])
def test_a_token_is_neither_logged_nor_answered_nor_recorded(
    client: Callable[[str], Any], said: Callable[[], str], service: str, path: str, token: str
) -> None:
    calls = client(service)
    # Certificates come from nowhere here: a token with a signature leads to the path that cannot verify it.
    answer = calls.post(path, json={"dataset": "flowers"}, headers={"Authorization": f"Bearer {token}"})

    assert answer.status_code in (401, 503)
    assert SIGNATURE not in answer.get_data(as_text=True)
    logging.getLogger("test").info("the end")
    assert "the end" in said()
    assert "refused: " in said() or "retry later: " in said() or path in ("/redeploy", "/rollback", "/abort")
    assert SIGNATURE not in said()


def test_an_accepted_token_is_not_in_what_is_recorded_of_a_rejected_event_nor_in_a_trace(
    said: Callable[[], str],
) -> None:
    store = MemoryObjectStore("ledger", clock=ManualClock())

    def fail(_: entrypoint.Envelope) -> entrypoint.Outcome:
        raise RuntimeError("a bug")

    receiver = Receiver("tester", {"tick": fail}, ledger=Ledger(store), project="demo", callers=cloud_run_callers())
    app = flask.Flask("tester")
    app.add_url_rule("/events/<name>", "event", lambda name: receiver(flask.request), methods=["POST"])
    headers = from_sender()
    token = headers["Authorization"].removeprefix("Bearer ")

    rejected = app.test_client().post("/events/tick", data=b"no envelope", headers=headers)
    failed = app.test_client().post("/events/tick", json={"message": {"messageId": "1"}}, headers=headers)

    assert (rejected.status_code, failed.status_code) == (204, 500)
    kept = [store.read(summary.name).data.decode() for summary in store.list("")]
    assert len(kept) == 1
    assert "a bug" in said()
    for text in (*kept, said(), failed.get_data(as_text=True)):
        for part in token.split(".")[:2]:
            assert part not in text


#: In two parts, because tests/unit/test_no_secrets.py looks for the whole.
_BEGIN = "-----BEGIN PRIVATE " + "KEY-----"

#: A key that looks like one: with a private key that is none, with another type, without what it needs, cut off.
KEYS = {
    "no private key": json.dumps(
        {"type": "service_account", "private_key": SIGNATURE, "client_email": "a@b", "token_uri": "https://t"}
    ),
    "half a private key": json.dumps(
        {
            "type": "service_account",
            "private_key": f"{_BEGIN}\n{SIGNATURE}\n{_BEGIN.replace('BEGIN', 'END')}\n",
            "client_email": "a@b",
            "token_uri": "https://t",
        }
    ),
    "fields are missing": json.dumps({"private_key": SIGNATURE}),
    "cut off": f'{{"private_key": "{SIGNATURE}',
    "a list": json.dumps([SIGNATURE]),
    "no JSON": SIGNATURE,
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_a_key_that_cannot_be_used_is_not_quoted(said: Callable[[], str], key: str) -> None:
    log = logging.getLogger("test")
    try:
        credential_of_key(key.encode())
    except RejectedByGoogle:
        log.exception("as the services log it")

    assert "is not a service account key" in said()
    assert SIGNATURE not in said()


def test_a_key_is_not_logged_when_it_is_read_from_a_bucket_or_cannot_be_read(
    said: Callable[[], str], tmp_path: Path
) -> None:
    store = MemoryObjectStore("keys", clock=ManualClock())
    store.put("firebase.json", SIGNATURE.encode(), expect=ABSENT)
    required = {name: "x" for name, needed in settings.variables(PublisherSettings).items() if needed}

    def reader(**more: str) -> Callable[[], bytes]:
        read = signing_key.reader(
            settings.load(PublisherSettings, {**required, **ENVIRONMENT, **more}), store=lambda _: store
        )
        assert read
        return read

    assert reader(FIREBASE_CREDENTIAL_URI="gs://keys/firebase.json")() == SIGNATURE.encode()
    with pytest.raises(ServiceUnavailable):
        reader(FIREBASE_KEY_FILE=str(tmp_path))()
    assert "put it into Secret Manager" in said()
    assert SIGNATURE not in said()


def test_the_log_of_google_s_libraries_stays_off_the_level_that_prints_headers() -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure(level="DEBUG")
        for name in ("urllib3", "google", "google.auth.transport.requests", "google.cloud.storage"):
            assert not logging.getLogger(name).isEnabledFor(logging.INFO)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
