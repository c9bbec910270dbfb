"""The two services that do what a button says, over their HTTP interface and as this service's own account."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from typing import Any, Protocol

from dualdeploy import lazily
from dualdeploy.http.callers import PERSON_HEADER

log = logging.getLogger(__name__)

#: A command answers at once; its work begins afterwards.
_SECONDS = 20.0


@dataclasses.dataclass(frozen=True)
class Answer:
    """An HTTP status, 0 when nothing came back, and what the service says."""

    status: int
    document: Mapping[str, Any]

    @property
    def is_accepted(self) -> bool:
        return 200 <= self.status < 300


class Deployers(Protocol):
    def ask(self, target: str, command: str, body: Mapping[str, Any], *, person: str, key: str) -> Answer:
        """POST one command to the service of a target. `key` makes a repetition harmless."""


class HttpDeployers:
    """`addresses` by target. A call whose answer is lost may have worked: with the same key it can be sent again."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._addresses = addresses

    def ask(self, target: str, command: str, body: Mapping[str, Any], *, person: str, key: str) -> Answer:
        address = self._addresses[target]
        requests = lazily.load("requests")
        try:
            headers = {"Authorization": f"Bearer {_token(address)}", PERSON_HEADER: person, "Idempotency-Key": key}
            answer = requests.post(f"{address}/{command}", json=body, headers=headers, timeout=_SECONDS)
        except (requests.exceptions.RequestException, lazily.load("google.auth.exceptions").GoogleAuthError) as exc:
            log.error("%s does not answer /%s: %s", address, command, exc)  # noqa: TRY400
            return Answer(
                0, {"error": f"{address} does not answer: try again; pressing the button again does not do it twice"}
            )
        try:
            document = json.loads(answer.content)
        except ValueError:
            document = {"error": answer.text[:300]}
        return Answer(answer.status_code, document if isinstance(document, Mapping) else {})


def _token(audience: str) -> str:
    """An identity token of this service's account. Source: https://cloud.google.com/run/docs/authenticating/service-to-service"""
    request = lazily.load("google.auth.transport.requests").Request()
    return str(lazily.load("google.oauth2.id_token").fetch_id_token(request, audience))
