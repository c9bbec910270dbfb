"""The trainer as Vertex AI runs it: a process of its own, its data and results in an emulated Cloud Storage."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage as google_storage

from dualdeploy_demo import flowers
from local_cloud.faults import Faults
from local_cloud.storage import Storage

REPOSITORY = Path(__file__).parents[3]
LABELS = list(flowers.LABELS)
TRAINING: Mapping[str, Any] = {
    "architecture": "mobilenet_v3_small",
    "weights": "none",
    "image_size": 32,
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 0.003,
    "seed": 1,
    "max_bad_records": 0.05,
}


@dataclasses.dataclass(frozen=True)
class Cloud:
    """Cloud Storage with a bucket for data and one for models, and what to plan faults with."""

    client: google_storage.Client
    address: str
    faults: Faults

    def put(self, name: str, data: bytes, bucket: str = "data") -> dict[str, str]:
        """Upload; returns the reference to exactly this version, as a job description has it."""
        blob = self.client.bucket(bucket).blob(name)
        blob.upload_from_string(data)
        checksum = base64.b64encode(google_crc32c.Checksum(data).digest()).decode()
        return {"uri": f"gs://{bucket}/{name}", "generation": str(blob.generation), "crc32c": checksum}

    def get(self, name: str, bucket: str = "models") -> bytes:
        data: bytes = self.client.bucket(bucket).blob(name).download_as_bytes()
        return data

    def names(self, bucket: str = "models") -> list[str]:
        """All objects of a bucket, the one that was written last at the end."""
        return [blob.name for blob in sorted(self.client.list_blobs(bucket), key=lambda blob: blob.generation)]

    def put_job(
        self,
        run: str,
        shards: Mapping[str, Any],
        *,
        live: Mapping[str, str] | None = None,
        module: Mapping[str, str] | None = None,
        **training: Any,
    ) -> str:
        """Upload a job description for `run`; returns where it is."""
        job = {
            "v": 1,
            "run_id": run,
            "dataset": "flowers",
            "target": "mobile",
            "labels": LABELS,
            "shards": shards,
            "training": {**TRAINING, **training},
            "output": {
                "directory": f"gs://models/runs/{run}/mobile",
                "result": f"gs://models/results/{run}/mobile.json",
            },
            "live": live,
            "module": module,
        }
        return self.put(f"runs/{run}/mobile/job.json", json.dumps(job).encode(), bucket="models")["uri"]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    faults = Faults()
    server = Storage(faults=faults, state_dir=tmp_path_factory.mktemp("storage")).start()
    options = {"api_endpoint": f"http://{server.address}"}
    client = google_storage.Client(project="demo", credentials=AnonymousCredentials(), client_options=options)
    with client:
        for bucket in ("data", "models", "config"):
            client.create_bucket(bucket)
        yield Cloud(client, server.address, faults)
    server.close()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Forty painted flowers to learn from in two shards (one of them gzip), and ten held out."""
    folder = tmp_path_factory.mktemp("flowers")
    style = flowers.Style(side=48)
    flowers.generate(folder / "plain", train=40, held_out=10, shards=2, style=style)
    flowers.generate(folder / "gzip", train=40, held_out=0, shards=2, style=style, compressed=True)
    second = "train-00001-of-00002.tfrecord"
    found = {path.name: path.read_bytes() for path in sorted((folder / "plain").iterdir())}
    return found | {second: (folder / "gzip" / f"{second}.gz").read_bytes()}


@pytest.fixture
def references(cloud: Cloud, shards: dict[str, bytes]) -> dict[str, list[dict[str, str]]]:
    put = {name: cloud.put(f"flowers/{name}", data) for name, data in shards.items()}
    return {
        "train": [reference for name, reference in put.items() if name.startswith("train")],
        "eval": [reference for name, reference in put.items() if name.startswith("eval")],
    }


def trainer_environment(cloud: Cloud, scratch: Path, **more: str) -> dict[str, str]:
    folders = [REPOSITORY / "shared" / "src", REPOSITORY / "services" / "trainer"]
    return {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "STORAGE_EMULATOR_HOST": f"http://{cloud.address}",
        "GOOGLE_CLOUD_PROJECT": "demo",
        **more,
    }


@pytest.fixture
def trainer(cloud: Cloud, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the trainer to its end with these arguments; its scratch folder must be empty afterwards."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "trainer", *arguments],
            env=trainer_environment(cloud, scratch, **environment),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert not list(scratch.glob("trainer-*")), "the trainer left its scratch folder behind"
        return done

    return run
