"""Where shards, weights and results lie: `gs://bucket/name`, `/gcs/bucket/name` (mounted by Vertex AI), or a path.

Everything from Cloud Storage is fetched at exactly one generation and checked; everything is written file by
file from a local folder, repeated until Cloud Storage takes it or patience ends.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import hashlib
import logging
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import google_crc32c
from google.api_core.exceptions import RetryError
from google.api_core.retry import Retry, if_exception_type

from dualdeploy import local_paths
from dualdeploy.contracts.training import ShardReference
from dualdeploy.errors import RetryLater
from dualdeploy.google.object_store import (
    ABSENT,
    GcsObjectStore,
    Generation,
    GenerationChanged,
    ObjectMissing,
    ObjectStore,
    open_content,
)
from trainer.data.examples import Shard
from trainer.process.failures import UnusableData, UnusableJob, UnwritableOutput

log = logging.getLogger(__name__)
Result = TypeVar("Result")

#: Opens the bucket of a name.
Bucket = Callable[[str], ObjectStore]

TRANSFERS = 8
BLOCK = 8 << 20

#: Times that a conditional write is decided anew before somebody else's writes are an error.
DECISIONS = 5


class Patience:
    """Repeats what failed temporarily, with growing pauses of different length, for at most `seconds` each.

    An hour of training must not be lost because Cloud Storage did not answer for a minute, and a hundred jobs that it
    did not answer must not ask again at the same moment.
    """

    def __init__(self, seconds: float = 300.0) -> None:
        self._seconds = seconds

    def call(self, what: str, attempt: Callable[[], Result]) -> Result:
        """What `attempt` returns. Raises its last error when the time is over, and at once one that does not pass."""
        repeated = Retry(
            predicate=if_exception_type(RetryLater),
            initial=1.0,
            maximum=20.0,
            timeout=self._seconds,
            on_error=lambda exc: log.warning("%s: %s; trying again", what, exc),
        )
        try:
            result: Result = repeated(attempt)()
        except RetryError as exc:
            raise exc.cause or exc from exc
        return result


def is_gs(location: str) -> bool:
    return location.startswith("gs://")


def split_gs(location: str) -> tuple[str, str]:
    """Bucket and object name of `gs://bucket/name`. Raises UnusableJob."""
    bucket, _, name = location.removeprefix("gs://").partition("/")
    if not bucket or not name:
        raise UnusableJob(f"{location!r} must be gs://<bucket>/<name>")
    return bucket, name


def read(location: str, patience: Patience) -> bytes:
    """The whole content of a small file. Raises UnusableJob when there is none."""
    try:
        if is_gs(location):
            bucket, name = split_gs(location)
            store = GcsObjectStore(bucket)
            return patience.call(f"reading {location}", lambda: store.read(name).data)
        return Path(location).read_bytes()
    except (ObjectMissing, OSError) as exc:
        raise UnusableJob(f"{location} cannot be read: {exc}") from exc


def read_if_present(location: str, patience: Patience) -> bytes | None:
    """The whole content of a file, or None when there is none that can be read."""
    try:
        if not is_gs(location):
            return Path(location).read_bytes()
        bucket, name = split_gs(location)
        store = GcsObjectStore(bucket)
        return patience.call(f"reading {location}", lambda: store.read(name).data)
    except (ObjectMissing, OSError):
        return None


def remove(location: str, patience: Patience) -> None:
    """Remove one file if it is there."""
    if not is_gs(location):
        Path(location).unlink(missing_ok=True)
        return
    bucket, name = split_gs(location)
    store = GcsObjectStore(bucket)
    generation = patience.call(f"looking for {location}", lambda: _current(store, name))
    if generation != ABSENT:
        patience.call(f"removing {location}", lambda: store.delete(name, expect=generation))


def fetch_folder(location: str, folder: Path, patience: Patience, *, bucket_of: Bucket = GcsObjectStore) -> Path:
    """A copy on this machine of everything below `location`, whose bucket `bucket_of` opens.

    Raises UnusableData when there is nothing, LeavesItsFolder for a name that would be written elsewhere.
    """
    if not is_gs(location):
        if not Path(location).is_dir():
            raise UnusableData(f"{location} is not a folder")
        return Path(location)
    bucket, prefix = split_gs(f"{location.rstrip('/')}/")
    store = bucket_of(bucket)
    found = patience.call(f"listing {location}", lambda: [object_.name for object_ in store.list(prefix)])
    if not found:
        raise UnusableData(f"there is nothing below {location}")

    def copy(name: str) -> None:
        path = local_paths.inside(folder, name.removeprefix(prefix))
        path.parent.mkdir(parents=True, exist_ok=True)
        reference = ShardReference(uri=store.uri(name))
        patience.call(f"fetching {reference.uri}", lambda: _copy(store, name, reference, path))

    try:
        with _transfers() as transfers:
            for done in [transfers.submit(copy, name) for name in found if not name.endswith("/")]:
                done.result()
    except ObjectMissing as exc:
        raise UnusableData(f"{location} changed while it was fetched: {exc}") from exc
    return folder


def fetch_shards(references: Sequence[ShardReference], folder: Path, patience: Patience) -> list[Shard]:
    """The shards as local files, in the same order; those on Cloud Storage are copied to `folder` in parallel."""
    folder.mkdir(parents=True, exist_ok=True)
    with _transfers() as transfers:
        paths = transfers.map(lambda reference: fetch(reference, folder, patience), references)
        return [Shard(reference.uri, path) for reference, path in zip(references, paths, strict=True)]


def fetch(reference: ShardReference, folder: Path, patience: Patience, *, bucket_of: Bucket = GcsObjectStore) -> Path:
    """One object as a local file, at the generation and with the checksum that `reference` names.

    A file that is already in `folder` with the right checksum is not fetched again. Raises UnusableData when the
    generation is gone or the bytes are others.
    """
    if not is_gs(reference.uri):
        if not Path(reference.uri).is_file():
            raise UnusableData(f"{reference.uri} is not a file")
        return Path(reference.uri)
    bucket, name = split_gs(reference.uri)
    # Named after what it holds: the jobs of both targets may share a cache folder, and write it at the same time.
    identity = hashlib.sha256(f"{reference.uri}#{reference.generation}#{reference.crc32c}".encode()).hexdigest()
    path = folder / f"{identity[:16]}-{_readable(name)}"
    if path.exists() and reference.crc32c and _file_checksum(path) == reference.crc32c:
        return path
    store = bucket_of(bucket)
    try:
        patience.call(f"fetching {reference.uri}", lambda: _copy(store, name, reference, path))
    except ObjectMissing as exc:
        if not reference.generation:
            raise UnusableData(f"there is no {reference.uri}") from exc
        raise UnusableData(
            f"{reference.uri} is gone at generation {reference.generation}: it was deleted or overwritten after the "
            "snapshot was taken. Request a new run"
        ) from exc
    return path


def _readable(name: str) -> str:
    """The end of an object's name as part of a file's: objects have longer names, and other letters, than files may."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name.rsplit("/", 1)[-1])[-80:]


