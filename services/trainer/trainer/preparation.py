"""`python -m trainer prepare-automl`: from shards to what AutoML imports. No TensorFlow, and nothing is kept whole.

    shards ─► each different picture once ─► <directory>/images/<sha256>.jpg
                                         └─► <directory>/import-00000.jsonl …    golden.json, labels.txt
                                                                                  prepared.json LAST

A picture is named after its bytes, so an attempt that goes on after another one finds what is there, and writes the
rest. The same shards give the same files.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pydantic

from dualdeploy import logs
from dualdeploy.contracts import automl, golden
from dualdeploy.contracts.automl import ML_USE, TEST, TRAINING, VALIDATION, Preparation, Prepared
from dualdeploy.contracts.example import ExampleSchema
from dualdeploy.contracts.training import ShardReference
from dualdeploy.errors import CannotEverSucceed
from dualdeploy.google.object_store import ABSENT, GcsObjectStore, GenerationChanged, ObjectMissing, ObjectStore
from dualdeploy.images import image_file
from dualdeploy.images.pixels import UnreadableImage, decode_rgb
from dualdeploy.images.tfrecord import CorruptRecords
from dualdeploy.images.unusable import UnusableRecord
from trainer.data.examples import (
    NAMED_BAD_RECORDS,
    BadRecord,
    GoldenSet,
    Record,
    Shard,
    records,
    refuse_too_many,
)
from trainer.process import storage
from trainer.process.failures import JOB_ID, UnusableData, UnusableJob, UnwritableOutput
from trainer.process.storage import Bucket, Patience

log = logging.getLogger("trainer")

#: Lines of one import file: a few megabytes. How many Google takes is not written.
LINES = 50_000

#: Pictures that are uploaded at the same time, each in some tens of milliseconds.
UPLOADS = 32

_MEDIA = {"jpg": "image/jpeg", "png": "image/png"}


def run(order: Preparation, *, work: Path, patience: Patience, bucket_of: Bucket = GcsObjectStore) -> Prepared:
    """Carry out `order`; returns the document that was written last.

    Raises UnusableData, whose reason is then in that document, and ServiceUnavailable, after which another attempt
    goes on.
    """
    with logs.bind(run_id=order.run_id, target=automl.DATA):
        output = _Output.of(order, patience, bucket_of)
        try:
            found = _Preparing(order, output).run(_shards(order, work / "shards", patience, bucket_of))
        except CannotEverSucceed as exc:
            refusal = Prepared(key=order.key, refusal=str(exc), job=os.environ.get(JOB_ID, ""))
            storage.write(order.result, refusal.to_json, patience, bucket_of=bucket_of)
            raise
        storage.write(order.result, found.to_json, patience, bucket_of=bucket_of)
        log.info("%d pictures in %d import files: %s", found.pictures, len(found.files), dict(found.sets))
    return found


@dataclasses.dataclass(frozen=True)
class _Source:
    """A shard on this machine, and whether all of it is held out."""

    shard: Shard
    held_out: bool


def _shards(order: Preparation, folder: Path, patience: Patience, bucket_of: Bucket) -> Iterator[_Source]:
    """One shard after the other, the next already on its way; those that are held out come first, because a picture
    that is on both sides must not be learned from."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(each, True) for each in order.shards.eval] + [(each, False) for each in order.shards.train]

    def fetch(reference: ShardReference) -> Path:
        return storage.fetch(reference, folder, patience, bucket_of=bucket_of)

    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="fetch") as pool:
        ahead = pool.submit(fetch, wanted[0][0])
        for number, (reference, held_out) in enumerate(wanted):
            path = ahead.result()
            if number + 1 < len(wanted):
                ahead = pool.submit(fetch, wanted[number + 1][0])
            yield _Source(Shard(reference.uri, path), held_out)
            if path.is_relative_to(folder):
                path.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class _Picture:
    """A record's picture, which is known to be one; `digest` is the SHA-256 of its bytes."""

    digest: str
    data: bytes
    label: int
    held_out: bool
    #: uint8 [height, width, 3], of a held-out one.
    pixels: npt.NDArray[Any] | None

    @property
    def kind(self) -> str:
        return "jpg" if self.data.startswith(b"\xff\xd8") else "png"

    @property
    def name(self) -> str:
        return f"images/{self.digest}.{self.kind}"


