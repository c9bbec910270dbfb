"""TensorFlow on odd files: what `dualdeploy.images.image_file` passes, the SavedModels can be asked about."""

from __future__ import annotations

import json
import random
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dualdeploy.images.image_file import UnreadableImage
from dualdeploy.images.pixels import decode_rgb
from support import odd_images

pytestmark = pytest.mark.slow

#: Chunks and markers that a mutation puts where they may not belong.
CHUNKS = (
    b"tEXt",
    b"iCCP",
    b"PLTE",
    b"tRNS",
    b"gAMA",
    b"IHDR",
    b"IDAT",
    b"IEND",
    b"eXIf",
    b"ABCD",
    b"acTL",
    b"fdAT",
    b"sPLT",
)
MARKERS = (
    b"\xff\xd9", b"\xff\xda", b"\xff\xc4", b"\xff\xe1\0\x04ab", b"\xff\xd0", b"\xff\xff", b"\xff\x01",
    b"\xff\xdd\0\4\0\2", b"\xff\xdc\0\4\0\x20",
)  # fmt: skip
SECONDS = 6.0


def by_tensorflow(data: bytes) -> npt.NDArray[Any] | None:
    import tensorflow as tf

    try:
        return np.asarray(tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"))
    except tf.errors.InvalidArgumentError:
        return None


def by_pillow(data: bytes) -> npt.NDArray[Any] | None:
    try:
        return decode_rgb(data)
    except UnreadableImage:
        return None


@pytest.mark.parametrize("name", odd_images.USABLE)
def test_a_usable_picture_has_the_same_pixels_in_the_serving_graph(name: str) -> None:
    data = odd_images.USABLE[name]
    assert np.array_equal(by_tensorflow(data), decode_rgb(data))


@pytest.mark.parametrize("name", odd_images.ROTTEN)
def test_what_only_decoding_refuses_the_graph_refuses_too(name: str) -> None:
    assert by_tensorflow(odd_images.ROTTEN[name]) is None


def test_no_damage_makes_a_picture_that_pillow_reads_and_tensorflow_does_not() -> None:
    seed = random.Random(7)
    files = [data for data in odd_images.USABLE.values() if len(data) < 60_000]
    until, both = time.monotonic() + SECONDS, 0
    while time.monotonic() < until:
        data = damaged(seed.choice(files), seed)
        pixels = by_pillow(data)
        if pixels is not None:
            both += 1
            assert np.array_equal(by_tensorflow(data), pixels), data.hex()
    assert both > 100


def damaged(data: bytes, seed: random.Random) -> bytes:
    if data.startswith(odd_images.SIGNATURE) and seed.random() < 0.7:
        return odd_images.SIGNATURE + b"".join(_with_damaged_chunks(list(_chunks(data)), seed))
    at = seed.randrange(len(data))
    match seed.randrange(5):
        case 0:
            return data[:at] + data[at + seed.randrange(1, 60) :]
        case 1:
            return data[:at] + seed.choice(MARKERS) + data[at:]
        case 2:
            return data[:at] + b"\xff\xd9"
    changed = bytearray(data)
    for _ in range(seed.randint(1, 4)):
        place = min(len(data) - 1, int(seed.expovariate(1 / 200))) if seed.random() < 0.5 else seed.randrange(len(data))
        changed[place] = seed.choice([seed.randrange(256), 0xFF, 0, changed[place] ^ (1 << seed.randrange(8))])
    return bytes(changed)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 8
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind, data[position + 8 : position + 8 + length]
        position += 12 + length


def _with_damaged_chunks(chunks: list[tuple[bytes, bytes]], seed: random.Random) -> Iterator[bytes]:
    at = seed.randrange(len(chunks))
    kind, body = chunks[at]
    match seed.randrange(7):
        case 0:
            del chunks[at]
        case 1:
            chunks.insert(seed.randrange(len(chunks) + 1), chunks[at])
        case 2:
            other = seed.randrange(len(chunks))
            chunks[at], chunks[other] = chunks[other], chunks[at]
        case 3 if body:
            place = seed.randrange(len(body))
            chunks[at] = (kind, body[:place] + bytes([seed.randrange(256)]) + body[place + 1 :])
        case 4 if body:
            chunks[at] = (kind, body[: seed.randrange(len(body))])
        case 5 if kind == b"IDAT":
            raw = bytearray(_inflated(body))
            for _ in range(3 if raw else 0):
                raw[seed.randrange(len(raw))] = seed.randrange(256)
            chunks[at] = (kind, zlib.compress(bytes(raw)))
        case _:
            chunks.insert(seed.randrange(len(chunks) + 1), (seed.choice(CHUNKS), seed.randbytes(seed.randrange(20))))
    for each in chunks:
        yield odd_images.chunk(*each)


def _inflated(body: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(body)
    except zlib.error:
        return b""


def test_a_picture_that_a_model_cannot_decode_costs_no_answer_but_its_own() -> None:
    import tensorflow as tf

    from trainer.outputs.live import ask

    def serve(image_bytes: Any) -> dict[str, Any]:
        decoded = [tf.io.decode_jpeg(each, channels=3)[0, 0, :2] for each in image_bytes]
        return {"probabilities": tf.cast(tf.stack(decoded), tf.float32)}

    sound, rotten = odd_images.USABLE["jpeg L"], odd_images.ROTTEN["png, rows missing"]
    answered, answers = ask(serve, [rotten, sound, sound, rotten])
    assert answered == [1, 2]
    assert answers.shape == (2, 2)
    assert ask(serve, [rotten, rotten])[0] == []


def test_a_golden_picture_that_the_saved_model_cannot_decode_is_written_anew(tmp_path: Path) -> None:
    import tensorflow as tf

    from trainer.data.examples import GoldenPicture
    from trainer.outputs import export

    class OnlyPng(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def serve(self, image_bytes: Any) -> dict[str, Any]:
            first = tf.io.decode_raw(tf.strings.substr(image_bytes, 0, 1), tf.uint8)
            tf.debugging.assert_equal(first, tf.constant(0x89, tf.uint8))
            pixels = tf.map_fn(
                lambda each: tf.io.decode_png(each, channels=3)[0, 0], image_bytes, fn_output_signature=tf.uint8
            )
            return {"probabilities": tf.cast(pixels, tf.float32)}

    model = OnlyPng()
    tf.saved_model.save(model, str(tmp_path), signatures={"serving_default": model.serve})
    png, jpeg = odd_images.png(odd_images.IDAT), odd_images.USABLE["jpeg RGB"]
    pictures = [GoldenPicture(png, 0), GoldenPicture(jpeg, 1)]
    kept, anew = export.readable(tmp_path, pictures)
    assert kept == pictures[0]
    assert np.array_equal(decode_rgb(anew.data), decode_rgb(jpeg))
    document = json.loads(export.golden(tmp_path, [kept, anew], ["a", "b"]))
    assert [each["label"] for each in document["examples"]] == ["a", "b"]
    assert document["examples"][1]["probabilities"] == decode_rgb(jpeg)[0, 0].tolist()
