"""From shards to pictures that can be trained on: parsed, checked, decoded once, resized, split.

No TensorFlow here: whoever has it hands in its decoder (trainer.decoding) for the pictures to learn from, which gives
the same pixels (dualdeploy.images) on all cores at once. What that cannot take, Pillow decodes alone, and names.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import heapq
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import numpy as np
import numpy.typing as npt
from PIL import Image

from dualdeploy.contracts import image_file
from dualdeploy.contracts.example import ExampleSchema
from dualdeploy.contracts.unusable import UnusableRecord
from dualdeploy.images import UnreadableImage, decode_rgb, resize_bilinear
from dualdeploy.tfrecord import CorruptRecords, read_records
from dualdeploy.training import Augmentation, FeatureNames
from trainer.failures import UnusableData

#: Training pictures are kept this much larger than the network's input, so that a crop can be taken at random.
CROP_MARGIN = 8

#: From this size on, a zoomed crop has detail enough without a margin, and a fifth of memory and time is saved.
DETAILED = 128

#: Pictures of each class that go into the golden set, and of all classes together: each stands there with as many
#: probabilities as there are classes, which with thousands of both would be gigabytes.
GOLDEN_PER_CLASS = 5
GOLDEN_PICTURES = 250
GOLDEN_PROBABILITIES = 1_000_000
FEWEST_GOLDEN_PICTURES = 20

#: Larger pictures are written anew for the golden set: as base64 they fit three times into the smallest request that
#: a Vertex AI endpoint takes (1.5 MB, of a shared one).
GOLDEN_BYTES = 350_000

#: Records that are decoded together: enough that a call costs little beside them (32 instead of 16 is 8 % faster, 64
#: another 3 %). A machine has two such groups a core in hand, and one more.
TOGETHER = 32

#: Decodes pictures to uint8 [pictures, side, side, 3]; None when it cannot take one of them.
Decode = Callable[[Sequence[bytes]], "npt.NDArray[np.uint8] | None"]

#: Bad records that are named one by one in the log and in the metrics.
NAMED_BAD_RECORDS = 20


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of records on this machine, and the name that its user knows it by."""

    name: str
    path: Path


@dataclasses.dataclass(frozen=True)
class BadRecord:
    """A record that cannot be used: shard, number in the shard (from 0), and why."""

    shard: str
    index: int
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}, record {self.index}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class GoldenPicture:
    """A held-out picture as it came, if a request takes it, and the index of its true class."""

    data: bytes
    label: int


def written_anew(pixels: npt.NDArray[Any]) -> bytes:
    """A file of these pixels [height, width, 3] in 0..255 that every request takes: PNG, or as small as need be."""
    image = Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))
    for image_format in ("PNG", "JPEG"):
        stream = io.BytesIO()
        image.save(stream, image_format, **({"quality": 90} if image_format == "JPEG" else {}))
        if stream.tell() <= GOLDEN_BYTES:
            return stream.getvalue()
    return written_anew(np.asarray(image.reduce(2)))


class KeptPictures:
    """Pictures where their decoder put them, indexed by lists of positions like an array [examples, side, side, 3]."""

    def __init__(self, pictures: Sequence[npt.NDArray[Any]]) -> None:
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, positions: Sequence[int]) -> npt.NDArray[Any]:
        return np.stack([self._pictures[position] for position in positions])


@dataclasses.dataclass(frozen=True)
class Examples:
    """Pictures [examples, side, side, 3] and class indices [examples], in the order of the shards."""

    pixels: Any
    labels: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class EncodedPictures:
    """JPEG and PNG files one after the other in `path`; `ends` are the positions where each stops."""

    path: Path
    ends: Sequence[int]

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[bytes]:
        start = 0
        with self.path.open("rb") as stream:
            for end in self.ends:
                yield stream.read(end - start)
                start = end