class _Preparing:
    """What has been read so far: 16 bytes of each different picture, counts, and one line for each label."""

    def __init__(self, order: Preparation, output: _Output) -> None:
        self._order = order
        self._output = output
        self._schema = ExampleSchema(**order.features.model_dump(), labels=order.labels)
        self._by_hash = not order.shards.eval
        self._golden = GoldenSet(len(order.labels))
        self._labels: dict[bytes, int] = {}
        self._sets: dict[str, collections.Counter[str]] = {label: collections.Counter() for label in order.labels}
        #: Of each label the picture to learn from with the smallest digest: it goes where no other of them went.
        self._held_back: dict[int, _Line] = {}
        self._bad: list[BadRecord] = []
        self._seen = self._skipped = self._duplicates = self._conflicting = 0

    def run(self, sources: Iterator[_Source]) -> Prepared:
        with self._output.writing() as output:
            for picture in self._pictures(sources):
                self._take(picture, output)
            refuse_too_many(self._bad, self._skipped, self._seen, self._order.max_bad_records)
            for label, line in sorted(self._held_back.items()):
                counts = self._sets[self._order.labels[label]]
                lacks = next((each for each in (VALIDATION, TRAINING) if not counts[each]), line.set)
                self._add(dataclasses.replace(line, set=lacks), output)
            self._refuse_what_automl_refuses()
            files = output.finish()
        chosen = [
            golden.Picture(image=each.data, label=self._order.labels[each.label]) for each in self._golden.pictures()
        ]
        return Prepared(
            key=self._order.key,
            pictures=len(self._labels),
            sets={label: dict(counts) for label, counts in self._sets.items()},
            files=files,
            golden=self._output.write("golden.json", golden.encode(chosen)),
            labels=self._output.write("labels.txt", "".join(f"{label}\n" for label in self._order.labels).encode()),
            duplicates=self._duplicates,
            conflicting=self._conflicting,
            skipped_records=self._skipped,
            split="hash" if self._by_hash else "named",
            job=os.environ.get(JOB_ID, ""),
        )

    # Pictures --------------------------------------------------------------------------------------------------

    def _pictures(self, sources: Iterator[_Source]) -> Iterator[_Picture]:
        """Every usable picture, in the order of the shards; decoded on all cores, with few of them in memory."""
        workers = os.cpu_count() or 1
        upcoming: collections.deque[concurrent.futures.Future[_Picture | BadRecord]] = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
            for source in sources:
                for record in records(source.shard, 0):
                    if isinstance(record, BadRecord):
                        self._skip(record)
                        continue
                    upcoming.append(pool.submit(self._look, record, source.held_out))
                    if len(upcoming) > 4 * workers:
                        yield from self._usable(upcoming.popleft().result())
                while upcoming:
                    yield from self._usable(upcoming.popleft().result())

    def _look(self, record: Record, held_out: bool) -> _Picture | BadRecord:
        try:
            example = self._schema.read(record.data)
            image_file.check(example.image)
            # Damage inside shows only here, and AutoML would tell it after everything was paid for.
            pixels = decode_rgb(example.image)
        except CorruptRecords as exc:
            return BadRecord(record.shard.name, record.index, exc.problem)
        except (UnusableRecord, UnreadableImage) as exc:
            return BadRecord(record.shard.name, record.index, str(exc))
        if len(example.image) > automl.MOST_PICTURE_BYTES:
            place = f"{record.shard.name}, record {record.index}"
            most = f"AutoML takes at most {automl.MOST_PICTURE_BYTES:,}"
            raise UnusableData(f"{place}: a picture of {len(example.image):,} bytes; {most}")
        test = self._schema.is_held_out(example) if self._by_hash else held_out
        digest = hashlib.sha256(example.image).hexdigest()
        return _Picture(digest, example.image, example.label, test, pixels if test else None)

    def _usable(self, found: _Picture | BadRecord) -> Iterator[_Picture]:
        if isinstance(found, BadRecord):
            self._skip(found)
        else:
            self._seen += 1
            yield found

    def _skip(self, bad: BadRecord) -> None:
        self._seen += 1
        self._skipped += 1
        if len(self._bad) < NAMED_BAD_RECORDS:
            self._bad.append(bad)
            log.warning("skipped %s", bad)

    def _take(self, picture: _Picture, output: _Writing) -> None:
        short = bytes.fromhex(picture.digest[:32])
        label = self._labels.get(short)
        if label is not None:
            # For AutoML equal bytes are one item: of two labels one would win, and Google does not say which.
            self._duplicates += 1
            self._conflicting += label != picture.label
            return
        if len(self._labels) >= automl.MOST_PICTURES:
            raise UnusableData(f"AutoML takes at most {automl.MOST_PICTURES:,} different pictures, and there are more")
        self._labels[short] = picture.label
        line = _Line(output.upload(picture), picture.label, picture.digest, TEST)
        if picture.pixels is not None:
            self._golden.consider(picture.data, picture.label, picture.pixels)
            self._add(line, output)
        else:
            is_tenth = int(picture.digest, 16) % automl.VALIDATION_ONE_IN == 0
            self._learn(dataclasses.replace(line, set=VALIDATION if is_tenth else TRAINING), output)

    def _learn(self, line: _Line, output: _Writing) -> None:
        before = self._held_back.get(line.label)
        if before is None or line.digest < before.digest:
            self._held_back[line.label], line = line, before or line
        if before is not None:
            self._add(line, output)

    def _add(self, line: _Line, output: _Writing) -> None:
        label = self._order.labels[line.label]
        self._sets[label][line.set] += 1
        output.add(line, label)

    def _refuse_what_automl_refuses(self) -> None:
        """Before the import is paid for: then it could be mended in the console only."""
        faults = []
        for label, counts in self._sets.items():
            total = sum(counts.values())
            if total < automl.LEAST_PICTURES_OF_A_LABEL:
                faults.append(
                    f"{label} has {total} different pictures, AutoML wants {automl.LEAST_PICTURES_OF_A_LABEL} at least"
                )
            elif not counts[TEST]:
                faults.append(f"{label} has no held-out picture: hold some out (data.split)")
            elif not counts[TRAINING]:
                faults.append(f"{label} has too few pictures to learn from: all but one are held out")
        if faults:
            more = f"; and {len(faults) - 5} more labels" if len(faults) > 5 else ""
            remedy = "add pictures, or take the label out of the configuration"
            raise UnusableData(f"AutoML cannot be trained on this data: {'; '.join(faults[:5])}{more}: {remedy}")


