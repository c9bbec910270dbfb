"""What a validation found: findings, statistics, coverage, and the verdict."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Severity = Literal["error", "warning"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One fault: where (`record` counts from 0, `offset` in bytes of the decompressed shard), what, and the cure."""

    severity: Severity
    code: str
    message: str
    remedy: str
    shard: str | None = None
    record: int | None = None
    offset: int | None = None

    def sentence(self) -> str:
        """Return place and message: `train-0.tfrecord, record 17 at byte 1834: …`."""
        place = self.shard or ""
        if self.record is not None:
            place += f", record {self.record}"
            if self.offset is not None:
                place += f" at byte {self.offset}"
        return f"{place}: {self.message}" if place else self.message


@dataclasses.dataclass(frozen=True)
class Spread:
    """Smallest, middle and largest of many values."""

    minimum: int
    median: int
    maximum: int


class Findings:
    """Collects findings: all are counted, the first of each kind are kept."""

    def __init__(self, most: int, most_of_a_kind: int) -> None:
        self.counts: Counter[str] = Counter()
        self._most = most
        self._most_of_a_kind = most_of_a_kind
        #: What is listed, and whether it concerns one record only.
        self.kept: list[tuple[Finding, bool]] = []
        self._tolerable_errors = False
        self._errors = False

    def add(self, finding: Finding, *, tolerable: bool = False) -> None:
        """Count a finding and keep it while there is room; a `tolerable` error concerns one record only."""
        if finding.severity == "error":
            self._tolerable_errors |= tolerable
            self._errors |= not tolerable
        # A kind that comes late is kept once in any case, so that every kind can be read about.
        first = finding.code not in self.counts
        if first or (self.counts[finding.code] < self._most_of_a_kind and len(self.kept) < self._most):
            self.kept.append((finding, tolerable))
        self.counts[finding.code] += 1

    def lead(self, finding: Finding) -> None:
        """Add a finding that sums up others, before them."""
        self._errors |= finding.severity == "error"
        self.kept.insert(0, (finding, False))
        self.counts[finding.code] += 1

    def count_more(self, code: str, count: int) -> None:
        """Count findings of a kind of which enough were added."""
        if count > 0:
            self.counts[code] += count

    def merge(self, others: Findings) -> None:
        """Add what was found elsewhere, after what was found here."""
        self._errors |= others._errors
        self._tolerable_errors |= others._tolerable_errors
        counts = dict(self.counts)
        for finding, tolerable in others.kept:
            self.add(finding, tolerable=tolerable)
        for code, count in others.counts.items():
            self.counts[code] = counts.get(code, 0) + count

    def has_errors(self, *, tolerate: bool) -> bool:
        """Tell whether any error was found; with `tolerate`, errors of single records do not count."""
        return self._errors or (self._tolerable_errors and not tolerate)

    def conclude(self, *, tolerate: bool) -> tuple[Finding, ...]:
        """Return what was kept, errors first; with `tolerate`, errors of single records become warnings."""
        findings = [
            dataclasses.replace(finding, severity="warning") if tolerable and tolerate else finding
            for finding, tolerable in self.kept
        ]
        return tuple(sorted(findings, key=lambda finding: finding.severity != "error"))


