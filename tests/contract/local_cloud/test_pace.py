"""The local cloud at Google's pace, and at its own: how often an object can be written, how long events wait."""

from __future__ import annotations

import dataclasses
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from google.api_core.exceptions import TooManyRequests
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from local_cloud import cloud as clouds
from local_cloud.cloud import LocalCloud


@pytest.fixture(scope="module")
def realistic(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[LocalCloud]:
    folder = tmp_path_factory.mktemp("realistic")
    with clouds.load(
        repository / "infra" / "topology.json", state_dir=folder, clock_seconds=3600, realistic=True
    ) as cloud:
        yield cloud


def blob_of(cloud: LocalCloud, name: str, patch: pytest.MonkeyPatch) -> storage.Blob:
    patch.setenv("STORAGE_EMULATOR_HOST", f"http://{cloud.storage.address}")
    client = storage.Client(project=cloud.topology.project, credentials=AnonymousCredentials())
    return client.bucket(cloud.topology.buckets["ledger"].name).blob(name)


def writes_until_refused(blob: storage.Blob) -> int:
    for written in range(20):
        try:
            blob.upload_from_string("x", retry=None)
        except TooManyRequests:
            return written
    return 20


def test_an_object_is_written_once_a_second(realistic: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = blob_of(realistic, "often", monkeypatch)
    assert writes_until_refused(blob) == 1
    with pytest.raises(TooManyRequests) as refused:
        blob.delete(retry=None)
    error = refused.value.response.json()["error"]
    assert error["errors"][0]["reason"] == "rateLimitExceeded"
    assert error["errors"][0]["domain"] == "usageLimits"
    assert error["message"].startswith(f"The object {blob.bucket.name}/often exceeded the rate limit")
    blob_of(realistic, "another", monkeypatch).upload_from_string("x", retry=None)
    # Google's client asks again by itself, and gets through.
    blob.upload_from_string("y", if_generation_match=blob.generation)
    assert blob.download_as_bytes() == b"y"


def test_by_default_ten_writes_at_once_pass(cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    assert writes_until_refused(blob_of(cloud, "often", monkeypatch)) == 10


@dataclasses.dataclass
class Arrival:
    path: str
    at: float


class Reluctant:
    """A service that hangs on its first event longer than Eventarc waits, and refuses its first message."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self._changed = threading.Condition()
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                first = service.note(self.path)
                if first and "object-finalized" in self.path:
                    service.closing.wait(11)
                self.send_response(503 if first else 204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                """Quiet."""

        self.closing = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def note(self, path: str) -> bool:
        path = path.partition("?")[0]
        with self._changed:
            self.arrivals.append(Arrival(path, time.monotonic()))
            self._changed.notify_all()
            return sum(each.path == path for each in self.arrivals) == 1

    def twice(self, path: str, seconds: float) -> float:
        """The seconds between the first two arrivals at `path`."""

        def found() -> list[float]:
            return [each.at for each in self.arrivals if each.path == path]

        with self._changed:
            assert self._changed.wait_for(lambda: len(found()) >= 2, seconds), f"{path} came {len(found())} times"
            return found()[1] - found()[0]

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.timeout(90)
def test_events_and_messages_come_again_after_google_s_pauses(realistic: LocalCloud) -> None:
    service = Reluctant()
    try:
        realistic.register_service("training_launcher", service.address)
        retrain = next(s for s in realistic.topology.subscriptions.values() if s.topic == "retrain-requested")
        realistic.pubsub.publish(realistic.topology.topic_path("retrain-requested"), b"{}", {})
        bucket = realistic.topology.buckets["data"].name
        url = f"http://{realistic.storage.address}/upload/storage/v1/b/{bucket}/o"
        requests.post(url, params={"uploadType": "media", "name": "d/x"}, data=b"x", timeout=30).raise_for_status()
        assert retrain.minimum_backoff is not None
        assert service.twice(retrain.path, 40) == pytest.approx(retrain.minimum_backoff, abs=3)
        # Ten seconds without an answer, and ten more.
        assert service.twice("/events/object-finalized", 40) == pytest.approx(20, abs=3)
    finally:
        service.close()