# Output ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Line:
    """One line of an import file."""

    uri: str
    label: int
    digest: str
    set: str

    def encode(self, label: str) -> str:
        document = {
            "imageGcsUri": self.uri,
            "classificationAnnotation": {"displayName": label},
            "dataItemResourceLabels": {ML_USE: self.set},
        }
        return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


@dataclasses.dataclass(frozen=True)
class _Output:
    """The folder that everything goes to."""

    store: ObjectStore
    folder: str
    patience: Patience

    @classmethod
    def of(cls, order: Preparation, patience: Patience, bucket_of: Bucket) -> _Output:
        bucket, folder = storage.split_gs(order.directory.rstrip("/"))
        return cls(bucket_of(bucket), folder, patience)

    def write(self, name: str, data: bytes) -> str:
        """Put a file in its place, whatever an earlier attempt left there; its URI."""
        uri = self.store.uri(f"{self.folder}/{name}")
        self.patience.call(f"writing {uri}", lambda: storage.replace_object(self.store, f"{self.folder}/{name}", data))
        return uri

    @contextlib.contextmanager
    def writing(self) -> Iterator[_Writing]:
        prefix = f"{self.folder}/images/"
        present = self.patience.call(
            f"listing {self.store.uri(prefix)}",
            lambda: {each.name.removeprefix(f"{self.folder}/") for each in self.store.list(prefix)},
        )
        with concurrent.futures.ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload") as pool:
            try:
                yield _Writing(self, present, pool)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


class _Writing:
    """Pictures and import files on their way."""

    def __init__(self, output: _Output, present: set[str], pool: concurrent.futures.Executor) -> None:
        self._output = output
        self._present = present
        self._pool = pool
        self._under_way: collections.deque[concurrent.futures.Future[None]] = collections.deque()
        self._lines: list[str] = []
        self._files: list[str] = []

    def upload(self, picture: _Picture) -> str:
        """Have the picture written, if it is not there; its URI."""
        if picture.name not in self._present:
            self._under_way.append(self._pool.submit(self._upload, picture))
            if len(self._under_way) > 2 * UPLOADS:
                self._under_way.popleft().result()
        return self._output.store.uri(f"{self._output.folder}/{picture.name}")

    def add(self, line: _Line, label: str) -> None:
        self._lines.append(line.encode(label))
        if len(self._lines) == LINES:
            self._flush()

    def finish(self) -> tuple[str, ...]:
        """Return when everything is there; the URIs of the import files."""
        while self._under_way:
            self._under_way.popleft().result()
        if self._lines:
            self._flush()
        return tuple(self._files)

    def _flush(self) -> None:
        data = "".join(f"{line}\n" for line in self._lines).encode()
        self._files.append(self._output.write(f"import-{len(self._files):05}.jsonl", data))
        self._lines = []

    def _upload(self, picture: _Picture) -> None:
        store, name = self._output.store, f"{self._output.folder}/{picture.name}"

        def put() -> None:
            # Named after its bytes: what is there already is the same.
            with contextlib.suppress(GenerationChanged):
                store.put(name, picture.data, expect=ABSENT, content_type=_MEDIA[picture.kind])

        try:
            self._output.patience.call(f"writing {store.uri(name)}", put)
        except ObjectMissing as exc:
            raise UnwritableOutput(f"{store.uri(name)} cannot be written: {exc}") from exc


def parse(document: bytes, *, source: str) -> Preparation:
    """Raises UnusableJob that names the fault."""
    try:
        return Preparation.model_validate_json(document)
    except pydantic.ValidationError as exc:
        raise UnusableJob(f"{source} does not say what is to be prepared: {exc}") from exc
