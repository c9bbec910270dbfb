"""Who uses the console: as Identity-Aware Proxy signs it, or as Cloud Run has checked it.

Source: https://cloud.google.com/iap/docs/signed-headers-howto
"""

from __future__ import annotations

import jwt

from console.settings import ConsoleSettings
from dualdeploy.errors import ServiceUnavailable
from dualdeploy.http.callers import CallerRefused, Callers, Headers
from dualdeploy.http.certificates import Certificates

_ASSERTION = "X-Goog-IAP-JWT-Assertion"
_ISSUER = "https://cloud.google.com/iap"
_SKEW_SECONDS, _FETCH_SECONDS = 30.0, 3.0


class Persons:
    """Their e-mail addresses; empty where a request does not say who sends it."""

    def __init__(self, settings: ConsoleSettings) -> None:
        self._audience = settings.iap_audience
        self._keys = jwt.PyJWKClient(settings.iap_keys_url, lifespan=3600, timeout=_FETCH_SECONDS)
        self._alone = settings.person
        self._callers = Callers(
            audiences=[],
            event_senders=[],
            certificates=Certificates(settings.google_certs_url),
            cloud_run_checks_tokens=settings.cloud_run_checks_tokens,
        )

    def of(self, headers: Headers) -> str:
        """Raises CallerRefused, or ServiceUnavailable when a signature cannot be checked now."""
        if self._audience:
            return self._through_iap(headers.get(_ASSERTION, ""))
        return self._callers.identity(headers) or self._alone

    def _through_iap(self, assertion: str) -> str:
        if not assertion:
            raise CallerRefused(401, "no one came through Identity-Aware Proxy: use its address")
        try:
            key = self._keys.get_signing_key_from_jwt(assertion).key
            claims = jwt.decode(
                assertion,
                key,
                algorithms=["ES256"],
                audience=self._audience,
                issuer=_ISSUER,
                leeway=_SKEW_SECONDS,
                options={"require": ["exp", "iat", "aud", "iss", "email"]},
            )
        except jwt.exceptions.PyJWKClientConnectionError as exc:
            raise ServiceUnavailable(f"the keys of Identity-Aware Proxy cannot be fetched: {exc}") from exc
        except (jwt.exceptions.PyJWTError, ValueError, TypeError, RecursionError) as exc:
            raise CallerRefused(401, f"the token of Identity-Aware Proxy is not valid: {type(exc).__name__}") from None
        return str(claims["email"])[:200]
