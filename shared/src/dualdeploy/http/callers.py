"""Who called: Google's identity token of a request, verified.

Pub/Sub and Eventarc sign every delivery as a service account (https://cloud.google.com/pubsub/docs/authenticate-push-subscriptions).
Who may deliver events is settled here as well as by Cloud Run's access, so that neither a service that was opened to
everybody by mistake nor a person who may only redeploy can send one.

Cloud Run checks a token before the request comes here, and takes its signature away, so that it cannot be used again
(https://cloud.google.com/run/docs/troubleshooting#signature-removed). Such a token is worth as much as the door that it
came through: it is believed only where CLOUD_RUN_CHECKS_TOKENS says that this door exists. One that still has its
signature was checked by nobody yet, and is verified here, with Google's certificates.

A request may have two tokens. Cloud Run then checks X-Serverless-Authorization alone, and passes Authorization on as
the caller wrote it (https://cloud.google.com/run/docs/authenticating/service-to-service): so the first is the token
where it is present, and the second never counts beside it. No other header says who somebody is, with one exception:
the console names the person who uses it, and is believed because Cloud Run checked that it is the console that calls.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from dualdeploy.errors import DualDeployError
from dualdeploy.http.certificates import Certificates, SignatureRefused
from dualdeploy.settings import CloudSettings, listed

_SIGNATURE_TAKEN_AWAY = "SIGNATURE_REMOVED_BY_GOOGLE"
_ISSUERS = frozenset({"https://accounts.google.com", "accounts.google.com"})
#: Clocks of two machines differ; Google's own libraries allow ten seconds.
_SKEW_SECONDS = 10.0
#: A token serves for up to an hour and many deliveries: verified once, it is known again.
_REMEMBERED_TOKENS = 64
#: Header, payload and signature, each in base64url: anything else, such as two tokens in one header, is not one token.
_ONE_TOKEN = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
#: The person who uses the console, as the console knows them.
PERSON_HEADER = "X-Console-User"
_PERSON = re.compile(r"[^\s@]+@[^\s@]+")
MAX_TOKEN_CHARACTERS = 8192


class Headers(Protocol):
    """A request's headers: Werkzeug's, which know no case, or a dictionary."""

    def get(self, name: str, default: str, /) -> str: ...


class CallerRefused(DualDeployError):
    """The request is not from whom it must be from; `status` is 401 (unknown) or 403 (known, and may not)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class _Token:
    """What a token says. `is_fresh`: it came with its signature, so nobody has looked at its audience yet."""

    email: str
    audience: str
    is_fresh: bool


