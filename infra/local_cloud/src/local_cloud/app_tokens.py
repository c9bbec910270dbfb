"""Tokens that an app gets without credentials of Google Cloud: Firebase App Check, and Firebase Auth.

Judged by firebase_admin, whose checks of both take them. What a real device attests nothing here can attest: an app has
a debug token instead, as developers have.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

import flask

from local_cloud.api import Api, ApiError
from local_cloud.faults import Faults
from local_cloud.http import HttpServer
from local_cloud.iam import PROJECT_NUMBER
from local_cloud.identity import TokenMint

#: The one app that is registered here, and its debug token, which is not a secret.
APP = f"1:{PROJECT_NUMBER}:web:0123456789abcdef012345"
DEBUG_TOKEN = "00000000-0000-4000-8000-000000000000"  # noqa: S105  # of nothing but this cloud

_TOKEN_SECONDS = 3600


class AppTokens:
    """firebaseappcheck.googleapis.com, identitytoolkit.googleapis.com and where their public keys are, on one address.

    Sources: https://firebase.google.com/docs/reference/appcheck/rest, https://firebase.google.com/docs/reference/rest/auth
    """

    def __init__(self, mint: TokenMint, *, project: str, faults: Faults, port: int = 0) -> None:
        self._mint = mint
        self._project = project
        self.api = Api("app_tokens", faults=faults)
        operation = self.api.operation
        operation("firebaseappcheck.jwks.get", "GET", "/v1/jwks")(self.keys)
        operation(
            "firebaseappcheck.apps.exchangeDebugToken",
            "POST",
            "/v1/projects/<project>/apps/<app>:exchangeDebugToken",
            differs="one app and one debug token; the words of the refusal were not verified",
        )(self.exchange)
        operation("securetoken.jwks.get", "GET", "/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com")(
            self.keys
        )
        operation(
            "identitytoolkit.accounts.signUp", "POST", "/v1/accounts:signUp", differs="anonymous users only, never kept"
        )(self.sign_up)
        self._server = HttpServer(self.api.app, name="app-tokens", port=port, threads=4)
        self.address = self._server.address
        self.variables = {
            "APP_CHECK_KEYS_URL": f"http://{self.address}/v1/jwks",
            "FIREBASE_AUTH_KEYS_URL": (
                f"http://{self.address}/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com"
            ),
            "APP_CHECK_EMULATOR_HOST": self.address,
            "APP_CHECK_APP": APP,
            "APP_CHECK_DEBUG_TOKEN": DEBUG_TOKEN,
        }

    def start(self) -> AppTokens:
        self._server.start()
        return self

    def close(self) -> None:
        self._server.close()

    def keys(self) -> flask.Response:
        response = flask.jsonify(self._mint.jwks())
        response.headers["Cache-Control"] = "public, max-age=21600"
        return response

    def exchange(self, project: str, app: str) -> Any:
        body: Any = flask.request.get_json(force=True, silent=True)
        if not isinstance(body, dict) or not isinstance(body.get("debugToken"), str):
            raise ApiError(400, "INVALID_ARGUMENT", "debug_token is required")
        if project not in (self._project, PROJECT_NUMBER) or app != APP or body["debugToken"] != DEBUG_TOKEN:
            raise ApiError(403, "PERMISSION_DENIED", "App attestation failed.")
        return {"token": self.app_check(app), "ttl": f"{_TOKEN_SECONDS}s"}

    def sign_up(self) -> Any:
        user = secrets.token_urlsafe(21)
        return {"idToken": self.user(user), "localId": user, "expiresIn": str(_TOKEN_SECONDS)}

    def app_check(self, app: str = APP, **claims: Any) -> str:
        """A token of App Check; `claims` change what it says."""
        audience = [f"projects/{PROJECT_NUMBER}", f"projects/{self._project}"]
        issuer = f"https://firebaseappcheck.googleapis.com/{PROJECT_NUMBER}"
        return self._signed({"sub": app, "aud": audience, "iss": issuer, **claims})

    def user(self, user: str, **claims: Any) -> str:
        """An ID token of a user of Firebase Auth."""
        issuer = f"https://securetoken.google.com/{self._project}"
        said = {"sub": user, "user_id": user, "aud": self._project, "iss": issuer, "auth_time": int(time.time())}
        return self._signed({**said, **claims})

    def _signed(self, claims: dict[str, Any]) -> str:
        now = int(time.time())
        return self._mint.signed({"iat": now, "exp": now + _TOKEN_SECONDS, **claims})
