"""Google's public certificates, and whether an identity token was signed with one of them."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from dualdeploy import lazily
from dualdeploy.errors import ServiceUnavailable

_FETCH_SECONDS = 5.0
_MAX_BYTES = 1 << 20
#: Google announces how long its certificates may be kept (hours). A silent server's are kept for this long.
_DEFAULT_SECONDS = 3600.0
#: A token can name a key that we do not have: Google may have a new one, or somebody is making names up.
_SECONDS_BETWEEN_FETCHES = 60.0


#: What google-auth may be quoted with. Its other messages hold the token, which no log may have.
_QUOTABLE = ("Certificate for key id", "Could not verify", "Token expired", "Token used too early", "Token does not")


class SignatureRefused(Exception):
    """The token is malformed, or no certificate of Google's fits its signature."""


class Certificates:
    """The certificates behind `url`, fetched at the first token and kept for as long as their server allows."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._lock = threading.Lock()
        self._by_key: Mapping[str, str] = {}
        self._fetched = self._stale = -_SECONDS_BETWEEN_FETCHES

    def verify(self, token: str) -> Mapping[str, Any]:
        """The claims of a signed token. Raises SignatureRefused, or ServiceUnavailable without certificates."""
        # Loaded at the first signed token: behind Cloud Run, which takes signatures away, never.
        jwt = lazily.load("google.auth.jwt")
        try:
            key = jwt.decode_header(token).get("kid")
            claims: Mapping[str, Any] = jwt.decode(token, certs=self._current(key))
        except ServiceUnavailable:
            raise
        # google-auth does not check the types of what it decodes: a number in place of a text is a TypeError.
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
            raise SignatureRefused(_reason(exc)) from None
        return claims

    def _current(self, key: object) -> Mapping[str, str]:
        with self._lock:
            now = self._clock()
            is_unknown = key not in self._by_key and now - self._fetched >= _SECONDS_BETWEEN_FETCHES
            if now >= self._stale or is_unknown:
                self._by_key, seconds = self._fetch()
                self._fetched, self._stale = now, now + seconds
            return self._by_key

    def _fetch(self) -> tuple[Mapping[str, str], float]:
        try:
            with urllib.request.urlopen(self._url, timeout=_FETCH_SECONDS) as answer:  # noqa: S310 (a setting)
                document = json.loads(answer.read(_MAX_BYTES))
                cache_control = answer.headers.get("Cache-Control", "")
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise ServiceUnavailable(f"Google's certificates cannot be fetched from {self._url}: {exc}") from exc
        if not isinstance(document, Mapping) or not all(isinstance(each, str) for each in document.values()):
            raise ServiceUnavailable(f"{self._url} does not answer with certificates by key id")
        age = re.search(r"max-age=(\d+)", cache_control)
        return document, float(age[1]) if age else _DEFAULT_SECONDS


def _reason(exc: Exception) -> str:
    text = str(exc)
    return text[:200] if text.startswith(_QUOTABLE) else "it cannot be read"
