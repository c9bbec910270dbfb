"""The cloud model, asked as an app asks it: through the gateway, with a token of App Check."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

from console.settings import ConsoleSettings
from dualdeploy import lazily
from dualdeploy.errors import RejectedByGoogle, RetryLater, ServiceUnavailable

log = logging.getLogger(__name__)

APP_CHECK = "https://firebaseappcheck.googleapis.com"

#: The gateway answers within six by itself.
_SECONDS = 10.0
_EXCHANGE_SECONDS = 3.0
#: A token is not used in the last minutes of its life.
_EARLY_SECONDS = 300.0
_PASSED_ON = ("Content-Type", "Retry-After", "Server-Timing")


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the gateway answered, to be passed on as it is."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class CloudModel:
    """Thread-safe. `clock` is monotonic.

    `missing` says which settings are not there, and is empty where the model can be asked.
    """

    def __init__(self, settings: ConsoleSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._token, self._until = "", 0.0
        self.missing = missing(settings)

    def ask(self, dataset: str, picture: bytes, headers: Mapping[str, str]) -> Answer:
        """The gateway's answer, whatever it is; where none comes, one like it with status 503."""
        if self.missing:
            return _own(404, f"the cloud model cannot be asked from here: {self.missing}")
        try:
            return self._ask(dataset, picture, headers)
        except (RetryLater, RejectedByGoogle) as exc:
            log.error("the cloud model of %s was not asked: %s", dataset, exc)  # noqa: TRY400
            return _own(503, str(exc), **{"Retry-After": "10"})

    def _ask(self, dataset: str, picture: bytes, headers: Mapping[str, str]) -> Answer:
        requests: Any = lazily.load("requests")
        url = f"{self._settings.gateway_url.rstrip('/')}/predict/{urllib.parse.quote(dataset, safe='')}"
        given = {**headers, "X-Firebase-AppCheck": self._app_check()}
        try:
            found = requests.post(url, data=picture, headers=given, timeout=_SECONDS)
        except requests.exceptions.RequestException as exc:
            raise ServiceUnavailable(f"{self._settings.gateway_url} does not answer: {exc}") from exc
        if found.status_code == 401:
            # Its keys may have changed since: the next request brings another token.
            self._forget()
        return Answer(
            found.status_code, found.content, {key: found.headers[key] for key in _PASSED_ON if key in found.headers}
        )

    def _app_check(self) -> str:
        with self._lock:
            if self._clock() < self._until:
                return self._token
            self._token, seconds = self._exchange()
            self._until = self._clock() + max(0.0, seconds - _EARLY_SECONDS)
            return self._token

    def _forget(self) -> None:
        with self._lock:
            self._until = 0.0

    def _exchange(self) -> tuple[str, float]:
        """Source: https://firebase.google.com/docs/reference/appcheck/rest/v1/projects.apps/exchangeDebugToken"""
        requests: Any = lazily.load("requests")
        settings = self._settings
        address = f"http://{settings.app_check_emulator_host}" if settings.app_check_emulator_host else APP_CHECK
        app = urllib.parse.quote(settings.app_check_app, safe=":")
        url = f"{address}/v1/projects/{settings.project}/apps/{app}:exchangeDebugToken"
        key = {"key": settings.firebase_api_key} if settings.firebase_api_key else {}
        try:
            found = requests.post(
                url, params=key, json={"debugToken": settings.app_check_debug_token}, timeout=_EXCHANGE_SECONDS
            )
        except requests.exceptions.RequestException as exc:
            # Not the error itself: it has the address with its key.
            raise ServiceUnavailable(f"App Check does not answer: {type(exc).__name__}") from exc
        if found.status_code >= 500:
            raise ServiceUnavailable(f"App Check does not answer: HTTP {found.status_code}")
        if found.status_code != 200:
            raise RejectedByGoogle(
                f"App Check refuses the APP_CHECK_DEBUG_TOKEN of {settings.app_check_app}: HTTP {found.status_code}; "
                "register it in Firebase's console (App Check, the app, Manage debug tokens)"
            )
        try:
            document = found.json()
            return str(document["token"]), float(str(document["ttl"]).removesuffix("s"))
        except (ValueError, LookupError, TypeError) as exc:
            raise ServiceUnavailable("App Check answers without a token and how long it lives") from exc


def missing(settings: ConsoleSettings) -> str:
    """Which settings the simulator lacks to ask the cloud model; empty: none."""
    needed = {
        "GATEWAY_URL": settings.gateway_url,
        "APP_CHECK_APP": settings.app_check_app,
        "APP_CHECK_DEBUG_TOKEN": settings.app_check_debug_token,
    }
    absent = [name for name, value in needed.items() if not value]
    return f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not set" if absent else ""


def _own(status: int, text: str, **headers: str) -> Answer:
    body = json.dumps({"error": text, "reason": "console"}).encode()
    return Answer(status, body, {"Content-Type": "application/json", **headers})
