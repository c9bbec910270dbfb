"""Small shards made by hand, and one call that validates them."""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import pytest
from PIL import Image

from dualdeploy.images.tfrecord import encode_example, write_records
from training_launcher.validation import MemoryShard, validate

LABELS = ("daisy", "roses")


def encode_image(seed: int, *, size: tuple[int, int] = (20, 16), kind: str = "JPEG", **options) -> bytes:
    """A small noisy picture, different for each seed."""
    pixels = random.Random(seed).randbytes(3 * size[0] * size[1])
    stream = io.BytesIO()
    Image.frombytes("RGB", size, pixels).save(stream, kind, **options)
    return stream.getvalue()


def encode_record(seed: int, label: int | None = None, image: bytes | None = None) -> bytes:
    return encode_example(
        {
            "image": encode_image(seed) if image is None else image,
            "class": seed % len(LABELS) if label is None else label,
        }
    )


def join_records(records, *, compress: bool = False) -> bytes:
    stream = io.BytesIO()
    write_records(stream, records, gzip=compress)
    return stream.getvalue()


@pytest.fixture
def image() -> Callable[..., bytes]:
    return encode_image


@pytest.fixture
def record() -> Callable[..., bytes]:
    return encode_record


@pytest.fixture
def shard() -> Callable[..., bytes]:
    return join_records


@pytest.fixture
def check():
    """Validate shards given as name=bytes; those whose name begins with eval are held out."""

    def check(shards: dict[str, bytes], **options):
        sources = [MemoryShard(name, data) for name, data in shards.items()]
        options.setdefault("labels", LABELS)
        options.setdefault("features", {"image": "image", "label": "class"})
        options.setdefault("eval_shards", [name for name in shards if name.startswith("eval")])
        return validate(sources, **options)

    return check


@pytest.fixture
def good_eval() -> bytes:
    return join_records([encode_record(seed) for seed in range(1000, 1006)])
