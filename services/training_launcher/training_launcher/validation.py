"""Validation before spend: is this snapshot of TFRecord shards fit to train on?

One pass over the shards, without TensorFlow and without a network of its own, in memory that does not grow with
the data (below 100 MB).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from dualdeploy.contracts.split import HELD_OUT_ONE_IN, Split, held_out_by_checksum
from training_launcher.dataset_checks import DatasetChecks
from training_launcher.example_reader import ExampleReader
from training_launcher.fingerprints import Fingerprints
from training_launcher.shard_scan import DecodeSample, Images, ShardScan
from training_launcher.shard_source import FileShard, MemoryShard, ShardReadIncomplete, ShardSource, plan_shares
from training_launcher.split_totals import ImageSizes, SplitTotals
from training_launcher.validation_limits import ValidationLimits
from training_launcher.validation_report import (
    ClassStatistics,
    Coverage,
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
    "ValidationLimits",
    "Verdict",
    "validate",
]


def validate(
    shards: Sequence[ShardSource],
    *,
    labels: Sequence[str] | None,
    features: Mapping[str, str],
    eval_shards: Collection[str] = (),
    split: Split | None = None,
    limits: ValidationLimits | None = None,
    progress: Callable[[int], None] | None = None,
) -> Verdict:
    """Check every shard and return the verdict.

    `labels` are the class names in the order of their indices; None infers the number of classes. `features`
    names the features "image" (one bytes value, JPEG or PNG) and "label" (one int64 value). `split` says which shards
    hold out examples, and why; `eval_shards` is its short form, their names alone.
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
    if len(set(names)) != len(names):
        raise ValueError("two shards have the same name, so findings could not tell them apart")
    validation = _Validation(shards, labels, features, split, limits or ValidationLimits())
    validation.read(progress)
    return validation.conclude()


def _named_by_caller(names: Sequence[str], eval_shards: Collection[str]) -> Split:
    held_out = tuple(name for name in names if name in eval_shards)
    return Split(tuple(name for name in names if name not in eval_shards), held_out, dict.fromkeys(names, "as asked"))


