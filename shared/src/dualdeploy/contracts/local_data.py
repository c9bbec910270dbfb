"""A folder of shards on this machine as a data set: by its YAML, or by what can be guessed from names and records."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from dualdeploy.contracts import dataset_config
from dualdeploy.contracts.dataset_config import DATASET_NAME, DatasetConfig, Training
from dualdeploy.contracts.example import PRESETS, ExampleSchema, Guess, fault_of_labels, guess
from dualdeploy.contracts.shard_folder import ShardFolder, look_into
from dualdeploy.contracts.shards import ShardNames
from dualdeploy.contracts.split import BY_NAMES, Split, SplitRule, divide
from dualdeploy.errors import InvalidDatasetConfig
from dualdeploy.images.tfrecord import CorruptRecords, Example, parse_example, read_records

#: Records that are looked at until one tells its features.
_LOOKED_AT = 20

#: Names of classes, one a line, in the order of their indices. TensorFlow Datasets put the feature's name before it.
LABELS_FILE = "labels.txt"


@dataclasses.dataclass(frozen=True)
class LocalData:
    """The shards, how their records are to be read, and where that is known from; `schema.labels` None: not known.

    `alone`: one shard was named, of a set that nothing is known of.
    """

    shards: ShardFolder
    schema: ExampleSchema
    rule: SplitRule = BY_NAMES
    config: DatasetConfig | None = None
    labels_from: str = ""
    guessed: Guess | None = None
    alone: bool = False

    @property
    def split(self) -> Split:
        if self.alone:
            names = tuple(self.shards.files)
            return Split(names, (), dict.fromkeys(names, "one shard alone"))
        return divide(self.shards.files, rule=self.rule)

    @property
    def tolerated_bad_records(self) -> float:
        """The share of unusable records that the launcher accepts of this data set."""
        return (self.config.training if self.config else Training()).tolerated_bad_records

    def notes(self) -> tuple[str, ...]:
        """What was guessed or passed over, a sentence each."""
        said = []
        if self.guessed:
            preset = f" (data.schema: {self.guessed.preset})" if self.guessed.preset else ""
            said.append(
                f"Features guessed from a record: picture {self.guessed.image!r}, label {self.guessed.label!r}{preset}."
            )
        if passed_over := self.shards.passed_over.sentence():
            said.append(f"{passed_over}.")
        return tuple(said)


def open_data(path: Path, *, config_file: Path | None = None, labels: Sequence[str] = ()) -> LocalData:
    """Look at a folder, or at one shard; without a YAML the first record tells which features it has.

    `labels` count more than those of the YAML, and these more than those of a file of labels.
    Raises InvalidDatasetConfig and OSError.
    """
    config = dataset_config.parse(config_file.read_bytes(), source=str(config_file)) if config_file else None
    rule = config.data.shard_names if config else ShardNames()
    last_folders = config.data.last_folders if config else None
    shards = ShardFolder({path.name: path}) if path.is_file() else look_into(path, rule, last_folders=last_folders)
    guessed = None if config else _guess(shards)
    names, labels_from = _labels(path, labels, config, guessed.label if guessed else ExampleSchema().label)
    if names is not None and (fault := _fault_of_labels(names)):
        raise InvalidDatasetConfig(f"{labels_from}: {fault}")
    if config:
        features = config.data.features
        schema = ExampleSchema(features.image, features.label, features.split, config.data.first_label, names)
        return LocalData(shards, schema, config.data.split, config, labels_from, alone=path.is_file())
    schema = ExampleSchema(labels=names)
    if guessed:
        first = PRESETS[guessed.preset].first_label if guessed.preset else 0
        schema = ExampleSchema(guessed.image, guessed.label, first_label=first, labels=names)
    return LocalData(shards, schema, labels_from=labels_from, guessed=guessed, alone=path.is_file())


def yaml_that_fits(folder: Path, schema: ExampleSchema, labels: Sequence[str]) -> str:
    """The data set's YAML for what was found: every other key has a default."""
    data: dict[str, object] = {}
    preset = next(
        (name for name, each in PRESETS.items() if (each.image, each.label) == (schema.image, schema.label)), ""
    )
    if preset and preset != "flowers":
        data["schema"] = preset
    elif not preset:
        data["features"] = {"image": schema.image, "label": schema.label}
    if schema.first_label != (PRESETS[preset].first_label if preset else 0):
        data["first_label"] = schema.first_label
    document: dict[str, object] = {"dataset": _dataset_name(folder), "labels": list(labels)}
    if data:
        document["data"] = data
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def _labels(
    path: Path, labels: Sequence[str], config: DatasetConfig | None, feature: str
) -> tuple[tuple[str, ...] | None, str]:
    if labels:
        return tuple(labels), "LABELS"
    if config:
        return config.labels, "YAML"
    file = _labels_file(path, feature) if path.is_dir() else None
    return (_listed(file), file.name) if file else (None, "")


def _fault_of_labels(names: Sequence[str]) -> str:
    if len(names) < 2:
        return f"a classifier needs two classes, and here are {len(names)}: one name a line, or as LABELS=a,b"
    return fault_of_labels(names)


def _labels_file(folder: Path, feature: str) -> Path | None:
    if (folder / LABELS_FILE).exists():
        return folder / LABELS_FILE
    found = sorted(each for each in folder.rglob(f"*.{LABELS_FILE}") if each.name == f"{feature}.{LABELS_FILE}")
    return found[0] if found and len({each.read_bytes() for each in found}) == 1 else None


def _listed(file: Path) -> tuple[str, ...]:
    """The names in a file; `0 daisy`, `1 roses`, … as Teachable Machine writes them, are daisy and roses."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as exc:
        raise InvalidDatasetConfig(f"{file} is not text in UTF-8 ({exc}): save it as UTF-8") from exc
    names = [line.strip() for line in lines if line.strip()]
    parts = [name.partition(" ") for name in names]
    if [first for first, _, rest in parts if rest] == [str(number) for number in range(len(names))]:
        names = [rest.strip() for _, _, rest in parts]
    return tuple(names)


def _guess(shards: ShardFolder) -> Guess | None:
    """What the first record tells that has other features than the usual ones; None when they are usual."""
    usual = ExampleSchema()
    for example in _first_examples(shards):
        if usual.image in example and usual.label in example:
            return None
        found = guess(example)
        if found:
            return found
    return None


def _first_examples(shards: ShardFolder) -> Iterator[Example]:
    for name, path in list(shards.files.items())[:_LOOKED_AT]:
        try:
            with path.open("rb") as stream:
                for record in read_records(stream, name=name):
                    yield parse_example(record.data, name=name)
                    if record.index >= _LOOKED_AT:
                        break
        except CorruptRecords:
            continue  # what is wrong with a shard is for the validation to say


def _dataset_name(folder: Path) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")
    return name if DATASET_NAME.fullmatch(name) else "my-data"
