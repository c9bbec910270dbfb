"""The Cloud Storage implementation when the service misbehaves: every answer becomes one of our errors, in time."""

from __future__ import annotations

import contextlib
import gc
import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.auth.exceptions import DefaultCredentialsError
from google.cloud import storage as google_storage

from dualdeploy.errors import PermissionSpreads, RejectedByGoogle, ResourceConflict, ServiceUnavailable
from dualdeploy.google.object_store import ABSENT, GcsObjectStore, Generation, GenerationChanged, ObjectMissing
from dualdeploy.ledger import Ledger, lease
from local_cloud.faults import Faults as CloudFaults
from local_cloud.storage import Storage

# A download that fails is dropped unread by the client library, and its socket with it.
pytestmark = pytest.mark.filterwarnings("ignore:.*socket.socket:pytest.PytestUnraisableExceptionWarning")

#: Our method, and the operation of Cloud Storage that it calls.
OPERATIONS = {
    "read": "storage.objects.get",
    "open": "storage.objects.get",
    "put": "storage.objects.insert",
    "delete": "storage.objects.delete",
    "list": "storage.objects.list",
}
TRANSIENT = ["return-408", "return-429", "return-500", "return-502", "return-503", "return-504", "reset-connection"]
BUCKET = "contract-faults"
ClientAt = Callable[[str], contextlib.AbstractContextManager[google_storage.Client]]


@pytest.fixture(scope="module", autouse=True)
def sockets_that_the_library_dropped() -> Iterator[None]:
    """Collected here, under the mark above, and not in the middle of somebody else's test."""
    yield
    gc.collect()


@pytest.fixture
def cloud_store(storage: Storage, client: google_storage.Client) -> GcsObjectStore:
    """A bucket that holds nothing but what a test here puts into it."""
    storage.ensure_bucket(BUCKET, project="demo-dualdeploy")
    return GcsObjectStore(BUCKET, client=lambda: client, call_timeout=5.0, retry_deadline=8.0)


@pytest.fixture
def generation(cloud_store: GcsObjectStore) -> Iterator[Generation]:
    """An object `here`, and `there` absent."""
    generation = cloud_store.put("here", b"x" * 100, expect=ABSENT)
    yield generation
    for summary in cloud_store.list(""):
        cloud_store.delete(summary.name, expect=summary.generation)


def call(store: GcsObjectStore, method: str, generation: Generation) -> Any:
    if method == "read":
        return store.read("here").data
    if method == "open":
        with store.open("here", generation=generation) as stream:
            return stream.read()
    if method == "put":
        return store.put("there", b"y", expect=ABSENT) > 0
    if method == "delete":
        return store.delete("here", expect=generation)
    return [summary.name for summary in store.list("")]


RESULTS = {"read": b"x" * 100, "open": b"x" * 100, "put": True, "delete": None, "list": ["here"]}


@pytest.mark.parametrize("fault", TRANSIENT)
@pytest.mark.parametrize("method", OPERATIONS)
def test_one_transient_failure_is_not_even_noticed(
    method: str, fault: str, cloud_store: GcsObjectStore, generation: Generation, cloud_faults: CloudFaults
) -> None:
    with cloud_faults.plan({OPERATIONS[method]: [fault]}):
        assert call(cloud_store, method, generation) == RESULTS[method]


@pytest.mark.parametrize("method", OPERATIONS)
def test_a_lost_response_is_not_even_noticed(
    method: str, cloud_store: GcsObjectStore, generation: Generation, cloud_faults: CloudFaults
) -> None:
    """The work was done, the library does it again: a creation meets its own object, a deletion finds nothing."""
    with cloud_faults.plan({OPERATIONS[method]: ["lost-response"]}):
        assert call(cloud_store, method, generation) == RESULTS[method]


def test_a_lost_response_of_an_overwrite_yields_the_generation_that_was_written(
    cloud_store: GcsObjectStore, generation: Generation, cloud_faults: CloudFaults
) -> None:
    with cloud_faults.plan({"storage.objects.insert": ["lost-response", "lost-response"]}):
        written = cloud_store.put("here", b"new", expect=generation)

    assert cloud_store.read("here").generation == written
    cloud_store.put("here", b"newer", expect=written)


