"""A Cloud Storage of our own on a free port, and Google's client pointed at it by its environment variable."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from google.cloud import storage as google_storage

from local_cloud.faults import Faults
from local_cloud.iam import Grant, Iam
from local_cloud.storage import Storage

PROJECT = "demo-dualdeploy"
#: Who signs URLs, and is judged when they are used.
SIGNER = f"signer@{PROJECT}.iam.gserviceaccount.com"


@contextmanager
def client_of(address: str) -> Iterator[google_storage.Client]:
    """Google's client, unmodified; it reads STORAGE_EMULATOR_HOST when it is constructed."""
    before = os.environ.get("STORAGE_EMULATOR_HOST")
    os.environ["STORAGE_EMULATOR_HOST"] = f"http://{address}"
    try:
        client = google_storage.Client(project=PROJECT)
    finally:
        del os.environ["STORAGE_EMULATOR_HOST"]
        if before is not None:
            os.environ["STORAGE_EMULATOR_HOST"] = before
    with client:
        yield client


class Collector:
    """Remembers what it was called with, and can be waited for."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._changed = threading.Condition()

    def __call__(self, *arguments: Any) -> None:
        with self._changed:
            self.calls.append(arguments)
            self._changed.notify_all()

    def wait_for(self, count: int, seconds: float = 30.0) -> list[tuple[Any, ...]]:
        with self._changed:
            arrived = self._changed.wait_for(lambda: len(self.calls) >= count, seconds)
        assert arrived, f"{len(self.calls)} of {count} calls after {seconds} s: {self.calls}"
        return self.calls


@pytest.fixture(scope="module")
def faults() -> Faults:
    return Faults()


@pytest.fixture(scope="module")
def emulator(faults: Faults, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    iam = Iam.of_one_owner()
    iam.grant(Grant("projects/local", "roles/storage.objectUser", f"serviceAccount:{SIGNER}"))
    with Storage(faults=faults, state_dir=tmp_path_factory.mktemp("storage"), iam=iam) as storage:
        yield storage


@pytest.fixture(scope="module")
def client(emulator: Storage) -> Iterator[google_storage.Client]:
    with client_of(emulator.address) as client:
        yield client


@pytest.fixture
def bucket(client: google_storage.Client) -> google_storage.Bucket:
    return client.create_bucket(f"bucket-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def base_url(emulator: Storage) -> str:
    return f"http://{emulator.address}"


@pytest.fixture
def open_storage(tmp_path: Path) -> Iterator[Callable[..., Storage]]:
    """Starts storages on one state folder, one after the other: a restart."""
    opened: list[Storage] = []

    def open_one(**arguments: Any) -> Storage:
        storage = Storage(**{"faults": Faults(), "state_dir": tmp_path / "state", **arguments}).start()
        opened.append(storage)
        return storage

    yield open_one
    for storage in opened:
        storage.close()


@pytest.fixture
def connect() -> Callable[[str], AbstractContextManager[google_storage.Client]]:
    """A client for a storage that a test started itself."""
    return client_of


@pytest.fixture
def collector() -> Collector:
    return Collector()
