"""Validation before spend: is this snapshot of TFRecord shards fit to train on?

One pass over the shards, without TensorFlow and without a network of its own, in memory that does not grow with
the data (below 100 MB).
"""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import BinaryIO

import numpy as np

from dualdeploy.contracts.example import ExampleSchema
from dualdeploy.contracts.split import HELD_OUT_ONE_IN, Split, held_out_by_checksum
from training_launcher.dataset_checks import DatasetChecks
from training_launcher.example_reader import ExampleReader
from training_launcher.extrapolation import Extrapolation, of_sample
from training_launcher.fingerprints import Fingerprints
from training_launcher.readings import ShardReading, decode, encode
from training_launcher.sampling import plan
from training_launcher.shard_scan import SIDES, DecodeSample, Images, ShardScan
from training_launcher.shard_source import FileShard, MemoryShard, ShardReadIncomplete, ShardSource, Unopened
from training_launcher.split_totals import ImageSizes, SplitTotals
from training_launcher.validation_limits import ValidationLimits
from training_launcher.validation_report import (
    ClassStatistics,
    Coverage,
    Estimate,
    Finding,
    Findings,
    ShardStatistics,
    Verdict,
)

__all__ = [
    "FileShard",
    "Finding",
    "MemoryShard",
    "ShardReadIncomplete",
    "ShardSource",
    "Validation",
    "ValidationLimits",
    "Verdict",
    "validate",
]


def validate(
    shards: Sequence[ShardSource],
    *,
    labels: Sequence[str] | None,
    features: Mapping[str, str],
    first_label: int = 0,
    eval_shards: Collection[str] = (),
    split: Split | None = None,
    limits: ValidationLimits | None = None,
    progress: Callable[[int], None] | None = None,
) -> Verdict:
    """Check every shard and return the verdict.

    `labels` are the class names in the order of their indices; None infers the number of classes. `features`
    names the features "image", "label" and, if wanted, "split", which with `first_label` are read as
    `contracts.example` says. `split` says which shards hold out examples, and why; `eval_shards` is its short form.
    `progress` receives the number of stored bytes just read.

    Bad data never raises, it becomes findings. What the shards' streams raise passes through, as does
    `ShardReadIncomplete` (an OSError): infrastructure says nothing about the data. Raises ValueError when
    `eval_shards` names a shard that is not there or two shards have the same name.
    """
    names = [shard.name for shard in shards]
    split = split or _named_by_caller(names, eval_shards)
    unknown = sorted({*eval_shards, *split.eval} - set(names))
    if unknown:
        raise ValueError(f"eval_shards names shards that are not there: {', '.join(unknown)}")
    validation = Validation(
        shards, labels=labels, features=features, first_label=first_label, split=split, limits=limits
    )
    validation.read(progress=progress)
    return validation.conclude()


def _named_by_caller(names: Sequence[str], eval_shards: Collection[str]) -> Split:
    held_out = tuple(name for name in names if name in eval_shards)
    return Split(tuple(name for name in names if name not in eval_shards), held_out, dict.fromkeys(names, "as asked"))


