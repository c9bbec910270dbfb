"""Where the demo's data comes from: painted on the spot, or a folder of the user's own TFRecords."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dualdeploy.contracts import dataset_config, shards
from dualdeploy.contracts.example import ExampleSchema
from dualdeploy.contracts.local_data import LABELS_FILE, LocalData, open_data
from dualdeploy.errors import InvalidDatasetConfig
from dualdeploy.images import tfrecord
from dualdeploy.images.unusable import UnusableRecord
from dualdeploy_demo import flowers

#: Not the seed that the training settings were chosen on, so that the accuracy shown is not their best case.
STYLE = flowers.Style(seed=2026)

#: Pictures that both models are asked about in the end; neither was trained on them.
UNSEEN = 40

#: Enough to prove that the phone and the cloud together lose at most 1 % (docs/phones.md).
HELD_OUT = 600

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
    """Files to upload by their names below the data set, its configuration, pictures to ask about, and sentences."""

    files: Mapping[str, Path]
    config: dict[str, Any]
    unseen: Sequence[Picture]
    described: tuple[str, ...]
    #: By target, a network of somebody's own.
    modules: Mapping[str, Path] = dataclasses.field(default_factory=dict)

    @property
    def dataset(self) -> str:
        return str(self.config["dataset"])


def painted(folder: Path) -> DataSource:
    """Paint the five-class flower data set: the same pictures every time."""
    config = _demo_config()
    paths = flowers.generate(folder, train=640, held_out=HELD_OUT, shards=4, unseen=UNSEEN, style=STYLE)
    files = {path.name: path for path in paths if shards.is_shard(path.name)}
    names = json.loads((folder / "unseen" / "labels.json").read_text())
    unseen = [Picture((folder / "unseen" / name).read_bytes(), label) for name, label in sorted(names.items())]
    described = f"painted 640 + {HELD_OUT} pictures of {len(config['labels'])} flowers"
    return DataSource(files, config, unseen, (described,))


def folder(path: Path, *, labels: Sequence[str] = (), config_file: Path | None = None) -> DataSource:
    """Take the shards of a folder, read as `config_file` says or as the first record looks.

    The names of the classes come from `labels`, the configuration, labels.txt, the records, or the public flowers.
    Everything but labels and data is the demo's own configuration. Raises UnusableFolder.
    """
    if not path.is_dir():
        raise UnusableFolder(f"{path} is not a folder: --data must name one that holds TFRecord shards")
    try:
        data = open_data(path, config_file=config_file, labels=labels)
    except (InvalidDatasetConfig, OSError) as exc:
        raise UnusableFolder(str(exc)) from exc
    if data.shards.fault:
        found = f"{path}: {data.shards.fault}" if data.shards.files else f"{path} holds no shards: {data.shards.fault}"
        raise UnusableFolder(found)
    if data.split.faults:
        raise UnusableFolder(f"{path}: {data.split.faults[0].message}: {data.split.faults[0].remedy}")
    shown_from = data.split.eval or data.split.train
    # Without labels, so that what has no label is seen and not skipped; those that are known keep their places.
    known = {name: place for place, name in enumerate(data.schema.labels or ())}
    schema = dataclasses.replace(data.schema, labels=None, met=known)
    unseen_by_class, classes = _look_through([data.shards.files[name] for name in shown_from], schema)
    if not classes:
        raise UnusableFolder(
            f"{path}: no record has a picture in feature {data.schema.image!r} and a class in {data.schema.label!r};"
            " `make validate` says what is there"
        )
    if classes == 1:
        raise UnusableFolder(f"{path}: every record is of one class, and a classifier needs two")
    all_are_known = len(schema.met) == len(data.schema.labels or ())
    all_but_the_first = all_are_known and sorted(unseen_by_class) == list(range(1, classes))
    if all_but_the_first and len(data.schema.labels or unseen_by_class) == classes - 1:
        first = data.schema.first_label
        raise UnusableFolder(
            f"{path} has no picture of class {first}, so its labels seem to count from {first + 1}: `dualdeploy"
            " validate` prints the YAML that says so, for --yaml"
        )
    names, origin = _names(path, data, tuple(schema.met), classes=classes)
    shown = tuple(schema.met) or names
    unseen = [Picture(picture, shown[label]) for picture, label in _spread(unseen_by_class, UNSEEN)]
    config = {**_demo_config(), "labels": list(names)}
    config["data"] = {**config["data"], **_data_section(data)}
    for target, epochs in EPOCHS_ON_PHOTOS.items():
        config["training"][target]["epochs"] = epochs
        config["training"][target]["max_bad_records"] = data.tolerated_bad_records
    size = sum(file.stat().st_size for file in data.shards.files.values()) / 1e6
    described = (
        f"{len(data.shards.files)} shards, {size:.1f} MB, of {path}; labels from {origin}",
        data.split.describe(),
        *(f"{doubt.message}: {doubt.remedy}" for doubt in data.split.doubts),
        *data.notes(),
    )
    return DataSource(data.shards.files, config, unseen, described)


def for_automl(found: DataSource) -> DataSource:
    """The same data, for AutoML: with its least budgets, and on a shared endpoint."""
    config = dict(found.config)
    config["training"] = {**config["training"], "method": "automl"}
    config["serving"] = {**config["serving"], "dedicated": False}
    described = (*found.described, "AutoML trains: 8 and 1 node hours, which on Google Cloud cost 45.72 USD")
    return dataclasses.replace(found, config=config, described=described)


def _data_section(data: LocalData) -> dict[str, Any]:
    """How the records are read and the shards divided; when a batch is complete stays the demo's."""
    if data.config:
        section: dict[str, Any] = data.config.data.model_dump(mode="json", exclude_defaults=True)
        return {key: section[key] for key in ("features", "first_label", "split", "shards") if key in section}
    return {
        "features": {"image": data.schema.image, "label": data.schema.label},
        "first_label": data.schema.first_label,
    }


