"""One verdict on a picture everywhere: each kind of odd file, before everything that judges without TensorFlow.

`tests/slow/trainer/test_odd_images.py` asks TensorFlow.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from dualdeploy.contracts.training import FeatureNames
from dualdeploy.images import image_file
from dualdeploy.images.image_file import MAX_PIXELS, UnreadableImage
from dualdeploy.images.pixels import decode_rgb, verify
from dualdeploy.images.tfrecord import encode_example, write_records
from predictor import instances
from predictor.instances import Picture
from support import odd_images
from trainer.data import examples
from training_launcher.image_header import ImageHeaderReader

REFUSED = {**odd_images.UNUSABLE, **odd_images.ROTTEN}


def judged(data: bytes) -> bool:
    try:
        image_file.check(data)
    except UnreadableImage:
        return False
    return True


def decoded(data: bytes) -> bool:
    try:
        decode_rgb(data)
    except UnreadableImage:
        with pytest.raises(UnreadableImage):
            verify(data)
        return False
    assert verify(data) == image_file.check(data)
    return True


def served(data: bytes) -> bool:
    body = json.dumps({"instances": [{"b64": base64.b64encode(data).decode()}]}).encode()
    [parsed] = instances.parse(body, max_instances=1).items
    return isinstance(parsed, Picture)


@pytest.mark.parametrize("name", odd_images.USABLE)
def test_a_usable_picture_is_usable_to_all(name: str) -> None:
    data = odd_images.USABLE[name]
    assert judged(data)
    assert decoded(data)
    assert served(data)
    reader = ImageHeaderReader(MAX_PIXELS)
    assert reader.read(data) == reader.read(data) == image_file.check(data)


@pytest.mark.parametrize("name", odd_images.UNUSABLE)
def test_a_picture_of_a_wrong_structure_is_refused_by_all_with_the_same_words(name: str) -> None:
    data = odd_images.UNUSABLE[name]
    with pytest.raises(UnreadableImage) as refused:
        image_file.check(data)
    assert not decoded(data)
    assert not served(data)
    with pytest.raises(UnreadableImage) as by_pixels:
        decode_rgb(data)
    assert str(by_pixels.value) == str(refused.value)


@pytest.mark.parametrize("name", odd_images.ROTTEN)
def test_what_is_damaged_inside_its_pixels_is_refused_by_every_decoder(name: str) -> None:
    data = odd_images.ROTTEN[name]
    assert judged(data)
    assert not decoded(data)


def test_the_trainer_uses_and_counts_exactly_these(tmp_path: Path) -> None:
    files = {**odd_images.USABLE, **REFUSED}
    for name in ("train", "eval"):
        records = [encode_example({"image": data, "class": number % 2}) for number, data in enumerate(files.values())]
        write_records(tmp_path / f"{name}.tfrecord", records)
    shards = [examples.Shard(name, tmp_path / f"{name}.tfrecord") for name in ("train", "eval")]
    data = examples.load(
        shards[:1], shards[1:], labels=("a", "b"), features=FeatureNames(), image_size=32, max_bad_records=1.0,
        folder=tmp_path,
    )  # fmt: skip
    assert (len(data.train), len(data.held_out)) == (len(odd_images.USABLE), len(odd_images.USABLE))
    assert data.skipped == 2 * len(REFUSED)


def test_a_stream_that_unfolds_to_more_than_its_pixels_is_not_followed() -> None:
    bomb = odd_images.png(odd_images.chunk(b"IDAT", odd_images.zlib.compress(odd_images.RAW + bytes(40 << 20))))
    with pytest.raises(UnreadableImage, match="more than the 200 bytes of pixels"):
        decode_rgb(bomb)
