"""Small shards of plain-coloured pictures: enough to tell what was read, split, skipped and refused."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from dualdeploy.images.tfrecord import encode_example, write_records
from trainer.data.examples import Shard


def jpeg(shade: int, side: int = 16) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (shade, shade, shade)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def record(shade: int, label: int, **others: bytes | int | float) -> bytes:
    return encode_example({"image": jpeg(shade), "class": label, **others})


@pytest.fixture
def shard(tmp_path: Path) -> Callable[..., Shard]:
    def write(name: str, records: Sequence[bytes], *, gzip: bool = False) -> Shard:
        path = tmp_path / name
        write_records(path, records, gzip=gzip)
        return Shard(f"gs://data/{name}", path)

    return write
