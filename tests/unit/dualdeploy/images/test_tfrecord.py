"""Framing, compression and examples of dualdeploy.images.tfrecord."""

from __future__ import annotations

import gzip
import io
import random
import struct

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualdeploy.images.tfrecord import (
    ChecksumMismatch,
    CompressionBomb,
    CorruptRecords,
    DamagedCompression,
    Feature,
    MalformedExample,
    NotTFRecord,
    RecordTooLong,
    TruncatedShard,
    encode_example,
    frame_record,
    masked_crc32c,
    parse_example,
    read_records,
    write_records,
)

RECORDS = (b"first", b"", b"the third record" * 10)


def shard(records=RECORDS, *, compress=False) -> bytes:
    stream = io.BytesIO()
    write_records(stream, records, gzip=compress)
    return stream.getvalue()


def read(data: bytes, **options) -> list[bytes]:
    return [record.data for record in read_records(io.BytesIO(data), name="s", **options)]


def failure(data: bytes, **options) -> CorruptRecords:
    with pytest.raises(CorruptRecords) as caught:
        read(data, **options)
    return caught.value


class ShortReads(io.RawIOBase):
    """A stream that, like a socket, returns a few bytes at a time and can do nothing but read."""

    def __init__(self, data: bytes, most: int) -> None:
        self._data, self._position, self._most = data, 0, most

    def read(self, size: int = -1) -> bytes:
        size = self._most if size < 0 else min(size, self._most)
        block = self._data[self._position : self._position + size]
        self._position += len(block)
        return block


def test_a_frame_is_byte_for_byte_what_tensorflow_writes() -> None:
    # The file that tf.io.TFRecordWriter of TensorFlow 2.21 writes for b"hello".
    assert frame_record(b"hello").hex() == "0500000000000000eab2043e68656c6c6fbb1f1c19"


@given(st.lists(st.binary(max_size=300), max_size=20), st.booleans(), st.integers(1, 700))
def test_what_was_written_is_read_in_any_portions(records: list[bytes], compress: bool, portion: int) -> None:
    data = shard(records, compress=compress)
    found = list(read_records(ShortReads(data, portion), name="s"))
    assert [record.data for record in found] == records
    assert [record.index for record in found] == list(range(len(records)))
    offset = 0
    for record in found:
        assert record.offset == offset
        offset += 16 + len(record.data)


def test_records_longer_than_a_block_are_put_together() -> None:
    records = [bytes([number]) * size for number, size in enumerate((131_056, 131_055, 400_000, 1, 131_072))]
    assert read(shard(records)) == records
    assert read(shard(records, compress=True), max_gzip_ratio=10_000) == records


def test_a_first_record_whose_length_looks_like_gzip_is_read_as_plain() -> None:
    data = shard([b"\0" * 0x8B1F, b"next"])
    assert data.startswith(b"\x1f\x8b")
    assert read(data) == [b"\0" * 0x8B1F, b"next"]


def test_gzip_members_and_zero_padding_are_read_as_one_shard() -> None:
    data = gzip.compress(shard([b"a"])) + gzip.compress(shard([b"b"])) + b"\0" * 1000
    assert read(data) == [b"a", b"b"]


def test_an_empty_shard_has_no_records() -> None:
    assert read(b"") == []
    assert read(gzip.compress(b"")) == []


@pytest.mark.parametrize("cut", range(1, len(shard())))
def test_a_shard_cut_anywhere_is_refused_with_the_record_it_was_cut_in(cut: int) -> None:
    data = shard()
    starts = [0, 21, 37]
    if cut in starts:
        assert read(data[:cut]) == list(RECORDS[: starts.index(cut)])
        return
    error = failure(data[:cut])
    index = sum(start < cut for start in starts) - 1
    assert isinstance(error, NotTFRecord if cut < 12 else TruncatedShard)
    assert (error.shard, error.record, error.offset) == ("s", index, starts[index])
    assert str(error).startswith(f"s, record {index} at byte {starts[index]}: ")


@pytest.mark.parametrize("position", range(len(shard())))
def test_a_flipped_bit_anywhere_is_noticed(position: int) -> None:
    data = bytearray(shard())
    data[position] ^= 0x10
    error = failure(bytes(data))
    assert isinstance(error, NotTFRecord if position < 12 else ChecksumMismatch)
    assert error.record == (0 if position < 21 else 1 if position < 37 else 2)


def test_reading_goes_on_behind_damaged_data_when_asked_to() -> None:
    data = bytearray(shard())
    data[12] ^= 1
    errors: list[ChecksumMismatch] = []
    assert read(bytes(data), damaged=errors.append) == list(RECORDS[1:])
    assert [(error.record, error.offset) for error in errors] == [(0, 0)]


def test_a_lying_length_with_a_right_checksum_is_too_long_or_truncated() -> None:
    def lie(length: int) -> bytes:
        header = struct.pack("<Q", length)
        return shard([b"ok"]) + header + struct.pack("<I", masked_crc32c(header)) + b"data"

    assert isinstance(failure(lie(2**63)), RecordTooLong)
    assert isinstance(failure(lie(17 << 20)), RecordTooLong)
    error = failure(lie(1 << 20))
    assert isinstance(error, TruncatedShard)
    assert (error.record, error.offset) == (1, 18)
    assert isinstance(failure(shard([b"x" * 11]), max_record_bytes=10), RecordTooLong)