def _demo_config() -> dict[str, Any]:
    file = Path(__file__).with_name("flowers.yaml")
    config: dict[str, Any] = dataset_config.load(file.read_bytes(), source=file.name)
    return config


def _names(path: Path, data: LocalData, met: Sequence[str], *, classes: int) -> tuple[tuple[str, ...], str]:
    """The names of the classes, and where they are from; `met`: the known ones, and others that the records hold."""
    if data.schema.labels:
        names, origin = data.schema.labels, data.labels_from
    elif met:
        names, origin = tuple(met), "the records"
    elif classes == len(flowers.LABELS):
        names, origin = flowers.LABELS, "the public flowers data set (--labels a,b,c for others)"
    else:
        file = path / LABELS_FILE
        raise UnusableFolder(f"{path} has {classes} classes: name them with --labels a,b,c or in {file}")
    if unknown := met[len(names) :]:
        raise UnusableFolder(f"{origin} does not name the class {unknown[0]!r} of the records")
    if len(names) < classes:
        raise UnusableFolder(f"{origin} names {len(names)} classes, but the data has class {classes - 1}")
    return names, origin


def _look_through(files: Sequence[Path], schema: ExampleSchema) -> tuple[dict[int, list[bytes]], int]:
    """Up to UNSEEN pictures of each class, and how many classes there are.

    A share of each file, because data sets are often written class by class, one file after the other.
    """
    by_class: dict[int, list[bytes]] = {}
    share = max(1, SCANNED_RECORDS // len(files))
    for file in files:
        for data, label in itertools.islice(_pictures(file, schema), share):
            kept = by_class.setdefault(label, [])
            if len(kept) < UNSEEN:
                kept.append(data)
    return by_class, 1 + max(by_class, default=-1)


def _pictures(path: Path, schema: ExampleSchema) -> Iterator[tuple[bytes, int]]:
    """The readable records of a shard. What is wrong with it is for the pipeline to find, and to say."""
    with path.open("rb") as stream:
        try:
            for record in tfrecord.read_records(stream, name=path.name):
                with contextlib.suppress(UnusableRecord, tfrecord.MalformedExample):
                    example = schema.read(record.data)
                    yield example.image, example.label
        except tfrecord.CorruptRecords:
            return


def _spread(by_class: Mapping[int, Sequence[bytes]], count: int) -> list[tuple[bytes, int]]:
    """`count` pictures with the classes as equal as can be."""
    columns = [[(data, label) for data in by_class[label]] for label in sorted(by_class)]
    rows = itertools.zip_longest(*columns)
    return list(itertools.islice((pair for row in rows for pair in row if pair is not None), count))
