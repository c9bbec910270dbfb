"""One pass over one shard: every record is judged, and little is kept of each."""

from __future__ import annotations

import dataclasses
import math
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import BinaryIO, cast

import google_crc32c
import numpy as np
import numpy.typing as npt

from dualdeploy.contracts.file_kinds import what_it_is
from dualdeploy.contracts.split import Side
from dualdeploy.images.image_file import ImageHeader, UnreadableImage
from dualdeploy.images.tfrecord import (
    CorruptRecords,
    MalformedExample,
    NotTFRecord,
    Record,
    TruncatedShard,
    is_gzip,
    read_records,
)
from dualdeploy.images.unusable import UnusableRecord
from training_launcher.example_reader import ExampleReader
from training_launcher.image_header import ImageHeaderReader, can_decode_in_little_memory
from training_launcher.part_checksums import of_parts
from training_launcher.shard_source import MeteredStream, ShardSource
from training_launcher.validation_limits import ValidationLimits
from training_launcher.validation_report import Finding, Findings

#: Images whose few numbers are collected before they are added up: enough to make that cheap, few enough to be small.
_BATCH = 1 << 15

#: How `Images.sides` counts what a record says of itself.
SIDES: Mapping[Side | None, int] = {None: 0, "train": 1, "eval": 2}

#: From here on, an image's checksum follows from the record's (`part_checksums`) instead of reading it again.
_DERIVED_BYTES = 16 << 10

#: Bytes at an image's end that go into its fingerprint beside its checksum and size.
_TAIL = 64

_REMEDIES = {
    "not_tfrecord": "keep only TFRecord files below the data set's prefix, plain or gzip-compressed as a whole",
    "truncated": "upload the shard again: its writer or its upload was cut off",
    "checksum_mismatch": "upload the shard again from its source: bytes changed after it was written",
    "record_too_long": "scale the picture down, or leave it out; one JPEG or PNG per record, no batches, no raw pixels",
    "damaged_compression": "compress and upload the shard again",
    "compression_bomb": "write the shard again without gzip: encoded images barely compress",
    "malformed_example": "write each record as a serialised tf.train.Example",
}


@dataclasses.dataclass(frozen=True)
class Images:
    """Usable images side by side: record number, class, bytes, pixels, CRC32C, CRC-32 of the last bytes, own side.

    `sides` says which side of the split a record names itself, as `SIDES` counts them.
    """

    records: npt.NDArray[np.uint32]
    labels: npt.NDArray[np.uint32]
    sizes: npt.NDArray[np.uint32]
    widths: npt.NDArray[np.uint32]
    heights: npt.NDArray[np.uint32]
    checksums: npt.NDArray[np.uint32]
    tails: npt.NDArray[np.uint32]
    sides: npt.NDArray[np.uint32]

    @classmethod
    def none(cls) -> Images:
        return cls(*(np.zeros(0, np.uint32) for _ in dataclasses.fields(cls)))

    @classmethod
    def joined(cls, parts: Sequence[Images]) -> Images:
        return cls(
            *(np.concatenate([getattr(each, field.name) for each in parts]) for field in dataclasses.fields(cls))
        )

    def between(self, start: int, stop: int) -> Images:
        """Return the images from `start` to before `stop`."""
        return Images(*(getattr(self, field.name)[start:stop] for field in dataclasses.fields(self)))

    def where(self, chosen: npt.NDArray[np.bool_]) -> Images:
        """Return the chosen images."""
        return Images(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))

    def fingerprints(self) -> npt.NDArray[np.uint64]:
        """Mix checksum, size and tail to 64 bits that are equal for equal images, and hardly ever otherwise."""
        return (self.checksums.astype(np.uint64) << np.uint64(32)) | (self.tails ^ self.sizes)


