"""One picture through an endpoint of Vertex AI, by plain HTTP.

Not through the generated client, whose import costs a second of each cold start; a call takes as long either way.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from dualdeploy import lazily
from dualdeploy.contracts import prediction
from dualdeploy.errors import ServiceUnavailable
from dualdeploy.google.calls import call
from gateway.serving import Live

#: Connections that are kept to each endpoint: one for each request that an instance handles at once.
CONNECTIONS = 32
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the endpoint said of a picture; `deployed_model` and `version` name who answered, as Vertex AI does.

    `prediction` has `label` and `confidence`, whatever form the model answers in.
    """

    prediction: Mapping[str, Any]
    deployed_model: str
    version: str


class Endpoints(Protocol):
    def predict(self, live: Live, picture: bytes, *, seconds: float) -> Answer:
        """Ask once, for so many seconds. Raises what `google.errors` makes of the answer."""


class VertexEndpoints:
    """The real thing, or an emulator of it at `emulator_host` (`host:port`, plain HTTP, no credentials)."""

    def __init__(self, *, region: str, emulator_host: str = "") -> None:
        self._region = region
        self._emulator_host = emulator_host
        self._lock = threading.Lock()

    def predict(self, live: Live, picture: bytes, *, seconds: float) -> Answer:
        body = json.dumps({"instances": [prediction.instance(picture, live.form)]})

        def ask() -> Any:
            with self._lock:
                session = self._session
            answer = session.post(
                self._url(live),
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=(min(2.0, seconds), seconds),
                allow_redirects=False,
            )
            answer.raise_for_status()
            return answer.json()

        return _read(call(f"predict with {live.endpoint}", ask), live)

    def _url(self, live: Live) -> str:
        if self._emulator_host:
            return f"http://{self._emulator_host}/v1/{live.endpoint}:predict"
        # A dedicated endpoint answers at a host of its own only.
        return f"https://{live.dns or f'{self._region}-aiplatform.googleapis.com'}/v1/{live.endpoint}:predict"

    @functools.cached_property
    def _session(self) -> Any:
        if self._emulator_host:
            session = lazily.load("requests").Session()
        else:
            credentials, _ = lazily.load("google.auth").default(scopes=_SCOPES)
            session = lazily.load("google.auth.transport.requests").AuthorizedSession(credentials)
        adapter = lazily.load("requests.adapters").HTTPAdapter
        for scheme in ("https://", "http://"):
            session.mount(scheme, adapter(pool_connections=CONNECTIONS, pool_maxsize=CONNECTIONS))
        return session


def _read(document: Any, live: Live) -> Answer:
    try:
        first = document["predictions"][0]
        said = prediction.said(first)
    except (LookupError, TypeError, ValueError) as exc:
        raise ServiceUnavailable(f"{live.endpoint} answers without a label and a confidence: {exc!r}") from exc
    read = {**first, "label": said.label, "confidence": said.confidence}
    return Answer(read, str(document.get("deployedModelId", "")), str(document.get("modelVersionId", "")))
