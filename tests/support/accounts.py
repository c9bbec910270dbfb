"""The product's own gateways as any account of the project, at a local cloud that judges them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.server
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import pubsub_v1
from google.cloud import storage as google_storage

from dualdeploy.google.automl import AutoMLGateway
from dualdeploy.google.firebase_ml import FirebaseMlGateway
from dualdeploy.google.monitoring import MonitoringGateway
from dualdeploy.google.object_store import GcsObjectStore
from dualdeploy.google.pubsub import PubSubPublisher
from dualdeploy.google.remote_config import RemoteConfigGateway
from dualdeploy.google.vertex import CustomJobSpec, VertexGateway
from local_cloud.cloud import LocalCloud
from local_cloud.iam import OWNER
from local_cloud.iam.bindings import Bindings

REPOSITORY = Path(__file__).parents[2]
PROJECT, REGION = "demo-dualdeploy", "us-central1"
BINDINGS = Bindings.load(REPOSITORY / "infra" / "bindings.json")
TINY_MODEL = REPOSITORY / "tests" / "fixtures" / "tiny_float32.tflite"
IMAGES = f"{REGION}-docker.pkg.dev/{PROJECT}/dualdeploy"

_numbers = itertools.count(1)


def new_name(text: str = "r") -> str:
    """A name that nothing else has."""
    return f"{text}-{os.getpid()}-{next(_numbers)}"


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What `condition` gives once it is something; nothing when the time is over."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


class Service:
    """A service of ours as Pub/Sub and Eventarc see one: it remembers paths, and answers as it is told."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.status = 204
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                service.paths.append(self.path.partition("?")[0])
                self.send_response(service.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclasses.dataclass
class Actor:
    """What one account can reach: the gateways that our services have, at the account's own ports."""

    cloud: LocalCloud
    member: str

    @functools.cached_property
    def environment(self) -> dict[str, str]:
        return self.cloud.environment(self.member)

    @functools.cached_property
    def client(self) -> Any:
        """Google's client of Cloud Storage."""
        return google_storage.Client(
            project=PROJECT,
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": self.environment["STORAGE_EMULATOR_HOST"]},
        )

    def store(self, key: str) -> GcsObjectStore:
        return GcsObjectStore(self.cloud.topology.buckets[key].name, client=lambda: self.client)

    @functools.cached_property
    def vertex(self) -> VertexGateway:
        return VertexGateway(project=PROJECT, region=REGION, emulator_host=self.environment["VERTEX_EMULATOR_HOST"])

    @functools.cached_property
    def automl(self) -> AutoMLGateway:
        return AutoMLGateway(project=PROJECT, region=REGION, emulator_host=self.environment["VERTEX_EMULATOR_HOST"])

    @functools.cached_property
    def monitoring(self) -> MonitoringGateway:
        return MonitoringGateway(project=PROJECT, emulator_host=self.environment["MONITORING_EMULATOR_HOST"])

    @functools.cached_property
    def remote_config(self) -> RemoteConfigGateway:
        return RemoteConfigGateway(project=PROJECT, emulator_host=self.environment["REMOTE_CONFIG_EMULATOR_HOST"])

    @functools.cached_property
    def publisher(self) -> PubSubPublisher:
        """The library reads the variable when the client is built, at the first message."""
        return PubSubPublisher(PROJECT)

    def publish(self, topic: str) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PUBSUB_EMULATOR_HOST", self.environment["PUBSUB_EMULATOR_HOST"])
            return self.publisher.publish(topic, b"{}", {})

    @contextlib.contextmanager
    def firebase(self) -> Iterator[FirebaseMlGateway]:
        """The SDK's app and addresses belong to the process, so they are put back."""
        import firebase_admin
        from google.auth import iam
        from google.auth.compute_engine import _metadata

        from dualdeploy.google import firebase_ml as firebase

        with pytest.MonkeyPatch.context() as patch:
            for name in ("STORAGE_EMULATOR_HOST", "GCE_METADATA_IP", "GOOGLE_APPLICATION_CREDENTIALS"):
                patch.setenv(name, self.environment[name])
            patch.setenv("CLOUDSDK_CONFIG", self.environment["CLOUDSDK_CONFIG"])
            # The library read the variable when it was imported.
            patch.setattr(_metadata, "_GCE_METADATA_HOST", self.environment["GCE_METADATA_HOST"])
            for name in ("_IAM_ENDPOINT", "_IAM_SIGN_ENDPOINT"):
                patch.setattr(iam, name, getattr(iam, name))
            firebase._impersonating_signer.cache_clear()
            try:
                yield FirebaseMlGateway(
                    project=PROJECT,
                    emulator_host=self.environment["FIREBASE_ML_EMULATOR_HOST"],
                    iam_emulator_host=self.environment["IAM_CREDENTIALS_EMULATOR_HOST"],
                )
            finally:
                firebase._impersonating_signer.cache_clear()
                for app in list(firebase_admin._apps.values()):
                    firebase_admin.delete_app(app)
                if ml := sys.modules.get("firebase_admin.ml"):
                    ml._MLService.PROJECT_URL = "https://firebaseml.googleapis.com/v1beta2/projects/{0}/"
                    ml._MLService.OPERATION_URL = "https://firebaseml.googleapis.com/v1beta2/"

    def create_job(self) -> str:
        """A training job as the launcher starts one; the image is a stub that ends at once."""
        spec = CustomJobSpec(
            display_name=new_name("job"),
            image=f"{IMAGES}/trainer:1",
            arguments=("0",),
            environment={},
            labels={},
            machine="n1-standard-8",
            accelerator_type="NVIDIA_TESLA_T4",
            accelerator_count=1,
            strategy="spot",
            timeout=600.0,
            output_directory=f"gs://{self.cloud.topology.buckets['models'].name}/runs/{new_name()}",
            service_account=f"trainer@{PROJECT}.iam.gserviceaccount.com",
        )
        return self.vertex.create_custom_job(spec).name


class World:
    """The local cloud, everyone who calls it, and the four services, which one server stands for."""

    def __init__(self, cloud: LocalCloud, service: Service) -> None:
        self.cloud = cloud
        self.service = service
        self._actors: dict[str, Actor] = {}

    def actor(self, account: str) -> Actor:
        """An account by its short name; `owner` owns the project."""
        member = OWNER if account == "owner" else self.cloud.iam.member(account)
        return self._actors.setdefault(member, Actor(self.cloud, member))

    def upload(self, key: str, name: str, data: bytes = b"{}") -> None:
        """As the owner."""
        self.actor("owner").client.bucket(self.cloud.topology.buckets[key].name).blob(name).upload_from_string(data)

    def pulled(self, subscription: str, seconds: float = 3.0) -> bool:
        """Whether a message comes on a pull subscription; it is taken."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PUBSUB_EMULATOR_HOST", self.cloud.pubsub.address)
            with pubsub_v1.SubscriberClient() as subscriber:
                path = self.cloud.topology.subscription_path(subscription)
                try:
                    found = subscriber.pull(subscription=path, max_messages=100, timeout=seconds).received_messages
                except Exception:  # noqa: BLE001  # nothing came in time
                    return False
                if found:
                    subscriber.acknowledge(subscription=path, ack_ids=[each.ack_id for each in found])
                return bool(found)
