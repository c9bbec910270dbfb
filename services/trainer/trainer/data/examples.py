"""From shards to pictures that can be trained on: parsed, checked, decoded once, resized, split.

No TensorFlow here: a caller that has it hands in its decoder (trainer.data.decoding) for the pictures to learn from. It
gives the same pixels (dualdeploy.images.pixels) on all cores at once. What it cannot take, Pillow decodes and names.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import heapq
import io
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import numpy as np
import numpy.typing as npt
from PIL import Image

from dualdeploy.contracts.example import ExampleSchema
from dualdeploy.contracts.training import Augmentation, FeatureNames
from dualdeploy.images import image_file
from dualdeploy.images.pixels import UnreadableImage, decode_rgb, resize_bilinear
from dualdeploy.images.tfrecord import HEADER_BYTES, CorruptRecords, is_gzip, read_records
from dualdeploy.images.unusable import UnusableRecord
from trainer.data.pictures import EncodedPictures, Index, PicturesOnDemand
from trainer.process.failures import UnusableData

log = logging.getLogger("trainer")

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
class DataSet:
    """What was loaded. `train` is uint8 with a margin to crop, `held_out` float32 exactly as it will be served.

    `encoded`: the held-out pictures as they came, in the same order.
    """

    train: Examples
    held_out: Examples
    encoded: EncodedPictures
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
    elsewhere: Sequence[Shard] = (),
    evaluates: bool = True,
    by_hash: bool | None = None,
    decoders: Callable[[int], Decode] | None = None,
    memory: int = 0,
    disk: int | None = None,
) -> DataSet:
    """Read all shards, and decode every picture once: then it is known to be one.

    Training pictures are kept as large as `augmentation` wants them. Among several workers, `train` is the share of
    this one and `elsewhere` that of the others; only the one that `evaluates` looks at what is held out, from
    everybody's shards. `by_hash`: no shard is held out by name; the others, who are given none, must be told.
    `decoders` makes what decodes many training pictures at once for a side in pixels; without it Pillow decodes each
    alone.

    Decoded training pictures that need no more than `memory` bytes are kept there; else in a file in `folder` that is
    mapped into memory, if they need no more than `disk` bytes (None: as many as there are); else nowhere: each is
    decoded from its shard whenever it is asked for (`data.pictures`). The held-out ones are kept in a quarter of
    `memory`, or decoded whenever they are asked for. Pixels and order are the same in all cases.

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
    files = [shard for shards, _ in parts for shard in shards]
    for each_time in (False, True) if _fits(train, side, memory=memory, disk=disk) else (True,):
        try:
            with _Kept(reader, files, len(labels), folder, memory=memory, each_time=each_time) as kept:
                for number, (shards, wanted) in zip(_first_numbers(parts), parts, strict=True):
                    if wanted.learned or wanted.held_out:
                        for prepared in _ahead(reader, shards, wanted, evaluation=shards is held_out, number=number):
                            kept.add(prepared)
                refuse_too_many(kept.bad, kept.skipped, kept.seen, max_bad_records)
                data = kept.finish("hash" if by_hash else "named")
            break
        except _NoRoom as exc:
            if each_time:
                raise
            log.warning("%s: the pictures are decoded anew in each epoch instead", exc)
    _refuse_unlearnable(data, labels, alone=evaluates and not elsewhere, evaluates=evaluates)
    return data


def _first_numbers(parts: Sequence[tuple[Sequence[Shard], Any]]) -> list[int]:
    """The number of each part's first shard among all."""
    return [sum(len(shards) for shards, _ in parts[:place]) for place in range(len(parts))]


def _fits(train: Sequence[Shard], side: int, *, memory: int, disk: int | None) -> bool:
    """Whether decoded training pictures can be kept, by what the shards' first records tell of all."""
    sizes = [shard.path.stat().st_size for shard in train if shard.path.exists()]
    first: list[int] = []
    for shard in train:
        with contextlib.suppress(CorruptRecords, OSError), shard.path.open("rb") as stream:
            first += [len(each.data) for each in itertools.islice(read_records(stream, name=shard.name), TOGETHER)]
        if first:
            break
    decoded = sum(sizes) / max(1.0, sum(first) / max(1, len(first))) * side * side * 3
    return decoded <= memory or disk is None or decoded <= disk


