"""What gateway reads from its environment."""

from __future__ import annotations

import dataclasses
import re

from dualdeploy.settings import VertexSettings, WebSettings, WrongSettings, setting

#: Where Google keeps the public keys of both kinds of tokens, as JWKS.
#: Source: https://firebase.google.com/docs/app-check/custom-resource-backend, https://firebase.google.com/docs/auth/admin/verify-id-tokens
APP_CHECK_KEYS_URL = "https://firebaseappcheck.googleapis.com/v1/jwks"
AUTH_KEYS_URL = "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com"

_GOOGLES = re.compile(r"https://[a-z.]+\.googleapis\.com/.*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatewaySettings(VertexSettings, WebSettings):
    """See each field's description. The limits hold for one instance: times the largest number of instances."""

    apps: str = setting(
        "FIREBASE_APPS", "app ids of Firebase that may ask, separated by commas; empty: each of the project", default=""
    )
    require_user: bool = setting(
        "REQUIRE_USER", "true: a request needs an ID token of Firebase Auth besides (anonymous will do)", default=False
    )
    origins: str = setting(
        "ALLOWED_ORIGINS",
        "origins (https://app.example.com) whose pages may ask, separated by commas; empty: no page of a browser",
        default="",
    )
    user_per_second: float = setting(
        "USER_PER_SECOND", "requests a second of one user, or of one address without a user", default=2.0, minimum=0.001
    )
    user_burst: int = setting("USER_BURST", "requests that a user may send at once", default=20, minimum=1)
    user_per_day: int = setting("USER_PER_DAY", "requests of one user in a day (UTC)", default=1000, minimum=1)
    app_per_second: float = setting("APP_PER_SECOND", "requests a second of one app", default=50.0, minimum=0.001)
    app_check_keys_url: str = setting(
        "APP_CHECK_KEYS_URL", "where App Check's public keys are", default=APP_CHECK_KEYS_URL
    )
    auth_keys_url: str = setting(
        "FIREBASE_AUTH_KEYS_URL", "where the public keys of Firebase Auth are", default=AUTH_KEYS_URL
    )
    auth_emulator_host: str = setting(
        "FIREBASE_AUTH_EMULATOR_HOST", "must not be set on Cloud Run: its tokens are not signed", default=""
    )

    def __post_init__(self) -> None:
        """Raises WrongSettings on Cloud Run where anyone but Google would say which tokens are good."""
        if not self.cloud_run_service:
            return
        faults = []
        if self.auth_emulator_host:
            faults.append("FIREBASE_AUTH_EMULATOR_HOST is set: tokens of an emulator are not signed; remove it")
        keys = {"APP_CHECK_KEYS_URL": self.app_check_keys_url, "FIREBASE_AUTH_KEYS_URL": self.auth_keys_url}
        faults += [
            f"{name}={url!r} is not an address of Google's: remove it, the default is"
            for name, url in keys.items()
            if not _GOOGLES.fullmatch(url)
        ]
        if self.vertex_emulator_host:
            faults.append("VERTEX_EMULATOR_HOST is set: an emulator does not serve users; remove it")
        if faults:
            raise WrongSettings("wrong environment for Cloud Run:\n  " + "\n  ".join(faults))