@dataclasses.dataclass(frozen=True)
class DataSet:
    """What was loaded. `train` is uint8 with a margin to crop, `held_out` float32 exactly as it will be served.

    `encoded`: the held-out pictures as they came, in the same order, if they were asked for.
    """

    train: Examples
    held_out: Examples
    encoded: EncodedPictures | None
    golden: Sequence[GoldenPicture]
    bad_records: Sequence[BadRecord]
    skipped: int
    split: Literal["named", "hash"]
    classes: int


def load(
    train: Sequence[Shard],
    held_out: Sequence[Shard],
    *,
    labels: Sequence[str],
    features: FeatureNames,
    image_size: int,
    max_bad_records: float,
    folder: Path,
    augmentation: Augmentation = "standard",
    keep_encoded: bool = False,
    elsewhere: Sequence[Shard] = (),
    evaluates: bool = True,
    by_hash: bool | None = None,
    decoders: Callable[[int], Decode] | None = None,
    memory: int = 0,
) -> DataSet:
    """Read all shards; decoded pictures go to files in `folder`, mapped into memory.

    Training pictures are kept as large as `augmentation` wants them; `keep_encoded` keeps the held-out ones as they
    came, too. Among several workers, `train` is the share of this one and `elsewhere` that of the others; only the
    one that `evaluates` looks at what is held out, from everybody's shards. `by_hash`: no shard is held out by name;
    the others, who are given none, must be told. `decoders` makes what decodes many training pictures at once for a
    side in pixels; without it Pillow decodes each alone. Training pictures that need no more than `memory` bytes are
    kept there instead of in a file.

    Raises UnusableData that names the shard when one cannot be read to its end, the records when more than the
    share `max_bad_records` cannot be used, and the classes that have no picture to learn from.
    """
    side = training_side(image_size, augmentation)
    decoder = decoders(side) if decoders else None
    by_hash = not held_out if by_hash is None else by_hash
    schema = ExampleSchema(**features.model_dump(), labels=tuple(labels))
    reader = _Reader(schema, image_size, side, split_by_hash=by_hash, decode=decoder)
    # Which sides of the split are wanted of which shards.
    parts = [(train, _Wanted(learned=True, held_out=evaluates)), (held_out, _Wanted(learned=False, held_out=evaluates))]
    if by_hash and evaluates:
        parts.append((elsewhere, _Wanted(learned=False, held_out=True)))
    with _Kept(image_size, side, len(labels), folder, keep_encoded=keep_encoded, memory=memory) as kept:
        for shards, wanted in parts:
            if wanted.learned or wanted.held_out:
                for prepared in _ahead(reader, shards, wanted, evaluation=shards is held_out):
                    kept.add(prepared)
        _refuse_too_many(kept.bad, kept.skipped, kept.seen, max_bad_records)
        data = kept.finish("hash" if by_hash else "named")
    _refuse_unlearnable(data, labels, alone=evaluates and not elsewhere, evaluates=evaluates)
    return data