def training_side(image_size: int, augmentation: Augmentation) -> int:
    """Side in pixels at which training pictures are kept."""
    if augmentation == "none" or (augmentation == "standard" and image_size >= DETAILED):
        return image_size
    return image_size + max(4, image_size // CROP_MARGIN)


@dataclasses.dataclass(frozen=True)
class Record:
    """A record as it was read: `data` from byte `offset` of the shard with this number, None of a compressed one."""

    shard: Shard
    number: int
    index: int
    data: bytes
    offset: int | None


@dataclasses.dataclass(frozen=True)
class _Picture:
    """A record's picture and label, not yet decoded."""

    source: Record
    data: bytes
    label: int
    held_out: bool


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """One usable record, decoded and resized for its side of the split; `alone`: by the slower decoder."""

    pixels: npt.NDArray[Any]
    label: int
    held_out: bool
    data: bytes
    source: Record
    alone: bool = True


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

    def prepare(self, records: Sequence[Record], evaluation: bool, wanted: _Wanted) -> list[_Outcome]:
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
                outcomes.append(_Prepared(next(pixels), each.label, False, each.data, each.source, alone=False))
        return outcomes

    def _picture(self, record: Record, evaluation: bool, wanted: _Wanted) -> _Picture | BadRecord | None:
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
            pixels = self.pixels(picture.data, held_out=picture.held_out)
        except UnreadableImage as exc:
            return BadRecord(picture.source.shard.name, picture.source.index, str(exc))
        return _Prepared(pixels, picture.label, picture.held_out, picture.data, picture.source)

    def pixels(self, data: bytes, *, held_out: bool) -> npt.NDArray[Any]:
        """One picture as its side of the split has it. Raises UnreadableImage."""
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


def _ahead(
    reader: _Reader, shards: Sequence[Shard], wanted: _Wanted, *, evaluation: bool, number: int
) -> Iterator[_Outcome]:
    """Decode on all cores, in groups, in order, with few records in memory at once; `number` is the first shard's."""
    workers = os.cpu_count() or 1
    upcoming: collections.deque[concurrent.futures.Future[list[_Outcome]]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        for group in _groups(shards, number):
            if isinstance(group, BadRecord):
                yield group
                continue
            upcoming.append(pool.submit(reader.prepare, group, evaluation, wanted))
            if len(upcoming) > 2 * workers:
                yield from upcoming.popleft().result()
        while upcoming:
            yield from upcoming.popleft().result()


def _groups(shards: Sequence[Shard], first: int) -> Iterator[list[Record] | BadRecord]:
    """Records of all shards in their order, so many at a time; bad ones come as they are met."""
    group: list[Record] = []
    for number, shard in enumerate(shards, first):
        for record in records(shard, number):
            if isinstance(record, BadRecord):
                yield record
                continue
            group.append(record)
            if len(group) == TOGETHER:
                yield group
                group = []
    if group:
        yield group


def records(shard: Shard, number: int) -> Iterator[Record | BadRecord]:
    """A shard's records, and those that are damaged, as they are met. Raises UnusableData for one that ends early."""
    damaged: list[CorruptRecords] = []
    try:
        with shard.path.open("rb") as stream:
            compressed = is_gzip(stream.read(2))
            stream.seek(0)
            for record in read_records(stream, name=shard.name, damaged=damaged.append):
                yield from _named(damaged)
                offset = None if compressed else record.offset + HEADER_BYTES
                yield Record(shard, number, record.index, record.data, offset)
            yield from _named(damaged)
    except CorruptRecords as exc:
        raise UnusableData(f"{exc}. Write this shard again; the job needs all of it") from exc
    except OSError as exc:
        raise UnusableData(f"{shard.name} cannot be read: {exc}") from exc


def _named(damaged: list[CorruptRecords]) -> Iterator[BadRecord]:
    while damaged:
        error = damaged.pop(0)
        yield BadRecord(error.shard, error.record, error.problem)


class _Kept:
    """What has been read so far: where each picture lies, and pixels as far as they are kept. Leaving closes files."""

    def __init__(
        self, reader: _Reader, shards: Sequence[Shard], classes: int, folder: Path, *, memory: int, each_time: bool
    ) -> None:
        self._reader = reader
        self._each_time = each_time
        self._copies = _Copies(folder / "copied.pictures", number=len(shards))
        self._files = [*(shard.path for shard in shards), self._copies.path]
        self._index = {False: Index(), True: Index()}
        self._train = _PixelFile(folder / "train.pixels", reader.training_side, memory=memory)
        #: The held-out ones, while there is memory for them.
        self._held_out: list[npt.NDArray[Any]] | None = []
        self._room_for_held_out = memory // 4
        self._golden = GoldenSet(classes)
        self.bad: list[BadRecord] = []
        self.skipped = 0
        self.seen = 0

    def __enter__(self) -> _Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self._train.close()
        self._copies.close()

    def add(self, prepared: _Outcome) -> None:
        self.seen += 1
        if prepared is None:
            return
        if isinstance(prepared, BadRecord):
            self.skipped += 1
            if len(self.bad) < NAMED_BAD_RECORDS:
                self.bad.append(prepared)
            return
        self._note(prepared)
        if prepared.held_out:
            self._golden.consider(prepared.data, prepared.label, prepared.pixels)
            self._keep_held_out(prepared.pixels)
        elif not self._each_time:
            self._train.append(prepared.pixels)

    def _note(self, prepared: _Prepared) -> None:
        """Where the picture lies: in its shard, or, of a compressed one, in a copy if it is needed again."""
        source, inside = prepared.source, prepared.source.data.find(prepared.data)
        if source.offset is not None and inside >= 0:
            file, offset = source.number, source.offset + inside
        elif prepared.held_out or self._each_time:
            file, offset = self._copies.number, self._copies.append(prepared.data)
        else:
            file, offset = self._copies.number, 0
        self._index[prepared.held_out].append(
            file=file, offset=offset, data=prepared.data, label=prepared.label, alone=prepared.alone
        )

    def _keep_held_out(self, pixels: npt.NDArray[Any]) -> None:
        self._room_for_held_out -= pixels.nbytes
        if self._room_for_held_out < 0:
            self._held_out = None
        elif self._held_out is not None:
            self._held_out.append(pixels)

    def finish(self, how: Literal["named", "hash"]) -> DataSet:
        self._copies.complete()
        train, held_out = (self._index[side].finish(self._files) for side in (False, True))
        pixels = self._on_demand(train, held_out=False) if self._each_time else self._train.finish(len(train))
        kept = self._held_out
        seen = np.stack(kept) if kept else self._on_demand(held_out, held_out=True)
        return DataSet(
            train=Examples(pixels, train.labels),
            held_out=Examples(seen, held_out.labels),
            encoded=held_out,
            golden=self._golden.pictures(),
            bad_records=tuple(self.bad),
            skipped=self.skipped,
            split=how,
            classes=self._golden.classes,
        )

    def _on_demand(self, pictures: EncodedPictures, *, held_out: bool) -> PicturesOnDemand:
        reader = self._reader
        return PicturesOnDemand(
            pictures,
            reader.image_size if held_out else reader.training_side,
            np.float32 if held_out else np.uint8,
            alone=functools.partial(reader.pixels, held_out=held_out),
            together=None if held_out else reader.decode,
        )


class GoldenSet:
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

    def consider(self, data: bytes, label: int, pixels: npt.NDArray[Any]) -> None:
        """A picture's file, its class, and its pixels in 0..255, for the case that the file is too large."""
        self._seen += 1
        chosen = self._chosen[0 if self._together else label]
        too_large = len(data) > GOLDEN_BYTES
        order = -((int(too_large) << 32) | int(google_crc32c.value(data)))
        if len(chosen) < self._of_each or order > chosen[0][0]:
            kept = written_anew(pixels) if too_large else data
            heapq.heappush(chosen, (order, self._seen, GoldenPicture(kept, label)))
        if len(chosen) > self._of_each:
            heapq.heappop(chosen)

    def pictures(self) -> list[GoldenPicture]:
        kept = (entry for chosen in self._chosen.values() for entry in sorted(chosen, reverse=True))
        return sorted((picture for _, _, picture in kept), key=lambda picture: picture.label)


class _NoRoom(UnusableData):
    """The disk is full."""


class _ScratchFile:
    """A file that is written to its end and then read; a full disk is told as such."""

    def __init__(self, path: Path) -> None:
        self.path = path
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
            raise _NoRoom(
                f"{self.path.parent} has no room for the pictures ({self._written} written): {exc}. "
                "Give the machine a larger boot disk, set TMPDIR, or train with a smaller image_size"
            ) from exc

    def close(self) -> None:
        # What a full disk did not take is still in the buffer, and closing tries once more to write it.
        with contextlib.suppress(OSError):
            self._stream.close()

    def complete(self) -> None:
        with self._room():
            self._stream.close()


class _PixelFile(_ScratchFile):
    """Pictures of one size: in memory up to `memory` bytes, else all in a file that the system maps into it.

    Memory takes them as they were decoded. Of the file, the system keeps in memory what there is room for.
    """

    def __init__(self, path: Path, side: int, *, memory: int) -> None:
        super().__init__(path)
        self._shape = (side, side, 3)
        self._kept: list[npt.NDArray[Any]] | None = []
        self._room_left = memory

    def append(self, pixels: npt.NDArray[Any]) -> None:
        self._room_left -= pixels.nbytes
        if self._kept is not None:
            self._kept.append(pixels)
            if self._room_left < 0:
                for each in self._kept:
                    self._append(each.data)
                self._kept = None
            return
        self._append(pixels.data)

    def finish(self, pictures: int) -> Any:
        """Pixels uint8 [pictures, side, side, 3]."""
        self.complete()
        shape = (pictures, *self._shape)
        if not pictures:  # an empty file cannot be mapped
            return np.zeros(shape, np.uint8)
        if self._kept is not None:
            return KeptPictures(self._kept)
        return np.memmap(self.path, np.uint8, mode="r", shape=shape)


class _Copies(_ScratchFile):
    """Pictures of compressed shards as they came, one after the other; `number` is that of this file in the index."""

    def __init__(self, path: Path, *, number: int) -> None:
        super().__init__(path)
        self.number = number
        self._end = 0

    def append(self, data: bytes) -> int:
        """Where the picture begins."""
        start = self._end
        self._append(data)
        self._end += len(data)
        return start


def refuse_too_many(bad: Sequence[BadRecord], skipped: int, seen: int, allowed: float) -> None:
    """Raises UnusableData that names bad records when more than the share `allowed` of all are bad."""
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
