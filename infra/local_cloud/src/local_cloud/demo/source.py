"""Where the demo's data comes from: painted on the spot, or a folder of the user's own TFRecords."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dualdeploy import dataset_config, shards, tfrecord
from dualdeploy.contracts import split
from dualdeploy.shard_folder import look_into
from local_cloud.demo import flowers

#: Not the seed that the training settings were chosen on, so that the accuracy shown is not their best case.
STYLE = flowers.Style(seed=2026)

#: Pictures that both models are asked about in the end; neither was trained on them.
UNSEEN = 40

#: Photos are harder than painted flowers: what a laptop can spare for a few hundred of them, from scratch.
EPOCHS_ON_PHOTOS = {"cloud": 6, "mobile": 30}

#: How far into a data set the demo looks for its classes and for pictures to show.
SCANNED_RECORDS = 20_000


class UnusableFolder(ValueError):
    """DATA does not hold what the demo can use; the message says what is missing."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """An encoded picture and its true label."""

    data: bytes
    label: str


@dataclasses.dataclass(frozen=True)
class DataSource:
    """Files to upload by their names below the data set, its configuration, pictures to ask about, and a sentence."""

    files: Mapping[str, Path]
    config: dict[str, Any]
    unseen: Sequence[Picture]
    described: str

    @property
    def dataset(self) -> str:
        return str(self.config["dataset"])


def painted(folder: Path) -> DataSource:
    """Paint the five-class flower data set: the same pictures every time."""
    config = _demo_config()
    paths = flowers.generate(folder, train=640, held_out=160, shards=4, unseen=UNSEEN, style=STYLE)
    files = {path.name: path for path in paths if shards.is_shard(path.name)}
    names = json.loads((folder / "unseen" / "labels.json").read_text())
    unseen = [Picture((folder / "unseen" / name).read_bytes(), label) for name, label in sorted(names.items())]
    return DataSource(files, config, unseen, f"painted 640 + 160 pictures of {len(config['labels'])} flowers")


def folder(path: Path, *, labels: Sequence[str] = ()) -> DataSource:
    """Take the shards of a folder. The names of its classes come from `labels`, labels.txt, or the public flowers.

    Raises UnusableFolder.
    """
    if not path.is_dir():
        raise UnusableFolder(f"{path} is no folder: DATA=folder must name one that holds TFRecord shards")
    found = look_into(path, shards.ShardNames())
    if found.fault:
        raise UnusableFolder(f"{path}: {found.fault}" if found.files else f"{path} holds no shards: {found.fault}")
    files = list(found.files.values())
    held_out = [found.files[name] for name in split.divide(found.files).eval] or files
    unseen_by_class, classes = _look_through(held_out)
    if not classes:
        raise UnusableFolder(f"{path}: no record has the features image (bytes) and class (int64)")
    names, origin = _names(path, labels, classes=classes)
    unseen = [Picture(data, names[label]) for data, label in _spread(unseen_by_class, UNSEEN)]
    config = {**_demo_config(), "labels": list(names)}
    for target, epochs in EPOCHS_ON_PHOTOS.items():
        config["training"][target]["epochs"] = epochs
    size = sum(file.stat().st_size for file in files) / 1e6
    return DataSource(
        found.files, config, unseen, f"{len(files)} shards, {size:.1f} MB, of {path}; labels from {origin}"
    )


def _demo_config() -> dict[str, Any]:
    file = Path(__file__).with_name("flowers.yaml")
    config: dict[str, Any] = dataset_config.load(file.read_bytes(), source=file.name)
    return config


def _names(path: Path, labels: Sequence[str], *, classes: int) -> tuple[tuple[str, ...], str]:
    file = path / "labels.txt"
    if labels:
        names, origin = tuple(labels), "LABELS"
    elif file.exists():
        names, origin = tuple(line.strip() for line in file.read_text().splitlines() if line.strip()), str(file)
    elif classes == len(flowers.LABELS):
        names, origin = flowers.LABELS, "the public flowers data set (LABELS=a,b,c for others)"
    else:
        raise UnusableFolder(f"{path} has {classes} classes: name them with LABELS=a,b,c or in {file}")
    if len(names) < classes:
        raise UnusableFolder(f"{origin} names {len(names)} classes, but the data has class {classes - 1}")
    return names, origin


def _look_through(files: Sequence[Path]) -> tuple[dict[int, list[bytes]], int]:
    """Up to UNSEEN pictures of each class, and how many classes there are.

    A share of each file, because data sets are often written class by class, one file after the other.
    """
    by_class: dict[int, list[bytes]] = {}
    share = max(1, SCANNED_RECORDS // len(files))
    for file in files:
        for data, label in itertools.islice(_pictures(file), share):
            kept = by_class.setdefault(label, [])
            if len(kept) < UNSEEN:
                kept.append(data)
    return by_class, 1 + max(by_class, default=-1)


def _pictures(path: Path) -> Iterator[tuple[bytes, int]]:
    """The readable records of a shard. What is wrong with it is for the pipeline to find, and to say."""
    with path.open("rb") as stream:
        try:
            for record in tfrecord.read_records(stream, name=path.name):
                example = tfrecord.parse_example(record.data)
                image, label = example.get("image"), example.get("class")
                if image is None or label is None or (image.kind, label.kind) != ("bytes", "int64"):
                    continue
                if image.values and label.values and label.values[0] >= 0:
                    yield bytes(image.values[0]), int(label.values[0])
        except tfrecord.CorruptRecords:
            return


def _spread(by_class: Mapping[int, Sequence[bytes]], count: int) -> list[tuple[bytes, int]]:
    """`count` pictures with the classes as equal as can be."""
    columns = [[(data, label) for data in by_class[label]] for label in sorted(by_class)]
    rows = itertools.zip_longest(*columns)
    return list(itertools.islice((pair for row in rows for pair in row if pair is not None), count))
