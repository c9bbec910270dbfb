"""Objects as Cloud Storage really serves them: each is validated, or refused with the reason."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import BadRequest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage as google_storage

from dualdeploy.clock import utc_now
from dualdeploy.contracts import dataset_config
from dualdeploy.google.object_store import GcsObjectStore
from dualdeploy.ledger import Run
from local_cloud.faults import Faults
from local_cloud.storage import Storage
from support.chain import shard_bytes
from training_launcher.examination import examine
from training_launcher.snapshots import list_shards

NAMES = ("flowers/train.tfrecord", "flowers/eval.tfrecord")
KEY = bytes(range(32))


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[google_storage.Client]:
    with Storage(faults=Faults(), state_dir=tmp_path) as storage:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{storage.address}")
        with google_storage.Client(project="demo", credentials=AnonymousCredentials()) as client:
            client.create_bucket("served-data")
            yield client


def plain(bucket: Any, name: str) -> None:
    bucket.blob(name).upload_from_string(shard_bytes(name))


def encoded(bucket: Any, name: str) -> None:
    """`gsutil cp -Z`, `gcloud storage cp --gzip-local-all`."""
    blob = bucket.blob(name)
    blob.content_encoding = "gzip"
    blob.upload_from_string(gzip.compress(shard_bytes(name)))


def encoded_and_large(bucket: Any, name: str) -> None:
    """More than the client fetches at once: ranges of what is stored, not of what it unfolds to."""
    blob = bucket.blob(name)
    blob.content_encoding = "gzip"
    blob.upload_from_string(gzip.compress(shard_bytes(name, examples=4), 1) + bytes(9 << 20))


def composed(bucket: Any, name: str) -> None:
    """Parallel composite uploads: a checksum, and no MD5."""
    data = shard_bytes(name)
    parts = []
    for number, part in enumerate((data[:100], data[100:])):
        blob = bucket.blob(f"gcloud/tmp/parallel_composite_uploads/{name}/{number}")
        blob.upload_from_string(part)
        parts.append(blob)
    bucket.blob(name).compose(parts)


def of_class(storage_class: str) -> Callable[[Any, str], None]:
    def upload(bucket: Any, name: str) -> None:
        blob = bucket.blob(name)
        blob.storage_class = storage_class
        blob.upload_from_string(shard_bytes(name))

    return upload


def under_a_key(bucket: Any, name: str) -> None:
    bucket.blob(name, encryption_key=KEY).upload_from_string(shard_bytes(name))


class MemoryNotes:
    """What an examination keeps beside a run."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}

    def read(self, name: str) -> bytes | None:
        return self.documents.get(name)

    def keep(self, name: str, data: bytes) -> bytes:
        return self.documents.setdefault(name, data)


@pytest.mark.parametrize(
    ("upload", "word", "reason", "note"),
    [
        (plain, "accepted", "8 records in 2 shards", ""),
        (encoded, "accepted", "8 records in 2 shards", ""),
        (encoded_and_large, "accepted", "8 records in 2 shards", ""),
        (composed, "accepted", "8 records in 2 shards", ""),
        (of_class("STANDARD"), "accepted", "8 records in 2 shards", ""),
        (of_class("NEARLINE"), "accepted", "8 records in 2 shards", "2 NEARLINE, of 2 shards"),
        (of_class("COLDLINE"), "accepted", "8 records in 2 shards", "2 COLDLINE, of 2 shards"),
        (of_class("ARCHIVE"), "accepted", "8 records in 2 shards", "2 ARCHIVE, of 2 shards"),
        (
            under_a_key,
            "rejected",
            "encrypted with a key that only its owner has (a customer-supplied encryption key)",
            "",
        ),
    ],
)
def test_every_object_is_read_or_refused_with_the_reason(
    client: google_storage.Client, upload: Callable[[Any, str], None], word: str, reason: str, note: str
) -> None:
    for name in NAMES:
        upload(client.bucket("served-data"), name)
    store = GcsObjectStore("served-data", client=lambda: client)
    config = {"dataset": "flowers", "labels": ["blue", "red"]}
    snapshot = list_shards(store, dataset_config.stored(config), bucket="served-data", clock=utc_now).snapshot
    run = Run(
        run_id="flowers-0123456789ab",
        dataset="flowers",
        created_at="2026-11-28T00:00:00.000Z",
        reason="test",
        snapshot=snapshot,
        config=config,
        claim="test",
    )

    verdict = json.loads(examine(run, notes=MemoryNotes(), data=store))
    assert verdict["verdict"] == word, verdict["reason"]
    assert reason in verdict["reason"]
    assert word == "accepted" or NAMES[1] in verdict["reason"]
    told = [each for each in verdict.get("notes", ()) if "for each gigabyte read" in each]
    assert (note in told[0]) if note else not told


def test_an_object_under_a_key_is_read_only_with_it_and_shows_no_checksum(client: google_storage.Client) -> None:
    bucket = client.bucket("served-data")
    under_a_key(bucket, NAMES[0])

    assert bucket.blob(NAMES[0], encryption_key=KEY).download_as_bytes() == shard_bytes(NAMES[0])
    with pytest.raises(BadRequest, match="encrypted by a customer-supplied encryption key"):
        bucket.blob(NAMES[0]).download_as_bytes()
    with pytest.raises(BadRequest, match="incorrect"):
        bucket.blob(NAMES[0], encryption_key=bytes(32)).download_as_bytes()
    (listed,) = client.list_blobs("served-data")
    assert (listed.crc32c, listed.md5_hash) == (None, None)
    assert listed.size == len(shard_bytes(NAMES[0]))