def _copy(store: ObjectStore, name: str, reference: ShardReference, path: Path) -> None:
    generation = Generation(int(reference.generation)) if reference.generation else _current(store, name)
    if generation == ABSENT:
        raise ObjectMissing(f"there is no {reference.uri}")
    checksum = google_crc32c.Checksum()
    partial = path.with_name(f".{path.name}.{os.getpid()}.{id(checksum):x}")
    try:
        source = open_content(store, name, generation=generation, crc32c=reference.crc32c)
        with source, partial.open("wb") as target:
            while block := source.read(BLOCK):
                checksum.update(block)
                target.write(block)
        found = base64.b64encode(checksum.digest()).decode()
        if reference.crc32c and found != reference.crc32c:
            raise UnusableData(
                f"{reference.uri}#{generation} has checksum {found}, the job says {reference.crc32c}. If it is stored "
                "with Content-Encoding: gzip, upload it without"
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _file_checksum(path: Path) -> str:
    checksum = 0
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            checksum = google_crc32c.extend(checksum, block)
    return base64.b64encode(struct.pack(">I", checksum)).decode()


def publish_folders(folders: Mapping[Path, str], patience: Patience) -> None:
    """Copy every file below each local folder to its location, all in parallel; files there are replaced.

    Raises UnwritableOutput for a location that can never be written.
    """
    files = [
        (path, f"{location.rstrip('/')}/{path.relative_to(folder).as_posix()}")
        for folder, location in folders.items()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    with _transfers() as transfers:
        writing = [transfers.submit(write, target, path.read_bytes, patience) for path, target in files]
        for future in writing:
            future.result()


def write(
    location: str, content: Callable[[], bytes], patience: Patience, *, bucket_of: Bucket = GcsObjectStore
) -> None:
    """Put one file in place in a single act: nobody sees half of it, and repeating is harmless."""
    if is_gs(location):
        bucket, name = split_gs(location)
        store = bucket_of(bucket)
        patience.call(f"writing {location}", lambda: replace_object(store, name, content()))
    else:
        _replace_file(Path(location), content())


def replace_object(store: ObjectStore, name: str, data: bytes) -> None:
    """Replace what an earlier attempt of this same job may have left, at the generation that was seen."""
    media = "application/json" if name.endswith(".json") else "application/octet-stream"
    for _ in range(DECISIONS):
        try:
            store.put(name, data, expect=_current(store, name), content_type=media)
        except GenerationChanged:
            continue
        except ObjectMissing as exc:
            raise UnwritableOutput(f"{store.uri(name)} cannot be written: {exc}") from exc
        return
    raise UnwritableOutput(f"{store.uri(name)} is being written by another job: two jobs share one output")


def _current(store: ObjectStore, name: str) -> Generation:
    return next((found.generation for found in store.list(name) if found.name == name), ABSENT)


def _replace_file(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as exc:
        raise UnwritableOutput(f"{path} cannot be written: {exc}") from exc
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a scratch folder as far as possible; threads may still be writing into it."""
    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _transfers() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(TRANSFERS, thread_name_prefix="transfer") as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
