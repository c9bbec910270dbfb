"""The gateways to Vertex AI, Firebase ML and Pub/Sub, at the local cloud and as fakes, with one face for the tests.

A side is a port and what a test does from outside: letting an operation end, a job fail, a message arrive.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from dualdeploy.errors import ServiceUnavailable
from dualdeploy.google.automl import AutoML, AutoMLGateway
from dualdeploy.google.firebase_ml import FirebaseMl, FirebaseMlGateway
from dualdeploy.google.object_store import ABSENT, GcsObjectStore, ObjectStore
from dualdeploy.google.pubsub import Publisher, PubSubPublisher
from dualdeploy.google.vertex import Answer, CustomJobSpec, DeployedModel, Deployment, ModelSpec, Vertex, VertexGateway
from local_cloud.faults import Faults as CloudFaults
from local_cloud.firebase_ml import FirebaseMl as FirebaseMlEmulator
from local_cloud.pubsub import PubSub
from local_cloud.storage import Storage
from local_cloud.vertex import Image
from local_cloud.vertex import Vertex as VertexEmulator
from support import signing
from support.automl_data import QUICK_AUTOML
from support.fakes import FakeAutoML, FakeFirebaseMl, FakePublisher, FakeVertex, MemoryObjectStore
from support.fakes.vertex import label_in_picture

PROJECT = "demo-dualdeploy"
REGION = "us-central1"
MODELS_BUCKET = "demo-dualdeploy-models"
REGISTRY = f"us-docker.pkg.dev/{PROJECT}/images"
TINY_MODEL = Path(__file__).parents[2] / "fixtures" / "tiny_float32.tflite"

#: A training container that ends as its first argument says, and a serving container that is healthy at once.
TRAINER = "import sys, time; time.sleep(600) if sys.argv[1] == 'forever' else sys.exit(int(sys.argv[1]))"
PREDICTOR = """
import base64, http.server, json, os
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        labels = [base64.b64decode(instance["b64"]).decode() for instance in body["instances"]]
        answer = json.dumps({"predictions": [{"label": label} for label in labels]}).encode()
        self.send_response(500 if "fall over" in labels else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["AIP_HTTP_PORT"])), Handler).serve_forever()
"""


@pytest.fixture(scope="session")
def cloud_faults() -> CloudFaults:
    """What the local cloud shall do wrong."""
    return CloudFaults()


@pytest.fixture(scope="session")
def storage(cloud_faults: CloudFaults, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    iam = signing.iam_with_signer()
    with Storage(faults=cloud_faults, state_dir=tmp_path_factory.mktemp("storage"), iam=iam) as running:
        running.ensure_bucket(MODELS_BUCKET, project=PROJECT)
        yield running


@pytest.fixture
def unheard() -> Iterator[str]:
    """An address where every connection is refused."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, never listening
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def wait_for(what: str, condition: Any, seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.03)
    return found


# Vertex AI -----------------------------------------------------------------------------------------------------------


class VertexSide(Protocol):
    vertex: Vertex

    def finish(self, operation: str) -> None:
        """Return when the operation is done."""

    def fail_next_operation(self) -> None: ...

    def hold_next_operation(self) -> None:
        """Let it run for a second at least, so that a test can see it running."""

    def end_job(self, name: str) -> None:
        """Return when the job has ended by itself, as its arguments say."""


def _fall_over_when_told(deployed: DeployedModel, instance: Mapping[str, Any]) -> Answer:
    answer = label_in_picture(deployed, instance)
    if answer.prediction["label"] == "fall over":
        raise ServiceUnavailable("500")
    return answer


class FakeVertexSide:
    def __init__(self) -> None:
        self.fake = FakeVertex()
        self.fake.serve = _fall_over_when_told
        self.vertex: Vertex = self.fake

    def finish(self, operation: str) -> None:
        self.fake.finish_operations()

    def fail_next_operation(self) -> None:
        self.fake.fail_operation("upload", "planned")

    def hold_next_operation(self) -> None:
        """The fake's operations never end by themselves."""

    def end_job(self, name: str) -> None:
        exit_code = self.fake.job_specs[name].arguments[0]
        state, error = ("SUCCEEDED", "") if exit_code == "0" else ("FAILED", f"exit status {exit_code}")
        self.fake.end_job(name, f"JOB_STATE_{state}", error=error)


