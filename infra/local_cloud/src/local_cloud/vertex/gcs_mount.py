"""`/gcs/<bucket>`, where Vertex AI mounts Cloud Storage into every training container.

Nothing can be mounted on a laptop without privileges, so a job gets a folder of its own instead. Every
`/gcs/<bucket>/…` in its arguments and variables is rewritten to a path there; what is stored under the
mentioned paths is downloaded before the job starts; what the job writes there is uploaded as soon as it
has been left alone for a moment, and when the job ends. The folder's path is also in `GCS_MOUNT_ROOT`, for
code that builds such paths itself (it must ask for them by an argument to find them downloaded).
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import urllib3

from dualdeploy import local_paths

MOUNT_ROOT_VARIABLE = "GCS_MOUNT_ROOT"

_PATH = re.compile(r"(?<![\w./-])/gcs/(?P<bucket>[a-z0-9][a-z0-9._-]{1,61}[a-z0-9])(?P<object>/[^\s,;:'\"]*)?")
_PAUSES = (0.1, 0.3, 1.0, 3.0)
_RETRYABLE = frozenset({408, 429, 500, 502, 503, 504})
_TIMEOUT = urllib3.Timeout(connect=5, read=60)


class MountFailed(RuntimeError):
    """Cloud Storage did not give or take an object of the mount."""


@dataclasses.dataclass(frozen=True)
class _Stamp:
    """What tells one state of a file from another without reading it."""

    modified: int
    size: int


class GcsMount:
    """One job's view of Cloud Storage as files below `root`."""

    def __init__(self, root: Path, *, storage_address: str, stable_seconds: float = 1.0) -> None:
        self.root = root
        self._base = f"http://{storage_address}"
        self._stable_seconds = stable_seconds
        self._pool = urllib3.PoolManager(retries=False, timeout=_TIMEOUT)
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
            MountFailed: Cloud Storage answered an error.
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
            MountFailed: Cloud Storage answered an error.
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
        token = ""
        while True:
            query = urllib.parse.urlencode({"prefix": prefix, "pageToken": token} if token else {"prefix": prefix})
            page = json.loads(self._request("GET", f"/storage/v1/b/{bucket}/o?{query}"))
            # A prefix is not a folder: /gcs/b/data must not bring data-old/ along.
            yield from (
                item["name"]
                for item in page.get("items", ())
                if not prefix or prefix.endswith("/") or item["name"] == prefix or item["name"].startswith(prefix + "/")
            )
            token = page.get("nextPageToken", "")
            if not token:
                return

    def _fetch(self, bucket: str, name: str) -> None:
        path = self._place(bucket, name)
        if name.endswith("/"):
            # An object that stands for an empty folder.
            path.mkdir(parents=True, exist_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._request("GET", f"/download/storage/v1/b/{bucket}/o/{_quoted(name)}?alt=media"))
        stamp = _stamp(path)
        if stamp is not None:
            self._uploaded[path] = stamp

    def _place(self, bucket: str, name: str) -> Path:
        try:
            return local_paths.inside(self.root / bucket, name)
        except local_paths.LeavesItsFolder as exc:
            raise MountFailed(f"gs://{bucket}/{name} cannot be a file: {exc}") from exc

    def _store(self, path: Path) -> str:
        bucket, *parts = path.relative_to(self.root).parts
        name = "/".join(parts)
        query = urllib.parse.urlencode({"uploadType": "media", "name": name})
        self._request("POST", f"/upload/storage/v1/b/{bucket}/o?{query}", body=path.read_bytes())
        return f"gs://{bucket}/{name}"

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """One request, repeated with back-off while Cloud Storage asks for it, as FUSE does."""
        headers = {"Content-Type": "application/octet-stream"} if body is not None else {}
        for pause in (*_PAUSES, None):
            try:
                response = self._pool.request(method, self._base + path, body=body, headers=headers)
            except urllib3.exceptions.HTTPError as error:
                failure = str(error)
            else:
                if response.status < 300:
                    return response.data
                failure = f"HTTP {response.status} {response.data[:200]!r}"
                if response.status not in _RETRYABLE:
                    break
            if pause is not None:
                time.sleep(pause)
        raise MountFailed(f"{method} {path}: {failure}")


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        # A temporary file may be gone between being listed and being looked at.
        return None
    return None if path.is_dir() else _Stamp(status.st_mtime_ns, status.st_size)


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")
