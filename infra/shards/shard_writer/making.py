"""Pictures in, checked shards out: all that `dualdeploy shards` does, told to people on its way."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dualdeploy.contracts.dataset_config import DATASET_NAME
from dualdeploy.contracts.split import divide
from dualdeploy.google.object_store import ObjectStore
from shard_writer import delivery, planning, sources, writing
from shard_writer.delivery import Delivery, Place
from shard_writer.planning import Plan
from shard_writer.sources import Source, UnusableSource
from training_launcher.shard_source import FileShard
from training_launcher.validation import ValidationLimits, Verdict, validate

#: Shards and their YAML lie here when no one says where.
DEFAULT_FOLDER = Path("build") / "shards"

_NAMED = 10


@dataclasses.dataclass(frozen=True)
class Request:
    """`images` is a folder of class folders or a list. Empty values are found out: `dataset` from the folder's name,
    `out` from the data set's, `config_bucket` from the data bucket's, `shards` from the bytes that there are."""

    images: Path
    out: Path | None = None
    to: str = ""
    config_bucket: str = ""
    dataset: str = ""
    labels: Sequence[str] = ()
    shards: int | None = None
    max_bad: float = 0.01
    workers: int = 1


@dataclasses.dataclass(frozen=True)
class Made:
    """What became of a request. `refusal` says why these pictures do not make a data set; empty when they do."""

    dataset: str
    folder: Path
    config: Path
    plan: Plan
    paths: Sequence[Path]
    refusal: str = ""


def make(asked: Request, console: Console, *, bucket: Callable[[str], ObjectStore]) -> Made:
    """Judge the pictures, write the shards, check them, and send them where `to` says.

    Raises UnusableSource, OSError, and DualDeployError from the bucket.
    """
    place = delivery.parse_place(asked.to) if asked.to else None
    source = sources.read(asked.images, labels=list(asked.labels))
    dataset = _dataset(asked, place)
    folder = asked.out or DEFAULT_FOLDER / dataset
    # A folder that cannot be written is told before the pictures are read, not an hour later.
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
    with _progress(console) as progress:
        task = progress.add_task("judging pictures", total=len(source.pictures))
        judged = writing.judge_all(source, workers=asked.workers, told=lambda: progress.advance(task))
        plan = planning.plan(source, judged, shards=asked.shards)
        task = progress.add_task("writing shards", total=len(plan.shards))
        paths = writing.write_all(plan, folder, workers=asked.workers, told=lambda: progress.advance(task))
    _report(plan, source, console)
    refusal = _too_many_unusable(plan, source, asked.max_bad)
    if not refusal:
        verdict = _validated(plan, paths)
        for finding in verdict.findings:
            if finding.severity == "warning":
                _say(console, f"warning: {finding.sentence()}; {finding.remedy}", style="yellow")
        refusal = "" if verdict.accepted else verdict.reason()
    made = Made(dataset, folder, folder / f"{dataset}.yaml", plan, paths, refusal)
    if made.refusal:
        _say(console, f"rejected: {made.refusal}", style="bold red")
        return made
    text = writing.config_document(dataset, plan.labels)
    if not made.config.exists():
        made.config.write_text(text, encoding="utf-8")
    _say(console, f"{len(paths)} shards and {made.config.name} in {folder}")
    if place:
        job = Delivery(place, bucket(place.bucket), bucket(asked.config_bucket or _config_bucket(place)), plan.digest)
        _deliver(job, plan, paths, text, console)
    else:
        _say(console, f"next: dualdeploy demo --data {folder}, or again with --to gs://<data bucket>/{dataset}")
    return made


def _deliver(job: Delivery, plan: Plan, paths: Sequence[Path], text: str, console: Console) -> None:
    _say(console, job.configure(text, plan.labels))
    with _progress(console) as progress:
        task = progress.add_task("sending shards", total=len(paths))
        sent = job.send(paths, lambda _bytes: progress.advance(task))
    _say(console, f"sent {sent} of {len(paths)} shards to {job.data.uri(job.place.prefix)}, which has all of them now")
    done = "wrote" if job.finish() else "kept"
    _say(console, f"{done} _SUCCESS: the batch is complete; dualdeploy runs shows what becomes of it")


def _config_bucket(place: Place) -> str:
    if not place.bucket.endswith("-data"):
        raise UnusableSource(
            f"which bucket has the configurations? {place.bucket} does not end in -data: give --config-bucket <bucket>"
        )
    return f"{place.bucket.removesuffix('-data')}-config"


def _too_many_unusable(plan: Plan, source: Source, max_bad: float) -> str:
    """Why these pictures are not to be trained on; empty when they are."""
    tolerated = max_bad * len(source.pictures)
    if len(plan.unusable) > tolerated:
        return (
            f"{len(plan.unusable)} of {len(source.pictures)} pictures cannot be used, more than --max-bad"
            f" ({max_bad:g}) allows: mend or remove them, or allow more"
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
    _list(console, "files that are not pictures in a class folder, ignored", source.passed_over)


def _list(console: Console, what: str, entries: Sequence[str]) -> None:
    if not entries:
        return
    _say(console, f"{what}: {len(entries)}", style="yellow")
    for entry in entries[:_NAMED]:
        _say(console, f"  {entry}")
    if len(entries) > _NAMED:
        _say(console, f"  and {len(entries) - _NAMED} more")


def _dataset(asked: Request, place: Place | None) -> str:
    """The name that was given, that of the place, or one made of the folder's."""
    if asked.dataset and not DATASET_NAME.fullmatch(asked.dataset):
        raise UnusableSource(f"--dataset {asked.dataset} must match {DATASET_NAME.pattern}")
    if place:
        if asked.dataset not in ("", place.dataset):
            raise UnusableSource(f"--dataset {asked.dataset} is not the first folder of --to {asked.to}")
        return place.dataset
    made = re.sub(r"[^a-z0-9]+", "-", asked.images.resolve().stem.lower()).strip("-")[:39].rstrip("-")
    name = asked.dataset or made
    if not DATASET_NAME.fullmatch(name):
        raise UnusableSource(f"{name!r} cannot be the name of a data set: give --dataset name")
    return name


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def _say(console: Console, sentence: str, *, style: str = "") -> None:
    console.print(Text(sentence, style=style), soft_wrap=True)
