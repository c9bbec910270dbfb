"""State survives: an orderly restart, and a process killed at any moment."""

from __future__ import annotations

import base64
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
import requests
from google.cloud.storage import Client

from local_cloud.storage import Storage

CHUNK = 256 * 1024
PROJECT = "demo-dualdeploy"

Connect = Callable[[str], AbstractContextManager[Client]]

_SERVER = """
import sys, threading
from local_cloud.faults import Faults
from local_cloud.storage import Storage
storage = Storage(faults=Faults(), state_dir=sys.argv[1], publish=lambda *_: threading.Event().wait()).start()
storage.ensure_bucket("ledger", project="demo-dualdeploy")
storage.ensure_notification("ledger", topic="projects/p/topics/t")
print(storage.address, flush=True)
threading.Event().wait()
"""


def test_a_restart_loses_nothing(open_storage: Callable[..., Storage], connect: Connect) -> None:
    storage = open_storage()
    with connect(storage.address) as client:
        bucket = client.create_bucket("kept")
        bucket.notification(topic_name="topic-1").create()
        blob = bucket.blob("a/b")
        blob.metadata = {"k": "v"}
        blob.upload_from_string("content", content_type="text/x")
    storage.close()

    with connect(open_storage().address) as client:
        found = client.bucket("kept").get_blob("a/b")
        assert (found.generation, found.metadata, found.content_type) == (blob.generation, {"k": "v"}, "text/x")
        assert found.download_as_bytes() == b"content"
        assert [each.topic_name for each in client.bucket("kept").list_notifications()] == ["topic-1"]
        found.upload_from_string("newer", if_generation_match=blob.generation)
        assert found.generation > blob.generation


def test_a_resumable_upload_goes_on_after_a_restart(open_storage: Callable[..., Storage]) -> None:
    storage = open_storage()
    storage.ensure_bucket("kept", project=PROJECT)
    data = os.urandom(CHUNK + 9)
    begun = requests.post(
        f"http://{storage.address}/upload/storage/v1/b/kept/o?uploadType=resumable&name=slow", timeout=5
    )
    location = begun.headers["Location"]
    headers = {"Content-Range": f"bytes 0-{CHUNK - 1}/*"}
    requests.put(location, data=data[:CHUNK], headers=headers, timeout=5)
    old_address = storage.address
    storage.close()

    location = location.replace(old_address, open_storage().address)
    status = requests.put(location, headers={"Content-Range": "bytes */*"}, timeout=5)
    assert (status.status_code, status.headers["Range"]) == (308, f"bytes=0-{CHUNK - 1}")
    headers = {"Content-Range": f"bytes {CHUNK}-{CHUNK + 8}/{CHUNK + 9}"}
    done = requests.put(location, data=data[CHUNK:], headers=headers, timeout=5)
    assert done.json()["size"] == str(CHUNK + 9)


def test_an_event_that_was_not_delivered_is_delivered_after_the_restart(
    open_storage: Callable[..., Storage], connect: Connect, collector: Any
) -> None:
    def refuse(*_arguments: object) -> None:
        raise ConnectionError("nobody listens")

    storage = open_storage(on_finalize=refuse)
    storage.ensure_bucket("kept", project=PROJECT)
    with connect(storage.address) as client:
        client.bucket("kept").blob("late").upload_from_string("x")
    storage.close()

    open_storage(on_finalize=collector)
    assert collector.wait_for(1)[0][0]["name"] == "late"


def test_what_a_dead_process_left_behind_is_swept(
    open_storage: Callable[..., Storage], connect: Connect, tmp_path: Path
) -> None:
    storage = open_storage()
    storage.ensure_bucket("kept", project=PROJECT)
    with connect(storage.address) as client:
        client.bucket("kept").blob("x").upload_from_string("x")
    storage.close()
    blobs = tmp_path / "state" / "blobs"
    (blobs / "orphan").write_bytes(b"written, never committed")

    open_storage()
    assert len(list(blobs.iterdir())) == 1
    assert not (blobs / "orphan").exists()


class Server:
    """A storage in a process of its own, which can be killed."""

    def __init__(self, state: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(state)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        assert self.address, "the server did not start"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_kill_leaves_the_old_object_or_the_new_one(tmp_path: Path, connect: Connect, seed: int) -> None:
    draw = random.Random(seed)
    acknowledged = 0
    for _ in range(2):
        server = Server(tmp_path / "state")
        killer = threading.Timer(draw.uniform(0.05, 0.4), server.kill)
        killer.start()
        started = acknowledged + 1
        try:
            for version in range(started, started + 10_000):
                requests.post(
                    f"http://{server.address}/upload/storage/v1/b/ledger/o?uploadType=media&name=record",
                    data=f"{version}:".encode() + os.urandom(200_000),
                    timeout=5,
                ).raise_for_status()
                acknowledged = version
        except requests.RequestException:
            killer.join()

        _require_whole(tmp_path / "state", acknowledged, connect)


def _require_whole(state: Path, acknowledged: int, connect: Connect) -> None:
    """The object is the last acknowledged version or the one that was being written, bytes and metadata alike."""
    server = Server(state)
    try:
        with connect(server.address) as client:
            blob = client.bucket("ledger").get_blob("record")
            if acknowledged == 0 and blob is None:
                return
            content = blob.download_as_bytes(checksum="md5")
            assert len(content) == blob.size
            assert google_crc32c.value(content).to_bytes(4, "big") == base64.b64decode(blob.crc32c)
            assert int(content.split(b":", 1)[0]) in {acknowledged, acknowledged + 1}
    finally:
        server.kill()
