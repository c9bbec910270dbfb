"""The disk that a job is given, by the size of its snapshot."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from dualdeploy.contracts import dataset_config, prices
from dualdeploy.ledger import Placement, Run
from training_launcher import budget, disk, job_spec
from training_launcher.settings import LauncherSettings

CONFIG = dataset_config.parse('{"dataset": "flowers", "labels": ["a", "b"]}', source="test").model_dump(mode="json")


def run(*shards: tuple[str, int]) -> Run:
    listed = [{"name": name, "generation": 1, "size": size, "crc32c": ""} for name, size in shards]
    return Run.model_validate(
        {
            "run_id": "flowers-0123456789ab",
            "dataset": "flowers",
            "created_at": "2026-11-28T00:00:00.000Z",
            "reason": "",
            "snapshot": {"bucket": "data", "prefix": "flowers/", "shards": listed},
            "config": CONFIG,
            "claim": "",
        }
    )


@pytest.mark.parametrize(
    ("shards", "gigabytes"),
    [
        ([("a.tfrecord", 0)], 100),
        ([("a.tfrecord", 54_000_000_000)], 100),
        ([("a.tfrecord", 55_000_000_000)], 150),
        ([("a.tfrecord", 30_000_000_000), ("b.tfrecord", 30_000_000_000)], 150),
        ([("a.tfrecord.gz", 28_000_000_000)], 150),
        ([("a.tfrecord", 58_000_000_000_000)], 63_850),
    ],
)
def test_the_disk_holds_the_shards_and_what_else_there_is(shards: Any, gigabytes: int) -> None:
    assert disk.gigabytes(run(*shards)) == gigabytes
    assert disk.refusal(run(*shards)) == ""


def test_what_no_disk_holds_is_refused_with_the_size_that_would() -> None:
    assert disk.refusal(run(("a.tfrecord", 60_000_000_000_000))).startswith(
        "the shards of this run need a disk of 66,050 GB, and Vertex AI's largest has 64,000: write smaller pictures"
    )


def test_the_job_asks_for_it() -> None:
    settings = LauncherSettings(
        project="p",
        region="us-central1",
        ledger_bucket="ledger",
        config_bucket="config",
        models_bucket="models",
        data_bucket="data",
        trainer_image="trainer@sha256:1",
    )
    placed = Placement(since="", wait=60, machine="n1-standard-8", strategy="standard")
    large = run(("a.tfrecord", 55_000_000_000))
    spec = job_spec.custom_job(large, "cloud", settings, placement=placed, timeout=60, attempt=1)
    assert spec.disk_gb == 150


def test_a_run_that_no_disk_holds_is_refused_before_it_costs_anything() -> None:
    now = datetime.datetime(2026, 11, 28, tzinfo=datetime.UTC)
    large = run(("a.tfrecord", 60_000_000_000_000))
    refused = budget.estimate(large, region="us-central1", prices=prices.table(), now=now).refusal
    assert refused == disk.refusal(large)
