"""`/gcs/<bucket>`, where Vertex AI mounts Cloud Storage into every training container.

Nothing can be mounted on a laptop without privileges, so a job gets a folder of its own instead. Every
`/gcs/<bucket>/…` in its arguments and variables is rewritten to a path there; what is stored under the
mentioned paths is downloaded before the job starts; what the job writes there is uploaded as soon as it
has been left alone for a moment, and when the job ends. The folder's path is also in `GCS_MOUNT_ROOT`, for
code that builds such paths itself (it must ask for them by an argument to find them downloaded).
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from local_cloud.vertex.objects import Objects

MOUNT_ROOT_VARIABLE = "GCS_MOUNT_ROOT"

_PATH = re.compile(r"(?<![\w./-])/gcs/(?P<bucket>[a-z0-9][a-z0-9._-]{1,61}[a-z0-9])(?P<object>/[^\s,;:'\"]*)?")


class MountFailed(RuntimeError):
    """An object of the mount cannot be a file."""


@dataclasses.dataclass(frozen=True)
class _Stamp:
    """What tells one state of a file from another without reading it."""

    modified: int
    size: int


class GcsMount:
    """One job's view of Cloud Storage as files below `root`."""

    def __init__(self, root: Path, *, storage_address: str, stable_seconds: float = 1.0) -> None:
        self.root = root
        self._objects = Objects(lambda: storage_address)
        self._stable_seconds = stable_seconds
        self._mentioned: set[tuple[str, str]] = set()
        self._uploaded: dict[Path, _Stamp] = {}

    @property
    def is_used(self) -> bool:
        return bool(self._mentioned)

    def map(self, text: str) -> str:
        """`text` with every `/gcs/<bucket>/…` pointing into the mount; remembers what to download."""
        return _PATH.sub(self._mapped, text)

    def download(self) -> None:
        """Fetch every object below the paths that `map` has seen.

        Raises:
            StorageFailed: Cloud Storage answered an error.
        """
        for bucket, prefix in sorted(self._mentioned):
            folder = self._place(bucket, prefix) if prefix else self.root / bucket
            (folder if prefix.endswith("/") or not prefix else folder.parent).mkdir(parents=True, exist_ok=True)
            for name in self._names(bucket, prefix):
                self._fetch(bucket, name)

    def upload(self, *, settled_only: bool = True) -> list[str]:
        """Store every file that is new or changed; the gs:// URIs stored.

        Args:
            settled_only: leave out files changed within the last moment. Cloud Storage FUSE uploads when a
                file is closed, which cannot be seen from outside; an unchanged file is taken for a closed one.

        Raises:
            StorageFailed: Cloud Storage answered an error.
        """
        stored = []
        for path in sorted(self.root.rglob("*")):
            stamp = _stamp(path)
            if stamp is None or self._uploaded.get(path) == stamp:
                continue
            if settled_only and time.time_ns() - stamp.modified < self._stable_seconds * 1e9:
                continue
            stored.append(self._store(path))
            self._uploaded[path] = stamp
        return stored

    def _mapped(self, matched: re.Match[str]) -> str:
        bucket, name = matched["bucket"], (matched["object"] or "").removeprefix("/")
        self._mentioned.add((bucket, name))
        return f"{self.root}/{bucket}" + (matched["object"] or "")

    def _names(self, bucket: str, prefix: str) -> Iterator[str]:
        # A prefix is not a folder: /gcs/b/data must not bring data-old/ along.
        return (
            name
            for name in self._objects.names(bucket, prefix)
            if not prefix or prefix.endswith("/") or name == prefix or name.startswith(prefix + "/")
        )

    def _fetch(self, bucket: str, name: str) -> None:
        path = self._place(bucket, name)
        if name.endswith("/"):
            # An object that stands for an empty folder.
            path.mkdir(parents=True, exist_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._objects.read(bucket, name))
        stamp = _stamp(path)
        if stamp is not None:
            self._uploaded[path] = stamp

    def _place(self, bucket: str, name: str) -> Path:
        """The file of an object. Raises MountFailed for a name that is absolute, goes up, is empty or has a NUL.

        Cloud Storage takes `a/../b`, `/etc/passwd` and `a//b` for names like any other
        (https://cloud.google.com/storage/docs/objects#naming), and joining a path with an absolute one gives that one.
        """
        parts = PurePosixPath(name).parts
        if not parts or parts[0].startswith("/") or ".." in parts or "\0" in name:
            raise MountFailed(f"gs://{bucket}/{name} cannot be a file: the object would be written outside its folder")
        return (self.root / bucket).joinpath(*parts)

    def _store(self, path: Path) -> str:
        bucket, *parts = path.relative_to(self.root).parts
        name = "/".join(parts)
        self._objects.write(bucket, name, path.read_bytes())
        return f"gs://{bucket}/{name}"


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        # A temporary file may be gone between being listed and being looked at.
        return None
    return None if path.is_dir() else _Stamp(status.st_mtime_ns, status.st_size)
