"""`make shards … TO=gs://…` as people run it: a program of its own, Google's client, a bucket."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage as google_storage
from PIL import Image

from local_cloud.faults import Faults
from local_cloud.storage import Storage

REPOSITORY = Path(__file__).resolve().parents[3]
PARTS = ("shared/src", "infra/cli", "infra/shards", "services/training_launcher")


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    with Storage(faults=Faults(), state_dir=tmp_path / "state") as running:
        for name in ("data", "config"):
            running.ensure_bucket(f"garden-{name}", project="garden")
        yield running


def make_shards(storage: Storage, images: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "PYTHONPATH": os.pathsep.join(str(REPOSITORY / part) for part in PARTS),
        "STORAGE_EMULATOR_HOST": f"http://{storage.address}",
        "GOOGLE_CLOUD_PROJECT": "garden",
    }
    command = [sys.executable, "-m", "dualdeploy_cli", "shards", str(images), "--workers", "1", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_pictures_become_a_data_set_in_its_bucket(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "it's a garden"
    for number in range(60):
        path = images / ("roses", "tulips")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        out = io.BytesIO()
        Image.new("RGB", (16, 16), (number, 4 * number, 90)).save(out, "PNG")
        path.write_bytes(out.getvalue())
    arguments = ("--to", "gs://garden-data/garden", "--out", str(tmp_path / "out"), "--shards", "2")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{storage.address}")
    with google_storage.Client(project="garden", credentials=AnonymousCredentials()) as client:
        done = make_shards(storage, images, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        names = [blob.name for blob in client.list_blobs("garden-data")]
        assert names == [
            "garden/_SUCCESS",
            "garden/eval-00000-of-00001.tfrecord",
            "garden/train-00000-of-00002.tfrecord",
            "garden/train-00001-of-00002.tfrecord",
        ]
        written = [blob.time_created for blob in client.list_blobs("garden-data")]
        config = client.bucket("garden-config").get_blob("datasets/garden.yaml")
        assert config.time_created < min(written[1:])
        assert written[0] > max(written[1:]), "the marker is written last"

        again = make_shards(storage, images, *arguments)
        assert again.returncode == 0
        assert "sent 0 of 3 shards" in again.stdout
        assert [blob.time_created for blob in client.list_blobs("garden-data")] == written