class DecodeSample:
    """Decodes an evenly spread sample of the images in full.

    The number of images is unknown before the end, so the sample is spread over the bytes that will be read: one
    image every `stride` of them. Within a shard that is turned into a number of records, by their mean length so far:
    counted by bytes alone, long records would be drawn more often than short ones, and damaged images are short.
    """

    def __init__(self, limits: ValidationLimits, planned_bytes: int) -> None:
        self.decoded = 0
        #: Of these, images whose damage only decoding showed.
        self.damaged = 0
        self._stride = max(1, planned_bytes // limits.full_decode_sample) if limits.full_decode_sample else 0
        self._most = 2 * limits.full_decode_sample
        self._pixels_left = limits.full_decode_pixels

    def first_offset(self, base: int) -> float:
        """Return the offset from which on the first image of a shard is due; shards lie end to end from `base`."""
        if not self._stride or self.decoded >= self._most:
            return math.inf
        return -(-base // self._stride) * self._stride - base

    def next_record(self, record: int, offset: int, length: int) -> float:
        """Return the record that is due next after `record`, which has `length` bytes from `offset` on.

        Offsets in a gzip shard run ahead of its size, which gives it a few images more: hence the cap.
        """
        if self.decoded >= self._most:
            return math.inf
        mean = (offset + length) / (record + 1)
        return record + max(1, round(self._stride / max(mean, 1)))

    def decode(self, image: bytes, header: ImageHeader) -> None:
        """Decode the image if that fits into memory and time; raises `UnreadableImage`."""
        from dualdeploy.images.pixels import verify  # noqa: PLC0415 (Pillow: 100 ms that rejected headers need not pay)

        if header.pixels > self._pixels_left or not can_decode_in_little_memory(header):
            return
        self._pixels_left -= header.pixels
        self.decoded += 1
        try:
            verify(image)
        except UnreadableImage:
            self.damaged += 1
            raise


#: An image's header, label and own side, its bytes, CRC-32 of the last of them, and either its CRC32C and zeros, or the
#: checksums that it follows from: of the record, of what stands before and behind the image, and how much is behind.
_Seen = tuple[ImageHeader, int, Side | None, int, int, tuple[int, int, int, int]]


class _Hopeless(Exception):
    """So many records are unusable that reading on would only cost time."""


class ShardScan:
    """Reads one shard up to its share of bytes, judging each record.

    After `run`: `records` were seen, `bad_records` of them are unusable, `whole` tells that the shard was read to its
    end, `stopped_early` that its share of bytes was used up first.
    """

    def __init__(
        self,
        shard: ShardSource,
        *,
        reader: ExampleReader,
        sample: DecodeSample,
        base: int,
        share: int,
        limits: ValidationLimits,
        findings: Findings,
        settle: Callable[[Images], None],
    ) -> None:
        self.records = 0
        self.bad_records = 0
        self.bytes_read = 0
        self.compressed = False
        self.whole = False
        self.stopped_early = False
        self._shard = shard
        self._reader = reader
        self._headers = ImageHeaderReader(limits.max_image_pixels)
        self._sample = sample
        self._base = base
        self._share = share
        self._limits = limits
        self._findings = findings
        self._settle = settle
        self._due_offset: float = 0
        self._due_record: float = 0
        self._columns = (*(array("I") for _ in dataclasses.fields(Images)),)
        #: Of the bytes around each image: checksums of those before and behind it, and how many are behind it.
        self._around = (array("I"), array("I"), array("I"))

    def run(self, opened: BinaryIO, progress: Callable[[int], None] | None) -> None:
        """Read the shard's stream; whatever is wrong with its bytes becomes findings."""
        stream = MeteredStream(opened, self._shard, self._share, progress)
        try:
            self._judge(self._read(stream))
            self.whole = not stream.stopped_early
        except CorruptRecords as fault:
            # A share ends anywhere, so it usually cuts a record in two: that is no fault of the shard.
            if not (stream.stopped_early and isinstance(fault, TruncatedShard | NotTFRecord)):
                self._report(fault, tolerable=False, head=stream.head)
                self.records += 1
                self.bad_records += 1
        except _Hopeless:
            message = f"given up after {self.bad_records} unusable records of {self.records}"
            remedy = "write the shard again as the findings above say"
            self._findings.add(Finding("error", "given_up", message, remedy, self._shard.name))
        finally:
            self.bytes_read = stream.bytes_read
            self.stopped_early = stream.stopped_early
            self.compressed = is_gzip(stream.head)
        self._add_up()

    def _read(self, stream: MeteredStream) -> Iterator[Record]:
        def damaged(fault: CorruptRecords) -> None:
            self.records += 1
            self._refuse(fault, fault.record, fault.offset)

        return read_records(
            cast("BinaryIO", stream),
            name=self._shard.name,
            max_record_bytes=self._limits.max_record_bytes,
            max_gzip_ratio=self._limits.max_gzip_ratio,
            damaged=damaged,
        )

    def _judge(self, records: Iterator[Record]) -> None:
        """Check each record; this loop is the validator's cost, hence the local names."""
        look, labels = self._look, self._columns[1]
        appends = [column.append for column in (*self._columns, *self._around)]
        add_record, add_label, add_size, add_width, add_height, add_checksum, add_tail, add_side = appends[:8]
        add_front, add_behind, add_behind_bytes = appends[8:]
        self._due_offset, self._due_record = self._sample.first_offset(self._base), math.inf
        for record in records:
            self.records += 1
            try:
                header, label, side, size, tail, checksums = look(record)
            except (UnusableRecord, MalformedExample) as fault:
                self._refuse(fault, record.index, record.offset)
                continue
            add_record(record.index)
            add_label(label)
            add_size(size)
            add_width(header.width)
            add_height(header.height)
            add_tail(tail)
            add_side(SIDES[side])
            checksum, front, behind, behind_bytes = checksums
            add_checksum(checksum)
            add_front(front)
            add_behind(behind)
            add_behind_bytes(behind_bytes)
            del record  # a long one must not stay in memory while the next is read
            if len(labels) == _BATCH:
                self._add_up()

    def _look(self, record: Record) -> _Seen:
        """Judge one record, without a copy of its image where the image begins like one before."""
        index, offset, data, whole = record
        place = self._reader.find(data)
        image, header = b"", None
        if place:
            start, end, label, side = place
            header = self._headers.find(data, start, end)
        else:
            image, label, side = self._reader.read(data)
            start, end = 0, len(image)
        due = offset >= self._due_offset or index >= self._due_record
        large = place is not None and end - start >= _DERIVED_BYTES
        if not image and (header is None or due or not large):
            image = data[start:end]
        if header is None:
            header = self._headers.read(image)
        if due:
            self._due_offset, self._due_record = math.inf, self._sample.next_record(index, offset, len(data))
            self._sample.decode(image, header)
        if large:
            around = google_crc32c.value(data[:start]), google_crc32c.value(data[end:]), len(data) - end
            return header, label, side, end - start, zlib.crc32(data[end - _TAIL : end]), (whole, *around)
        # zlib's is of another polynomial, and like the other the same in every process.
        return header, label, side, end - start, zlib.crc32(image[-_TAIL:]), (google_crc32c.value(image), 0, 0, 0)

    def _add_up(self) -> None:
        """Hand the collected numbers on and start over."""
        images = Images(*(np.array(column, np.uint32) for column in self._columns))
        front, behind, behind_bytes = (np.array(column, np.uint32) for column in self._around)
        for column in (*self._columns, *self._around):
            del column[:]
        if not len(images.labels):
            return
        derived = np.flatnonzero(front | behind | behind_bytes)
        if len(derived):
            wholes = images.checksums[derived]
            around = (front[derived], behind[derived], behind_bytes[derived])
            images.checksums[derived] = of_parts(wholes, *around, images.sizes[derived])
        self._settle(images)

    def _refuse(self, fault: UnusableRecord | CorruptRecords, record: int, offset: int) -> None:
        self.bad_records += 1
        self._report(fault, tolerable=True, record=record, offset=offset)
        if self.bad_records >= self._limits.max_bad_records_per_shard and self.bad_records * 2 > self.records:
            raise _Hopeless

    def _report(
        self,
        fault: UnusableRecord | CorruptRecords,
        *,
        tolerable: bool,
        record: int = 0,
        offset: int = 0,
        head: bytes = b"",
    ) -> None:
        problem, kind = fault.problem, ""
        if isinstance(fault, UnusableRecord):
            remedy = fault.remedy
        else:
            remedy = _REMEDIES[fault.code]
            if not tolerable:
                record, offset = fault.record, fault.offset
        if isinstance(fault, NotTFRecord):
            kind, advice = what_it_is(head)
            problem += f": this looks like {kind}" if kind else ""
            remedy = advice or remedy
        finding = Finding("error", fault.code, problem, remedy, self._shard.name, record, offset)
        self._findings.add(finding, tolerable=tolerable)
