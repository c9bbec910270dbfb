"""shards, validate: data before anyone pays for training on it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from dualdeploy_cli import options
from dualdeploy_cli.exits import REFUSED, Stopped
from dualdeploy_cli.output import console, emit, note_console
from dualdeploy_cli.session import Session, pass_session

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command
@click.argument("data", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--config", type=_FILE, help="the data set's YAML file: its labels and features")
@options.labels
@click.option("--first-label", type=int, metavar="N", help="index of the first class; default: 0")
@click.option("--image-feature", metavar="NAME", help="feature with the JPEG or PNG; default: guessed")
@click.option("--label-feature", metavar="NAME", help="feature with the class; default: guessed")
@click.option("--max-mebibytes", type=click.IntRange(min=1), metavar="N", help="read a sample of at most this much")
@click.option("--decode", type=click.IntRange(min=0), default=256, show_default=True, help="images decoded in full")
@options.as_json
def validate(
    *,
    data: Path,
    config: Path | None,
    labels: tuple[str, ...],
    first_label: int | None,
    image_feature: str | None,
    label_feature: str | None,
    max_mebibytes: int | None,
    decode: int,
    as_json: bool,
) -> None:
    """Check TFRecord shards before anything is spent: which record is bad, why, and what mends it.

    FOLDER holds the shards; one shard alone may be named too. It is the check that training_launcher makes.
    Exits with 1 if the data is rejected. For data without a configuration it prints the YAML that fits.

    \b
    Examples:
      dualdeploy validate my/shards
      dualdeploy validate my/shards --labels cats,dogs --json > report.json
    """
    from dualdeploy.errors import InvalidDatasetConfig
    from dualdeploy_cli import validation

    if str(data).startswith("gs:"):
        # A path has lost one of the two slashes.
        place = str(data).replace("gs:/", "gs://", 1)
        raise click.UsageError(
            f"{place} is in a bucket, where data is validated as it arrives: give a folder on this machine"
        )
    if not str(data) or not data.exists():
        raise click.UsageError(f"{data} does not exist: name the folder that holds the TFRecord shards")
    asked = validation.Request(data, config, labels, first_label, image_feature, label_feature, max_mebibytes, decode)
    try:
        judged = validation.judge(asked, note_console())
    except (InvalidDatasetConfig, validation.UnusableFolder) as exc:
        raise click.UsageError(str(exc)) from exc
    if as_json:
        emit(judged.as_document())
    else:
        validation.print_judged(asked, judged, console())
    if not judged.accepted:
        raise click.exceptions.Exit(REFUSED)


@click.command
@click.argument("images", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="folder for the shards; default: build/shards/<dataset>")
@click.option("--to", default="", metavar="gs://…", help="also send them to gs://<data bucket>/<dataset>")
@click.option("--config-bucket", default="", metavar="NAME", help="bucket of the configurations; default: …-config")
@click.option("--dataset", default="", metavar="NAME", help="name of the data set; default: the folder's")
@options.labels
@click.option("--shards", "count", type=click.IntRange(min=1), metavar="N", help="for training; default: of 64 MB each")
@click.option(
    "--max-bad", type=click.FloatRange(0, 1), default=0.01, show_default=True, help="share of unusable pictures"
)
@click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="processes at work; default: one for each core"
)
@options.project
@options.as_json
@pass_session
def shards(
    session: Session,
    *,
    images: Path,
    out: Path | None,
    to: str,
    config_bucket: str,
    dataset: str,
    labels: tuple[str, ...],
    count: int | None,
    max_bad: float,
    workers: int | None,
    project: str,
    as_json: bool,
) -> None:
    """Turn pictures into checked TFRecord shards: balanced, without copies, the same bytes for the same pictures.

    IMAGES is a folder of class folders, or a list (.csv, .jsonl) with a path and a label in each line.
    Exits with 1 if these pictures do not make a data set.

    \b
    Examples:
      dualdeploy shards my/photos
      dualdeploy shards photos.csv --to gs://my-project-data/flowers
    """
    from shard_writer import making
    from shard_writer.sources import UnusableSource

    if to and not config_bucket:
        if not project and session.environment_file.exists():
            session.project("")
        config_bucket = "" if project else session.environ.get("CONFIG_BUCKET", "")
    asked = making.Request(
        images, out, to, config_bucket, dataset, labels, count, max_bad, workers or os.cpu_count() or 1
    )
    try:
        made = making.make(asked, note_console() if as_json else console(), bucket=session.bucket)
    except (UnusableSource, OSError) as exc:
        raise click.UsageError(f"cannot make shards: {exc}") from exc
    except KeyboardInterrupt as exc:
        raise Stopped("stopped: the same command goes on, with the same shards") from exc
    if as_json:
        train, held_out = made.plan.counts("train"), made.plan.counts("eval")
        emit(
            {
                "dataset": made.dataset,
                "folder": made.folder,
                "config": made.config,
                "shards": [path.name for path in made.paths],
                "labels": list(made.plan.labels),
                "train": train.total(),
                "eval": held_out.total(),
                "unusable": made.plan.unusable,
                "copies": made.plan.copies,
                "refusal": made.refusal,
            }
        )
    if made.refusal:
        raise click.exceptions.Exit(REFUSED)
