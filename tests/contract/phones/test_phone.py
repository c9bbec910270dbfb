"""A phone: plain HTTP, a zip reader and LiteRT, and none of our code, against what was published."""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import requests

from dualdeploy.errors import RejectedByGoogle
from dualdeploy.firebase import FirebaseMlGateway
from dualdeploy.object_store import ABSENT, GcsObjectStore
from local_cloud.faults import Faults
from local_cloud.firebase_ml import FirebaseMl
from local_cloud.storage import Storage
from mobile_publisher import tflite_metadata
from mobile_publisher.migrate import Migration
from mobile_publisher.storage_channel import StorageChannel

TINY_MODEL = Path(__file__).parents[2] / "fixtures" / "tiny_float32.tflite"
LABELS = ["red", "green", "blue"]
PROJECT = "demo-project"


class Phone:
    """Knows two addresses and a name."""

    def __init__(self, storage: str, firebase_ml: str) -> None:
        self._storage = f"http://{storage}/v0/b/phones/o"
        self._firebase_ml = f"http://{firebase_ml}/v1beta2/projects/{PROJECT}/models"

    def get(self, name: str) -> requests.Response:
        response = requests.get(f"{self._storage}/{quote(name, safe='')}", params={"alt": "media"}, timeout=10)
        response.raise_for_status()
        return response

    def by_pointer(self) -> bytes:
        pointer = self.get("models/flowers/latest.json").json()
        model = self.get(pointer["model"]).content
        assert hashlib.sha256(model).hexdigest() == pointer["sha256"]
        assert len(model) == pointer["size"]
        return model

    def by_firebase_ml(self, model: str) -> bytes:
        answer = requests.get(f"{self._firebase_ml}/{model}:download", timeout=10)
        answer.raise_for_status()
        return requests.get(answer.json()["downloadUri"], timeout=10).content

    @staticmethod
    def classify(model: bytes, colour: tuple[int, int, int]) -> str:
        from ai_edge_litert.interpreter import Interpreter

        labels = zipfile.ZipFile(io.BytesIO(model)).read("labels.txt").decode().split()
        interpreter = Interpreter(model_content=model)
        interpreter.allocate_tensors()
        (taken,) = interpreter.get_input_details()
        pixels = np.broadcast_to(np.float32(colour), taken["shape"]).astype(np.float32)
        interpreter.set_tensor(taken["index"], pixels)
        interpreter.invoke()
        return labels[int(np.argmax(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])))]


class Publisher:
    """The exported files and the channel, at the local cloud."""

    def __init__(self) -> None:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        client = storage.Client(project=PROJECT, credentials=AnonymousCredentials())
        self.models = GcsObjectStore("models", client=lambda: client)
        self.bucket = GcsObjectStore("phones", client=lambda: client)
        self.channel = StorageChannel(models=self.models, bucket=self.bucket)

    def export(self, version: str) -> dict[str, Any]:
        """Export the tiny model; its metadata names the version, so every version has bytes of its own."""
        tflite = tflite_metadata.describe(
            TINY_MODEL.read_bytes(),
            name="flowers",
            description="by colour",
            labels=LABELS,
            image_size=8,
            version=version,
            extra={},
        )
        manifest = {"version": version, "sha256": hashlib.sha256(tflite).hexdigest(), "size": len(tflite)}
        self.models.put(f"{version}/model.tflite", tflite, expect=ABSENT)
        self.models.put(f"{version}/manifest.json", json.dumps(manifest).encode(), expect=ABSENT)
        return {
            "tflite": self.models.uri(f"{version}/model.tflite"),
            "manifest": self.models.uri(f"{version}/manifest.json"),
        }

    def publish(self, version: str) -> dict[str, Any]:
        facts = self.export(version)
        self.channel.point("flowers", self.channel.upload("flowers", facts))
        return facts


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    server = Storage(faults=Faults(), state_dir=tmp_path / "storage")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{server.address}")
    with server:
        for bucket in ("models", "phones"):
            server.ensure_bucket(bucket, project=PROJECT)
        yield server


@pytest.fixture
def firebase_ml(storage: Storage, tmp_path: Path) -> Iterator[FirebaseMl]:
    server = FirebaseMl(
        faults=Faults(), state_dir=tmp_path / "firebase", storage_address=storage.address, operation_seconds=0.0
    ).start()
    yield server
    server.close()


