"""The short cuts of the hot loop give what the long way gives."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dualdeploy.contracts.example import MOST_CLASSES, ExampleSchema
from dualdeploy.images.tfrecord import CorruptRecords, encode_example, parse_example
from dualdeploy.images.unusable import UnusableRecord
from training_launcher.example_reader import ExampleReader
from training_launcher.fingerprints import Fingerprints, Place
from training_launcher.image_header import ImageHeaderReader, can_decode_in_little_memory
from training_launcher.validation_report import Distribution, Spread

#: What every picture begins with that is looked at closer.
JPEG = b"\xff\xd8"


def reader_of(classes: int) -> ExampleReader:
    return ExampleReader(ExampleSchema(labels=tuple(f"class {number}" for number in range(classes))))


def outcome(reader: ExampleReader, data: bytes):
    try:
        return reader.read(data)
    except (UnusableRecord, CorruptRecords) as exc:
        return exc.code


def field(number: int, data: bytes) -> bytes:
    length, encoded = len(data), bytearray()
    while length > 127:
        encoded.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2]) + bytes([*encoded, length]) + data


def entry(name: str, data: bytes) -> bytes:
    """One feature, as the map entry that TensorFlow writes."""
    return field(1, field(1, name.encode()) + field(2, data))


def example(image: bytes, label: int, *, first: bool, extra: bytes = b"") -> bytes:
    image_entry = entry("image", field(1, field(1, image)))
    label_entry = entry("class", field(3, field(1, bytes([label]))))
    parts = [image_entry, label_entry] if first else [label_entry, image_entry]
    return field(1, b"".join(parts) + extra)


IMAGES = st.integers(0, 40_000).map(lambda size: (JPEG if size % 9 else b"") + bytes([size % 256]) * size)
EXAMPLES = st.builds(
    example,
    IMAGES,
    st.integers(0, 5),
    first=st.booleans(),
    extra=st.sampled_from(
        [
            b"",
            entry("id", field(1, field(1, b"abc"))),
            entry("image", field(1, field(1, JPEG + b"last"))),
            entry("split", field(1, field(1, b"val"))),
            entry("split", field(1, field(1, b"train"))),
        ]
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(EXAMPLES, min_size=1, max_size=12))
def test_remembered_layouts_read_what_protobuf_reads(records: list[bytes]) -> None:
    reader = reader_of(4)
    for data in records * 2:
        assert outcome(reader, data) == outcome(reader_of(4), data)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 500), st.booleans(), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=3))
def test_a_remembered_layout_never_hides_a_changed_byte(size: int, first: bool, changes) -> None:
    picture = JPEG + b"\xff" * size
    data = example(picture, 2, first=first)
    taught = reader_of(4)
    for _ in range(3):
        assert taught.read(data) == (picture, 2, None)
    changed = bytearray(data)
    for position, value in changes:
        changed[position % len(changed)] = value
    assert outcome(taught, bytes(changed)) == outcome(reader_of(4), bytes(changed))


def test_a_second_feature_with_the_same_bytes_is_not_taken_for_the_image() -> None:
    def twin(copy: bytes, image: bytes) -> bytes:
        return field(
            1,
            entry("thumb", field(1, field(1, copy)))
            + entry("image", field(1, field(1, image)))
            + entry("class", field(3, field(1, b"\x01"))),
        )

    reader = reader_of(2)
    for _ in range(3):
        assert reader.read(twin(JPEG + b"same bytes", JPEG + b"same bytes")) == (JPEG + b"same bytes", 1, None)
    assert reader.read(twin(JPEG + b"other copy", JPEG + b"same bytes")) == (JPEG + b"same bytes", 1, None)
    assert reader.read(twin(JPEG + b"same bytes", JPEG + b"other copy")) == (JPEG + b"other copy", 1, None)


def test_labels_without_a_list_are_bounded() -> None:
    reader = ExampleReader(ExampleSchema())
    assert reader.read(encode_example({"image": JPEG, "class": MOST_CLASSES - 1}))[1] == MOST_CLASSES - 1
    with pytest.raises(UnusableRecord, match="not between 0 and 65535"):
        reader.read(encode_example({"image": JPEG, "class": MOST_CLASSES}))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 300), st.integers(1, 300), st.sampled_from(["JPEG", "PNG"]), st.integers(20, 95)),
        min_size=1,
        max_size=6,
    )
)
def test_headers_tell_what_pillow_tells(pictures) -> None:
    reader = ImageHeaderReader(max_pixels=1_000_000)
    for width, height, kind, quality in pictures * 2:
        stream = io.BytesIO()
        options = {"quality": quality, "progressive": quality % 2 == 0} if kind == "JPEG" else {}
        Image.new("RGB", (width, height), (quality, 0, 0)).save(stream, kind, **options)
        header = reader.read(stream.getvalue())
        progressive = bool(options.get("progressive"))
        assert header == (kind, width, height, progressive)


def test_a_jpeg_with_fill_bytes_and_an_embedded_thumbnail_is_measured_by_its_own_frame() -> None:
    def jpeg(size: tuple[int, int]) -> bytes:
        stream = io.BytesIO()
        Image.new("RGB", size).save(stream, "JPEG")
        return stream.getvalue()

    thumbnail, outer = jpeg((16, 8)), jpeg((40, 30))
    segment = b"\xff\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    header = ImageHeaderReader(10**6).read(outer[:2] + segment + outer[2:])
    assert (header.width, header.height) == (40, 30)


def test_only_row_by_row_jpegs_are_decoded_when_large() -> None:
    header = ImageHeaderReader(10**9).read
    stream = io.BytesIO()
    Image.new("L", (3000, 2000)).save(stream, "JPEG")
    assert can_decode_in_little_memory(header(stream.getvalue()))
    stream = io.BytesIO()
    Image.new("L", (3000, 2000)).save(stream, "PNG")
    assert not can_decode_in_little_memory(header(stream.getvalue()))


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=40))
def test_a_distribution_tells_minimum_median_and_maximum(values: list[int]) -> None:
    distribution = Distribution(resolution=64)
    distribution.add(np.array(values[:5], np.uint32))
    distribution.add(np.array(values[5:], np.uint32))
    spread = distribution.spread()
    assert spread is not None
    median = sorted(values)[(len(values) - 1) // 2]
    assert (spread.minimum, spread.maximum) == (min(values), max(values))
    assert abs(spread.median - median) < 64
    assert Distribution().spread() is None


def test_a_distribution_is_exact_with_resolution_one() -> None:
    distribution = Distribution()
    distribution.add(np.array([7, 3, 3, 9], np.uint32))
    assert distribution.spread() == Spread(3, 3, 9)


def test_fingerprints_find_first_copies_in_order() -> None:
    fingerprints = Fingerprints(most=100)
    fingerprints.add(0, np.array([5, 6, 5], np.uint64), np.array([0, 1, 3], np.uint32), np.array([1, 1, 1], np.uint32))
    fingerprints.add(2, np.array([6, 9], np.uint64), np.array([4, 5], np.uint32), np.array([0, 1], np.uint32))
    repeated = fingerprints.repeated()
    assert repeated.within([0], 5).examples == ((Place(0, 3, 1), Place(0, 0, 1)),)
    assert repeated.between([2], [0], 5).examples == ((Place(2, 4, 0), Place(0, 1, 1)),)
    assert repeated.conflicting(5).count == 1
    assert repeated.within([2], 5).count == 0


def test_an_example_reads_the_same_through_the_public_parser() -> None:
    data = example(b"picture", 3, first=True)
    assert parse_example(data)["image"].values == (b"picture",)
