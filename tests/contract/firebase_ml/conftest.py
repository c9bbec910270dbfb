"""A Firebase ML of our own with its Cloud Storage, and Google's firebase_admin pointed at it, unmodified."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import firebase_admin
import flatbuffers
import google.auth.credentials
import pytest
from firebase_admin import ml

from local_cloud.faults import Faults
from local_cloud.firebase_ml import FirebaseMl
from local_cloud.iam import Grant, Iam
from local_cloud.storage import Storage

PROJECT = "demo-dualdeploy"
BUCKET = "demo-dualdeploy-models"


class Signer(google.auth.credentials.Credentials, google.auth.credentials.Signing):
    """A credential that can sign, which creating a model needs; no signature is checked here."""

    signer_email = "nobody@localhost"
    signer = None

    def __init__(self) -> None:
        super().__init__()
        self.token = "owner"  # noqa: S105  # what every Firebase emulator takes for a token

    def refresh(self, request: Any) -> None:
        """The token never expires."""

    def sign_bytes(self, message: bytes) -> bytes:
        return b"signature of " + message[:4]


class SignerCredential(firebase_admin.credentials.Base):
    def get_credential(self) -> Signer:
        return Signer()


class Firebase:
    """One Firebase ML, the default Firebase app at it, and files to give to it."""

    project = PROJECT

    def __init__(self, state_dir: Path, operation_seconds: float) -> None:
        self.faults = Faults()
        self._state_dir = state_dir
        self._seconds = operation_seconds
        iam = Iam.of_one_owner()
        # Firebase fetches a file by a signed URL, which is judged as the account that signed it.
        iam.grant(Grant("projects/local", "roles/storage.objectViewer", f"serviceAccount:{Signer.signer_email}"))
        self.storage = Storage(faults=self.faults, state_dir=state_dir / "storage", iam=iam).start()
        self.service = self._service()
        self._made = 0

    def _service(self) -> FirebaseMl:
        service = FirebaseMl(
            faults=self.faults,
            state_dir=self._state_dir / "firebase_ml",
            storage_address=self.storage.address,
            operation_seconds=self._seconds,
        ).start()
        self.url = f"http://{service.address}/v1beta2/projects/{PROJECT}"
        return service

    def restart(self) -> None:
        self.service.close()
        self.service = self._service()

    def close(self) -> None:
        self.service.close()
        self.storage.close()

    def tflite(self, description: str = "toy", version: int = 3) -> bytes:
        """The smallest TensorFlow Lite file: a root table Model with its version and an empty subgraph."""
        builder = flatbuffers.Builder(0)
        text = builder.CreateString(description)
        builder.StartObject(5)
        subgraph = builder.EndObject()
        builder.StartVector(4, 1, 4)
        builder.PrependUOffsetTRelative(subgraph)
        subgraphs = builder.EndVector()
        builder.StartObject(8)
        builder.PrependUint32Slot(0, version, 0)
        builder.PrependUOffsetTRelativeSlot(2, subgraphs, 0)
        builder.PrependUOffsetTRelativeSlot(3, text, 0)
        builder.Finish(builder.EndObject(), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def source(self, data: bytes, name: str = "") -> ml.TFLiteGCSModelSource:
        """`data` as an object of the bucket, the way firebase_admin refers to it."""
        self._made += 1
        uri = f"gs://{BUCKET}/{name or f'model-{self._made}.tflite'}"
        client = firebase_admin.storage.bucket(BUCKET).client
        bucket = client.bucket(BUCKET)
        if not bucket.exists():
            client.create_bucket(BUCKET)
        bucket.blob(uri.split("/", 3)[3]).upload_from_string(data)
        return ml.TFLiteGCSModelSource(uri)

    def model(self, display_name: str, data: bytes | None = None, tags: list[str] | None = None) -> ml.Model:
        model_format = None if data is None else ml.TFLiteFormat(model_source=self.source(data))
        return ml.Model(display_name=display_name, tags=tags, model_format=model_format)


@contextlib.contextmanager
def firebase_at(state_dir: Path, operation_seconds: float) -> Iterator[Firebase]:
    """A Firebase ML and the default app at it, with every setting put back afterwards."""
    firebase = Firebase(state_dir, operation_seconds)
    before = os.environ.get("STORAGE_EMULATOR_HOST"), ml._MLService.PROJECT_URL, ml._MLService.OPERATION_URL
    os.environ["STORAGE_EMULATOR_HOST"] = f"http://{firebase.storage.address}"
    ml._MLService.PROJECT_URL = f"http://{firebase.service.address}/v1beta2/projects/{{0}}/"
    ml._MLService.OPERATION_URL = f"http://{firebase.service.address}/v1beta2/"
    app = firebase_admin.initialize_app(SignerCredential(), {"projectId": PROJECT, "storageBucket": BUCKET})
    try:
        yield firebase
        assert firebase.faults.pending() == {}
    finally:
        firebase_admin.delete_app(app)
        _, ml._MLService.PROJECT_URL, ml._MLService.OPERATION_URL = before
        del os.environ["STORAGE_EMULATOR_HOST"]
        if before[0] is not None:
            os.environ["STORAGE_EMULATOR_HOST"] = before[0]
        firebase.close()


@pytest.fixture
def firebase(tmp_path: Path) -> Iterator[Firebase]:
    """Operations are done when answered, as the real service does with small files."""
    with firebase_at(tmp_path, operation_seconds=0) as firebase:
        yield firebase


@pytest.fixture
def slow_firebase(tmp_path: Path) -> Iterator[Firebase]:
    """Operations take a moment, so that models are seen locked."""
    with firebase_at(tmp_path, operation_seconds=0.4) as firebase:
        yield firebase
