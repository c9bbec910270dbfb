"""The checksum of an image follows from that of its record."""

from __future__ import annotations

import json
import random

import google_crc32c
import numpy as np
import pytest

from dualdeploy.contracts.split import divide
from dualdeploy.images.tfrecord import encode_example
from training_launcher.part_checksums import of_parts
from training_launcher.readings import decode
from training_launcher.validation import MemoryShard, Validation, validate


def test_it_is_the_checksum_that_reading_the_part_gives() -> None:
    chance = random.Random(1)
    rows = []
    for _ in range(300):
        front = chance.randbytes(chance.choice([0, 1, 30, chance.randrange(90)]))
        part = chance.randbytes(chance.choice([0, 1, 16 << 10, chance.randrange(70_000)]))
        behind = chance.randbytes(chance.choice([0, 12, 57, chance.randrange(300)]))
        whole, *around = map(google_crc32c.value, (front + part + behind, front, behind, part))
        rows.append((whole, around[0], around[1], len(behind), len(part), around[2]))
    *given, expected = (np.array(column, np.uint32) for column in zip(*rows, strict=True))

    assert of_parts(*given).tolist() == expected.tolist()


def test_of_nothing_there_is_nothing() -> None:
    nothing = np.zeros(0, np.uint32)
    assert of_parts(nothing, nothing, nothing, nothing, nothing).tolist() == []


@pytest.mark.parametrize("features", ["image first", "image last"])
def test_large_images_are_known_by_the_same_checksum_as_small_ones(image, shard, features: str) -> None:
    """Wherever the image stands in its record, and whether its record was parsed or only compared."""
    images = [image(seed, size=(side, side)) for seed, side in enumerate([16, 190, 200, 20, 180, 210, 195, 24] * 3)]
    assert min(map(len, images)) < 16 << 10 < max(map(len, images))
    label, extra = ("label", "name") if features == "image first" else ("class", "a name")
    records = [encode_example({"image": data, label: seed % 2, extra: b"x"}) for seed, data in enumerate(images)]
    source = MemoryShard("train", shard(records))
    names = {"image": "image", "label": label}
    validation = Validation([source], labels=("a", "b"), features=names, split=divide(["train"]), keep=True)
    validation.read()
    step = validation.step()
    (reading,) = decode(step, seed=json.loads(step)["seed"], most=10, most_of_a_kind=10)

    assert reading.images.sizes.tolist() == [len(data) for data in images]
    assert reading.images.checksums.tolist() == [google_crc32c.value(data) for data in images]
    assert validate([source], labels=("a", "b"), features=names).coverage.records == len(images)
