"""The SavedModel's folder on this machine, fetched from Cloud Storage when it is not here already."""

from __future__ import annotations

import base64
import concurrent.futures
from pathlib import Path
from typing import Any

import google_crc32c

from dualdeploy import local_paths
from dualdeploy.google.object_store import GcsObjectStore, ObjectStore, ObjectSummary

_PARALLEL_DOWNLOADS = 8
_CHUNK = 4 << 20


class ModelMissing(Exception):
    """There is no SavedModel where the settings say."""


class DamagedDownload(Exception):
    """What arrived is not what Cloud Storage holds."""


def fetch(uri: str, scratch: Path) -> Path:
    """Return the local folder of the SavedModel at `uri`, downloading gs:// into `scratch`.

    Every object is checked against the listing's CRC32C. Raises ModelMissing, DamagedDownload, or what
    `dualdeploy.google.object_store` raises when Cloud Storage does not answer.
    """
    folder = Path(uri)
    if uri.startswith("gs://"):
        bucket, _, prefix = uri.removeprefix("gs://").partition("/")
        folder = scratch
        download(GcsObjectStore(bucket), prefix, folder)
    if not (folder / "saved_model.pb").is_file():
        raise ModelMissing(f"no saved_model.pb at {uri}: AIP_STORAGE_URI must name the SavedModel's own folder")
    return folder


def download(store: ObjectStore, prefix: str, folder: Path) -> None:
    """Copy every object under `prefix` into `folder`, keeping the names below it."""
    base = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
    # Names that end in a slash are what consoles create for empty folders.
    objects = [found for found in store.list(base) if not found.name.endswith("/")]
    try:
        paths = [local_paths.inside(folder, found.name.removeprefix(base)) for found in objects]
    except local_paths.LeavesItsFolder as exc:
        raise ModelMissing(str(exc)) from exc
    with concurrent.futures.ThreadPoolExecutor(_PARALLEL_DOWNLOADS) as pool:
        copies = [pool.submit(_copy, store, found, path) for found, path in zip(objects, paths, strict=True)]
        for copy in concurrent.futures.as_completed(copies):
            copy.result()


def _copy(store: ObjectStore, found: ObjectSummary, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    checksum: Any = google_crc32c.Checksum()  # the package is half typed
    # The generation of the listing: a model that is replaced meanwhile must not arrive as a mixture.
    with store.open(found.name, generation=found.generation) as source, path.open("wb") as target:
        while chunk := source.read(_CHUNK):
            checksum.update(chunk)
            target.write(chunk)
    if found.crc32c and base64.b64encode(checksum.digest()).decode() != found.crc32c:
        raise DamagedDownload(f"{found.name} arrived with another checksum than {found.crc32c}: start again")