class Validation:
    """One validation, from the first byte to the verdict; it may be read in several goes, by several processes.

    What one process read it tells as a `step()`, which the next takes up. Steps are kept only when `keep` says so,
    since they hold 28 bytes of each image.
    """

    def __init__(
        self,
        shards: Sequence[ShardSource],
        *,
        labels: Sequence[str] | None,
        features: Mapping[str, str],
        split: Split,
        first_label: int = 0,
        limits: ValidationLimits | None = None,
        keep: bool = False,
    ) -> None:
        """Raises ValueError when two shards have the same name."""
        names = [shard.name for shard in shards]
        if len(set(names)) != len(names):
            raise ValueError("two shards have the same name, so findings could not tell them apart")
        self._started = time.monotonic()
        self._shards = shards
        self._sizes = [shard.size for shard in shards]
        self._labels = labels
        self._limits = limits = limits or ValidationLimits()
        self._schema = ExampleSchema(
            image=features["image"],
            label=features["label"],
            split=features.get("split", "split"),
            first_label=first_label,
            labels=tuple(labels) if labels else None,
        )
        self._reader = ExampleReader(self._schema)
        self._findings = Findings(limits.max_findings, limits.max_findings_per_code)
        self._fingerprints = Fingerprints(limits.max_compared_images)
        self._split = split
        self._held_out = [split.side(name) == "eval" for name in names]
        self._by_hash = split.by_hash
        self._named_by_record = 0
        classes = len(labels or ())
        self._train = SplitTotals("train", self._numbers(held_out=False), classes)
        self._eval = SplitTotals("eval", self._numbers(held_out=True), classes)
        self._records = Extrapolation(1)
        self._statistics: dict[int, ShardStatistics] = {}
        self._plan = plan(names, self._sizes, self._held_out, max_bytes=limits.max_bytes, max_shards=limits.max_shards)
        self._bases = [0, *itertools.accumulate(self._plan.shares)]
        self._sample = DecodeSample(limits, self._bases[-1])
        self._keep = keep
        self._kept: list[ShardReading] = []

    def _numbers(self, *, held_out: bool) -> list[int]:
        return [number for number, is_held_out in enumerate(self._held_out) if is_held_out == held_out]

    @property
    def shards_read(self) -> int:
        """How many of `shards_planned` are read."""
        return len(self._statistics)

    @property
    def shards_planned(self) -> int:
        return len(self._plan.opened)

    # Reading ---------------------------------------------------------------------------------------------------

    def take_up(self, step: bytes) -> None:
        """Count what an earlier process read, as if this one had read it; nothing of another data set or draw."""
        most, most_of_a_kind = self._limits.max_findings, self._limits.max_findings_per_code
        for reading in decode(step, seed=self._plan.seed, most=most, most_of_a_kind=most_of_a_kind):
            if reading.number not in self._statistics:
                sizes = ImageSizes()
                if reading.images:
                    sizes.add(reading.images)
                    self._add(reading.number, reading.images)
                self._sample.decoded += reading.decoded
                self._sample.damaged += reading.damaged
                self._close(reading, sizes)

    def step(self) -> bytes:
        """What was read since the last step, for `take_up`."""
        kept, self._kept = self._kept, []
        return encode(kept, seed=self._plan.seed)

    def read(self, *, go_on: Callable[[], bool] = lambda: True, progress: Callable[[int], None] | None = None) -> bool:
        """Read the shards, as far as their shares go, until all are read or `go_on` says no; whether all are.

        The next shards are opened while one is read: opening costs a round trip each, and they take it together.
        """
        waiting = collections.deque(number for number in self._plan.opened if number not in self._statistics)
        opened: collections.deque[tuple[int, BinaryIO]] = collections.deque()
        try:
            while (waiting or opened) and go_on():
                while waiting and len(opened) < self._limits.opened_ahead:
                    number = waiting.popleft()
                    opened.append((number, self._opened(number)))
                number, stream = opened[0]
                self._read_shard(number, stream, progress)
                opened.popleft()[1].close()
        finally:
            for _, stream in opened:
                stream.close()
        return self.shards_read == self.shards_planned

    def _opened(self, number: int) -> BinaryIO:
        try:
            return self._shards[number].open(self._plan.shares[number])
        except Exception as exc:  # noqa: BLE001  # raised when it is its turn: what comes before it is read and kept
            return Unopened(exc)

    def _read_shard(self, number: int, stream: BinaryIO, progress: Callable[[int], None] | None) -> None:
        sizes, kept = ImageSizes(), [Images.none()]
        decoded, damaged = self._sample.decoded, self._sample.damaged
        findings = Findings(self._limits.max_findings, self._limits.max_findings_per_code)

        def settle(images: Images) -> None:
            sizes.add(images)
            self._add(number, images)
            if self._keep:
                kept.append(images)

        scan = ShardScan(
            self._shards[number],
            reader=self._reader,
            sample=self._sample,
            base=self._bases[number],
            share=self._plan.shares[number],
            limits=self._limits,
            findings=findings,
            settle=settle,
        )
        scan.run(stream, progress)
        reading = ShardReading(
            number=number,
            records=scan.records,
            bad_records=scan.bad_records,
            bytes_read=scan.bytes_read,
            compressed=scan.compressed,
            whole=scan.whole,
            stopped_early=scan.stopped_early,
            decoded=self._sample.decoded - decoded,
            damaged=self._sample.damaged - damaged,
            findings=findings,
            images=Images.joined(kept) if self._keep else None,
        )
        if self._keep:
            self._kept.append(reading)
        self._close(reading, sizes)

    def _splits_of(self, number: int) -> tuple[SplitTotals, ...]:
        if self._by_hash:
            return self._train, self._eval
        return (self._eval,) if self._held_out[number] else (self._train,)

    def _add(self, number: int, images: Images) -> None:
        """Count the images of one shard in their split, and remember their fingerprints."""
        self._fingerprints.add(number, images.fingerprints(), images.records, images.labels)
        if self._by_hash:
            by_checksum = held_out_by_checksum(images.checksums)
            held_out = np.where(images.sides == SIDES[None], by_checksum, images.sides == SIDES["eval"])
            self._named_by_record += int(np.count_nonzero(images.sides))
            self._eval.add(images.where(held_out))
            self._train.add(images.where(~held_out))
        else:
            self._splits_of(number)[0].add(images)

    def _close(self, reading: ShardReading, sizes: ImageSizes) -> None:
        """Sum one shard up, all of whose images were added."""
        number = reading.number
        self._findings.merge(reading.findings)
        if reading.whole and not reading.records:
            self._found_empty(number, "the shard has no records")
        self._records.add(np.array([reading.records]), reading.bytes_read)
        for split in self._splits_of(number):
            split.close_shard(reading.bytes_read)
        self._statistics[number] = self._described(reading, sizes)

    def _described(self, reading: ShardReading, sizes: ImageSizes) -> ShardStatistics:
        name = self._shards[reading.number].name
        return ShardStatistics(
            name,
            "hash" if self._by_hash else self._split.side(name),
            self._split.reasons[name],
            self._sizes[reading.number],
            reading.bytes_read,
            reading.compressed,
            reading.whole,
            reading.records,
            reading.bad_records,
            *sizes.spreads(),
        )

    def _found_empty(self, number: int, message: str) -> None:
        remedy = "remove it, or upload it again if it should have records"
        self._findings.add(Finding("warning", "empty_shard", message, remedy, self._shards[number].name))

    def _close_unread(self) -> None:
        """Sum up the shards that are empty or were left out of the draw."""
        for number, size in enumerate(self._sizes):
            if number not in self._statistics:
                if not size:
                    self._found_empty(number, "the shard is empty (0 bytes)")
                nothing = Findings(0, 0)
                reading = ShardReading(number, 0, 0, 0, False, not size, bool(size), 0, 0, nothing)
                self._statistics[number] = self._described(reading, ImageSizes())

    # Concluding ------------------------------------------------------------------------------------------------

    def conclude(self) -> Verdict:
        """Check the data set as a whole and sum everything up."""
        self._close_unread()
        statistics = [self._statistics[number] for number in range(len(self._shards))]
        classes = max(len(self._train.class_records), len(self._eval.class_records))
        for split in (self._train, self._eval):
            split.lengthen(classes)
        names = self._labels or list(self._schema.met) or [f"class {index}" for index in range(classes)]
        checks = DatasetChecks(
            train=self._train,
            evaluation=self._eval,
            split_by_hash=self._by_hash,
            complete=all(shard.whole for shard in statistics),
            class_names=names,
            shard_names=[shard.name for shard in self._shards],
            limits=self._limits,
            findings=self._findings,
        )
        checks.check_names(self._split)
        checks.check_splits()
        checks.check_classes()
        checks.check_balance()
        duplicates = checks.check_duplicates(self._fingerprints.repeated())
        coverage, estimated = self._coverage(), self._estimated()
        tolerate = coverage.unusable.value <= self._limits.max_bad_records * coverage.records
        checks.check_sample(coverage, tolerate=tolerate)
        return Verdict(
            accepted=not self._findings.has_errors(tolerate=tolerate),
            findings=self._findings.conclude(tolerate=tolerate),
            finding_counts=dict(self._findings.counts),
            notes=self._notes(classes, coverage),
            coverage=coverage,
            splits=(self._train.statistics(duplicates[0]), self._eval.statistics(duplicates[1])),
            classes=tuple(self._class_statistics(index, name, estimated) for index, name in enumerate(names)),
            shards=tuple(statistics),
            seconds=round(time.monotonic() - self._started, 3),
            records_estimated=self._records.of_all(coverage.bytes_total)[0],
        )

    def _coverage(self) -> Coverage:
        total, read = sum(self._sizes), sum(shard.bytes_read for shard in self._statistics.values())
        records = sum(shard.records for shard in self._statistics.values())
        bad_records = sum(shard.bad_records for shard in self._statistics.values())
        # Each record was looked at for every fault but those that only decoding shows: of these a sample was decoded.
        seen = bad_records - self._sample.damaged
        inside = of_sample(self._sample.damaged, self._sample.decoded, records - seen)
        return Coverage(
            bytes_total=total,
            bytes_read=read,
            fraction=read / total if total else 1.0,
            shards_total=len(self._shards),
            shards_read=sum(1 for shard in self._statistics.values() if shard.bytes_read),
            shards_sampled=sum(
                not shard.whole and shard.bytes_read < shard.size for shard in self._statistics.values()
            ),
            records=records,
            bad_records=bad_records,
            unusable=Estimate(seen + inside.value, seen + inside.low, seen + (inside.high or 0)),
            images_decoded=self._sample.decoded,
            images_damaged=self._sample.damaged,
            images_compared=self._fingerprints.tracked,
        )

    def _class_statistics(self, index: int, name: str, estimated: Mapping[str, list[Estimate]]) -> ClassStatistics:
        splits = (self._train, self._eval)
        records = {split.name: int(split.class_records[index]) for split in splits}
        image_bytes = {split.name: int(split.class_bytes[index]) for split in splits}
        return ClassStatistics(
            index, name, records, image_bytes, {split: of_class[index] for split, of_class in estimated.items()}
        )

    def _estimated(self) -> dict[str, list[Estimate]]:
        """Records of each class in all shards of each split; nothing when all were read."""
        if all(shard.bytes_read == shard.size for shard in self._statistics.values()):
            return {}
        total = {split.name: 0 for split in (self._train, self._eval)}
        for number, size in enumerate(self._sizes):
            for split in self._splits_of(number):
                total[split.name] += size
        return {split.name: split.extrapolation.of_all(total[split.name]) for split in (self._train, self._eval)}

    def _notes(self, classes: int, coverage: Coverage) -> tuple[str, ...]:
        notes = []
        if self._labels is None and self._schema.met:
            notes.append(f"No labels were given: {classes} class names were found in the records.")
        elif self._labels is None:
            notes.append(f"No labels were given: {classes} classes are inferred from the largest label found.")
        if self._by_hash:
            notes.append(
                f"{self._split.describe()}: the trainer holds out the examples whose image's CRC32C is divisible by "
                f"{HELD_OUT_ONE_IN} ({self._eval.records} of {self._eval.records + self._train.records}); copies "
                f"of an image always fall on the same side."
            )
            if self._named_by_record:
                notes.append(
                    f"{self._named_by_record:,} records name their side of the split themselves (feature"
                    f" {self._schema.split!r}); the checksum decides about the others alone."
                )
        else:
            notes.append(f"{self._split.describe()}.")
        if coverage.shards_sampled:
            notes.append(self._sampled(coverage))
        if self._fingerprints.tracked < self._fingerprints.seen:
            tracked, seen = self._fingerprints.tracked, self._fingerprints.seen
            notes.append(f"Duplicates were looked for among the first {tracked:,} of {seen:,} images.")
        return tuple(notes)

    def _sampled(self, coverage: Coverage) -> str:
        which = f"{coverage.shards_read:,} of {coverage.shards_total:,} shards"
        if self._plan.is_drawn:
            which += f", drawn at random (draw {self._plan.seed}; validation.max_bytes and .max_shards say how many)"
        records = self._records.of_all(coverage.bytes_total)[0]
        return (
            f"Sampled: {coverage.bytes_read:,} of {coverage.bytes_total:,} bytes were read, from the start of {which};"
            f" what follows was not looked at. All shards together have {records} records."
        )
