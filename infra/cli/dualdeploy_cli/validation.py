"""The launcher's validation, for people, before anything is uploaded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from dualdeploy.contracts.local_data import LABELS_FILE, LocalData, open_data, yaml_that_fits
from training_launcher.shard_source import FileShard
from training_launcher.validation import ValidationLimits, validate
from training_launcher.validation_report import Spread, Verdict

_MOST_SHARDS_SHOWN = 20
_MEBIBYTE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Request:
    """`path` is a folder of shards or one shard. What is None or empty is taken from the configuration, or guessed."""

    path: Path
    config: Path | None = None
    labels: Sequence[str] = ()
    first_label: int | None = None
    image_feature: str | None = None
    label_feature: str | None = None
    max_mebibytes: int | None = None
    decode: int = 256


@dataclasses.dataclass(frozen=True)
class Judged:
    """`fault` is why the data is refused although every record may be sound; empty when it is not."""

    data: LocalData
    verdict: Verdict
    fault: str
    notes: Sequence[str]

    @property
    def accepted(self) -> bool:
        return self.verdict.accepted and not self.fault

    @property
    def reason(self) -> str:
        if self.verdict.accepted and self.fault:
            return self.fault
        return self.verdict.reason().removeprefix("accepted: ")

    def as_document(self) -> dict[str, Any]:
        """`validation.json` of a run, with the fault of the set and the notes."""
        document: dict[str, Any] = json.loads(self.verdict.to_json())
        word = "accepted" if self.accepted else "rejected"
        return {**document, "verdict": word, "reason": self.reason, "notes": [note for note in self.notes if note]}


def judge(asked: Request, console: Console) -> Judged:
    """Look at the shards as the launcher will; `console` shows how far that is. Raises InvalidDatasetConfig."""
    data = _look_at(asked)
    verdict = _validate(data, asked, console)
    # One shard that is named alone is asked about, not its set.
    fault, note = ("", data.shards.fault) if asked.path.is_file() else (data.shards.fault, "")
    labels_from = f"Class names from {data.labels_from}." if data.labels_from.endswith(LABELS_FILE) else ""
    return Judged(data, verdict, fault, (labels_from, *data.notes(), *verdict.notes, note))


def print_judged(asked: Request, judged: Judged, console: Console) -> None:
    """Shards, classes, what was found and what mends it, the verdict; and the YAML that fits data without one."""
    _print_report(judged, console)
    if not judged.data.config and judged.verdict.classes:
        _print_yaml(asked.path, judged.data, judged.verdict, console)


def _look_at(asked: Request) -> LocalData:
    """Find the shards and how their records are to be read; what the command line says counts most."""
    data = open_data(asked.path, config_file=asked.config, labels=list(asked.labels))
    if not data.shards.files:
        raise UnusableFolder(f"{asked.path} holds no shards: {data.shards.fault}")
    named = {"image": asked.image_feature, "label": asked.label_feature, "first_label": asked.first_label}
    given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    return dataclasses.replace(data, schema=dataclasses.replace(data.schema, **given))


class UnusableFolder(Exception):
    """What was named has nothing to look at; the message says what to do."""


def _validate(data: LocalData, asked: Request, console: Console) -> Verdict:
    shards = [FileShard(name, path) for name, path in data.shards.files.items()]
    total = sum(shard.size for shard in shards)
    most = asked.max_mebibytes * _MEBIBYTE if asked.max_mebibytes else max(1, total)
    limits = ValidationLimits(
        max_bytes=most,
        max_shards=max(1, len(shards)),
        full_decode_sample=max(0, asked.decode),
        max_bad_records=data.tolerated_bad_records,
    )
    columns = (TextColumn("validating"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("validating", total=min(total, most))

        def progress(count: int) -> None:
            bar.advance(task, count)

        return validate(
            shards,
            labels=data.schema.labels,
            features={"image": data.schema.image, "label": data.schema.label, "split": data.schema.split},
            first_label=data.schema.first_label,
            split=data.split,
            limits=limits,
            progress=progress,
        )


def _print_report(judged: Judged, console: Console) -> None:
    verdict = judged.verdict
    console.print(_shard_table(verdict))
    if verdict.classes:
        console.print(_class_table(verdict))
    covered = verdict.coverage
    console.print(
        f"{covered.records:,} records, {covered.bytes_read / _MEBIBYTE:,.1f} MiB ({covered.fraction:.0%} of the bytes) "
        f"in {verdict.seconds:.1f} s; {covered.images_decoded:,} images decoded in full, "
        f"{covered.images_compared:,} compared for copies",
        highlight=False,
    )
    for note in filter(None, judged.notes):
        console.print(f"[cyan]note[/]     {_plain(note)}", highlight=False)
    _print_findings(verdict, console)
    word = "[bold green]accepted[/]" if judged.accepted else "[bold red]rejected[/]"
    console.print(f"{word} {_plain(judged.reason)}", highlight=False)


def _print_yaml(path: Path, data: LocalData, verdict: Verdict, console: Console) -> None:
    """The configuration that would fit, for a data set without one."""
    schema, classes = data.schema, list(verdict.classes)
    labels = list(schema.labels or (entry.label for entry in classes))
    out_of_range = "label_out_of_range" in verdict.finding_counts
    is_empty = [not any(entry.records.values()) for entry in classes]
    if is_empty[0] and (out_of_range if schema.labels else len(classes) > 2):
        # They count from one.
        labels = labels if schema.labels else labels[1:]
        schema = dataclasses.replace(schema, first_label=schema.first_label + 1)
    elif schema.first_label and out_of_range and (is_empty[-1] or not schema.labels):
        # They do not, although those of this schema mostly do.
        labels = labels if schema.labels else [f"class {number}" for number in range(len(labels) + 1)]
        schema = dataclasses.replace(schema, first_label=schema.first_label - 1)
    named = schema.labels or schema.met or any(not entry.label.startswith("class ") for entry in classes)
    console.print("[cyan]YAML[/]     that fits" + ("" if named else "; put the names of the classes in their places"))
    console.print(_plain(yaml_that_fits(path if path.is_dir() else path.parent, schema, labels)), highlight=False)


def _print_findings(verdict: Verdict, console: Console) -> None:
    shown = dict.fromkeys(verdict.finding_counts, 0)
    for finding in verdict.findings:
        shown[finding.code] += 1
        color = "red" if finding.severity == "error" else "yellow"
        console.print(f"[{color}]{finding.severity:<8}[/] {_plain(finding.sentence())}", highlight=False)
        console.print(f"         [dim]→ {_plain(finding.remedy)}[/]", highlight=False)
    for code, count in verdict.finding_counts.items():
        if count > shown[code]:
            console.print(f"         and {count - shown[code]:,} more of {code}", highlight=False)


def _shard_table(verdict: Verdict) -> Table:
    table = Table(title="Shards", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("shard", "split"):
        table.add_column(heading, overflow="fold")
    for heading in ("records", "bad", "MiB", "kB each", "pixels"):
        table.add_column(heading, justify="right")
    for shard in verdict.shards[:_MOST_SHARDS_SHOWN]:
        suffix = " (gzip)" if shard.compressed else ""
        part = f" of {shard.size / _MEBIBYTE:.1f}" if shard.bytes_read < shard.size else ""
        table.add_row(
            _plain(shard.name) + suffix,
            shard.split,
            f"{shard.records:,}",
            f"{shard.bad_records:,}" if shard.bad_records else "",
            f"{shard.bytes_read / _MEBIBYTE:.1f}{part}",
            _kilobytes(shard.image_bytes),
            _pixels(shard.image_width, shard.image_height),
        )
    if len(verdict.shards) > _MOST_SHARDS_SHOWN:
        table.add_row(f"… and {len(verdict.shards) - _MOST_SHARDS_SHOWN} more shards")
    for split in verdict.splits:
        if split.records:
            mebibytes = f"{split.total_image_bytes / _MEBIBYTE:.1f}"
            sizes = _pixels(split.image_width, split.image_height)
            table.add_row(
                "[bold]total[/]", split.name, f"{split.records:,}", "", mebibytes, _kilobytes(split.image_bytes), sizes
            )
    return table


def _class_table(verdict: Verdict) -> Table:
    table = Table(title="Classes", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("label", overflow="fold")
    for heading in ("index", "train", "eval"):
        table.add_column(heading, justify="right")
    for entry in verdict.classes[:100]:
        counts = [str(entry.estimated.get(split, f"{entry.records[split]:,}")) for split in ("train", "eval")]
        table.add_row(_plain(entry.label), str(entry.index), *counts)
    return table


def _kilobytes(spread: Spread | None) -> str:
    """Return smallest and largest, or the one value if both are equal."""
    if spread is None:
        return ""
    smallest, largest = f"{spread.minimum / 1000:.1f}", f"{spread.maximum / 1000:.1f}"
    return smallest if smallest == largest else f"{smallest}…{largest}"


def _pixels(width: Spread | None, height: Spread | None) -> str:
    if width is None or height is None:
        return ""
    smallest, largest = f"{width.minimum} x {height.minimum}", f"{width.maximum} x {height.maximum}"
    return smallest if smallest == largest else f"{smallest} … {largest}"


def _plain(text: str) -> str:
    """Keep rich from reading markup in names that come from the data."""
    return text.replace("[", r"\[")
