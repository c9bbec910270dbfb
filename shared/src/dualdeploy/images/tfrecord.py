"""TFRecord shards of tf.train.Example without TensorFlow.

TensorFlow costs seconds and half a gigabyte to import; a service that only has to look at a shard, or write
one, must not pay for it. The format (tensorflow/core/lib/io/record_writer.h), little-endian:

    uint64 length · uint32 masked CRC32C of the length · data · uint32 masked CRC32C of the data

A shard may be gzip-compressed as a whole; TensorFlow has to be told so, here the first bytes tell.
"""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

import google_crc32c

from dualdeploy import lazily

if TYPE_CHECKING:
    from google.protobuf.message import Message

BLOCK_BYTES = 128 << 10
"""Bytes asked of a stream at once: fits a core's cache (1 MiB blocks cost a third of the speed, measured)."""

MAX_RECORD_BYTES = 16 << 20
"""Longest record read by default: far above a photo, far below what would hurt a 512 MiB service."""

MAX_GZIP_RATIO = 100
"""Photos compress by a few percent; deflate can expand 1032-fold, which only a bomb or a mistake does."""

#: From here on, asking the stream for each record alone costs less than copying it out of a block (measured).
_LARGE_BYTES = 32 << 10

_GZIP_RATIO_APPLIES_AFTER = 16 << 20
_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_LENGTH = struct.Struct("<Q")
_FRAME_BYTES = _HEADER.size + _CHECKSUM.size

HEADER_BYTES = _HEADER.size
"""Bytes of a record's frame before its data."""

_GZIP_MAGIC = b"\x1f\x8b"

FeatureKind = Literal["bytes", "int64", "float", "empty"]
FeatureValue = bytes | str | int | float | Sequence[bytes] | Sequence[str] | Sequence[int] | Sequence[float]


class CorruptRecords(ValueError):
    """The bytes are not what a TFRecord shard of examples holds; says which shard, record and byte.

    `shard` is the name given by the caller, `record` counts from 0, `offset` is the position of the record's
    frame in the shard's bytes (after decompression, when the shard is gzip), `problem` is the message without
    the place.
    """

    code = "corrupt"

    def __init__(self, problem: str, *, shard: str, record: int, offset: int) -> None:
        """Join the place and the problem into one sentence."""
        super().__init__(f"{shard or 'shard'}, record {record} at byte {offset}: {problem}")
        self.problem = problem
        self.shard = shard
        self.record = record
        self.offset = offset


class NotTFRecord(CorruptRecords):
    """The first bytes are no TFRecord header: this is another kind of file."""

    code = "not_tfrecord"


class TruncatedShard(CorruptRecords):
    """The shard ends in the middle of a record or of its gzip stream."""

    code = "truncated"


class ChecksumMismatch(CorruptRecords):
    """A length or a record differs from the checksum written beside it."""

    code = "checksum_mismatch"


class RecordTooLong(CorruptRecords):
    """A record announces more bytes than the reader accepts."""

    code = "record_too_long"


class DamagedCompression(CorruptRecords):
    """The gzip stream cannot be decompressed."""

    code = "damaged_compression"


class CompressionBomb(CorruptRecords):
    """The gzip stream expands beyond every plausible ratio."""

    code = "compression_bomb"


class MalformedExample(CorruptRecords):
    """The record is intact but is not a tf.train.Example."""

    code = "malformed_example"