class Callers:
    """Knows from its headers who sent a request.

    `audiences` are the addresses (https://host, no path) that tokens for this service may name; a `*` stands for
    letters of one label of the host. `event_senders` are the e-mail addresses of the accounts that may deliver events,
    `console` that of the account that the operators' console calls as.
    """

    def __init__(
        self,
        *,
        audiences: Sequence[str],
        event_senders: Sequence[str],
        certificates: Certificates,
        cloud_run_checks_tokens: bool = False,
        console: str = "",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._audiences = [_audience_pattern(audience) for audience in audiences]
        self._event_senders = frozenset(event_senders)
        self._certificates = certificates
        self._cloud_run_checks_tokens = cloud_run_checks_tokens
        self._console = console
        self._now = now
        self._known: dict[str, Mapping[str, Any]] = {}

    @classmethod
    def of(cls, settings: CloudSettings) -> Callers:
        """As the environment says."""
        return cls(
            audiences=listed(settings.push_audiences),
            event_senders=listed(settings.push_service_accounts),
            certificates=Certificates(settings.google_certs_url),
            cloud_run_checks_tokens=settings.cloud_run_checks_tokens,
            console=settings.console_service_account,
        )

    def require_event_sender(self, headers: Headers) -> str:
        """The account that delivers an event. Raises CallerRefused, or ServiceUnavailable without certificates."""
        text = _bearer(headers)
        if not text:
            raise CallerRefused(
                401, "no identity token: an event comes with Authorization: Bearer from Pub/Sub or Eventarc"
            )
        token = self._read(text)
        self._require_audience(token)
        if token.email not in self._event_senders:
            raise CallerRefused(403, f"{token.email} may not deliver events; PUSH_SERVICE_ACCOUNTS lists who may")
        return token.email

    def identity(self, headers: Headers) -> str:
        """Who calls the HTTP interface: an e-mail address, or nothing when nobody vouched for one.

        Raises CallerRefused for a token that is none, or ServiceUnavailable when it cannot be verified now.
        """
        text = _bearer(headers)
        if not text:
            return ""
        token = self._read(text)
        if token.is_fresh:
            # A person's token names gcloud as its audience; Cloud Run knows, and takes it. Nobody else does.
            self._require_audience(token)
        person = headers.get(PERSON_HEADER, "").strip()
        if self._console and token.email == self._console and _PERSON.fullmatch(person):
            return person[:200]
        return token.email[:200]

    def _require_audience(self, token: _Token) -> None:
        if not any(pattern.fullmatch(token.audience) for pattern in self._audiences):
            raise CallerRefused(
                401, f"the token is for {token.audience[:200]!r}; PUSH_AUDIENCES lists what it may be for"
            )

    def _read(self, text: str) -> _Token:
        is_fresh = not text.endswith(f".{_SIGNATURE_TAKEN_AWAY}")
        claims = self._known.get(text)
        if claims is None:
            claims = self._verify(text) if is_fresh else self._unsigned(text)
            if len(self._known) >= _REMEMBERED_TOKENS:
                self._known.clear()
            self._known[text] = claims
        self._require_valid_now(claims)
        if claims.get("iss") not in _ISSUERS:
            raise CallerRefused(401, "the token was not issued by Google's accounts")
        email, audience = claims.get("email"), claims.get("aud")
        if not isinstance(email, str) or not isinstance(audience, str) or claims.get("email_verified") is not True:
            raise CallerRefused(401, "the token names no verified e-mail address, or no audience")
        return _Token(email, audience, is_fresh)

    def _require_valid_now(self, claims: Mapping[str, Any]) -> None:
        issued, expires = claims.get("iat"), claims.get("exp")
        if not isinstance(issued, int | float) or not isinstance(expires, int | float):
            raise CallerRefused(401, "the token says neither when it was issued nor when it ends")
        if not issued - _SKEW_SECONDS <= self._now() <= expires + _SKEW_SECONDS:
            raise CallerRefused(401, "the token has expired, or is not valid yet")

    def _verify(self, text: str) -> Mapping[str, Any]:
        try:
            return self._certificates.verify(text)
        except SignatureRefused as exc:
            raise CallerRefused(401, f"the token is not Google's: {exc}") from None

    def _unsigned(self, text: str) -> Mapping[str, Any]:
        if not self._cloud_run_checks_tokens:
            raise CallerRefused(
                401,
                "the token has no signature; if Cloud Run has checked it, say so with CLOUD_RUN_CHECKS_TOKENS",
            )
        try:
            middle = text.split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
        except (ValueError, IndexError, RecursionError):
            raise CallerRefused(401, "the token cannot be read") from None
        if not isinstance(claims, Mapping):
            raise CallerRefused(401, "the token cannot be read")
        return claims


def names_audience(audiences: str, address: str) -> bool:
    """Whether PUSH_AUDIENCES, separated by commas, has the address of a service (https://host)."""
    return any(_audience_pattern(each).fullmatch(address) for each in listed(audiences))


def _bearer(headers: Headers) -> str:
    """The token of a request, or nothing when it has none."""
    serverless, usual = headers.get("X-Serverless-Authorization", ""), headers.get("Authorization", "")
    if not serverless:
        return _token(usual)
    if _SIGNATURE_TAKEN_AWAY in usual:
        # Cloud Run, which takes signatures away, did not look at this header.
        raise CallerRefused(401, "Authorization has a token without signature beside X-Serverless-Authorization")
    token = _token(serverless)
    if not token:
        raise CallerRefused(401, "X-Serverless-Authorization is not a bearer token")
    return token


def _token(header: str) -> str:
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer":
        return ""
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise CallerRefused(401, f"the token has more than {MAX_TOKEN_CHARACTERS} characters")
    if not _ONE_TOKEN.fullmatch(token):
        raise CallerRefused(401, "the token cannot be read: it is not a header, a payload and a signature")
    return token


def _audience_pattern(audience: str) -> re.Pattern[str]:
    """Eventarc names the service's address with its path, Pub/Sub without one: both are for this service."""
    return re.compile(re.escape(audience.rstrip("/")).replace(r"\*", "[a-z0-9-]+") + r"(/[^#]*)?")
