"""What phones get, as a phone fetches it: over Cloud Storage for Firebase, without credentials."""

from __future__ import annotations

import contextlib
import logging
import urllib.parse
from collections.abc import Iterator
from typing import Any

import flask

from dualdeploy import lazily
from dualdeploy.errors import ServiceUnavailable

log = logging.getLogger(__name__)

_CONNECT_SECONDS, _READ_SECONDS = 3.0, 20.0
_CHUNK_BYTES = 1 << 16
#: What a browser needs of an answer; when it may be kept is the console's own rule.
_PASSED_ON = ("Content-Type", "Content-Length", "ETag")


class Published:
    """The objects of one bucket, by HTTP; `address` is where Cloud Storage for Firebase is."""

    def __init__(self, address: str, bucket: str) -> None:
        self._address = address.rstrip("/")
        self.bucket = bucket

    def get(self, name: str) -> flask.Response:
        """The bytes of an object, or the status that a phone would get. Raises ServiceUnavailable."""
        requests: Any = lazily.load("requests")
        url = f"{self._address}/v0/b/{self.bucket}/o/{urllib.parse.quote(name, safe='')}"
        wait = (_CONNECT_SECONDS, _READ_SECONDS)
        try:
            found = requests.get(
                url, params={"alt": "media"}, headers={"Accept-Encoding": "identity"}, stream=True, timeout=wait
            )
        except requests.exceptions.RequestException as exc:
            raise ServiceUnavailable(f"{self._address}, where phones fetch files, does not answer: {exc}") from exc
        if found.status_code != 200:
            found.close()
            return flask.Response(f"{name}: HTTP {found.status_code}", found.status_code, mimetype="text/plain")
        headers = {key: found.headers[key] for key in _PASSED_ON if key in found.headers}
        return flask.Response(_chunks(found), 200, headers=headers)


def _chunks(found: Any) -> Iterator[bytes]:
    with contextlib.closing(found):
        yield from found.iter_content(_CHUNK_BYTES)
