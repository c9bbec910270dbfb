"""`dualdeploy demo-data`: a configuration and shards for the stack that runs, by Google's own client."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from google.cloud import storage

from dualdeploy.images.tfrecord import write_records
from dualdeploy_demo.flowers import LABELS, Picture, Style
from local_cloud.cloud import LocalCloud
from support.command_line import call, session


def test_it_configures_and_uploads_a_folder(cloud: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    style = Style(side=32)
    for part, count in (("train", 10), ("eval", 5)):
        examples = (style.example(Picture(part, number, number % len(LABELS))) for number in range(count))
        write_records(tmp_path / f"{part}-00000-of-00001.tfrecord", examples, gzip=False)
    given = session()
    given.environ = dict(cloud.environment())
    called = call("demo-data", "--data", tmp_path, "--labels", ",".join(LABELS), "--json", given=given)

    assert called.exit_code == 0, called.output
    told = json.loads(called.stdout)
    client = storage.Client()
    config = yaml.safe_load(storage.Blob.from_uri(told["config"], client=client).download_as_bytes())
    assert config["labels"] == list(LABELS)
    found = {blob.name for blob in client.bucket(cloud.topology.buckets["data"].name).list_blobs()}
    assert {f"{told['dataset']}/{name}" for name in [*told["shards"], "_SUCCESS"]} <= found
    assert len(told["shards"]) == 2
