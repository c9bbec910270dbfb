"""`make shards IMAGES=folder [OUT=folder | TO=gs://…]`."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dualdeploy.contracts.split import divide
from dualdeploy.dataset_config import DATASET_NAME
from dualdeploy.errors import DualDeployError
from dualdeploy.object_store import GcsObjectStore
from shard_writer import delivery, planning, sources, writing
from shard_writer.delivery import Delivery, Place
from shard_writer.planning import Plan
from shard_writer.sources import Source, UnusableSource
from training_launcher.shard_source import FileShard
from training_launcher.validation import ValidationLimits, Verdict, validate

DONE, REFUSED, USAGE, STOPPED = 0, 1, 2, 130

#: Shards and their YAML lie here when neither OUT nor TO says where.
DEFAULT_FOLDER = Path("build") / "shards"

_NAMED = 10


def main(arguments: Sequence[str] | None = None, *, console: Console | None = None) -> int:
    """Make shards. Returns 0, 1 (these pictures do not make a data set), 2 (usage, or no way to the bucket) or 130."""
    console = console or Console()
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as exc:  # argparse has printed help (0) or what is wrong (2)
        return int(exc.code or 0)
    try:
        return _make(options, console)
    except (UnusableSource, OSError, DualDeployError) as exc:
        _say(console, f"cannot make shards: {exc}", style="bold red")
        return USAGE
    except KeyboardInterrupt:
        _say(console, "stopped: the same command goes on, with the same shards", style="bold red")
        return STOPPED


def _make(options: argparse.Namespace, console: Console) -> int:
    if not options.images:
        raise UnusableSource("which pictures? IMAGES=folder of class folders, or a list: .csv, .jsonl")
    place = delivery.parse_place(options.to) if options.to else None
    source = sources.read(Path(options.images), labels=_labels(options.labels))
    dataset = _dataset(options, place)
    folder = options.out or DEFAULT_FOLDER / dataset
    # A folder that cannot be written is told before the pictures are read, not an hour later.
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
    with _progress(console) as progress:
        task = progress.add_task("judging pictures", total=len(source.pictures))
        judged = writing.judge_all(source, workers=options.workers, told=lambda: progress.advance(task))
        plan = planning.plan(source, judged, shards=options.shards)
        task = progress.add_task("writing shards", total=len(plan.shards))
        paths = writing.write_all(plan, folder, workers=options.workers, told=lambda: progress.advance(task))
    _report(plan, source, console)
    if reason := _too_many_unusable(plan, source, options):
        _say(console, f"rejected: {reason}", style="bold red")
        return REFUSED
    verdict = _validated(plan, paths)
    for finding in verdict.findings:
        if finding.severity == "warning":
            _say(console, f"warning: {finding.sentence()}; {finding.remedy}", style="yellow")
    if not verdict.accepted:
        _say(console, f"rejected: {verdict.reason()}", style="bold red")
        return REFUSED
    yaml_file = folder / f"{dataset}.yaml"
    text = writing.config_document(dataset, plan.labels)
    if not yaml_file.exists():
        yaml_file.write_text(text, encoding="utf-8")
    _say(console, f"{len(paths)} shards and {yaml_file.name} in {folder}")
    if place:
        config = options.config_bucket or os.environ.get("CONFIG_BUCKET") or _config_bucket(place)
        job = Delivery(place, GcsObjectStore(place.bucket), GcsObjectStore(config), plan.digest)
        _deliver(job, plan, paths, text, console)
    else:
        _say(console, f"next: make demo DATA={folder}, or again with TO=gs://<data bucket>/{dataset}")
    return DONE


def _deliver(job: Delivery, plan: Plan, paths: Sequence[Path], text: str, console: Console) -> None:
    _say(console, job.configure(text, plan.labels))
    with _progress(console) as progress:
        task = progress.add_task("sending shards", total=len(paths))
        sent = job.send(paths, lambda _bytes: progress.advance(task))
    _say(console, f"sent {sent} of {len(paths)} shards to {job.data.uri(job.place.prefix)}, which has all of them now")
    done = "wrote" if job.finish() else "kept"
    _say(console, f"{done} _SUCCESS: the batch is complete; `make runs` shows what becomes of it")


def _config_bucket(place: Place) -> str:
    if not place.bucket.endswith("-data"):
        raise UnusableSource(
            f"which bucket has the configurations? {place.bucket} does not end in -data: give CONFIG=<bucket>"
        )
    return f"{place.bucket.removesuffix('-data')}-config"


def _too_many_unusable(plan: Plan, source: Source, options: argparse.Namespace) -> str:
    """Why these pictures are not to be trained on; empty when they are."""
    tolerated = options.max_bad * len(source.pictures)
    if len(plan.unusable) > tolerated:
        return (
            f"{len(plan.unusable)} of {len(source.pictures)} pictures cannot be used, more than MAX_BAD"
            f" ({options.max_bad:g}) allows: mend or remove them, or allow more"
        )
    return ""


def _validated(plan: Plan, paths: Sequence[Path]) -> Verdict:
    """What the launcher will say of the shards."""
    shards = [FileShard(path.name, path) for path in paths]
    return validate(
        shards,
        labels=plan.labels,
        features={"image": "image", "label": "class"},
        split=divide(shard.name for shard in shards),
        limits=ValidationLimits(max_bytes=1 << 62, max_shards=len(shards) or 1),
    )


def _report(plan: Plan, source: Source, console: Console) -> None:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("label", overflow="fold")
    for heading in ("index", "train", "eval"):
        table.add_column(heading, justify="right")
    train, held_out = plan.counts("train"), plan.counts("eval")
    for index, label in enumerate(plan.labels[:100]):
        table.add_row(Text(label), str(index), f"{train[index]:,}", f"{held_out[index]:,}")
    table.add_row("total", "", f"{train.total():,}", f"{held_out.total():,}")
    console.print(table)
    how = "one picture in five, chosen by its own bytes" if plan.by_checksum else "as folders or the list say"
    _say(console, f"held out: {how}")
    if plan.converted:
        _say(console, f"{plan.converted} pictures of other formats were stored as PNG")
    _list(console, "unusable pictures", [f"{name}: {why}" for name, why in plan.unusable.items()])
    _list(console, "copies of other pictures, left out", plan.copies)
    _list(console, "of these with another label than the one that is kept", plan.disagreeing)
    _list(console, "files that are not pictures in a class folder, passed over", source.passed_over)


def _list(console: Console, what: str, entries: Sequence[str]) -> None:
    if not entries:
        return
    _say(console, f"{what}: {len(entries)}", style="yellow")
    for entry in entries[:_NAMED]:
        _say(console, f"  {entry}")
    if len(entries) > _NAMED:
        _say(console, f"  and {len(entries) - _NAMED} more")


def _dataset(options: argparse.Namespace, place: Place | None) -> str:
    """The name that was given, that of TO=, or one made of the folder's."""
    if options.dataset and not DATASET_NAME.fullmatch(options.dataset):
        raise UnusableSource(f"DATASET={options.dataset} must match {DATASET_NAME.pattern}")
    if place:
        if options.dataset not in ("", place.dataset):
            raise UnusableSource(f"DATASET={options.dataset} is not the first folder of TO={options.to}")
        return place.dataset
    made = re.sub(r"[^a-z0-9]+", "-", Path(options.images).resolve().stem.lower()).strip("-")[:39].rstrip("-")
    name: str = options.dataset or made
    if not DATASET_NAME.fullmatch(name):
        raise UnusableSource(f"no data set can be called {name!r}: give DATASET=name")
    return name


def _labels(text: str) -> list[str]:
    return [label.strip() for label in text.split(",") if label.strip()]


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def _say(console: Console, sentence: str, *, style: str = "") -> None:
    console.print(Text(sentence, style=style), soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shards", description="Turn pictures into TFRecord shards that train.")
    parser.add_argument("images", help="a folder of class folders, or a list: .csv, .jsonl")
    parser.add_argument("--out", type=Path, help=f"folder for the shards (default: {DEFAULT_FOLDER}/<dataset>)")
    parser.add_argument("--to", default="", metavar="gs://…", help="also send them to gs://<data bucket>/<dataset>")
    parser.add_argument("--config-bucket", default="", help="bucket of the configurations (default: …-config)")
    parser.add_argument("--dataset", default="", help="name of the data set (default: the folder's)")
    parser.add_argument("--labels", default="", metavar="A,B,…", help="classes in the order of their indices")
    parser.add_argument("--shards", type=_positive, metavar="N", help="training shards (default: of 64 MB each)")
    parser.add_argument("--max-bad", type=float, default=0.01, metavar="SHARE", help="unusable pictures tolerated")
    parser.add_argument("--workers", type=_positive, default=os.cpu_count() or 1, help="processes at work")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
