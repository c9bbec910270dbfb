"""A Vertex AI of our own on a free port, and Google's generated clients pointed at it, unmodified."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.api_core.client_options import ClientOptions
from google.api_core.future.polling import DEFAULT_POLLING
from google.api_core.operation import Operation
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform_v1
from google.cloud import storage as google_storage

from local_cloud.faults import Faults
from local_cloud.iam import PROJECT_NUMBER
from local_cloud.storage import Storage
from local_cloud.vertex import Image, Vertex
from support.automl_data import QUICK_AUTOML

PROJECT = "demo-dualdeploy"
REGION = "us-central1"
PARENT = f"projects/{PROJECT}/locations/{REGION}"
#: What answers call it.
ANSWERED_PARENT = f"projects/{PROJECT_NUMBER}/locations/{REGION}"
TRAINER = f"us-docker.pkg.dev/{PROJECT}/images/trainer:test"
PREDICTOR = f"us-docker.pkg.dev/{PROJECT}/images/predictor@sha256:{'0' * 64}"
TOY_IMAGES = Path(__file__).parent / "toy_images"

# The default polling waits a second before it looks again, which is longer than most tests here take.
QUICK_POLLING = DEFAULT_POLLING.with_delay(initial=0.02, maximum=0.1, multiplier=1.2).with_timeout(30)

FINAL_STATES = {
    aiplatform_v1.JobState.JOB_STATE_SUCCEEDED,
    aiplatform_v1.JobState.JOB_STATE_FAILED,
    aiplatform_v1.JobState.JOB_STATE_CANCELLED,
}


class Cloud:
    """One Vertex AI with its Cloud Storage, and what a test needs to talk to them."""

    parent = PARENT
    answered_parent = ANSWERED_PARENT
    trainer = TRAINER
    predictor = PREDICTOR

    def __init__(self, state_dir: Path, **settings: Any) -> None:
        self.state_dir = state_dir
        self.faults = Faults()
        self.entries: list[dict[str, Any]] = []
        self._settings = settings
        self._clients: dict[Any, Any] = {}
        self._arrived = threading.Condition()
        self.storage = Storage(faults=self.faults, state_dir=state_dir / "storage").start()
        self.vertex = self._vertex()

    def _vertex(self) -> Vertex:
        return Vertex(
            faults=self.faults,
            state_dir=self.state_dir / "vertex",
            project=PROJECT,
            storage_address=self.storage.address,
            environment=lambda _account: {"STORAGE_EMULATOR_HOST": f"http://{self.storage.address}"},
            **{
                "images": {
                    "trainer": Image(TOY_IMAGES / "trainer", ("python", "job.py")),
                    "predictor": Image(TOY_IMAGES / "predictor", ("python", "server.py")),
                },
                "region": REGION,
                "automl": QUICK_AUTOML,
                "publish_log": self._note,
                "operation_seconds": 0.05,
                "grace_seconds": 0.5,
                "server_start_seconds": 10.0,
                "seed": 7,
                **self._settings,
            },
        ).start()

    def _note(self, entry: dict[str, Any]) -> None:
        with self._arrived:
            self.entries.append(entry)
            self._arrived.notify_all()

    def log_entry(self, job_name: str) -> dict[str, Any]:
        """The service's log entry about a job, waiting for it if need be."""

        def found() -> list[dict[str, Any]]:
            job_id = job_name.rsplit("/", 1)[-1]
            return [entry for entry in self.entries if entry["resource"]["labels"]["job_id"] == job_id]

        with self._arrived:
            assert self._arrived.wait_for(found, 5), f"no log entry about {job_name}"
            return found()[-1]

    def restart(self, *, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.vertex.close()
        meanwhile()
        self.vertex = self._vertex()

    def close(self) -> None:
        self.vertex.close()
        self.storage.close()

    def client(self, kind: Any) -> Any:
        """One of Google's generated clients over REST, at this cloud; the address changes with a restart."""
        key = (kind, self.vertex.address)
        if key not in self._clients:
            self._clients[key] = kind(
                transport="rest",
                credentials=AnonymousCredentials(),
                client_options=ClientOptions(api_endpoint=f"http://{self.vertex.address}"),
            )
        return self._clients[key]

    @property
    def jobs(self) -> aiplatform_v1.JobServiceClient:
        return self.client(aiplatform_v1.JobServiceClient)

    @property
    def datasets(self) -> aiplatform_v1.DatasetServiceClient:
        return self.client(aiplatform_v1.DatasetServiceClient)

    @property
    def pipelines(self) -> aiplatform_v1.PipelineServiceClient:
        return self.client(aiplatform_v1.PipelineServiceClient)

    @property
    def models(self) -> aiplatform_v1.ModelServiceClient:
        return self.client(aiplatform_v1.ModelServiceClient)

    @property
    def endpoints(self) -> aiplatform_v1.EndpointServiceClient:
        return self.client(aiplatform_v1.EndpointServiceClient)

    @property
    def predictions(self) -> aiplatform_v1.PredictionServiceClient:
        return self.client(aiplatform_v1.PredictionServiceClient)

    @contextlib.contextmanager
    def bucket(self, name: str) -> Iterator[google_storage.Bucket]:
        before = os.environ.get("STORAGE_EMULATOR_HOST")
        os.environ["STORAGE_EMULATOR_HOST"] = f"http://{self.storage.address}"
        try:
            client = google_storage.Client(project=PROJECT, credentials=AnonymousCredentials())
        finally:
            del os.environ["STORAGE_EMULATOR_HOST"]
            if before is not None:
                os.environ["STORAGE_EMULATOR_HOST"] = before
        with client:
            bucket = client.bucket(name)
            yield bucket if bucket.exists() else client.create_bucket(name)

    def for_sdk(self) -> dict[str, Any]:
        """What `aiplatform.init` of the high-level SDK takes to talk to this cloud."""
        return {
            "project": PROJECT,
            "location": REGION,
            "api_endpoint": f"http://{self.vertex.address}",
            "api_transport": "rest",
            "credentials": AnonymousCredentials(),
        }

    # Short forms of what most tests begin with

    def job(self, *words: str, **fields: Any) -> aiplatform_v1.CustomJob:
        """A job of the toy trainer that does what `words` say."""
        pool = {
            "machine_spec": {"machine_type": "n1-standard-4"},
            "replica_count": 1,
            "container_spec": {"image_uri": TRAINER, "args": list(words), **fields.pop("container", {})},
        }
        spec = {"worker_pool_specs": [pool], **fields.pop("spec", {})}
        return aiplatform_v1.CustomJob(display_name="toy", job_spec=spec, **fields)

    def submit(self, *words: str, **fields: Any) -> str:
        return self.jobs.create_custom_job(parent=PARENT, custom_job=self.job(*words, **fields)).name

    def ended(self, name: str, seconds: float = 30.0) -> aiplatform_v1.CustomJob:
        """The job, once it is in a final state."""
        client, deadline = self.jobs, time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = client.get_custom_job(name=name)
            if job.state in FINAL_STATES:
                return job
            time.sleep(0.03)
        raise AssertionError(f"{name} is still {job.state.name} after {seconds} s")

    def running(self, name: str, *, lines: int = 1, seconds: float = 30.0) -> None:
        """Wait until the job's processes have printed so many lines."""
        log = self.state_dir / "vertex" / "jobs" / name.rsplit("/", 1)[-1] / "log"
        deadline = time.monotonic() + seconds
        while not (log.exists() and log.read_text().count("\n") >= lines):
            assert time.monotonic() < deadline, f"{name} printed fewer than {lines} lines in {seconds} s"
            time.sleep(0.02)

    def printed(self, name: str) -> list[str]:
        return (self.state_dir / "vertex" / "jobs" / name.rsplit("/", 1)[-1] / "log").read_text().splitlines()

    def finish(self, operation: Operation) -> Any:
        """The operation's response, polled quickly."""
        return operation.result(timeout=30, polling=QUICK_POLLING)

    def upload(self, model_id: str = "", *, label: str = "", health: str = "", **fields: Any) -> str:
        """Upload a model served by the toy predictor; its name with the version."""
        container = {
            "image_uri": PREDICTOR,
            "predict_route": "/predict",
            "health_route": "/health",
            "env": [{"name": "MODEL_LABEL", "value": label}, {"name": "HEALTH", "value": health}],
        }
        request = aiplatform_v1.UploadModelRequest(
            parent=PARENT,
            model_id=model_id,
            parent_model=fields.pop("parent_model", ""),
            model={
                "display_name": "toy",
                "container_spec": container,
                "artifact_uri": "gs://models/toy",
                **fields,
            },
        )
        response = self.finish(self.models.upload_model(request=request))
        return f"{response.model}@{response.model_version_id}"

    def endpoint(self, endpoint_id: str = "", **fields: Any) -> str:
        request = aiplatform_v1.CreateEndpointRequest(
            parent=PARENT, endpoint_id=endpoint_id, endpoint={"display_name": "toy", **fields}
        )
        return self.finish(self.endpoints.create_endpoint(request=request)).name

    def deployment(self, model: str, deployed_id: str = "") -> aiplatform_v1.DeployedModel:
        resources = {"machine_spec": {"machine_type": "n1-standard-2"}, "min_replica_count": 1}
        return aiplatform_v1.DeployedModel(id=deployed_id, model=model, dedicated_resources=resources)

    def deploy(self, endpoint: str, model: str, deployed_id: str = "", split: dict[str, int] | None = None) -> str:
        operation = self.endpoints.deploy_model(
            endpoint=endpoint, deployed_model=self.deployment(model, deployed_id), traffic_split=split or {}
        )
        return self.finish(operation).deployed_model.id


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """One cloud for a module's tests; no planned fault may be left over."""
    cloud = Cloud(tmp_path_factory.mktemp("cloud"))
    yield cloud
    cloud.close()
    assert cloud.faults.pending() == {}


@pytest.fixture
def new_cloud(tmp_path: Path) -> Iterator[Callable[..., Cloud]]:
    """Makes a cloud of the test's own, with settings of the test's own."""
    with contextlib.ExitStack() as clouds:

        def make(**settings: Any) -> Cloud:
            cloud = Cloud(tmp_path, **settings)
            clouds.callback(cloud.close)
            return cloud

        yield make
