"""A phone: plain HTTP, a zip reader and LiteRT, and none of our code, against what was published."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import requests

from dualdeploy.errors import RejectedByGoogle
from dualdeploy.google.firebase_ml import FirebaseMlGateway
from dualdeploy.google.object_store import ABSENT, GcsObjectStore
from dualdeploy.google.remote_config import RemoteConfigGateway
from dualdeploy.ledger import State
from local_cloud.faults import Faults
from local_cloud.firebase_ml import FirebaseMl
from local_cloud.remote_config import RemoteConfig
from local_cloud.storage import Storage
from mobile_publisher import tflite_metadata
from mobile_publisher.migrate import Migration
from mobile_publisher.on_device_gate import Figures
from mobile_publisher.release import File
from mobile_publisher.storage_channel import StorageChannel
from mobile_publisher.world import World
from support import on_phone, signing
from support.publishing import Publishing

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

    classify = staticmethod(on_phone.classify)


class Publisher:
    """The exported files and the channel, at the local cloud."""

    def __init__(self) -> None:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        client = storage.Client(project=PROJECT, credentials=AnonymousCredentials())
        self.models = GcsObjectStore("models", client=lambda: client)
        self.bucket = GcsObjectStore("phones", client=lambda: client)
        self.channel = StorageChannel(models=self.models, bucket=self.bucket)

    def export(self, version: str) -> File:
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
        digest = hashlib.sha256(tflite).hexdigest()
        manifest = {"version": version, "sha256": digest, "size": len(tflite)}
        self.models.put(f"{version}/model.tflite", tflite, expect=ABSENT)
        self.models.put(f"{version}/manifest.json", json.dumps(manifest).encode(), expect=ABSENT)
        return File(
            uri=self.models.uri(f"{version}/model.tflite"),
            sha256=digest,
            version=version,
            manifest=self.models.uri(f"{version}/manifest.json"),
            variant="float32",
            quantization="auto",
            named="flowers",
            figures=Figures(accuracy=0.9, size_bytes=len(tflite)),
        )

    def publish(self, version: str) -> File:
        file = self.export(version)
        self.channel.upload("flowers", file)
        self.channel.point("flowers", version)
        return file


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    server = Storage(faults=Faults(), state_dir=tmp_path / "storage", iam=signing.iam_with_signer())
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
        with signing.on_a_machine() as iam:
            yield FirebaseMlGateway(project=PROJECT, emulator_host=firebase_ml.address, iam_emulator_host=iam)
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
    deadline = time.monotonic() + 30
    while (model := gateway.find(name)) is None or model.locked:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    gateway.publish(model.id)


def test_a_phone_gets_the_same_file_from_firebase_ml(
    phone: Phone, publisher: Publisher, gateway: FirebaseMlGateway
) -> None:
    host(gateway, "flowers", publisher.publish("v1").uri)
    downloaded = phone.by_firebase_ml("flowers")
    assert downloaded == phone.by_pointer()
    assert phone.classify(downloaded, (0, 255, 0)) == "green"


def test_a_phone_finds_by_the_pointer_what_firebase_ml_hosted(
    phone: Phone, publisher: Publisher, gateway: FirebaseMlGateway
) -> None:
    host(gateway, "flowers", publisher.export("v1").uri)
    for outcome in ("copied", "there"):
        (migrated,) = Migration(gateway, publisher.bucket, project=PROJECT).run()
        assert (migrated.name, migrated.outcome) == ("flowers", outcome)
    moved = phone.by_pointer()
    assert moved == phone.by_firebase_ml("flowers")
    assert phone.classify(moved, (255, 0, 0)) == "red"
    manifest = phone.get(phone.get("models/flowers/latest.json").json()["manifest"]).json()
    assert (manifest["labels"], manifest["version"]) == (LABELS, migrated.version)


def test_a_model_that_is_not_published_cannot_be_downloaded(publisher: Publisher, gateway: FirebaseMlGateway) -> None:
    gateway.create("flowers", gcs_uri=publisher.export("v1").uri, tags=[])
    (model,) = gateway.all()
    with pytest.raises(RejectedByGoogle, match="404"):
        gateway.download(model)


# A staged rollout ----------------------------------------------------------------------------------------------

KEY = "dualdeploy_flowers_version"
#: One fixed set of ids and two fixed runs, so that the shares below are what they are forever: of 1,000 ids drawn
#: anew, a half is within two points in four of five cases only. That the shares themselves are right is another test's
#: matter (tests/unit/local_cloud/test_percentiles.py).
INSTALLATIONS = [f"installation-{number}" for number in range(1000)]
OLDER, NEWER = "flowers-abcdef012345", "flowers-0123456789ab"


class Phones:
    """A thousand phones that take part in staged rollouts, as docs/phones.md tells apps to."""

    def __init__(self, phone: Phone, remote_config: str) -> None:
        self._phone = phone
        self._fetch = f"http://{remote_config}/v1/projects/{PROJECT}/namespaces/firebase:fetch"
        self._session = requests.Session()

    def close(self) -> None:
        self._session.close()

    def look(self) -> dict[str, str]:
        """Which version each installation has now; every version that is seen is fetched, checked and asked."""
        pointer = self._phone.get("models/flowers/latest.json").json()["version"]
        seen = {each: self._told(each) or pointer for each in INSTALLATIONS}
        for version in set(seen.values()):
            self._load(version)
        return seen

    def _told(self, installation: str) -> str:
        answer = self._session.post(self._fetch, json={"appInstanceId": installation}, timeout=10)
        answer.raise_for_status()
        return str(answer.json().get("entries", {}).get(KEY, ""))

    def _load(self, version: str) -> None:
        manifest = self._phone.get(f"models/flowers/{version}/manifest.json").json()
        model = self._phone.get(f"models/flowers/{version}/model.tflite").content
        assert hashlib.sha256(model).hexdigest() == manifest["sha256"]
        assert self._phone.classify(model, (0, 0, 255)) == "blue"


class Service(Publishing):
    """mobile_publisher as it is composed in production, at the local cloud; only converting is left out."""

    def __init__(self, publisher: Publisher, remote_config: str) -> None:
        self._publisher, self._remote_config = publisher, remote_config
        super().__init__()
        rollout = {"steps": [10, 50, 100], "bake": "1d"}
        self.configure(publishing={"channels": ["firebase-storage"], "rollout": rollout})

    def new_world(self, *, bucket: bool) -> World:
        return dataclasses.replace(
            super().new_world(bucket=bucket),
            remote_config=RemoteConfigGateway(project=PROJECT, emulator_host=self._remote_config),
            export=lambda run, _config, _around: self._publisher.export(run.run_id.removeprefix("flowers-")),
            storage=self._publisher.channel,
        )

    def bring(self, run_id: str) -> None:
        """A run whose mobile model is trained, and a tick."""
        assert self.train(int(run_id.removeprefix("flowers-"), 16)) == run_id
        self.tick()

    def a_day_later(self) -> None:
        self.tick(86400)


@pytest.fixture
def remote_config(tmp_path: Path) -> Iterator[RemoteConfig]:
    server = RemoteConfig(faults=Faults(), state_dir=tmp_path / "remote_config").start()
    yield server
    server.close()


@pytest.fixture
def phones(phone: Phone, remote_config: RemoteConfig) -> Iterator[Phones]:
    phones = Phones(phone, remote_config.address)
    yield phones
    phones.close()


@pytest.fixture
def service(publisher: Publisher, remote_config: RemoteConfig) -> Service:
    """With one version that everybody has."""
    service = Service(publisher, remote_config.address)
    service.bring(OLDER)
    assert service.release(OLDER).state is State.LIVE
    return service


def who_has(seen: dict[str, str], run_id: str) -> set[str]:
    return {each for each, version in seen.items() if version == run_id.removeprefix("flowers-")}


def test_a_thousand_phones_through_a_staged_rollout_and_back(service: Service, phones: Phones) -> None:
    everybody = set(INSTALLATIONS)
    service.bring(NEWER)
    tenth = phones.look()
    assert abs(len(who_has(tenth, NEWER)) / 10 - 10) <= 2
    service.a_day_later()
    half = phones.look()
    assert abs(len(who_has(half, NEWER)) / 10 - 50) <= 2
    # Who had it keeps it, and who does not have it has the old one: nobody is between the two.
    assert who_has(tenth, NEWER) < who_has(half, NEWER)
    assert who_has(tenth, OLDER) == everybody - who_has(tenth, NEWER)
    assert who_has(half, OLDER) == everybody - who_has(half, NEWER)
    service.a_day_later()
    assert service.release(NEWER).state is State.LIVE
    assert who_has(phones.look(), NEWER) == everybody
    service.post("rollback")
    service.tick()
    assert service.release(OLDER).state is State.LIVE
    assert who_has(phones.look(), OLDER) == everybody


def test_an_abort_half_way_returns_every_phone(service: Service, phones: Phones) -> None:
    service.bring(NEWER)
    assert who_has(phones.look(), NEWER)
    service.post("abort")
    service.tick()
    assert service.release(NEWER).state is State.ROLLED_BACK
    assert who_has(phones.look(), OLDER) == set(INSTALLATIONS)


def test_a_phone_that_knows_no_remote_config_has_the_old_version_until_the_end(service: Service, phone: Phone) -> None:
    old = phone.by_pointer()
    service.bring(NEWER)
    assert phone.by_pointer() == old
    service.a_day_later()
    service.a_day_later()
    assert phone.by_pointer() != old