def test_who_may_create_and_not_replace_is_told_by_a_refusal_that_something_is_there(
    cloud_store: GcsObjectStore, generation: Generation, cloud_faults: CloudFaults
) -> None:
    """Replacing takes storage.objects.delete, which roles/storage.objectCreator lacks."""
    with cloud_faults.plan({"storage.objects.insert": ["return-403"]}), pytest.raises(GenerationChanged):
        cloud_store.put("here", b"mine", expect=ABSENT)
    with cloud_faults.plan({"storage.objects.insert": ["return-403"]}):
        assert cloud_store.put("here", b"x" * 100, expect=ABSENT) == generation
    with cloud_faults.plan({"storage.objects.insert": ["return-403"]}), pytest.raises(PermissionSpreads):
        cloud_store.put("there", b"mine", expect=ABSENT)
    with cloud_faults.plan({"storage.objects.insert": ["return-403"]}), pytest.raises(PermissionSpreads):
        cloud_store.put("here", b"mine", expect=generation)


def test_a_lost_response_does_not_turn_a_loser_into_a_winner(
    cloud_store: GcsObjectStore, generation: Generation, cloud_faults: CloudFaults
) -> None:
    with cloud_faults.plan({"storage.objects.insert": ["return-503"]}), pytest.raises(GenerationChanged):
        cloud_store.put("here", b"mine", expect=ABSENT)

    assert cloud_store.read("here").data == b"x" * 100


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (400, RejectedByGoogle),
        (403, PermissionSpreads),
        (404, ObjectMissing),
        (409, ResourceConflict),
        (412, GenerationChanged),
    ],
)
@pytest.mark.parametrize("method", ["read", "open", "list"])
def test_an_answer_that_a_repetition_would_get_again_is_not_repeated(
    method: str,
    code: int,
    error: type[Exception],
    *,
    cloud_store: GcsObjectStore,
    generation: Generation,
    cloud_faults: CloudFaults,
) -> None:
    with cloud_faults.plan({OPERATIONS[method]: [f"return-{code}"]}), pytest.raises(error):
        call(cloud_store, method, generation)


@pytest.mark.parametrize(("code", "error"), [(400, RejectedByGoogle), (403, PermissionSpreads)])
@pytest.mark.parametrize("method", ["put", "delete"])
def test_a_refused_write_is_not_repeated(
    method: str,
    code: int,
    error: type[Exception],
    *,
    cloud_store: GcsObjectStore,
    generation: Generation,
    cloud_faults: CloudFaults,
) -> None:
    with cloud_faults.plan({OPERATIONS[method]: [f"return-{code}"]}), pytest.raises(error):
        call(cloud_store, method, generation)


@pytest.mark.parametrize("code", [408, 429, 503])
@pytest.mark.parametrize("method", OPERATIONS)
def test_a_service_that_stays_down_is_a_reason_to_retry_later_and_not_for_ever(
    method: str, code: int, client: google_storage.Client, generation: Generation, cloud_faults: CloudFaults
) -> None:
    hurried = GcsObjectStore(BUCKET, client=lambda: client, call_timeout=2.0, retry_deadline=0.3)
    cloud_faults.add({OPERATIONS[method]: [f"return-{code}"] * 50})
    began = time.monotonic()

    try:
        with pytest.raises(ServiceUnavailable, match="Cloud Storage"):
            call(hurried, method, generation)
    finally:
        left = cloud_faults.pending()[OPERATIONS[method]]
        cloud_faults.clear()

    assert time.monotonic() - began < 20
    assert len(left) < 50


@pytest.mark.parametrize("method", OPERATIONS)
def test_a_server_that_hangs_is_given_up_in_time(
    method: str, client: google_storage.Client, generation: Generation, cloud_faults: CloudFaults
) -> None:
    hurried = GcsObjectStore(BUCKET, client=lambda: client, call_timeout=0.2, retry_deadline=0.3)
    began = time.monotonic()

    cloud_faults.add({OPERATIONS[method]: ["hang:0.8"] * 5})
    try:
        with pytest.raises(ServiceUnavailable):
            call(hurried, method, generation)
    finally:
        left = cloud_faults.pending()[OPERATIONS[method]]
        cloud_faults.clear()

    assert time.monotonic() - began < 4
    assert len(left) < 5
    time.sleep(0.8)  # what hung is done then, and must not be done in the middle of the next test


@pytest.mark.parametrize("method", OPERATIONS)
def test_a_connection_that_is_refused_is_a_reason_to_retry_later(method: str, client_at: ClientAt) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))  # bound, never listening: every connection is refused
        with client_at(f"127.0.0.1:{unheard.getsockname()[1]}") as client:
            store = GcsObjectStore(BUCKET, client=lambda: client, call_timeout=1.0, retry_deadline=0.2)
            with pytest.raises(ServiceUnavailable):
                call(store, method, Generation(17))