@pytest.fixture
def phone(storage: Storage, firebase_ml: FirebaseMl) -> Phone:
    return Phone(storage.address, firebase_ml.address)


@pytest.fixture
def publisher(storage: Storage) -> Publisher:
    return Publisher()


def test_a_phone_follows_the_pointer_checks_the_hash_and_classifies(phone: Phone, publisher: Publisher) -> None:
    publisher.publish("v1")
    model = phone.by_pointer()
    assert phone.classify(model, (255, 0, 0)) == "red"
    assert phone.classify(model, (0, 0, 255)) == "blue"


def test_a_phone_that_looks_again_gets_the_newer_version(phone: Phone, publisher: Publisher) -> None:
    publisher.publish("v1")
    old = phone.by_pointer()
    publisher.publish("v2")
    assert phone.by_pointer() != old
    # Who still has the old pointer finds the old file.
    assert phone.get("models/flowers/v1/model.tflite").content == old


def test_files_may_be_cached_for_a_year_and_the_pointer_not_at_all(phone: Phone, publisher: Publisher) -> None:
    publisher.publish("v1")
    assert phone.get("models/flowers/latest.json").headers["Cache-Control"] == "no-cache, max-age=0"
    for name in ("model.tflite", "manifest.json"):
        headers = phone.get(f"models/flowers/v1/{name}").headers
        assert headers["Cache-Control"] == "public, max-age=31536000, immutable"


def test_a_phone_without_a_published_model_is_told_so(phone: Phone) -> None:
    with pytest.raises(requests.HTTPError, match="404"):
        phone.by_pointer()


@pytest.fixture
def gateway(firebase_ml: FirebaseMl) -> Iterator[FirebaseMlGateway]:
    try:
        yield FirebaseMlGateway(project=PROJECT, emulator_host=firebase_ml.address)
    finally:
        import firebase_admin

        for app in list(firebase_admin._apps.values()):
            firebase_admin.delete_app(app)
        from firebase_admin import ml

        # Addresses belong to the process: other tests have an emulator of their own.
        ml._MLService.PROJECT_URL = "https://firebaseml.googleapis.com/v1beta2/projects/{0}/"
        ml._MLService.OPERATION_URL = "https://firebaseml.googleapis.com/v1beta2/"


def host(gateway: FirebaseMlGateway, name: str, uri: str) -> None:
    """Publish a file by Firebase ML."""
    gateway.create(name, gcs_uri=uri, tags=[])
    deadline = time.monotonic() + 10
    while (model := gateway.find(name)) is None or model.locked:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    gateway.publish(model.id)


def test_a_phone_gets_the_same_file_from_firebase_ml(
    phone: Phone, publisher: Publisher, gateway: FirebaseMlGateway
) -> None:
    host(gateway, "flowers", publisher.publish("v1")["tflite"])
    downloaded = phone.by_firebase_ml("flowers")
    assert downloaded == phone.by_pointer()
    assert phone.classify(downloaded, (0, 255, 0)) == "green"


def test_a_phone_finds_by_the_pointer_what_firebase_ml_hosted(
    phone: Phone, publisher: Publisher, gateway: FirebaseMlGateway
) -> None:
    host(gateway, "flowers", publisher.export("v1")["tflite"])
    for outcome in ("copied", "there"):
        (migrated,) = Migration(gateway, publisher.bucket, project=PROJECT).run()
        assert (migrated.name, migrated.outcome) == ("flowers", outcome)
    moved = phone.by_pointer()
    assert moved == phone.by_firebase_ml("flowers")
    assert phone.classify(moved, (255, 0, 0)) == "red"
    manifest = phone.get(phone.get("models/flowers/latest.json").json()["manifest"]).json()
    assert (manifest["labels"], manifest["version"]) == (LABELS, migrated.version)


def test_a_model_that_is_not_published_cannot_be_downloaded(publisher: Publisher, gateway: FirebaseMlGateway) -> None:
    gateway.create("flowers", gcs_uri=publisher.export("v1")["tflite"], tags=[])
    (model,) = gateway.all()
    with pytest.raises(RejectedByGoogle, match="404"):
        gateway.download(model)