LARGE = [10, 40_000, 33_000, 5, 32_767, 32_768, 70_000, 0, 200_000, 131_072, 40_000, 12]


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("at_a_time", [4099, 40_000, 1 << 20])
def test_large_records_and_small_ones_are_read_as_they_were_written(at_a_time: int, compress: bool) -> None:
    records = [random.Random(size).randbytes(size) for size in LARGE]

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(at_a_time if size is None or size < 0 else min(size, at_a_time))

    found = list(read_records(Slow(shard(records, compress=compress)), name="s"))
    assert [record.data for record in found] == records
    assert [record.offset for record in found] == [sum(LARGE[:index]) + 16 * index for index in range(len(LARGE))]
    assert [record.checksum for record in found] == [google_crc32c.value(data) for data in records]


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 12, 16, 17, 100, 39_999, 40_012, 40_015])
def test_a_large_record_that_is_cut_anywhere_is_truncated(cut: int) -> None:
    data = shard([bytes(50_000), bytes(40_000)])
    error = failure(data[:-cut])

    assert isinstance(error, TruncatedShard)
    assert (error.record, error.offset) == (1, 50_016)
    if cut < 40_004:
        assert f"ends {cut} bytes before the end of this 40000-byte record" in str(error)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("at_a_time", [7, 13, 1000, 1 << 20])
def test_records_behind_one_that_is_too_long_are_read(at_a_time: int, compress: bool) -> None:
    sizes = [5, 300, 0, 400, 350, 9, 12, 301]
    kept = [(index, bytes([index]) * size) for index, size in enumerate(sizes) if size < 300]
    data = shard([bytes([index]) * size for index, size in enumerate(sizes)], compress=compress)

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(at_a_time if size is None or size < 0 else min(size, at_a_time))

    damaged: list[CorruptRecords] = []
    found = list(read_records(Slow(data), name="s", max_record_bytes=299, damaged=damaged.append))
    assert [(record.index, record.data) for record in found] == kept
    assert [record.offset for record in found] == [sum(sizes[:index]) + 16 * index for index, _ in kept]
    assert [(error.record, type(error)) for error in damaged] == [(n, RecordTooLong) for n in (1, 3, 4, 7)]
    with pytest.raises(TruncatedShard, match="the shard ends 10 bytes before the end of this record"):
        list(
            read_records(io.BytesIO(shard([b"x" * 300])[:-10]), name="s", max_record_bytes=299, damaged=damaged.append)
        )


@pytest.mark.parametrize("data", [b"\xff\xd8\xff\xe0" * 10, b"name,label\n" * 5, b"PK\3\4" + b"\0" * 40])
def test_another_kind_of_file_is_not_a_tfrecord(data: bytes) -> None:
    error = failure(data)
    assert isinstance(error, NotTFRecord)
    assert "not a TFRecord header" in str(error)


def test_a_cut_gzip_stream_is_truncated_and_a_changed_one_damaged() -> None:
    # Hard to compress, so that the stream is long enough to be cut within a record.
    record = bytes(number * number % 251 for number in range(3000))
    data = shard([record], compress=True)
    assert isinstance(failure(data[:-5]), TruncatedShard)
    assert isinstance(failure(data[:200]), TruncatedShard)
    assert isinstance(failure(data[:-6] + bytes([data[-6] ^ 1]) + data[-5:]), DamagedCompression)
    assert isinstance(failure(data + b"garbage"), DamagedCompression)


def test_a_gzip_bomb_is_refused_after_a_few_megabytes() -> None:
    bomb = gzip.compress(frame_record(b"\0" * 1000) * 50_000)
    error = failure(bomb)
    assert isinstance(error, CompressionBomb)
    assert error.offset < 20 << 20


FEATURES = st.dictionaries(
    st.text(max_size=8),
    st.one_of(
        st.lists(st.binary(max_size=30), min_size=1, max_size=4),
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4),
        st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4),
    ),
    max_size=5,
)


@given(FEATURES)
def test_an_example_is_parsed_as_it_was_encoded(features) -> None:
    kinds = {bytes: "bytes", int: "int64", float: "float"}
    example = parse_example(encode_example(features))
    assert dict(example) == {name: Feature(kinds[type(values[0])], tuple(values)) for name, values in features.items()}


def test_single_values_text_and_empty_lists_can_be_encoded() -> None:
    example = parse_example(encode_example({"name": "é", "label": 3, "score": 0.5, "none": []}))
    assert example["name"] == Feature("bytes", ("é".encode(),))
    assert example["label"] == Feature("int64", (3,))
    assert example["score"] == Feature("float", (0.5,))
    assert example["none"] == Feature("empty", ())
    assert sorted(example) == ["label", "name", "none", "score"]
    assert "other" not in example
    with pytest.raises(KeyError, match="other"):
        example["other"]
    assert len(example) == 4


@pytest.mark.parametrize("value", [[1, b"x"], 2**64, [None]])
def test_values_that_fit_no_list_are_refused_with_the_features_name(value) -> None:
    with pytest.raises((TypeError, ValueError), match="feature 'label'"):
        encode_example({"label": value})


def test_bytes_that_are_not_an_example_are_refused_with_their_place() -> None:
    with pytest.raises(MalformedExample, match=r"a\.tfrecord, record 7 at byte 99: .* tf\.train\.Example"):
        parse_example(b"\x0a\xff", name="a.tfrecord", index=7, offset=99)


def test_a_path_appears_only_when_its_shard_is_complete(tmp_path) -> None:
    def records():
        yield b"one"
        assert list(tmp_path.glob("*.tfrecord")) == []
        raise RuntimeError("the process ends here")

    path = tmp_path / "a.tfrecord"
    with pytest.raises(RuntimeError):
        write_records(path, records())
    assert list(tmp_path.iterdir()) == []
    assert write_records(path, [b"one", b"two"]) == 2
    assert read(path.read_bytes()) == [b"one", b"two"]


def test_the_same_records_give_the_same_gzip_bytes() -> None:
    assert shard(compress=True) == shard(compress=True)