def test_a_stream_survives_failures_at_its_beginning(
    cloud_store: GcsObjectStore, generation: Generation, cloud_faults: CloudFaults
) -> None:
    with (
        cloud_faults.plan({"storage.objects.get": ["return-503", "reset-connection"]}),
        cloud_store.open("here", generation=generation) as stream,
    ):
        assert stream.read() == b"x" * 100


@pytest.mark.parametrize("length", [None, 3_000_000])
def test_a_stream_that_is_cut_again_and_again_goes_on_where_it_was(client_at: ClientAt, length: int | None) -> None:
    data = bytes(range(256)) * (20 << 10)  # 5 MiB
    asked: list[str] = []

    class Cutting(http.server.BaseHTTPRequestHandler):
        """Sends at most a million bytes of what it announces."""

        def do_GET(self) -> None:
            if "alt=media" not in self.path:  # the library also asks once what the bucket is
                self.send_error(404)
                return
            asked.append(self.headers.get("Range", ""))
            first, _, last = asked[-1].removeprefix("bytes=").partition("-")
            wanted = data[int(first or 0) : int(last) + 1 if last else None]
            self.send_response(206 if asked[-1] else 200)
            self.send_header("Content-Length", str(len(wanted)))
            self.end_headers()
            self.wfile.write(wanted[:1_000_000])

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cutting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with client_at(f"127.0.0.1:{server.server_address[1]}") as client:
            store = GcsObjectStore(BUCKET, client=lambda: client, call_timeout=5.0, retry_deadline=0.01)
            with store.open("a", generation=Generation(17), length=length) as stream:
                assert stream.read() == data[:length]
        server.shutdown()
    assert len(asked) == (3 if length else 6)
    assert asked[1].startswith("bytes=1000000-")


def test_a_large_object_is_put_whole_in_spite_of_failures(
    cloud_store: GcsObjectStore, generation: Generation, cloud_faults: CloudFaults
) -> None:
    """Above 8 MiB the library uploads in a resumable session."""
    data = bytes(range(256)) * (36 << 10)

    with cloud_faults.plan({"storage.objects.insert": ["return-503"]}):
        written = cloud_store.put("large", data, expect=ABSENT)

    stored = cloud_store.read("large")
    assert (stored.data == data, stored.generation) == (True, written)
    with pytest.raises(GenerationChanged):
        cloud_store.put("large", data[1:], expect=ABSENT)


def test_a_bucket_that_does_not_exist_is_missing_and_not_silently_empty(client: google_storage.Client) -> None:
    store = GcsObjectStore("no-such-bucket", client=lambda: client)

    with pytest.raises(ObjectMissing):
        store.read("a")
    with pytest.raises(ObjectMissing):
        store.put("a", b"", expect=ABSENT)
    with pytest.raises(ObjectMissing):
        list(store.list(""))


def test_the_lease_works_through_lost_responses(
    cloud_store: GcsObjectStore, generation: Generation, cloud_faults: CloudFaults
) -> None:
    ledger = Ledger(cloud_store)
    losses = {"storage.objects.insert": ["lost-response"], "storage.objects.delete": ["lost-response"]}

    with cloud_faults.plan(losses), lease(ledger, "flowers/cloud", seconds=60):
        assert [summary.name for summary in cloud_store.list("locks/")] == ["locks/flowers/cloud.json"]

    assert list(cloud_store.list("locks/")) == []


@pytest.mark.parametrize("method", OPERATIONS)
def test_credentials_that_are_not_given_are_a_reason_to_retry_later_and_the_message_says_how_to_log_in(
    method: str,
) -> None:
    def client() -> google_storage.Client:
        raise DefaultCredentialsError("Your default credentials were not found: gcloud auth application-default login")

    with pytest.raises(ServiceUnavailable, match="application-default login"):
        call(GcsObjectStore(BUCKET, client=client), method, Generation(17))


def test_clients_are_built_at_first_use_and_once(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    from dualdeploy.google import object_store

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{storage.address}")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "demo-dualdeploy")
    object_store._build_client.cache_clear()
    try:
        one, other = GcsObjectStore(BUCKET), GcsObjectStore(BUCKET)
        generation = one.put("shared", b"x", expect=ABSENT)
        assert other.read("shared").generation == generation
        other.delete("shared", expect=generation)
        assert object_store.shared_client() is object_store.shared_client()
        object_store.shared_client().close()
    finally:
        object_store._build_client.cache_clear()