class Record(NamedTuple):
    """One record: its number in the shard, the byte offset of its frame, its data, and their CRC32C (not masked)."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a record
    offset: int
    data: bytes
    checksum: int


class Feature(NamedTuple):
    """The values of one feature; `kind` names the list of tf.train.Feature that is set ("empty": none is)."""

    kind: FeatureKind
    values: tuple[Any, ...]


def masked_crc32c(data: bytes) -> int:
    """Return the checksum TFRecord stores: CRC32C, rotated and offset so that CRCs of CRCs stay strong."""
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(
    stream: BinaryIO,
    *,
    name: str,
    max_record_bytes: int = MAX_RECORD_BYTES,
    max_gzip_ratio: int = MAX_GZIP_RATIO,
    damaged: Callable[[CorruptRecords], None] | None = None,
) -> Iterator[Record]:
    """Yield the records of one shard, plain or gzip, in order, each checked against its CRC32C.

    `stream` needs `read(n)` only; it is read forward in blocks and not closed. Memory stays below about three
    times `max_record_bytes`, whatever the shard contains. An empty stream has no records.

    A record whose data differ from their checksum raises `ChecksumMismatch`, one longer than `max_record_bytes`
    `RecordTooLong`; with `damaged` given, the error goes there instead and reading goes on behind the record (its
    length has a checksum of its own, so the next record is found). Every other `CorruptRecords` ends the shard.
    Errors of the stream itself (network, disk) pass through.
    """
    source = _open_source(stream, name, max_gzip_ratio)
    lengths = _LengthHeaders(name, max_record_bytes)
    checksum, stored_checksum, new_tuple = google_crc32c.value, _CHECKSUM.unpack_from, tuple.__new__
    buffer, position, base, index = b"", 0, 0, 0  # the next record begins at buffer[position], byte base + position
    while True:
        start = position + 12
        length = lengths[buffer[position:start]]
        end = start + length + 4
        if length < 0 or end > len(buffer):  # not whole in this block: put it together from this one and the next
            base += position
            try:
                data, stored, buffer, following = _straddling(source, buffer[position:], lengths, index, base)
            except _PassedOver as skipped:
                if damaged is None:
                    raise skipped.error from None
                damaged(skipped.error)
                buffer, position = source.skip(skipped)
                base += skipped.frame_bytes - position
                index += 1
                continue
            if stored < 0:
                return
            size = _FRAME_BYTES + len(data)
            base, position = base + size - following, following - size  # so that the frame still begins at their sum
        else:
            data, stored, following = buffer[start : end - 4], stored_checksum(buffer, end - 4)[0], end
        crc = checksum(data)  # masked_crc32c, in line: this loop is what reading a shard costs
        if (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF == stored:
            yield new_tuple(Record, (index, base + position, data, crc))
            data = b""  # a long record must not stay in memory beside the next
        else:
            problem = f"the {len(data)} bytes of data do not match their checksum"
            error = ChecksumMismatch(problem, shard=name, record=index, offset=base + position)
            if damaged is None:
                raise error
            damaged(error)
        position = following
        index += 1


def _straddling(
    source: _PlainSource, rest: bytes, lengths: _LengthHeaders, index: int, offset: int
) -> tuple[bytes, int, bytes, int]:
    """Return the data of the record that begins with `rest`, its stored checksum, what was read behind it or with it,
    and where in that the next record begins; a checksum below 0 at the end of the shard.
    """
    frame, block, taken = source.complete(rest, _HEADER.size, index, offset)
    if not frame:
        return b"", -1, b"", 0
    length = lengths[frame[: _HEADER.size]]
    if length < 0:
        error = lengths.refusal(frame[: _HEADER.size], index, offset)
        if not isinstance(error, RecordTooLong):
            raise error
        announced: int = _HEADER.unpack(frame[: _HEADER.size])[0]
        raise _PassedOver(error, _FRAME_BYTES + announced, block, taken)
    needed = _FRAME_BYTES + length
    if length >= _LARGE_BYTES and source.reads_exactly and len(block) - taken < length:
        data = source.exactly(block[taken:], length)
        # With its checksum comes the header of the next record, so that this one's bytes are never copied.
        rest = source.exactly(b"", _CHECKSUM.size + _HEADER.size) if len(data) == length else b""
        have = _HEADER.size + len(data) + len(rest)
        if have >= needed:
            return data, _CHECKSUM.unpack_from(rest)[0], rest[_CHECKSUM.size :], 0
    else:
        frame, block, taken = source.complete(frame + block[taken:], needed, index, offset)
        have = len(frame)
        if have >= needed:
            return frame[_HEADER.size : -_CHECKSUM.size], _CHECKSUM.unpack_from(frame, needed - 4)[0], block, taken
    problem = f"the shard ends {needed - have} bytes before the end of this {length}-byte record"
    raise TruncatedShard(problem, shard=lengths.shard, record=index, offset=offset)


class _PassedOver(Exception):
    """A record that is too long to be kept: where it begins and how long it is are known, so reading may go on behind.

    `block` is what was read last, of which `taken` bytes belong to the record's header or to what comes before it.
    """

    def __init__(self, error: RecordTooLong, frame_bytes: int, block: bytes, taken: int) -> None:
        super().__init__()
        self.error = error
        self.frame_bytes = frame_bytes
        self.block = block
        self.taken = taken


class _LengthHeaders(dict[bytes, int]):
    """The 12 bytes before a record → its length, -1 for a header that must be refused.

    A dictionary, because lengths recur: a look-up costs a quarter of unpacking the header and computing its
    checksum again.
    """

    _LIMIT = 1 << 16

    def __init__(self, name: str, max_record_bytes: int) -> None:
        super().__init__()
        self.shard = name
        self._max_record_bytes = max_record_bytes

    def __missing__(self, header: bytes) -> int:
        if len(header) < _HEADER.size:
            return -1
        length: int
        length, checksum = _HEADER.unpack(header)
        if masked_crc32c(header[:8]) != checksum or length > self._max_record_bytes:
            return -1
        if len(self) >= self._LIMIT:
            self.clear()
        self[header] = length
        return length

    def refusal(self, header: bytes, index: int, offset: int) -> CorruptRecords:
        """The error that says why the record cannot be read."""
        kind: type[CorruptRecords] = ChecksumMismatch
        problem = "the length of the record does not match its checksum, so no later record can be found"
        if len(header) < _HEADER.size:
            kind = NotTFRecord if index == 0 else TruncatedShard
            problem = f"the shard ends {len(header)} bytes into a record's header of {_HEADER.size} bytes"
        elif masked_crc32c(header[:8]) == _HEADER.unpack(header)[1]:
            kind = RecordTooLong
            length, limit = _HEADER.unpack(header)[0], self._max_record_bytes
            problem = f"the record announces {length} bytes, the limit is {limit}"
        elif index == 0:
            kind = NotTFRecord
            problem = "the first bytes are not a TFRecord header (the checksum of the length is wrong)"
        return kind(problem, shard=self.shard, record=index, offset=offset)


class _PlainSource:
    """Blocks of an uncompressed shard."""

    #: Whether the stream can be asked for the bytes of one record and no more.
    reads_exactly = True

    def __init__(self, stream: BinaryIO, head: bytes) -> None:
        """Continue `stream`, of which `head` was already read."""
        self._stream = stream
        self._head = head

    def complete(self, rest: bytes, needed: int, index: int, offset: int) -> tuple[bytes, bytes, int]:
        """Return `rest` lengthened to `needed` bytes if the shard has them, the last block read, and what it gave.

        Only what is needed is joined: copying whole blocks costs a quarter of the speed (measured). `index` and
        `offset` name the record that is being read, for errors.
        """
        if len(rest) >= needed:
            return rest[:needed], rest, needed
        parts, have, block, taken = [rest], len(rest), b"", 0
        while have < needed and (block := self.block(index, offset)):
            taken = min(len(block), needed - have)
            parts.append(block[:taken])
            have += taken
        return b"".join(parts), block, taken

    def exactly(self, have: bytes, size: int) -> bytes:
        """Return `have` lengthened to `size` bytes if the shard has them, and read none behind; not before a block."""
        block = self._stream.read(size - len(have))
        if len(block) == size and not have:
            return block
        parts, left = [have], size - len(have)
        while block:
            parts.append(block)
            left -= len(block)
            block = self._stream.read(left) if left else b""
        return b"".join(parts)

    def skip(self, record: _PassedOver) -> tuple[bytes, int]:
        """Read past a record; the block in which it ends, and where in it. Raises `TruncatedShard`."""
        place = record.error
        block, taken, left = record.block, record.taken, record.frame_bytes - _HEADER.size
        while left > len(block) - taken:
            left -= len(block) - taken
            block, taken = self.block(place.record, place.offset), 0
            if not block:
                problem = f"the shard ends {left} bytes before the end of this record"
                raise TruncatedShard(problem, shard=place.shard, record=place.record, offset=place.offset)
        return block, taken + left

    def block(self, index: int, offset: int) -> bytes:  # noqa: ARG002 (the gzip source names the place in its errors)
        """Return the next bytes, at most about 1 MiB; b"" at the end."""
        if self._head:
            head, self._head = self._head, b""
            return head
        return self._stream.read(BLOCK_BYTES)


class _GzipSource(_PlainSource):
    """Blocks of a gzip shard, decompressed at most 1 MiB at a time so that a bomb never unfolds in memory."""

    reads_exactly = False

    def __init__(self, stream: BinaryIO, head: bytes, *, name: str, max_ratio: int) -> None:
        """Continue `stream`, of which `head` (with the gzip magic) was already read."""
        super().__init__(stream, head)
        self._name = name
        self._max_ratio = max_ratio
        self._member: Any = zlib.decompressobj(wbits=31)
        self._compressed = b""
        self._compressed_bytes = 0
        self._plain_bytes = 0

    def block(self, index: int, offset: int) -> bytes:
        """Return the next decompressed bytes; b"" at the end of the last member."""
        place: dict[str, Any] = {"shard": self._name, "record": index, "offset": offset}
        while True:
            if not self._compressed:
                self._compressed = super().block(index, offset)
                self._compressed_bytes += len(self._compressed)
            if self._member.eof and not self._next_member(place):
                return b""
            if not self._compressed:
                raise TruncatedShard("the gzip stream ends before its end marker", **place)
            try:
                plain: bytes = self._member.decompress(self._compressed, BLOCK_BYTES)
            except zlib.error as exc:
                raise DamagedCompression(f"the gzip stream cannot be decompressed ({exc})", **place) from exc
            self._compressed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            self._plain_bytes += len(plain)
            self._refuse_bomb(place)
            if plain:
                return plain

    def _next_member(self, place: dict[str, Any]) -> bool:
        """Start the next gzip member, if there is one: several may follow each other, and zeros the last."""
        while True:
            self._compressed = self._compressed.lstrip(b"\0")
            if self._compressed:
                break
            self._compressed = _PlainSource.block(self, 0, 0)
            self._compressed_bytes += len(self._compressed)
            if not self._compressed:
                return False
        if not _GZIP_MAGIC.startswith(self._compressed[:2]):
            raise DamagedCompression("the gzip stream is followed by bytes that are not gzip", **place)
        self._member = zlib.decompressobj(wbits=31)
        return True

    def _refuse_bomb(self, place: dict[str, Any]) -> None:
        consumed = max(1, self._compressed_bytes - len(self._compressed))
        if self._plain_bytes > _GZIP_RATIO_APPLIES_AFTER and self._plain_bytes > consumed * self._max_ratio:
            ratio = self._plain_bytes // consumed
            problem = f"the gzip stream expands {ratio}-fold, more than the {self._max_ratio}-fold that is accepted"
            raise CompressionBomb(problem, **place)


def _open_source(stream: BinaryIO, name: str, max_gzip_ratio: int) -> _PlainSource:
    """Look at the first bytes and return the matching source."""
    head = b""
    while len(head) < _HEADER.size:  # a raw stream may return fewer bytes than asked for
        more = stream.read(BLOCK_BYTES - len(head))
        if not more:
            break
        head += more
    if is_gzip(head):
        return _GzipSource(stream, head, name=name, max_ratio=max_gzip_ratio)
    return _PlainSource(stream, head)


def is_gzip(head: bytes) -> bool:
    """Tell from a shard's first 12 bytes whether it is gzip.

    A plain shard whose first record is 35 615 (0x8b1f) bytes long starts with gzip's magic too: its header's
    checksum tells the difference.
    """
    if not head.startswith(_GZIP_MAGIC):
        return False
    return not starts_like_records(head)


def starts_like_records(head: bytes) -> bool:
    """Tell whether the first 12 bytes are the header of a record: a length with its checksum."""
    if len(head) < _HEADER.size:
        return False
    checksum: int = _HEADER.unpack_from(head)[1]
    return masked_crc32c(head[:8]) == checksum


class Example(Mapping[str, Feature]):
    """A parsed tf.train.Example: feature name → Feature; values are converted when they are asked for."""

    __slots__ = ("_features", "_message")

    def __init__(self, message: Any) -> None:  # a run-time protobuf class has no static type
        """Wrap the parsed message."""
        self._message = message
        self._features = message.features.feature

    @property
    def has_sequences(self) -> bool:
        """Whether this is in truth a tf.train.SequenceExample: its feature lists are a field that no example has."""
        fields = lazily.load("google.protobuf.unknown_fields").UnknownFieldSet(self._message)
        return any(field.field_number == 2 for field in fields)

    def __getitem__(self, name: str) -> Feature:
        """Return the feature, or raise KeyError."""
        if name not in self._features:  # a protobuf map would create it
            raise KeyError(name)
        feature = self._features[name]
        kind = feature.WhichOneof("kind")
        if kind is None:
            return Feature("empty", ())
        return Feature(kind[:-5], tuple(getattr(feature, kind).value))

    def __contains__(self, name: object) -> bool:
        """Tell whether the example has the feature."""
        return name in self._features

    def __iter__(self) -> Iterator[str]:
        """Iterate over the feature names."""
        return iter(self._features)

    def __len__(self) -> int:
        """Return the number of features."""
        return len(self._features)


def parse_example(data: bytes, *, name: str = "", index: int = 0, offset: int = 0) -> Example:
    """Parse one serialised tf.train.Example; `name`, `index` and `offset` only place the error.

    Raises `MalformedExample`. Protobuf skips fields it does not know, so that arbitrary bytes can parse as an
    example without features: ask for the features you need.
    """
    message_class, decode_error = _example_class()
    try:
        return Example(message_class.FromString(data))
    except decode_error as exc:
        problem = "the record is intact but is not a tf.train.Example (protobuf cannot parse it)"
        raise MalformedExample(problem, shard=name, record=index, offset=offset) from exc


def encode_example(features: Mapping[str, FeatureValue]) -> bytes:
    """Serialise a tf.train.Example; the same features give the same bytes.

    bytes and str become a bytes_list, int an int64_list, float (or int mixed with float) a float_list; a
    sequence keeps its order. Raises TypeError or ValueError naming the feature.
    """
    message: Any = _example_class()[0]()
    for name, value in features.items():
        single = isinstance(value, bytes | bytearray | memoryview | str | Real)
        values: list[Any] = [value] if single else list(value)  # type: ignore[arg-type]
        feature = message.features.feature[name]
        try:
            _fill(feature, values)
        except (TypeError, ValueError) as exc:
            raise type(exc)(f"feature {name!r}: {exc}") from exc
    encoded: bytes = message.SerializeToString(deterministic=True)
    return encoded


def _fill(feature: Any, values: Sequence[Any]) -> None:
    """Put the values into the list that fits all of them; no values leave the feature without a kind."""
    if not values:
        return
    if all(isinstance(value, bytes | bytearray | memoryview | str) for value in values):
        as_bytes = (value.encode() if isinstance(value, str) else bytes(value) for value in values)
        feature.bytes_list.value.extend(as_bytes)
    elif all(isinstance(value, Integral) for value in values):
        feature.int64_list.value.extend(int(value) for value in values)
    elif all(isinstance(value, Real) for value in values):
        feature.float_list.value.extend(float(value) for value in values)
    else:
        raise TypeError("values must be all bytes or str, all int, or all numbers")


def write_records(target: BinaryIO | str | os.PathLike[str], records: Iterable[bytes], *, gzip: bool = False) -> int:
    """Write the records as one shard and return how many there were.

    `target` is an open binary stream, left open, or a path: a path appears only when the shard is complete.
    gzip shards carry no time stamp, so the same records give the same bytes.
    """
    if not isinstance(target, str | os.PathLike):
        return _write_frames(target, records, gzip=gzip)
    path = Path(target)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            count = _write_frames(stream, records, gzip=gzip)
        Path(partial).chmod(0o644)  # mkstemp's 0600 would hide the shard from everyone else
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return count


def _write_frames(stream: BinaryIO, records: Iterable[bytes], *, gzip: bool) -> int:
    compressor = zlib.compressobj(6, zlib.DEFLATED, 31) if gzip else None
    count = 0
    for data in records:
        frame = frame_record(data)
        stream.write(compressor.compress(frame) if compressor else frame)
        count += 1
    if compressor:
        stream.write(compressor.flush())
    return count


def frame_record(data: bytes) -> bytes:
    """Return one record with its length and checksums around it."""
    length = _LENGTH.pack(len(data))
    return b"".join((length, _CHECKSUM.pack(masked_crc32c(length)), data, _CHECKSUM.pack(masked_crc32c(data))))


@cache
def _example_class() -> tuple[type[Message], type[Exception]]:
    """Build tf.train.Example at run time: protobuf comes with Google's clients, its class with TensorFlow.

    A descriptor pool of our own keeps it apart from TensorFlow's where both are loaded.
    """
    # Late: 30 ms that a reader of plain frames need not pay.
    descriptor_pb2 = lazily.load("google.protobuf.descriptor_pb2")
    descriptor_pool = lazily.load("google.protobuf.descriptor_pool")
    message = lazily.load("google.protobuf.message")
    message_factory = lazily.load("google.protobuf.message_factory")
    field = descriptor_pb2.FieldDescriptorProto
    schema = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")

    def add(parent: Any, name: str, number: int, kind: int | str, *, many: bool = False) -> None:
        entry = parent.field.add(name=name, number=number)
        entry.label = field.LABEL_REPEATED if many else field.LABEL_OPTIONAL
        entry.type = field.TYPE_MESSAGE if isinstance(kind, str) else kind
        if isinstance(kind, str):
            entry.type_name = f".tensorflow.{kind}"

    lists = (("Bytes", field.TYPE_BYTES), ("Float", field.TYPE_FLOAT), ("Int64", field.TYPE_INT64))
    feature = schema.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (title, kind) in enumerate(lists, start=1):
        add(schema.message_type.add(name=f"{title}List"), "value", 1, kind, many=True)
        add(feature, f"{title.lower()}_list", number, f"{title}List")
        feature.field[-1].oneof_index = 0
    features = schema.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, "Feature")
    add(features, "feature", 1, "Features.FeatureEntry", many=True)
    add(schema.message_type.add(name="Example"), "features", 1, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(schema.SerializeToString())
    descriptor = pool.FindMessageTypeByName("tensorflow.Example")
    return message_factory.GetMessageClass(descriptor), message.DecodeError
