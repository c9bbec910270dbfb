"""Configure a data set and upload its shards, as `dualdeploy demo-data` does.

It uses nothing but google-cloud-storage, so with the real project's variables it does the same on Google Cloud.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import yaml

from dualdeploy_demo.source import DataSource


def install_config(found: DataSource, environment: Mapping[str, str]) -> str:
    """Put the data set's configuration where the services look for it; returns its URI."""
    bucket = _client().bucket(environment["CONFIG_BUCKET"])
    name = f"datasets/{found.dataset}.yaml"
    config = found.config
    for target, file in found.modules.items():
        module = f"modules/{target}/{file.name}"
        bucket.blob(module).upload_from_filename(str(file), content_type="text/x-python")
        section = {**config["training"][target], "architecture": f"module:gs://{bucket.name}/{module}"}
        config = {**config, "training": {**config["training"], target: section}}
    bucket.blob(name).upload_from_string(yaml.safe_dump(config, sort_keys=False), content_type="application/yaml")
    return f"gs://{bucket.name}/{name}"


def upload_shards(found: DataSource, environment: Mapping[str, str], tell: Callable[[str], None]) -> None:
    """Shard by shard, and a marker behind them, as any pipeline would."""
    bucket = _client().bucket(environment["DATA_BUCKET"])
    for name, file in found.files.items():
        bucket.blob(f"{found.dataset}/{name}").upload_from_filename(str(file))
        tell(f"gs://{bucket.name}/{found.dataset}/{name}  {file.stat().st_size / 1e6:.2f} MB")
    bucket.blob(f"{found.dataset}/_SUCCESS").upload_from_string(b"")
    tell(f"gs://{bucket.name}/{found.dataset}/_SUCCESS  the batch is complete; from here on no hand is on it")


def _client() -> Any:
    from google.cloud import storage  # noqa: PLC0415  # only now do the variables point at the local cloud

    return storage.Client()
