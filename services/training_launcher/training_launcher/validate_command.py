"""`make validate DATA=folder`: the launcher's validation, for people, before anything is uploaded."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from dualdeploy.errors import InvalidDatasetConfig
from dualdeploy.local_data import LocalData, open_data, yaml_that_fits
from training_launcher.shard_source import FileShard
from training_launcher.validation import ValidationLimits, validate
from training_launcher.validation_report import Spread, Verdict

ACCEPTED, REJECTED, USAGE = 0, 1, 2

_MOST_SHARDS_SHOWN = 20
_MEBIBYTE = 1 << 20


class UsageError(Exception):
    """The command line names something that cannot be used; the message says what to do."""


def main(arguments: Sequence[str] | None = None, *, console: Console | None = None) -> int:
    """Validate a folder, print the report, and return 0 (accepted), 1 (rejected) or 2 (usage)."""
    console = console or Console()
    try:
        options = _parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    except SystemExit as exc:  # argparse has printed help (0) or what is wrong (2)
        return int(exc.code or 0)
    try:
        path = _named(options.data)
        data = _look_at(path, options)
        verdict = _validate(data, options, console)
        if options.json:
            Path(options.json).write_bytes(verdict.to_json())
    except (UsageError, OSError) as exc:
        console.print(f"[bold red]cannot validate:[/] {_plain(str(exc))}", highlight=False)
        return USAGE
    # Who names one shard asks about that shard, not about its set.
    fault, note = ("", data.shards.fault) if path.is_file() else (data.shards.fault, "")
    notes = (data.sentence(), *verdict.notes, data.shards.passed_over.sentence(), note)
    _print_report(verdict, fault, notes, console)
    if not data.config and verdict.classes:
        _print_yaml(path, data, verdict, console)
    return ACCEPTED if verdict.accepted and not fault else REJECTED


def _named(text: str) -> Path:
    named = text.removeprefix("DATA=")
    if not named:
        raise UsageError("which data? DATA=folder names the folder that holds the TFRecord shards")
    return Path(named)


def _look_at(path: Path, options: argparse.Namespace) -> LocalData:
    """Find the shards and how their records are to be read; what the command line says counts most."""
    if str(path).startswith("gs:"):
        raise UsageError("DATA is a bucket: validation runs there by itself on upload; here, give a local folder")
    if not path.exists():
        raise UsageError(f"{path} does not exist: set DATA to the folder that holds the TFRecord shards")
    labels = [name.strip() for name in (options.labels or "").split(",") if name.strip()]
    if options.labels and (len(set(labels)) != len(labels) or not labels):
        raise UsageError(f"--labels {options.labels}: give each class name once, separated by commas")
    try:
        data = open_data(path, config_file=Path(options.config) if options.config else None, labels=labels)
    except InvalidDatasetConfig as exc:
        raise UsageError(str(exc)) from exc
    if not data.shards.files:
        raise UsageError(f"{path} holds no shards: {data.shards.fault}")
    asked = {"image": options.image_feature, "label": options.label_feature, "first_label": options.first_label}
    given = {name: value for name, value in asked.items() if value is not None}
    return dataclasses.replace(data, schema=dataclasses.replace(data.schema, **given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="validate", description="Check TFRecord shards before anyone pays for training on them."
    )
    parser.add_argument("data", metavar="DATA=folder", help="folder with the shards, or one shard")
    parser.add_argument("--config", metavar="FILE", help="data set configuration (labels, features), as a YAML file")
    parser.add_argument("--first-label", type=int, metavar="N", help="index of the first class (default: 0)")
    parser.add_argument("--labels", metavar="A,B,…", help="class names in the order of their indices")
    parser.add_argument(
        "--image-feature", metavar="NAME", help="feature with the JPEG or PNG (default: image, or guessed)"
    )
    parser.add_argument("--label-feature", metavar="NAME", help="feature with the class (default: class, or guessed)")
    parser.add_argument("--max-mebibytes", type=_positive, metavar="N", help="read a sample of at most this much")
    parser.add_argument("--decode", type=int, default=256, metavar="N", help="images decoded in full (default: 256)")
    parser.add_argument("--json", metavar="FILE", help="also write the report as JSON")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _validate(data: LocalData, options: argparse.Namespace, console: Console) -> Verdict:
    shards = [FileShard(name, path) for name, path in data.shards.files.items()]
    total = sum(shard.size for shard in shards)
    most = options.max_mebibytes * _MEBIBYTE if options.max_mebibytes else max(1, total)
    limits = ValidationLimits(max_bytes=most, max_shards=max(1, len(shards)), full_decode_sample=max(0, options.decode))
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


def _print_report(verdict: Verdict, fault: str, notes: Sequence[str], console: Console) -> None:
    """Print the verdict; `fault` is why the data is refused although every record may be sound."""
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
    for note in filter(None, notes):
        console.print(f"[cyan]note[/]     {_plain(note)}", highlight=False)
    _print_findings(verdict, console)
    accepted = verdict.accepted and not fault
    word = "[bold green]accepted[/]" if accepted else "[bold red]rejected[/]"
    reason = fault if verdict.accepted and fault else verdict.reason().removeprefix("accepted: ")
    console.print(f"{word} {_plain(reason)}", highlight=False)


def _print_yaml(path: Path, data: LocalData, verdict: Verdict, console: Console) -> None:
    """The configuration that would fit, for a data set without one."""
    schema, classes = data.schema, list(verdict.classes)
    labels = list(schema.labels or (entry.label for entry in classes))
    # Nobody's records begin with a class that has none: they count from one.
    counts_from_one = not any(classes[0].records.values()) and len(classes) > 2
    if schema.labels is None and counts_from_one:
        labels = labels[1:]
    if counts_from_one and (schema.labels is None or "label_out_of_range" in verdict.finding_counts):
        schema = dataclasses.replace(schema, first_label=schema.first_label + 1)
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


if __name__ == "__main__":
    sys.exit(main())
