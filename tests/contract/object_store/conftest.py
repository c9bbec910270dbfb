"""The buckets that the contract is tried on: in memory, in the local cloud, and a real one when it is named.

A real bucket is given by DUALDEPLOY_TEST_BUCKET, with the usual application default credentials; every test works in
a folder of its own there and deletes it afterwards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage as google_storage

from dualdeploy.google.object_store import GcsObjectStore, Generation, ObjectStore
from local_cloud.faults import Faults as CloudFaults
from local_cloud.storage import Storage
from support.fakes import MemoryObjectStore

PROJECT = "demo-dualdeploy"
REAL_BUCKET = os.environ.get("DUALDEPLOY_TEST_BUCKET", "")
#: Shorter than in production, so that a test of a server that does not answer is short too.
PATIENCE = {"call_timeout": 5.0, "retry_deadline": 8.0}


@dataclasses.dataclass(frozen=True)
class Folder:
    """A place of its own for one test inside a bucket that other tests use too."""

    store: ObjectStore
    prefix: str

    def name(self, name: str) -> str:
        return f"{self.prefix}{name}"

    def put(self, name: str, data: bytes, *, expect: Generation, **more: Any) -> Generation:
        return self.store.put(self.name(name), data, expect=expect, **more)

    def read(self, name: str) -> tuple[bytes, Generation]:
        stored = self.store.read(self.name(name))
        return stored.data, stored.generation

    def delete(self, name: str, *, expect: Generation) -> None:
        self.store.delete(self.name(name), expect=expect)

    def read_stream(self, name: str, *, generation: Generation, size: int = -1) -> bytes:
        with self.store.open(self.name(name), generation=generation) as stream:
            return stream.read(size)

    def names(self, prefix: str = "") -> list[str]:
        return [summary.name.removeprefix(self.prefix) for summary in self.store.list(self.name(prefix))]


@pytest.fixture(scope="session")
def cloud_faults() -> CloudFaults:
    """What the local cloud's storage shall do wrong."""
    return CloudFaults()


@pytest.fixture(scope="session")
def storage(cloud_faults: CloudFaults, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with Storage(faults=cloud_faults, state_dir=tmp_path_factory.mktemp("storage")) as running:
        running.ensure_bucket("contract", project=PROJECT)
        yield running


@pytest.fixture(scope="session")
def client(storage: Storage) -> Iterator[google_storage.Client]:
    with emulated_client(storage.address) as client:
        yield client


@contextlib.contextmanager
def emulated_client(address: str) -> Iterator[google_storage.Client]:
    """Google's client at an emulator; it reads the variable when it is built."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://{address}")
        client = google_storage.Client(project=PROJECT, credentials=AnonymousCredentials())
    with client:
        yield client


@pytest.fixture
def client_at() -> Callable[[str], contextlib.AbstractContextManager[google_storage.Client]]:
    """`client_at("127.0.0.1:1234")`: Google's client for another server than the session's."""
    return emulated_client


@pytest.fixture
def cloud_store(client: google_storage.Client) -> GcsObjectStore:
    """The real implementation at the local cloud."""
    return GcsObjectStore("contract", client=lambda: client, **PATIENCE)


@pytest.fixture(params=["memory", "local cloud", *(["real bucket"] if REAL_BUCKET else [])])
def folder(request: pytest.FixtureRequest) -> Iterator[Folder]:
    store: ObjectStore
    if request.param == "memory":
        store = MemoryObjectStore("contract")
    elif request.param == "local cloud":
        store = request.getfixturevalue("cloud_store")
    else:
        store = GcsObjectStore(REAL_BUCKET)
    place = Folder(store, f"contract-{uuid.uuid4().hex[:12]}/")
    yield place
    if request.param == "real bucket":
        for summary in store.list(place.prefix):
            store.delete(summary.name, expect=summary.generation)
