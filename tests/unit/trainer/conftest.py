"""Small shards of plain-coloured pictures: enough to tell what was read, split, skipped and refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dualdeploy.images.tfrecord import write_records
from trainer.data.examples import Shard


@pytest.fixture
def shard(tmp_path: Path) -> Callable[..., Shard]:
    def write(name: str, records: Sequence[bytes], *, gzip: bool = False) -> Shard:
        path = tmp_path / name
        write_records(path, records, gzip=gzip)
        return Shard(f"gs://data/{name}", path)

    return write