class _Validation:
    """One validation, from the first byte to the verdict."""

    def __init__(
        self,
        shards: Sequence[ShardSource],
        labels: Sequence[str] | None,
        features: Mapping[str, str],
        split: Split,
        limits: ValidationLimits,
    ) -> None:
        self._started = time.monotonic()
        self._shards = shards
        self._sizes = [shard.size for shard in shards]
        self._labels = labels
        self._limits = limits
        self._reader = ExampleReader(features["image"], features["label"], len(labels) if labels else None)
        self._findings = Findings(limits.max_findings, limits.max_findings_per_code)
        self._fingerprints = Fingerprints(limits.max_compared_images)
        self._split = split
        self._held_out = [split.side(shard.name) == "eval" for shard in shards]
        self._by_hash = split.by_hash
        classes = len(labels or ())
        self._train = SplitTotals("train", self._numbers(held_out=False), classes)
        self._eval = SplitTotals("eval", self._numbers(held_out=True), classes)
        self._statistics: list[ShardStatistics] = []
        self._left_out = 0
        self._decoded = 0

    def _numbers(self, *, held_out: bool) -> list[int]:
        return [number for number, is_held_out in enumerate(self._held_out) if is_held_out == held_out]

    def read(self, progress: Callable[[int], None] | None) -> None:
        """Read every shard, as far as its share goes."""
        shares = plan_shares(self._sizes, self._limits.max_bytes)
        sample = DecodeSample(self._limits, sum(shares))
        base = 0
        for number, share in enumerate(shares):
            self._read_shard(number, base, share, sample, progress)
            base += share
        self._decoded = sample.decoded

    def _read_shard(
        self, number: int, base: int, share: int, sample: DecodeSample, progress: Callable[[int], None] | None
    ) -> None:
        shard, sizes = self._shards[number], ImageSizes()

        def settle(images: Images) -> None:
            sizes.add(images)
            self._add(number, images)

        scan = ShardScan(
            shard,
            reader=self._reader,
            sample=sample,
            base=base,
            share=share,
            limits=self._limits,
            findings=self._findings,
            settle=settle,
        )
        if share:
            scan.run(progress)
        size = self._sizes[number]
        if not size or (scan.whole and not scan.records):
            message = "the shard is empty (0 bytes)" if not size else "the shard has no records"
            remedy = "remove it, or upload it again if it should have records"
            self._findings.add(Finding("warning", "empty_shard", message, remedy, shard.name))
        self._left_out += scan.stopped_early or share < size
        statistics = ShardStatistics(
            shard.name,
            "hash" if self._by_hash else self._split.side(shard.name),
            self._split.reasons[shard.name],
            size,
            scan.bytes_read,
            scan.compressed,
            scan.whole or not size,
            scan.records,
            scan.bad_records,
            *sizes.spreads(),
        )
        self._statistics.append(statistics)

    def _add(self, number: int, images: Images) -> None:
        """Count the images of one shard in their split, and remember their fingerprints."""
        self._fingerprints.add(number, images.fingerprints(), images.records, images.labels)
        if self._by_hash:
            held_out = held_out_by_checksum(images.checksums)
            self._eval.add(images.where(held_out))
            self._train.add(images.where(~held_out))
        else:
            (self._eval if self._held_out[number] else self._train).add(images)

    def conclude(self) -> Verdict:
        """Check the data set as a whole and sum everything up."""
        classes = max(len(self._train.class_records), len(self._eval.class_records))
        for split in (self._train, self._eval):
            split.lengthen(classes)
        names = self._labels or [f"class {index}" for index in range(classes)]
        checks = DatasetChecks(
            train=self._train,
            evaluation=self._eval,
            split_by_hash=self._by_hash,
            complete=all(shard.whole for shard in self._statistics),
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
        coverage = self._coverage()
        tolerate = coverage.bad_records <= self._limits.max_bad_records * coverage.records
        return Verdict(
            accepted=not self._findings.has_errors(tolerate=tolerate),
            findings=self._findings.conclude(tolerate=tolerate),
            finding_counts=dict(self._findings.counts),
            notes=self._notes(classes, coverage),
            coverage=coverage,
            splits=(self._train.statistics(duplicates[0]), self._eval.statistics(duplicates[1])),
            classes=tuple(self._class_statistics(index, name) for index, name in enumerate(names)),
            shards=tuple(self._statistics),
            seconds=round(time.monotonic() - self._started, 3),
        )

    def _coverage(self) -> Coverage:
        total, read = sum(self._sizes), sum(shard.bytes_read for shard in self._statistics)
        return Coverage(
            bytes_total=total,
            bytes_read=read,
            fraction=read / total if total else 1.0,
            shards_total=len(self._shards),
            shards_read=sum(1 for shard in self._statistics if shard.bytes_read),
            shards_sampled=self._left_out,
            records=sum(shard.records for shard in self._statistics),
            bad_records=sum(shard.bad_records for shard in self._statistics),
            images_decoded=self._decoded,
            images_compared=self._fingerprints.tracked,
        )

    def _class_statistics(self, index: int, name: str) -> ClassStatistics:
        splits = (self._train, self._eval)
        records = {split.name: int(split.class_records[index]) for split in splits}
        return ClassStatistics(index, name, records, {split.name: int(split.class_bytes[index]) for split in splits})

    def _notes(self, classes: int, coverage: Coverage) -> tuple[str, ...]:
        notes = []
        if self._labels is None:
            notes.append(f"No labels were given: {classes} classes are inferred from the largest label found.")
        if self._by_hash:
            notes.append(
                f"{self._split.describe()}: the trainer holds out the examples whose image's CRC32C is divisible by "
                f"{HELD_OUT_ONE_IN} ({self._eval.records} of {self._eval.records + self._train.records}); copies "
                f"of an image always fall on the same side."
            )
        else:
            notes.append(f"{self._split.describe()}.")
        if coverage.shards_sampled:
            notes.append(
                f"Sampled: {coverage.bytes_read:,} of {coverage.bytes_total:,} bytes were read, from the start of "
                f"{coverage.shards_read} of {coverage.shards_total} shards; what follows was not looked at."
            )
        if self._fingerprints.tracked < self._fingerprints.seen:
            tracked, seen = self._fingerprints.tracked, self._fingerprints.seen
            notes.append(f"Duplicates were looked for among the first {tracked:,} of {seen:,} images.")
        return tuple(notes)
