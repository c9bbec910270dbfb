"""Jobs that end without a result: which exit code, and what the last line says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dualdeploy.google import object_store
from dualdeploy.google.object_store import ABSENT, GcsObjectStore
from trainer.process import storage as locations
from trainer.process.failures import UnusableData
from trainer.process.storage import Patience

from .conftest import Cloud

pytestmark = pytest.mark.slow

Trainer = Callable[..., subprocess.CompletedProcess[str]]


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    entry = json.loads(done.stdout.splitlines()[-1])
    assert entry["severity"] == "ERROR", entry
    message: str = entry["message"]
    return message


def test_a_truncated_shard_ends_the_job_with_64_and_its_name(
    cloud: Cloud, trainer: Trainer, references: dict[str, Any], shards: dict[str, bytes]
) -> None:
    cut = cloud.put("flowers/cut-00000-of-00001.tfrecord", shards["train-00000-of-00002.tfrecord"][:-100])
    job = cloud.put_job("flowers-000000000002", references | {"train": [cut]})
    done = trainer("--target", "mobile", "--job", job)
    assert done.returncode == 64
    assert "gs://data/flowers/cut-00000-of-00001.tfrecord, record 19" in last_line(done)
    assert "results/flowers-000000000002/mobile.json" not in cloud.names()


def test_too_many_bad_records_end_the_job_with_64_and_name_them(
    cloud: Cloud, trainer: Trainer, references: dict[str, Any]
) -> None:
    job = json.loads(cloud.get(cloud.put_job("flowers-000000000003", references).removeprefix("gs://models/")))
    job["labels"] = job["labels"][:4]
    location = cloud.put("runs/fewer/job.json", json.dumps(job).encode(), bucket="models")["uri"]
    done = trainer("--target", "mobile", "--job", location)
    assert done.returncode == 64
    assert "10 of 50 records cannot be used" in last_line(done)
    assert "label 4 is outside the 4 configured labels" in last_line(done)


def test_an_overwritten_shard_ends_the_job_with_64_because_the_snapshot_is_gone(
    cloud: Cloud, trainer: Trainer, references: dict[str, Any], shards: dict[str, bytes]
) -> None:
    name = "flowers/overwritten.tfrecord"
    before = cloud.put(name, shards["train-00000-of-00002.tfrecord"])
    cloud.put(name, shards["train-00001-of-00002.tfrecord"])
    job = cloud.put_job("flowers-000000000004", references | {"train": [before]})
    done = trainer("--target", "mobile", "--job", job)
    assert done.returncode == 64
    assert f"{name} is gone at generation {before['generation']}" in last_line(done)


def test_a_faulty_job_ends_with_64_and_lists_every_fault(
    cloud: Cloud, trainer: Trainer, references: dict[str, Any]
) -> None:
    job = cloud.put_job("flowers-000000000005", references, architecture="resnet", epochs=0)
    done = trainer("--target", "cloud", "--job", job)
    assert done.returncode == 64
    for expected in ("--target cloud", "training.architecture", "training.epochs"):
        assert expected in last_line(done)


def test_a_missing_job_description_ends_with_64(cloud: Cloud, trainer: Trainer) -> None:
    done = trainer("--target", "mobile", "--job", "gs://models/runs/nothing/job.json")
    assert done.returncode == 64
    assert "gs://models/runs/nothing/job.json cannot be read" in last_line(done)


def test_an_unreachable_cloud_storage_ends_the_job_with_75(trainer: Trainer) -> None:
    nobody = "http://127.0.0.1:9"
    job = "gs://models/job.json"
    done = trainer("--target", "mobile", "--job", job, "--patience", "0", STORAGE_EMULATOR_HOST=nobody)
    assert done.returncode == 75
    assert "Cloud Storage" in last_line(done)


def test_imagenet_weights_that_cannot_be_downloaded_end_with_64_and_name_the_alternatives(
    cloud: Cloud, trainer: Trainer, references: dict[str, Any], tmp_path: Path
) -> None:
    job = cloud.put_job("flowers-000000000006", references, weights="imagenet", image_size=224)
    done = trainer("--target", "mobile", "--job", job, https_proxy="http://127.0.0.1:9", KERAS_HOME=str(tmp_path))
    assert done.returncode == 64
    assert "weights: gs://" in last_line(done)
    assert "weights: none" in last_line(done)


@pytest.fixture
def client_here(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process's own storage client points at the emulator for the length of a test."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{cloud.address}")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "demo")
    object_store._build_client.cache_clear()
    yield
    object_store._build_client.cache_clear()


def test_a_shard_is_fetched_once_and_again_only_when_the_cached_copy_is_damaged(
    cloud: Cloud, client_here: None, references: dict[str, Any], tmp_path: Path
) -> None:
    from dualdeploy.contracts.training import ShardReference

    reference = ShardReference(**references["train"][0])
    path = locations.fetch(reference, tmp_path, Patience(0))
    original = path.read_bytes()
    with cloud.faults.plan({}):
        cloud.faults.add({"storage.objects.get": ["return-404"]})
        assert locations.fetch(reference, tmp_path, Patience(0)) == path
        assert cloud.faults.pending() == {"storage.objects.get": ["return-404"]}, "it was fetched again"
        cloud.faults.clear()
    path.write_bytes(b"damaged")
    assert locations.fetch(reference, tmp_path, Patience(0)).read_bytes() == original
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_bytes_that_are_not_those_of_the_snapshot_are_refused(
    cloud: Cloud, client_here: None, references: dict[str, Any], tmp_path: Path
) -> None:
    from dualdeploy.contracts.training import ShardReference

    reference = ShardReference(**(references["train"][0] | {"crc32c": "AAAAAA=="}))
    with pytest.raises(UnusableData, match=r"has checksum .* the job says AAAAAA=="):
        locations.fetch(reference, tmp_path, Patience(0))
    assert not list(tmp_path.iterdir())


def test_a_second_attempt_replaces_what_the_first_one_left(cloud: Cloud, client_here: None) -> None:
    for content in (b"first", b"second"):
        locations.write("gs://models/again/result.json", lambda content=content: content, Patience(0))
    assert cloud.get("again/result.json") == b"second"


def test_a_lost_answer_to_the_last_write_does_not_fail_the_job(cloud: Cloud, client_here: None) -> None:
    with cloud.faults.plan({"storage.objects.insert": ["lost-response", "return-503"]}):
        locations.write("gs://models/lost/result.json", lambda: b"{}", Patience(30))
    assert cloud.get("lost/result.json") == b"{}"


def test_a_write_that_raced_with_another_attempt_is_decided_anew(cloud: Cloud, client_here: None) -> None:
    GcsObjectStore("models").put("raced/result.json", b"theirs", expect=ABSENT)
    with cloud.faults.plan({"storage.objects.insert": ["return-412"]}):
        locations.write("gs://models/raced/result.json", lambda: b"ours", Patience(0))
    assert cloud.get("raced/result.json") == b"ours"


def test_a_checkpoint_is_read_if_it_is_there_and_removed_once(cloud: Cloud, client_here: None) -> None:
    location = "gs://models/runs/r/checkpoints/last.npz"
    assert locations.read_if_present(location, Patience(0)) is None
    cloud.put("runs/r/checkpoints/last.npz", b"state", bucket="models")
    assert locations.read_if_present(location, Patience(0)) == b"state"
    for _ in range(2):
        locations.remove(location, Patience(0))
        assert locations.read_if_present(location, Patience(0)) is None


def test_the_folder_of_a_live_model_is_fetched_whole_or_told_to_be_missing(
    cloud: Cloud, client_here: None, tmp_path: Path
) -> None:
    for name in ("saved_model.pb", "variables/variables.index"):
        cloud.put(f"runs/old/model/{name}", name.encode(), bucket="models")
    cloud.put("runs/old/model-of-another", b"a neighbour", bucket="models")
    folder = locations.fetch_folder("gs://models/runs/old/model", tmp_path / "live", Patience(0))
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {name: name.encode() for name in ("saved_model.pb", "variables/variables.index")}
    with pytest.raises(UnusableData, match="nothing below gs://models/runs/never/model"):
        locations.fetch_folder("gs://models/runs/never/model", tmp_path / "none", Patience(0))