class CloudVertexSide:
    def __init__(self, emulator: VertexEmulator, faults: CloudFaults) -> None:
        self.vertex: Vertex = VertexGateway(project=PROJECT, region=REGION, emulator_host=emulator.address)
        self._faults = faults

    def finish(self, operation: str) -> None:
        def done() -> bool:
            found = self.vertex.operation(operation)
            return found is not None and found.done

        wait_for(operation, done)

    def fail_next_operation(self) -> None:
        self._faults.add({"aiplatform.operations.run": ["return-503"]})

    def hold_next_operation(self) -> None:
        self._faults.add({"aiplatform.operations.run": ["hang:1"]})

    def end_job(self, name: str) -> None:
        wait_for(name, lambda: self.vertex.get_custom_job(name).ended)


@pytest.fixture(scope="session")
def vertex_emulator(
    storage: Storage, cloud_faults: CloudFaults, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VertexEmulator]:
    folder = tmp_path_factory.mktemp("vertex")
    emulator = VertexEmulator(
        faults=cloud_faults,
        state_dir=folder / "state",
        project=PROJECT,
        region=REGION,
        storage_address=storage.address,
        environment=lambda _account: {},
        images={
            "trainer": Image(folder, ("python", "-c", TRAINER)),
            "predictor": Image(folder, ("python", "-c", PREDICTOR)),
        },
        publish_log=lambda _entry: None,
        operation_seconds=0.05,
        grace_seconds=0.5,
        automl=QUICK_AUTOML,
    ).start()
    yield emulator
    emulator.close()


@pytest.fixture(params=["fake", "local cloud"])
def vertex_side(request: pytest.FixtureRequest) -> VertexSide:
    if request.param == "fake":
        return FakeVertexSide()
    return CloudVertexSide(request.getfixturevalue("vertex_emulator"), request.getfixturevalue("cloud_faults"))


class Specs:
    """What to create, with names of this test's own."""

    def __init__(self) -> None:
        self.unique = f"flowers-{uuid.uuid4().hex[:8]}"

    def job(self, *arguments: str, labels: Mapping[str, str] | None = None, **changes: Any) -> CustomJobSpec:
        fields: dict[str, Any] = {
            "display_name": self.unique,
            "image": f"{REGISTRY}/trainer:1",
            "arguments": arguments or ("0",),
            "environment": {"TARGET": "cloud"},
            "labels": {"dualdeploy_run": self.unique, **(labels or {})},
            "machine": "n1-standard-8",
            "accelerator_type": "NVIDIA_TESLA_T4",
            "accelerator_count": 1,
            "strategy": "spot",
            "timeout": 600.0,
            "output_directory": f"gs://{MODELS_BUCKET}/runs/{self.unique}",
        }
        return CustomJobSpec(**{**fields, **changes})

    def model(self, *, alias: str = "run-1", artifact: str = "one", image: str = "predictor") -> ModelSpec:
        return ModelSpec(
            model_id=self.unique,
            display_name=self.unique,
            artifact_uri=f"gs://{MODELS_BUCKET}/{artifact}",
            image=f"{REGISTRY}/{image}:1",
            predict_route="/predict",
            health_route="/",
            port=8080,
            environment={"MODEL_VERSION": alias},
            labels={"dualdeploy_dataset": "flowers"},
            aliases=[alias],
        )

    def deployment(self, number: str, model: str) -> Deployment:
        return Deployment(number, model, f"{self.unique}-{number}", "n1-standard-4", 1, 1)


@pytest.fixture
def specs() -> Specs:
    return Specs()


# AutoML --------------------------------------------------------------------------------------------------------------


class AutoMLSide(Protocol):
    automl: AutoML
    models: ObjectStore

    def finish(self, operation: str) -> None:
        """Return when the operation is done."""

    def end(self, pipeline: str) -> None:
        """Return when the pipeline has ended by itself."""


class FakeAutoMLSide:
    def __init__(self) -> None:
        self.models: ObjectStore = MemoryObjectStore(MODELS_BUCKET)
        self.fake = FakeAutoML(self.models)
        self.automl: AutoML = self.fake

    def finish(self, operation: str) -> None:
        self.fake.finish_operations()

    def end(self, pipeline: str) -> None:
        self.fake.end_pipeline(pipeline)


