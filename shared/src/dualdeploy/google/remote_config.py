"""Firebase Remote Config's template for apps: read with its ETag, written only over the ETag that was read.

By REST, because firebase_admin can only read server templates. One template belongs to the whole app team, so there is
no unconditional write here either (`If-Match: *` would be one), and `:rollback`, which takes everybody's changes back,
is not offered. Source: https://firebase.google.com/docs/reference/remote-config/rest/v1/projects
"""

from __future__ import annotations

import dataclasses
import functools
import json
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from dualdeploy import lazily
from dualdeploy.errors import DualDeployError, ServiceUnavailable
from dualdeploy.google.calls import call

#: Seconds that one HTTP call may take.
CALL_TIMEOUT = 20.0

_SCOPES = ("https://www.googleapis.com/auth/firebase.remoteconfig",)
_HOST = "https://firebaseremoteconfig.googleapis.com"


class TemplateChanged(DualDeployError):
    """The template is not at the ETag that the write expected: read again, decide again."""


#: Somebody else published meanwhile: 412 is what the reference names, 409 what such services answer under contention.
_MEANINGS = {409: TemplateChanged, 412: TemplateChanged}


@dataclasses.dataclass(frozen=True)
class Template:
    """The template as Google's JSON has it, in its order, with everything that we do not know; and its ETag."""

    document: Mapping[str, Any]
    etag: str


class RemoteConfig(Protocol):
    """One project's template; `FakeRemoteConfig` of the tests is the other implementation.

    Besides what each method names, it raises what `google.errors` makes of Google's answer.
    """

    def read(self) -> Template:
        """The template that apps are given now; a project begins with an empty one."""

    def write(self, document: Mapping[str, Any], *, expect: str) -> Template:
        """Publish `document` if the template is still at ETag `expect`. Raises TemplateChanged.

        Of `version` only the description is taken. An answer can be lost after the write was done: read before writing
        again, the wish may have come true.
        """


class RemoteConfigGateway:
    """The real service, or an emulator of it at `emulator_host` (`host:port`, plain HTTP, no credentials)."""

    def __init__(self, *, project: str, emulator_host: str = "", call_timeout: float = CALL_TIMEOUT) -> None:
        host = f"http://{emulator_host}" if emulator_host else _HOST
        self._url = f"{host}/v1/projects/{project}/remoteConfig"
        self._emulated = bool(emulator_host)
        self._timeout = call_timeout
        self._lock = threading.Lock()

    def read(self) -> Template:
        return self._call("GET")

    def write(self, document: Mapping[str, Any], *, expect: str) -> Template:
        body = json.dumps(document, ensure_ascii=False).encode()
        headers = {"If-Match": expect, "Content-Type": "application/json; UTF-8"}
        return self._call("PUT", data=body, headers=headers)

    def _call(self, method: str, **arguments: Any) -> Template:
        subject = f"Remote Config, {method} of the template"

        def answer() -> Any:
            # A session is not made for several threads. The body is read inside: its end may never come.
            with self._lock:
                response = self._session.request(method, self._url, timeout=self._timeout, **arguments)
                response.raise_for_status()
            return response

        response = call(subject, answer, meanings=_MEANINGS)
        return _template(response.text, response.headers.get("ETag", ""), subject)

    @functools.cached_property
    def _session(self) -> Any:
        if self._emulated:
            credentials = lazily.load("google.auth.credentials").AnonymousCredentials()
        else:
            credentials = lazily.load("google.auth").default(scopes=_SCOPES)[0]
        return lazily.load("google.auth.transport.requests").AuthorizedSession(credentials)


def _template(text: str, etag: str, what: str) -> Template:
    try:
        document = json.loads(text)
    except ValueError as exc:
        raise ServiceUnavailable(f"{what}: the answer is not JSON") from exc
    if not isinstance(document, dict) or not etag:
        raise ServiceUnavailable(f"{what}: the answer is not a template with an ETag")
    return Template(document, etag)
