"""Which app asks, and which user: tokens of Firebase App Check and Firebase Auth, verified with Google's public keys.

PyJWT verifies; what is ours is what a token must say. App Check's `sub` is the app's id, not that of an installation:
one that counts devices has only the user's id to go by.
Source: https://firebase.google.com/docs/app-check/custom-resource-backend, https://firebase.google.com/docs/auth/admin/verify-id-tokens
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import jwt

from dualdeploy.errors import ServiceUnavailable
from dualdeploy.http.callers import MAX_TOKEN_CHARACTERS, CallerRefused, Headers

APP_CHECK_HEADER = "X-Firebase-AppCheck"

#: App Check's keys may be kept for six hours; a token with an unknown key has them fetched once a minute at most.
_KEPT_SECONDS, _SECONDS_BETWEEN_FETCHES = 6 * 3600.0, 60.0
#: A request waits this long for the keys; after a failure they are not fetched for some seconds.
_FETCH_SECONDS, _SECONDS_AFTER_FAILURE = 2.0, 5.0
_SKEW_SECONDS = 10.0


class Tokens:
    """What the tokens of one issuer must say: `audience` is one of those in the claims, `issuer` a pattern."""

    def __init__(self, what: str, *, keys_url: str, audience: str, issuer: str) -> None:
        self._what = what
        self._keys = _Keys(keys_url)
        self._audience = audience
        self._issuer = re.compile(issuer)

    @classmethod
    def of_app_check(cls, project: str, keys_url: str) -> Tokens:
        """The issuer is named after the project's number, the audience after both its number and its id."""
        issuer = r"https://firebaseappcheck\.googleapis\.com/[0-9]+"
        return cls("App Check token", keys_url=keys_url, audience=f"projects/{project}", issuer=issuer)

    @classmethod
    def of_auth(cls, project: str, keys_url: str) -> Tokens:
        issuer = re.escape(f"https://securetoken.google.com/{project}")
        return cls("ID token", keys_url=keys_url, audience=project, issuer=issuer)

    def subject(self, token: str) -> str:
        """The verified `sub`. Raises CallerRefused, or ServiceUnavailable without keys."""
        if not token:
            raise CallerRefused(401, f"no {self._what}")
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise CallerRefused(401, f"the {self._what} has more than {MAX_TOKEN_CHARACTERS} characters")
        # The keys first: only then does a missing one say something about the token.
        self._require_keys()
        try:
            claims = self._claims(token)
        except jwt.exceptions.PyJWKClientConnectionError as exc:
            raise self._unavailable(exc) from exc
        # The texts of PyJWT say which claim is wrong, and hold nothing of the token but its key's id.
        except (jwt.exceptions.PyJWTError, ValueError, TypeError, RecursionError) as exc:
            raise CallerRefused(401, f"the {self._what} is not valid: {type(exc).__name__}") from None
        if not self._issuer.fullmatch(str(claims["iss"])):
            raise CallerRefused(401, f"the {self._what} is not valid: it was issued for another project")
        return str(claims["sub"])

    def _claims(self, token: str) -> Mapping[str, Any]:
        header = jwt.get_unverified_header(token)
        if header.get("typ") != "JWT":
            raise jwt.InvalidTokenError("typ")
        claims: Mapping[str, Any] = jwt.decode(
            token,
            self._keys.get_signing_key(str(header.get("kid"))).key,
            algorithms=["RS256"],
            audience=self._audience,
            leeway=_SKEW_SECONDS,
            options={"require": ["exp", "iat", "iss", "aud", "sub"]},
        )
        if not claims["sub"]:
            raise jwt.InvalidTokenError("sub")
        return claims

    def _require_keys(self) -> None:
        try:
            self._keys.get_signing_keys()
        except (jwt.exceptions.PyJWTError, OSError, ValueError) as exc:
            raise self._unavailable(exc) from exc

    def _unavailable(self, exc: Exception) -> ServiceUnavailable:
        return ServiceUnavailable(f"the public keys for the {self._what} cannot be fetched: {exc}")


class _Keys(jwt.PyJWKClient):
    """Does not let requests wait, one after the other, for keys that cannot be fetched now."""

    def __init__(self, url: str) -> None:
        super().__init__(
            url, lifespan=_KEPT_SECONDS, timeout=_FETCH_SECONDS, cooldown_duration=_SECONDS_BETWEEN_FETCHES
        )
        self._not_before = 0.0
        self._failure: Exception = RuntimeError("nothing has failed")

    def get_signing_keys(self, refresh: bool = False) -> list[jwt.PyJWK]:
        with self._client_lock:
            return super().get_signing_keys(refresh)

    def fetch_data(self) -> Any:
        if time.monotonic() < self._not_before:
            raise jwt.exceptions.PyJWKClientConnectionError(str(self._failure))
        try:
            return super().fetch_data()
        except (jwt.exceptions.PyJWTError, OSError, ValueError) as exc:
            self._not_before, self._failure = time.monotonic() + _SECONDS_AFTER_FAILURE, exc
            raise jwt.exceptions.PyJWKClientConnectionError(str(exc)) from exc


class Doorkeeper:
    """Lets in the apps of one project, `apps` alone if any are named, and knows their users.

    `require_user`: a request needs a user. A user's token that is not good is refused also where none is required.
    """

    def __init__(self, app_check: Tokens, auth: Tokens, *, apps: frozenset[str], require_user: bool) -> None:
        self._app_check = app_check
        self._auth = auth
        self._apps = apps
        self._require_user = require_user

    def admit(self, headers: Headers) -> tuple[str, str]:
        """The app's id and the user's, which may be empty. Raises CallerRefused, ServiceUnavailable."""
        app = self._app_check.subject(headers.get(APP_CHECK_HEADER, "").strip())
        if self._apps and app not in self._apps:
            raise CallerRefused(403, f"the app {app} is not one of FIREBASE_APPS")
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if not scheme and not self._require_user:
            return app, ""
        if scheme.lower() != "bearer":
            raise CallerRefused(401, "Authorization: Bearer <ID token of Firebase Auth> is needed")
        return app, self._auth.subject(token.strip())