class CloudAutoMLSide:
    def __init__(self, emulator: VertexEmulator, models: GcsObjectStore) -> None:
        self.automl: AutoML = AutoMLGateway(project=PROJECT, region=REGION, emulator_host=emulator.address)
        self.models: ObjectStore = models

    def finish(self, operation: str) -> None:
        def done() -> bool:
            found = self.automl.operation(operation)
            return found is not None and found.done

        wait_for(operation, done)

    def end(self, pipeline: str) -> None:
        wait_for(pipeline, lambda: self.automl.get_pipeline(pipeline).ended)


@pytest.fixture
def cloud_models(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Iterator[GcsObjectStore]:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage as google_storage

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{storage.address}")
    with google_storage.Client(project=PROJECT, credentials=AnonymousCredentials()) as client:
        yield GcsObjectStore(MODELS_BUCKET, client=lambda: client)


@pytest.fixture(params=["fake", "local cloud"])
def automl_side(request: pytest.FixtureRequest) -> AutoMLSide:
    if request.param == "fake":
        return FakeAutoMLSide()
    return CloudAutoMLSide(request.getfixturevalue("vertex_emulator"), request.getfixturevalue("cloud_models"))


# Firebase ML ---------------------------------------------------------------------------------------------------------


class FirebaseSide(Protocol):
    firebase: FirebaseMl

    def file(self, *, good: bool = True) -> str:
        """The URI of a new model file."""

    def hold_next_operation(self) -> None:
        """Let it run for a second at least, so that a test can see the model locked."""


class FakeFirebaseSide:
    def __init__(self) -> None:
        fake = FakeFirebaseMl(looks_locked=1)
        fake.validate = lambda uri: "Invalid flatbuffer format" if uri.endswith("bad") else ""
        self.firebase: FirebaseMl = fake

    def file(self, *, good: bool = True) -> str:
        return f"gs://{MODELS_BUCKET}/{uuid.uuid4().hex}{'' if good else 'bad'}"

    def hold_next_operation(self) -> None:
        """The fake's models stay locked until they are looked at."""


class CloudFirebaseSide:
    def __init__(self, gateway: FirebaseMlGateway, files: GcsObjectStore, faults: CloudFaults) -> None:
        self.firebase: FirebaseMl = gateway
        self._files = files
        self._faults = faults

    def file(self, *, good: bool = True) -> str:
        name = f"{uuid.uuid4().hex}.tflite"
        # Bytes behind a flatbuffer change its hash and nothing else.
        data = TINY_MODEL.read_bytes() + name.encode() if good else b"no model at all"
        self._files.put(name, data, expect=ABSENT, content_type="application/octet-stream")
        return self._files.uri(name)

    def hold_next_operation(self) -> None:
        # An operation reads the file, and waits for Cloud Storage.
        self._faults.add({"storage.objects.get": ["hang:1"]})


@pytest.fixture(scope="session")
def firebase_emulator(
    storage: Storage, cloud_faults: CloudFaults, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FirebaseMlEmulator]:
    emulator = FirebaseMlEmulator(
        faults=cloud_faults,
        state_dir=tmp_path_factory.mktemp("firebase"),
        storage_address=storage.address,
        operation_seconds=0.05,
    ).start()
    yield emulator
    emulator.close()


@contextlib.contextmanager
def gateway_to(address: str, **settings: Any) -> Iterator[FirebaseMlGateway]:
    """A Firebase gateway; the SDK's app and addresses belong to the process, so they are put back."""
    try:
        with signing.on_a_machine() as iam:
            yield FirebaseMlGateway(project=PROJECT, emulator_host=address, iam_emulator_host=iam, **settings)
    finally:
        import firebase_admin

        for app in list(firebase_admin._apps.values()):
            firebase_admin.delete_app(app)
        # Not imported here: without the gateway's precautions that imports TensorFlow too.
        if ml := sys.modules.get("firebase_admin.ml"):
            ml._MLService.PROJECT_URL = "https://firebaseml.googleapis.com/v1beta2/projects/{0}/"
            ml._MLService.OPERATION_URL = "https://firebaseml.googleapis.com/v1beta2/"


@pytest.fixture
def gateway_at() -> Any:
    """`with gateway_at(address) as gateway:` for another server than the local cloud's."""
    return gateway_to


@pytest.fixture
def cloud_firebase(
    storage: Storage,
    firebase_emulator: FirebaseMlEmulator,
    cloud_faults: CloudFaults,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[CloudFirebaseSide]:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage as google_storage

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{storage.address}")
    with (
        google_storage.Client(project=PROJECT, credentials=AnonymousCredentials()) as client,
        gateway_to(firebase_emulator.address) as gateway,
    ):
        yield CloudFirebaseSide(gateway, GcsObjectStore(MODELS_BUCKET, client=lambda: client), cloud_faults)
    cloud_faults.clear()


@pytest.fixture(params=["fake", "local cloud"])
def firebase_side(request: pytest.FixtureRequest) -> FirebaseSide:
    if request.param == "fake":
        return FakeFirebaseSide()
    side: FirebaseSide = request.getfixturevalue("cloud_firebase")
    return side


# Pub/Sub -------------------------------------------------------------------------------------------------------------


class PublisherSide(Protocol):
    publisher: Publisher

    def topic(self) -> str:
        """A topic of this test's own."""

    def received(self, topic: str, count: int) -> list[tuple[bytes, dict[str, str]]]:
        """The first `count` messages of the topic, in any order."""


class FakePublisherSide:
    def __init__(self) -> None:
        self.fake = FakePublisher()
        self.publisher: Publisher = self.fake

    def topic(self) -> str:
        return f"topic-{uuid.uuid4().hex[:8]}"

    def received(self, topic: str, count: int) -> list[tuple[bytes, dict[str, str]]]:
        return [(message.data, dict(message.attributes)) for message in self.fake.sent if message.topic == topic]


class CloudPublisherSide:
    def __init__(self, publisher: Publisher, emulator: PubSub, subscriber: Any) -> None:
        self.publisher = publisher
        self._emulator = emulator
        self._subscriber = subscriber

    def topic(self) -> str:
        name = f"topic-{uuid.uuid4().hex[:8]}"
        path = f"projects/{PROJECT}/topics/{name}"
        self._emulator.ensure_topic(path)
        self._emulator.ensure_subscription(path.replace("topics", "subscriptions"), topic=path)
        return name

    def received(self, topic: str, count: int) -> list[tuple[bytes, dict[str, str]]]:
        messages: list[tuple[bytes, dict[str, str]]] = []
        subscription = f"projects/{PROJECT}/subscriptions/{topic}"
        deadline = time.monotonic() + 30
        while len(messages) < count and time.monotonic() < deadline:
            pulled = self._subscriber.pull(subscription=subscription, max_messages=100, timeout=5).received_messages
            messages += [(one.message.data, dict(one.message.attributes)) for one in pulled]
            if pulled:
                ids = [one.ack_id for one in pulled]
                self._subscriber.acknowledge(subscription=subscription, ack_ids=ids)
        return messages


@contextlib.contextmanager
def publisher_to(address: str, **settings: Any) -> Iterator[PubSubPublisher]:
    """A publisher at an emulator: the library reads the variable when the client is built, at the first message."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUBSUB_EMULATOR_HOST", address)
        publisher = PubSubPublisher(PROJECT, **settings)
        yield publisher
        publisher._client.stop()
        publisher._client.transport.close()


@pytest.fixture
def publisher_at() -> Any:
    """`with publisher_at(address, timeout=1) as publisher:`"""
    return publisher_to


@pytest.fixture(scope="session")
def pubsub_emulator(cloud_faults: CloudFaults, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PubSub]:
    emulator = PubSub(faults=cloud_faults, state_dir=tmp_path_factory.mktemp("pubsub")).start()
    yield emulator
    emulator.close()


@pytest.fixture
def cloud_publisher(pubsub_emulator: PubSub) -> Iterator[CloudPublisherSide]:
    from google.pubsub_v1 import SubscriberClient

    with publisher_to(pubsub_emulator.address) as publisher:
        import grpc
        from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

        transport = SubscriberGrpcTransport(channel=grpc.insecure_channel(pubsub_emulator.address))
        with SubscriberClient(transport=transport) as subscriber:
            yield CloudPublisherSide(publisher, pubsub_emulator, subscriber)


@pytest.fixture(params=["fake", "local cloud"])
def publisher_side(request: pytest.FixtureRequest) -> PublisherSide:
    if request.param == "fake":
        return FakePublisherSide()
    side: PublisherSide = request.getfixturevalue("cloud_publisher")
    return side
