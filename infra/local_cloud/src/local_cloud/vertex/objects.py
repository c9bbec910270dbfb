"""Objects of Cloud Storage, as one account of the project reads and writes them over HTTP."""

from __future__ import annotations

import json
import re
import time
import urllib.parse
from collections.abc import Callable, Iterator

import urllib3

_PAUSES = (0.1, 0.3, 1.0, 3.0)
_RETRYABLE = frozenset({408, 429, 500, 502, 503, 504})
_TIMEOUT = urllib3.Timeout(connect=5, read=60)
_URI = re.compile(r"gs://(?P<bucket>[a-z0-9][a-z0-9._-]{1,61}[a-z0-9])/(?P<name>.+)", re.DOTALL)


class StorageFailed(RuntimeError):
    """Cloud Storage did not give or take an object; `status` is its HTTP status, 0 where it did not answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def split_uri(uri: object) -> tuple[str, str] | None:
    """Bucket and name of `gs://bucket/name`; None for anything else."""
    matched = _URI.fullmatch(uri) if isinstance(uri, str) else None
    return (matched["bucket"], matched["name"]) if matched else None


class Objects:
    """Cloud Storage at one address, which tells Cloud Storage who asks; it is looked up at each call.

    Every call repeats with back-off while Cloud Storage asks for it, and raises StorageFailed.
    """

    def __init__(self, address: Callable[[], str], *, connections: int = 1) -> None:
        self._address = address
        self._pool = urllib3.PoolManager(retries=False, timeout=_TIMEOUT, maxsize=connections)

    def names(self, bucket: str, prefix: str) -> Iterator[str]:
        """The names of all objects that begin with `prefix`."""
        token = ""
        while True:
            query = urllib.parse.urlencode({"prefix": prefix, "pageToken": token} if token else {"prefix": prefix})
            page = json.loads(self._request("GET", f"/storage/v1/b/{bucket}/o?{query}"))
            yield from (item["name"] for item in page.get("items", ()))
            token = page.get("nextPageToken", "")
            if not token:
                return

    def read(self, bucket: str, name: str) -> bytes:
        return self._request("GET", f"/download/storage/v1/b/{bucket}/o/{_quoted(name)}?alt=media")

    def write(self, bucket: str, name: str, data: bytes) -> None:
        query = urllib.parse.urlencode({"uploadType": "media", "name": name})
        self._request("POST", f"/upload/storage/v1/b/{bucket}/o?{query}", body=data)

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/octet-stream"} if body is not None else {}
        status = 0
        for pause in (*_PAUSES, None):
            try:
                response = self._pool.request(method, f"http://{self._address()}{path}", body=body, headers=headers)
            except urllib3.exceptions.HTTPError as error:
                failure = str(error)
            else:
                if response.status < 300:
                    return response.data
                failure, status = f"HTTP {response.status} {response.data[:400]!r}", response.status
                if status not in _RETRYABLE:
                    break
            if pause is not None:
                time.sleep(pause)
        raise StorageFailed(f"{method} {path}: {failure}", status)


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")
