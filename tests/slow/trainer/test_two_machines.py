"""A job of two machines as the launcher asks for it, run by the local cloud: two processes, one result."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dualdeploy.contracts import training
from dualdeploy.contracts.training import TrainingResult, parse_result
from dualdeploy.google.vertex import Job, JobOutcome, VertexGateway
from dualdeploy.ledger import Run, Shard, Snapshot
from dualdeploy.ledger.documents import Placement
from local_cloud.vertex import Image, Vertex
from training_launcher import job_spec
from training_launcher.settings import LauncherSettings

from .conftest import LABELS, REPOSITORY, Cloud

pytestmark = pytest.mark.slow

SETTINGS = LauncherSettings(
    project="demo",
    region="us-central1",
    ledger_bucket="ledger",
    config_bucket="config",
    models_bucket="models",
    data_bucket="data",
    trainer_image="us-docker.pkg.dev/demo/images/trainer:1",
)


@pytest.fixture
def vertex(cloud: Cloud, tmp_path: Path) -> Iterator[Vertex]:
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": str(REPOSITORY / "shared" / "src"),
        "STORAGE_EMULATOR_HOST": f"http://{cloud.address}",
        "GOOGLE_CLOUD_PROJECT": SETTINGS.project,
        "CUDA_VISIBLE_DEVICES": "",
    }
    emulated = Vertex(
        faults=cloud.faults,
        state_dir=tmp_path / "vertex",
        project=SETTINGS.project,
        region=SETTINGS.region,
        storage_address=cloud.address,
        environment=lambda _account: environment,
        images={"trainer": Image(REPOSITORY / "services" / "trainer", ("python", "-m", "trainer"))},
        publish_log=lambda _entry: None,
        operation_seconds=0.05,
        grace_seconds=5.0,
    )
    emulated.start()
    yield emulated
    emulated.close()


def run_of_two_workers(cloud: Cloud, shards: Mapping[str, bytes], run_id: str, *, epochs: int) -> Run:
    put = {f"flowers/{name}": cloud.put(f"flowers/{name}", data) for name, data in shards.items()}
    stored = tuple(
        Shard(name=name, generation=int(each["generation"]), size=len(data), crc32c=each["crc32c"])
        for (name, each), data in zip(put.items(), shards.values(), strict=True)
    )
    mobile = {
        "architecture": "mobilenet_v3_small",
        "weights": "none",
        "image_size": 32,
        "epochs": epochs,
        "batch_size": 16,
        "replicas": 2,
        "accelerator": None,
        "recipe": {"early_stopping": 0},
    }
    return Run(
        run_id=run_id,
        dataset="flowers",
        created_at="2026-01-01T00:00:00Z",
        reason="test",
        snapshot=Snapshot(bucket="data", prefix="flowers/", shards=stored),
        config={"dataset": "flowers", "labels": LABELS, "training": {"mobile": mobile}},
        claim="test",
    )


def launched(vertex: Vertex, cloud: Cloud, run: Run) -> str:
    """Launch the mobile job of `run` as the launcher does."""
    described = job_spec.training_job(run, "mobile", models_bucket="models")
    cloud.put(training.job_name(run.run_id, "mobile"), described.to_json(), bucket="models")
    placed = Placement(since="", wait=60, machine="n1-standard-8", strategy="standard")
    spec = job_spec.custom_job(run, "mobile", SETTINGS, placement=placed, timeout=500, attempt=1)
    return gateway(vertex).create_custom_job(spec).name


def gateway(vertex: Vertex) -> VertexGateway:
    return VertexGateway(project=SETTINGS.project, region=SETTINGS.region, emulator_host=vertex.address)


def ended(vertex: Vertex, name: str) -> Job:
    asked = gateway(vertex)
    return wait_for(lambda: job if (job := asked.get_custom_job(name)).outcome is not JobOutcome.UNFINISHED else None)


def wait_for(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 500
    while (found := look()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def printed(folder: Path, name: str) -> list[str]:
    """What all replicas of the job said."""
    log = folder / "vertex" / "jobs" / name.rsplit("/", 1)[-1] / "log"
    found = []
    for line in log.read_text().splitlines() if log.exists() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line)["message"])
    return found


def result_of(cloud: Cloud, run: Run) -> TrainingResult:
    """The result, of which there is one version."""
    name = training.result_name(run.run_id, "mobile")
    assert cloud.names()[-1] == name
    return parse_result(cloud.get(name), source=name)


def test_a_job_of_two_replicas_is_learned_by_two_processes_and_has_one_result(
    cloud: Cloud, vertex: Vertex, shards: dict[str, bytes], tmp_path: Path
) -> None:
    run = run_of_two_workers(cloud, shards, "flowers-0000000000c1", epochs=2)
    name = launched(vertex, cloud, run)
    job, said = ended(vertex, name), printed(tmp_path, name)
    assert job.outcome is JobOutcome.SUCCEEDED, (job.error, said)
    started = sorted(message.partition(",")[0] for message in said if message.startswith("worker "))
    assert started == ["worker 1 of 2", "worker 2 of 2"]
    assert sum("epoch 2 of 2" in message for message in said) == 1, "the chief alone tells of epochs"

    result = result_of(cloud, run)
    assert result.course is not None
    assert (result.course.workers, result.course.replicas, result.course.epochs_trained) == (2, 2, 2)
    assert (result.data.train_examples, result.metrics.examples) == (40, 10)
    pictures = [int(found[1]) for message in said if (found := re.match(r"(\d+) pictures to learn from", message))]
    assert sum(pictures) == 40, "each picture is learned by one of them"


@pytest.mark.parametrize("loss", ["machine", "process"])
def test_a_worker_that_is_lost_starts_the_team_again_and_the_result_tells_where(
    cloud: Cloud, vertex: Vertex, shards: dict[str, bytes], tmp_path: Path, loss: str
) -> None:
    run = run_of_two_workers(cloud, shards, f"flowers-0000000000{'c2' if loss == 'machine' else 'c3'}", epochs=10)
    name = launched(vertex, cloud, run)
    wait_for(lambda: any("epoch 2 of 10" in message for message in printed(tmp_path, name)) or None)
    if loss == "machine":
        with cloud.faults.plan({"aiplatform.jobs.machine": ["preempt"]}):
            job = ended(vertex, name)
    else:
        # It leaves with a code that Vertex AI takes for transient, whatever the others make of its absence.
        os.kill(worker_of(run), signal.SIGTERM)
        job = ended(vertex, name)
    said = printed(tmp_path, name)
    assert job.outcome is JobOutcome.SUCCEEDED, (job.error, said)
    assert sum(message.startswith("worker 1 of 2") for message in said) == 2, "all started again"
    course = result_of(cloud, run).course
    assert course is not None
    assert course.epochs_trained == 10
    assert [epoch >= 1 for epoch in course.resumed_at] == [True], "they went on after what the chief had written down"


def worker_of(run: Run) -> int:
    """The process of the job's second replica; not of what keeps it on a leash, which has the same arguments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_text().split("\0")
            ours = words[1:3] == ["-m", "trainer"] and any(run.run_id in word for word in words)
            if ours and '"type": "worker"' in (process / "environ").read_text():
                found.append(int(process.name))
    (worker,) = found
    return worker