def training_side(image_size: int, augmentation: Augmentation) -> int:
    """Side in pixels at which training pictures are kept."""
    if augmentation == "none" or (augmentation == "standard" and image_size >= DETAILED):
        return image_size
    return image_size + max(4, image_size // CROP_MARGIN)


@dataclasses.dataclass(frozen=True)
class _Record:
    """A record as it was read."""

    shard: Shard
    index: int
    data: bytes


@dataclasses.dataclass(frozen=True)
class _Picture:
    """A record's picture and label, not yet decoded."""

    source: _Record
    data: bytes
    label: int
    held_out: bool


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """One usable record, decoded and resized for its side of the split."""

    pixels: npt.NDArray[Any]
    label: int
    held_out: bool
    data: bytes


#: What came of a record; None if nobody here wants its side of the split.
_Outcome = _Prepared | BadRecord | None


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """Which sides of the split this worker looks at."""

    learned: bool
    held_out: bool

    def includes(self, *, held_out: bool) -> bool:
        return self.held_out if held_out else self.learned


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Turns records into pictures; its methods run on several threads."""

    schema: ExampleSchema
    image_size: int
    training_side: int
    split_by_hash: bool
    decode: Decode | None

    def prepare(self, records: Sequence[_Record], evaluation: bool, wanted: _Wanted) -> list[_Outcome]:
        """What came of each record; the pictures to learn from are decoded together if there is a decoder for that."""
        found = [self._picture(record, evaluation, wanted) for record in records]
        together = [each for each in found if isinstance(each, _Picture) and not each.held_out]
        decoded = self.decode([each.data for each in together]) if self.decode and together else None
        pixels = iter(decoded if decoded is not None else ())
        outcomes: list[_Outcome] = []
        for each in found:
            if not isinstance(each, _Picture):
                outcomes.append(each)
            elif each.held_out or decoded is None:
                outcomes.append(self._decoded_alone(each))
            else:
                outcomes.append(_Prepared(next(pixels), each.label, held_out=False, data=each.data))
        return outcomes

    def _picture(self, record: _Record, evaluation: bool, wanted: _Wanted) -> _Picture | BadRecord | None:
        try:
            example = self.schema.read(record.data)
            held_out = self.schema.is_held_out(example) if self.split_by_hash else evaluation
            if not wanted.includes(held_out=held_out):
                return None
            image_file.check(example.image)
        except CorruptRecords as exc:
            return BadRecord(record.shard.name, record.index, exc.problem)
        except UnusableRecord as exc:
            return BadRecord(record.shard.name, record.index, str(exc))
        return _Picture(record, example.image, example.label, held_out)

    def _decoded_alone(self, picture: _Picture) -> _Prepared | BadRecord:
        try:
            pixels = self._pixels(picture.data, picture.held_out)
        except UnreadableImage as exc:
            return BadRecord(picture.source.shard.name, picture.source.index, str(exc))
        return _Prepared(pixels, picture.label, picture.held_out, picture.data)

    def _pixels(self, data: bytes, held_out: bool) -> npt.NDArray[Any]:
        image = decode_rgb(data)
        if not held_out:
            return _resize_for_training(image, self.training_side)
        if image.shape[:2] == (self.image_size, self.image_size):
            return image.astype(np.float32)
        return resize_bilinear(image, self.image_size)


def _resize_for_training(image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """The same samples as `resize_bilinear` within one grey level, at a quarter of its time and memory.

    One grey level is nothing beside the augmentation. Pillow's `resize` averages when it makes a picture smaller;
    its `transform` samples, as the definition wants, and rounds down.
    """
    height, width = image.shape[:2]
    if (height, width) == (side, side):
        return image
    picture = Image.fromarray(image)
    if height <= side and width <= side:
        return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))
    scale = (width / side, 0, 0, 0, height / side, 0)
    return np.asarray(picture.transform((side, side), Image.Transform.AFFINE, scale, Image.Resampling.BILINEAR))


def _ahead(reader: _Reader, shards: Sequence[Shard], wanted: _Wanted, *, evaluation: bool) -> Iterator[_Outcome]:
    """Decode on all cores, in groups, in order, with few records in memory at once."""
    workers = os.cpu_count() or 1
    upcoming: collections.deque[concurrent.futures.Future[list[_Outcome]]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        for group in _groups(shards):
            if isinstance(group, BadRecord):
                yield group
                continue
            upcoming.append(pool.submit(reader.prepare, group, evaluation, wanted))
            if len(upcoming) > 2 * workers:
                yield from upcoming.popleft().result()
        while upcoming:
            yield from upcoming.popleft().result()


def _groups(shards: Sequence[Shard]) -> Iterator[list[_Record] | BadRecord]:
    """Records of all shards in their order, so many at a time; bad ones come as they are met."""
    group: list[_Record] = []
    for shard in shards:
        for index, record in _records(shard):
            if isinstance(record, BadRecord):
                yield record
                continue
            group.append(_Record(shard, index, record))
            if len(group) == TOGETHER:
                yield group
                group = []
    if group:
        yield group


def _records(shard: Shard) -> Iterator[tuple[int, bytes | BadRecord]]:
    damaged: list[CorruptRecords] = []
    try:
        with shard.path.open("rb") as stream:
            for record in read_records(stream, name=shard.name, damaged=damaged.append):
                yield from _named(damaged)
                yield record.index, record.data
            yield from _named(damaged)
    except CorruptRecords as exc:
        raise UnusableData(f"{exc}. Write this shard again; the job needs all of it") from exc
    except OSError as exc:
        raise UnusableData(f"{shard.name} cannot be read: {exc}") from exc


def _named(damaged: list[CorruptRecords]) -> Iterator[tuple[int, BadRecord]]:
    while damaged:
        error = damaged.pop(0)
        yield error.record, BadRecord(error.shard, error.record, error.problem)


class _Kept:
    """What has been read so far: pixels in files, everything else in memory. Leaving the block closes the files."""

    def __init__(
        self, image_size: int, side: int, classes: int, folder: Path, *, keep_encoded: bool, memory: int
    ) -> None:
        self._files = {
            False: _PixelFile(folder / "train.pixels", side, np.dtype(np.uint8), memory=memory),
            True: _PixelFile(folder / "held-out.pixels", image_size, np.dtype(np.float32)),
        }
        self._encoded = _ByteFile(folder / "held-out.pictures") if keep_encoded else None
        self._golden = _GoldenSet(classes)
        self.bad: list[BadRecord] = []
        self.skipped = 0
        self.seen = 0

    def __enter__(self) -> _Kept:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (*self._files.values(), *([self._encoded] if self._encoded else [])):
            file.close()

    def add(self, prepared: _Outcome) -> None:
        self.seen += 1
        if prepared is None:
            return
        if isinstance(prepared, BadRecord):
            self.skipped += 1
            if len(self.bad) < NAMED_BAD_RECORDS:
                self.bad.append(prepared)
            return
        self._files[prepared.held_out].append(prepared.pixels, prepared.label)
        if prepared.held_out:
            self._golden.consider(prepared)
            if self._encoded:
                self._encoded.append(prepared.data)

    def finish(self, how: Literal["named", "hash"]) -> DataSet:
        train, held_out = self._files[False].finish(), self._files[True].finish()
        encoded = self._encoded.finish() if self._encoded else None
        golden = self._golden.pictures()
        return DataSet(train, held_out, encoded, golden, tuple(self.bad), self.skipped, how, self._golden.classes)


class _GoldenSet:
    """The pictures of each class with the smallest checksums: the same ones whatever order the shards come in.

    With more classes than pictures are wanted, those of all classes together.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        most = max(FEWEST_GOLDEN_PICTURES, min(GOLDEN_PICTURES, GOLDEN_PROBABILITIES // classes))
        self._together = classes > most
        self._of_each = most if self._together else min(GOLDEN_PER_CLASS, most // classes)
        self._chosen: dict[int, list[tuple[int, int, GoldenPicture]]] = collections.defaultdict(list)
        self._seen = 0

    def consider(self, prepared: _Prepared) -> None:
        self._seen += 1
        chosen = self._chosen[0 if self._together else prepared.label]
        too_large = len(prepared.data) > GOLDEN_BYTES
        order = -((int(too_large) << 32) | int(google_crc32c.value(prepared.data)))
        if len(chosen) < self._of_each or order > chosen[0][0]:
            data = written_anew(prepared.pixels) if too_large else prepared.data
            heapq.heappush(chosen, (order, self._seen, GoldenPicture(data, prepared.label)))
        if len(chosen) > self._of_each:
            heapq.heappop(chosen)

    def pictures(self) -> list[GoldenPicture]:
        kept = (entry for chosen in self._chosen.values() for entry in sorted(chosen, reverse=True))
        return sorted((picture for _, _, picture in kept), key=lambda picture: picture.label)


class _ScratchFile:
    """A file that is written to its end and then read; a full disk is told as such."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = 0
        self._stream = path.open("wb")

    def _append(self, data: bytes | memoryview) -> None:
        with self._room():
            self._stream.write(data)
        self._written += 1

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise UnusableData(
                f"{self._path.parent} has no room for the decoded pictures ({self._written} written): {exc}. "
                "Give the machine a larger boot disk, set TMPDIR, or train with a smaller image_size"
            ) from exc

    def close(self) -> None:
        # What a full disk did not take is still in the buffer, and closing tries once more to write it.
        with contextlib.suppress(OSError):
            self._stream.close()

    def _complete(self) -> None:
        with self._room():
            self._stream.close()


class _PixelFile(_ScratchFile):
    """Pictures of one size: in memory up to `memory` bytes, else all in a file that the system maps into it.

    Memory takes them as they were decoded. Of the file, the system keeps in memory what there is room for.
    """

    def __init__(self, path: Path, side: int, dtype: np.dtype[Any], *, memory: int = 0) -> None:
        super().__init__(path)
        self._shape = (side, side, 3)
        self._dtype = dtype
        self._labels: list[int] = []
        self._kept: list[npt.NDArray[Any]] | None = []
        self._room_left = memory

    def append(self, pixels: npt.NDArray[Any], label: int) -> None:
        self._labels.append(label)
        self._room_left -= pixels.nbytes
        if self._kept is not None:
            self._kept.append(pixels)
            if self._room_left < 0:
                for each in self._kept:
                    self._append(each.data)
                self._kept = None
            return
        self._append(pixels.data)

    def finish(self) -> Examples:
        self._complete()
        labels = np.array(self._labels, dtype=np.int32)
        shape = (len(labels), *self._shape)
        if not len(labels):  # an empty file cannot be mapped
            return Examples(np.zeros(shape, self._dtype), labels)
        if self._kept is not None:
            return Examples(KeptPictures(self._kept), labels)
        return Examples(np.memmap(self._path, self._dtype, mode="r", shape=shape), labels)


class _ByteFile(_ScratchFile):
    """Pictures as they came."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._ends: list[int] = []

    def append(self, data: bytes) -> None:
        self._append(data)
        self._ends.append(len(data) + (self._ends[-1] if self._ends else 0))

    def finish(self) -> EncodedPictures:
        self._complete()
        return EncodedPictures(self._path, tuple(self._ends))


def _refuse_too_many(bad: Sequence[BadRecord], skipped: int, seen: int, allowed: float) -> None:
    if skipped > allowed * seen:
        named = "\n  ".join(str(record) for record in bad)
        more = f"\n  and {skipped - len(bad)} more" if skipped > len(bad) else ""
        raise UnusableData(
            f"{skipped} of {seen} records cannot be used, more than max_bad_records ({allowed:g}) allows:"
            f"\n  {named}{more}"
        )


def _refuse_unlearnable(data: DataSet, labels: Sequence[str], *, alone: bool, evaluates: bool) -> None:
    if not len(data.train):
        raise UnusableData("no picture to train on: the training shards are empty or all were held out")
    if evaluates and not len(data.held_out):
        raise UnusableData("no picture to evaluate on: name evaluation shards, or give more pictures to choose from")
    if not alone:  # a class that is missing here may be somewhere else: the workers find out together
        return
    counts = np.bincount(data.train.labels, minlength=len(labels))
    empty = [label for label, count in zip(labels, counts, strict=True) if count == 0]
    if empty:
        raise UnusableData(
            f"no picture to learn {', '.join(empty)} from: add some, or take the label out of the configuration"
        )
