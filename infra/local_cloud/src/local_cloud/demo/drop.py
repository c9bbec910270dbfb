"""Configure a data set and drop its shards into the bucket of a running stack: `python -m local_cloud.demo.drop`.

Reads the addresses from the environment (`source build/local_cloud.env`), or from that file itself. It uses nothing
but google-cloud-storage, so with the real project's variables it does the same on Google Cloud.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from local_cloud.demo import source
from local_cloud.demo.request import DataRequest, add_arguments
from local_cloud.demo.source import DataSource
from local_cloud.environment_file import read_environment

_ENVIRONMENT_FILE = Path(__file__).resolve().parents[5] / "build" / "local_cloud.env"


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


def upload(found: DataSource, environment: Mapping[str, str], tell: Callable[[str], None]) -> None:
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


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m local_cloud.demo.drop", description=__doc__.split("\n", 1)[0])
    add_arguments(parser)
    options = parser.parse_args(argv)
    if "DATA_BUCKET" not in os.environ:
        if not _ENVIRONMENT_FILE.exists():
            print("nothing is running: `make up` first", file=sys.stderr)
            return 1
        os.environ.update(read_environment(_ENVIRONMENT_FILE))
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = DataRequest.of(options).source(Path(folder))
        except source.UnusableFolder as exc:
            print(exc, file=sys.stderr)
            return 1
        print(f"configured {install_config(found, os.environ)}")
        upload(found, os.environ, print)
    return 0


if __name__ == "__main__":
    sys.exit(main())
