"""The bucket of configurations: one YAML file for each data set."""

from __future__ import annotations

from dualdeploy.contracts.dataset_config import DATASET_NAME, DatasetConfig, object_name, parse
from dualdeploy.errors import InvalidDatasetConfig, UnknownDataset
from dualdeploy.google.object_store import ObjectMissing, ObjectStore


def read(store: ObjectStore, dataset: str) -> DatasetConfig:
    """Load and check the configuration of `dataset`. Raises UnknownDataset or InvalidDatasetConfig."""
    if not DATASET_NAME.fullmatch(dataset):
        raise UnknownDataset(f"{dataset!r} cannot be a data set: a name matches {DATASET_NAME.pattern}")
    name = object_name(dataset)
    try:
        stored = store.read(name)
    except ObjectMissing as exc:
        raise UnknownDataset(
            f"no data set {dataset!r}: put its configuration at {store.uri(name)} and send the data again"
        ) from exc
    config = parse(stored.data, source=store.uri(name))
    if config.dataset != dataset:
        raise InvalidDatasetConfig(f"{store.uri(name)}: dataset: is {config.dataset!r}, must be {dataset!r}")
    return config
