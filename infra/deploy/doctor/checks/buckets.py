"""Buckets, and the configurations in one of them."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator, Mapping

from doctor.examination import Check, Look
from doctor.findings import Finding, Place
from doctor.store import ReadOnlyStore
from dualdeploy.contracts.dataset_config import DatasetConfig
from dualdeploy.errors import CannotEverSucceed
from dualdeploy.google import config_bucket

_FOLDER, _ENDING = "datasets/", ".yaml"


def checks(look: Look) -> Iterator[Check]:
    for key, bucket in look.chain.buckets.items():
        name = bucket["name"]
        missing = f"gs://{name} does not exist; it holds {bucket['holds']}, and reading or writing that fails"
        yield _bucket(look, key, name, missing)
    folder = f"gs://{look.chain.bucket('config')}/{_FOLDER}"
    configured = Check(Place.BUCKET, folder, lambda: _configured(look, configured))
    yield configured


def _bucket(look: Look, key: str, name: str, missing: str) -> Check:
    def ask() -> Iterator[Finding]:
        look.google.get("storage", f"/storage/v1/b/{name}", needs="storage.buckets.get")
        yield check.ok(f"is there, as {key}")

    check = Check(Place.BUCKET, f"gs://{name}", ask, missing=missing, remedy=look.chain.deploy)
    return check


def configurations(look: Look) -> Mapping[str, DatasetConfig | CannotEverSucceed]:
    """What each object in the folder of configurations says, by its name, or why it cannot be used."""
    store = ReadOnlyStore(look.google, look.chain.bucket("config"))
    names = [each.name for each in store.list(_FOLDER) if each.name != _FOLDER]
    return {name: _read(store, name) for name in names}


def _read(store: ReadOnlyStore, name: str) -> DatasetConfig | CannotEverSucceed:
    if not name.endswith(_ENDING):
        return CannotEverSucceed(f"is not read by any service: a configuration is named {_FOLDER}<dataset>{_ENDING}")
    try:
        return config_bucket.read(store, name.removeprefix(_FOLDER).removesuffix(_ENDING))
    except CannotEverSucceed as exc:
        return exc


def usable(look: Look) -> list[DatasetConfig]:
    """The configurations that can be used."""
    return [each for each in configurations(look).values() if isinstance(each, DatasetConfig)]


def _configured(look: Look, check: Check) -> Iterator[Finding]:
    bucket = look.chain.bucket("config")
    found = configurations(look)
    for name, config in found.items():
        if not isinstance(config, DatasetConfig):
            uri = f"gs://{bucket}/{name}"
            file = urllib.parse.unquote(name.rsplit("/", 1)[-1])
            why = str(config).removeprefix(uri).lstrip(": ")
            says = f"{uri} cannot be used, so its data set is neither trained nor deployed: {why}"
            yield check.broken(says, f"mend {file} (docs/configuration.md), then: gcloud storage cp {file} {uri}")
    if not found:
        copy = f"gcloud storage cp flowers.yaml gs://{bucket}/{_FOLDER}flowers.yaml   (docs/configuration.md)"
        yield check.warning("no data set is configured: whatever arrives is refused", copy)
    elif all(isinstance(each, DatasetConfig) for each in found.values()):
        yield check.ok(f"{len(found)} configurations are valid" if len(found) > 1 else "one configuration, valid")