class Distribution:
    """Counts whole numbers in bounded memory: minimum and maximum are exact, the median to `resolution`.

    Beyond `resolution` x 2^18 (16 MiB, or 262 144 pixels) the median is not told apart.
    """

    _LAST = (1 << 18) - 1

    def __init__(self, resolution: int = 1) -> None:
        self._resolution = resolution
        self._counts = np.zeros(0, np.int64)
        self._minimum: int | None = None
        self._maximum = 0

    def add(self, values: npt.NDArray[np.uint32]) -> None:
        """Count the values."""
        if not len(values):
            return
        low, high = int(values.min()), int(values.max())
        self._minimum = low if self._minimum is None else min(low, self._minimum)
        self._maximum = max(high, self._maximum)
        counts = np.bincount(np.minimum(values // self._resolution, self._LAST))
        length = max(len(counts), len(self._counts))
        self._counts = lengthened(self._counts, length) + lengthened(counts, length)

    def spread(self) -> Spread | None:
        """Return the spread, None of nothing."""
        if self._minimum is None:
            return None
        cumulated = np.cumsum(self._counts)
        middle = int(np.searchsorted(cumulated, (cumulated[-1] + 1) // 2)) * self._resolution
        return Spread(self._minimum, min(max(middle, self._minimum), self._maximum), self._maximum)


def lengthened(counts: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    """Return the counts with zeros behind them up to `length`."""
    return counts if len(counts) >= length else np.concatenate([counts, np.zeros(length - len(counts), np.int64)])


@dataclasses.dataclass(frozen=True)
class Estimate:
    """About `value`, and with 95 of 100 between `low` and `high`; no `high` where one shard alone was read."""

    value: int
    low: int
    high: int | None

    def __str__(self) -> str:
        if self.low == self.value == self.high:
            return f"{self.value:,}"
        bounds = f"at least {self.low:,}" if self.high is None else f"{self.low:,} to {self.high:,}"
        return f"about {self.value:,} ({bounds})"


@dataclasses.dataclass(frozen=True)
class ShardStatistics:
    """One shard; sizes in bytes, image sizes in bytes and pixels; `whole`: read to its end."""

    name: str
    split: str
    split_reason: str
    size: int
    bytes_read: int
    compressed: bool
    whole: bool
    records: int
    bad_records: int
    image_bytes: Spread | None
    image_width: Spread | None
    image_height: Spread | None


@dataclasses.dataclass(frozen=True)
class SplitStatistics:
    """One split; `records` are usable ones; `total_image_bytes` is their encoded size."""

    name: str
    shards: int
    records: int
    total_image_bytes: int
    image_bytes: Spread | None
    image_width: Spread | None
    image_height: Spread | None
    duplicates: int


@dataclasses.dataclass(frozen=True)
class ClassStatistics:
    """One class: usable records and bytes of encoded images in each split.

    `estimated`: records in all shards of each split, when only a part was read.
    """

    index: int
    label: str
    records: Mapping[str, int]
    image_bytes: Mapping[str, int]
    estimated: Mapping[str, Estimate] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Coverage:
    """How much was looked at; bytes as stored, `fraction` of them read, images whose every pixel was decoded."""

    bytes_total: int
    bytes_read: int
    fraction: float
    shards_total: int
    shards_read: int
    shards_sampled: int
    records: int
    bad_records: int
    #: `bad_records`, and what decoding a sample of the images says of the others: how many of `records` are unusable.
    unusable: Estimate
    images_decoded: int
    images_damaged: int
    images_compared: int


@dataclasses.dataclass(frozen=True)
class Verdict:
    """May money be spent on this data? `finding_counts` counts also the findings that are not listed."""

    accepted: bool
    findings: tuple[Finding, ...]
    finding_counts: Mapping[str, int]
    notes: tuple[str, ...]
    coverage: Coverage
    splits: tuple[SplitStatistics, ...]
    classes: tuple[ClassStatistics, ...]
    shards: tuple[ShardStatistics, ...]
    seconds: float
    records_estimated: Estimate | None = None

    def reason(self) -> str:
        """Return one line for the ledger: the first fault, or what was accepted."""
        errors = [finding for finding in self.findings if finding.severity == "error"]
        if not self.accepted and errors:
            others = sum(self.finding_counts.values()) - 1
            return errors[0].sentence() + (f" (and {others} more finding{'s' if others > 1 else ''})" if others else "")
        covered = self.coverage
        part = "" if covered.fraction == 1 else f", {covered.fraction:.0%} of the bytes read"
        warnings = sum(self.finding_counts.values())
        mention = f", {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
        return f"accepted: {covered.records} records in {covered.shards_total} shards{part}{mention}"

    def to_json(self) -> bytes:
        """Return the document `runs/<run_id>/validation.json`, schema v1: the fields of this class."""
        document: dict[str, Any] = {
            "v": 1,
            "verdict": "accepted" if self.accepted else "rejected",
            "reason": self.reason(),
        }
        fields = dataclasses.asdict(self)
        del fields["accepted"]
        return json.dumps(document | fields, indent=1, ensure_ascii=False).encode()
