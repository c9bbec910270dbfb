"""The example of docs/own-container.md as a process of the local cloud: what it leaves behind can be read."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage as google_storage

from cloud_deployer import probes
from dualdeploy.contracts import answers, dataset_config, saved_model, training
from dualdeploy.contracts.training import Target, TrainingResult
from dualdeploy.google.object_store import ABSENT, GcsObjectStore
from dualdeploy.google.vertex import Job, JobOutcome, VertexGateway
from dualdeploy.ledger import Placement, Run, Snapshot
from dualdeploy_demo import flowers
from local_cloud import topology
from local_cloud.faults import Faults
from local_cloud.storage import Storage
from local_cloud.vertex import Image, Vertex
from mobile_publisher import export
from mobile_publisher.release import File
from mobile_publisher.settings import PublisherSettings
from predictor.answers import Prediction
from training_launcher import job_spec
from training_launcher.settings import LauncherSettings

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[3]
EXAMPLE = REPOSITORY / "infra" / "own_container"
IMAGE = f"us-docker.pkg.dev/demo/own/own-container@sha256:{'5' * 64}"
TRAINING = {"image": IMAGE, "image_size": 32, "epochs": 12, "batch_size": 16, "learning_rate": 0.005}
CONFIG = {
    "dataset": "flowers",
    "labels": list(flowers.LABELS),
    "training": {"cloud": TRAINING, "mobile": {**TRAINING, "epochs": 3}},
    "publishing": {"quantization": "float32"},
}
COMMON: dict[str, Any] = {
    "project": "demo",
    "region": "us-central1",
    "ledger_bucket": "ledger",
    "config_bucket": "config",
    "models_bucket": "models",
    "data_bucket": "data",
}
SETTINGS = LauncherSettings(**COMMON, trainer_image=f"us-docker.pkg.dev/demo/dualdeploy/trainer@sha256:{'1' * 64}")


def example() -> Image:
    """What `dualdeploy up --image own-container=infra/own_container` makes of the folder."""
    (image,) = topology.with_images(topology.Topology.empty(), {"own-container": EXAMPLE}).images.values()
    return Image(Path(image.folder), image.command)


@dataclasses.dataclass
class Project:
    """The local cloud's Vertex AI with the example as an image, shards, and the launcher's own way of starting jobs."""

    vertex: VertexGateway
    data: GcsObjectStore
    models: GcsObjectStore
    faults: Faults

    def start(self, run: Run, target: Target) -> Job:
        """What `training_launcher.jobs` does for a target."""
        document = job_spec.training_job(run, target, models_bucket="models")
        self.models.put(training.job_name(run.run_id, target), document.to_json(), expect=ABSENT)
        placement = Placement(since="", wait=60, machine="n1-standard-8", strategy="standard")
        spec = job_spec.custom_job(run, target, SETTINGS, placement=placement, timeout=120, attempt=1)
        assert spec.image == IMAGE
        return self.vertex.create_custom_job(spec)

    def ended(self, job: Job) -> Job:
        wait_for(lambda: self.vertex.get_custom_job(job.name).outcome is not JobOutcome.UNFINISHED)
        return self.vertex.get_custom_job(job.name)

    def result(self, run: Run, target: Target) -> TrainingResult:
        name = training.result_name(run.run_id, target)
        return training.parse_result(self.models.read(name).data, source=name)


def wait_for(condition: Callable[[], Any], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder, faults = tmp_path_factory.mktemp("own"), Faults()
    with contextlib.ExitStack() as stack:
        storage = stack.enter_context(Storage(faults=faults, state_dir=folder / "storage"))
        vertex = Vertex(
            faults=faults,
            state_dir=folder / "vertex",
            project="demo",
            region="us-central1",
            storage_address=storage.address,
            environment=lambda _account: {
                "STORAGE_EMULATOR_HOST": f"http://{storage.address}",
                "CUDA_VISIBLE_DEVICES": "-1",
            },
            images={"own-container": example()},
            publish_log=lambda _entry: None,
            grace_seconds=5.0,
        ).start()
        stack.callback(vertex.close)
        options = {"api_endpoint": f"http://{storage.address}"}
        client = google_storage.Client(project="demo", credentials=AnonymousCredentials(), client_options=options)
        stack.enter_context(client)
        for bucket in ("data", "models"):
            client.create_bucket(bucket)
        data, models = (GcsObjectStore(name, client=lambda: client) for name in ("data", "models"))
        style = flowers.Style(side=48)
        for path in flowers.generate(folder / "flowers", train=160, held_out=40, shards=2, style=style):
            data.put(f"flowers/{path.name}", path.read_bytes(), expect=ABSENT)
        yield Project(
            VertexGateway(project="demo", region="us-central1", emulator_host=vertex.address), data, models, faults
        )
    assert faults.pending() == {}


def a_run(project: Project, run_id: str, *, held_out: bool = True, **shard: Any) -> Run:
    listed = [
        {"name": each.name, "generation": int(each.generation), "size": each.size, "crc32c": each.crc32c, **shard}
        for each in project.data.list("flowers/")
        if held_out or "train" in each.name
    ]
    return Run(
        run_id=run_id,
        dataset="flowers",
        created_at="2026-11-28T00:00:00.000Z",
        reason="",
        snapshot=Snapshot.model_validate({"bucket": "data", "prefix": "flowers/", "shards": listed}),
        config=dataset_config.parse(json.dumps(CONFIG), source="flowers.yaml").model_dump(mode="json"),
        claim="",
    )


def test_a_machine_that_was_taken_away_costs_no_epoch_and_the_model_answers_as_the_endpoint_needs(
    project: Project, tmp_path: Path
) -> None:
    from predictor.model import ImageModel

    run = a_run(project, "flowers-000000000001")
    job = project.start(run, "cloud")
    wait_for(lambda: list(project.models.list("runs/flowers-000000000001/cloud/checkpoints/")))
    with project.faults.plan({"aiplatform.jobs.machine": ["preempt"]}):
        wait_for(lambda: project.faults.pending() == {})
    assert project.ended(job).outcome is JobOutcome.SUCCEEDED, project.ended(job).error

    result = project.result(run, "cloud")
    assert result.course is not None
    assert result.course.resumed_at
    assert result.metrics.accuracy > 0.3, "chance is 0.2"
    assert result.job == job.name.rsplit("/", 1)[-1]
    said = answers.decode(project.models.read("runs/flowers-000000000001/cloud/answers.csv.gz").data, source="answers")
    assert sum(each.predicted == each.label for each in said) / len(said) == pytest.approx(result.metrics.accuracy)
    export.download_tree(project.models, "runs/flowers-000000000001/cloud/saved_model", tmp_path)
    saved_model.check_folder(tmp_path)
    golden_bytes = project.models.read("runs/flowers-000000000001/cloud/golden.json").data
    assert probes.parse_golden(golden_bytes, labels=result.labels, source="golden.json")
    model = ImageModel(tmp_path, largest_batch=8)
    model.warm_up()
    assert model.labels == result.labels
    for picture in json.loads(golden_bytes)["examples"][:8]:
        (answer,) = model.predict([base64.b64decode(picture["image_bytes"]["b64"])])
        assert isinstance(answer, Prediction)
        assert np.allclose(list(answer.probabilities.values()), picture["probabilities"], atol=1e-5)


def test_phones_get_what_it_trained_on_pictures_that_hold_themselves_out(project: Project) -> None:
    run = a_run(project, "flowers-000000000002", held_out=False)
    assert project.ended(project.start(run, "mobile")).outcome is JobOutcome.SUCCEEDED
    settings = PublisherSettings(**COMMON)
    file = export.export(
        run, dataset_config.stored(run.config), models=project.models, data=project.data, settings=settings
    )
    assert isinstance(file, File)
    result = project.result(run, "mobile")
    assert result.data.split == "hash"
    # The publisher reads the held-out pictures itself: they are the same ones, and the file answers as the model does.
    assert file.figures.accuracy == pytest.approx(result.metrics.accuracy)
    assert file.figures.examples == result.metrics.examples


def test_what_cannot_be_trained_ends_with_64_and_what_to_do(project: Project) -> None:
    ended = project.ended(project.start(a_run(project, "flowers-000000000003", generation=1), "cloud"))
    assert ended.outcome is JobOutcome.FAILED
    assert "exited with a non-zero status of 64" in ended.error
    assert "has no generation 1 any more: ask for a new run" in ended.error
