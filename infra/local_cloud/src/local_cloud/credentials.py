"""How a process on Google Cloud learns whose it is, and signs without a key: metadata server and IAM Credentials.

Judged by google-auth. A token says whose it is and is no secret: this is a cloud against mistakes, not against thieves.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterator
from typing import Any

import flask

from local_cloud.api import Api, ApiError, caller
from local_cloud.faults import Faults
from local_cloud.http import HttpServer
from local_cloud.iam import PROJECT_NUMBER, Gate, Iam, refusals
from local_cloud.identity import TokenMint

_ROOT = "/computeMetadata/v1"
_ACCOUNT = f"{_ROOT}/instance/service-accounts/<account>"
_FLAVOR = {"Metadata-Flavor": "Google"}
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_TOKEN_SECONDS = 3600
_TOKEN = "local-cloud-token-of-"  # noqa: S105  # what is before the account's address, and no secret
_ACCOUNTS = "/v1/projects/-/serviceAccounts/<account>"


class MetadataServer:
    """The metadata server of each caller's machine, for GCE_METADATA_HOST; only service accounts have one.

    Source: https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys
    """

    def __init__(self, *, faults: Faults, iam: Iam, mint: TokenMint) -> None:
        self._iam = iam
        self._mint = mint
        self.api = Api("metadata", faults=faults)
        operation = self.api.operation
        operation("metadata.ping", "GET", "/")(lambda: _text(""))
        operation("metadata.project.get", "GET", f"{_ROOT}/project/project-id")(lambda: _text(iam.project))
        operation("metadata.project.getNumber", "GET", f"{_ROOT}/project/numeric-project-id")(
            lambda: _text(PROJECT_NUMBER)
        )
        operation("metadata.universe.get", "GET", f"{_ROOT}/universe/universe-domain")(lambda: _text("googleapis.com"))
        operation("metadata.account.get", "GET", f"{_ACCOUNT}/", differs="always recursive")(self.account)
        operation("metadata.account.getEmail", "GET", f"{_ACCOUNT}/email")(lambda account: _text(self._email(account)))
        operation("metadata.account.getToken", "GET", f"{_ACCOUNT}/token", differs="a token is the account's name")(
            self.token
        )
        operation("metadata.account.getIdentity", "GET", f"{_ACCOUNT}/identity")(self.identity)
        members = [each for each in iam.callers if each.startswith("serviceAccount:")]
        self._server = HttpServer(self.api.app, name="metadata", threads=4, callers=members or iam.callers)
        self.addresses = self._server.addresses

    def start(self) -> MetadataServer:
        self._server.start()
        return self

    def close(self) -> None:
        self._server.close()

    def account(self, account: str) -> flask.Response:
        email = self._email(account)
        return _json({"aliases": ["default"], "email": email, "scopes": [_SCOPE]})

    def token(self, account: str) -> flask.Response:
        token = f"{_TOKEN}{self._email(account)}"
        return _json({"access_token": token, "expires_in": _TOKEN_SECONDS - 1, "token_type": "Bearer"})

    def identity(self, account: str) -> flask.Response:
        audience = flask.request.args.get("audience", "")
        if not audience:
            raise ApiError(400, "INVALID_ARGUMENT", "non-empty audience parameter required")
        return _text(self._mint.token(self._email(account), audience))

    def _email(self, account: str) -> str:
        """The machine's one account, by whichever of its names. Raises ApiError 404 for another or a disabled one."""
        if flask.request.headers.get("Metadata-Flavor") != "Google":
            raise ApiError(403, "PERMISSION_DENIED", "Missing Metadata-Flavor:Google header.")
        email = caller().partition(":")[2]
        if account not in {"default", email} or self._iam.accounts.get(email):
            raise ApiError(404, "NOT_FOUND", f"{account} is not an account of this machine, or is disabled.")
        return email


class IamCredentials:
    """iamcredentials.googleapis.com for IAM_CREDENTIALS_EMULATOR_HOST; who asks is told by the token."""

    def __init__(self, *, faults: Faults, iam: Iam, mint: TokenMint, port: int = 0) -> None:
        self._iam = iam
        self._mint = mint
        self.api = Api(
            "iam_credentials",
            faults=faults,
            gate=Gate(iam, self._resources_of),
            refuse=refusals.of_iam_credentials,
            caller=_bearer,
        )
        self.api.operation("iamcredentials.generateAccessToken", "POST", f"{_ACCOUNTS}:generateAccessToken")(
            self.generate_access_token
        )
        self.api.operation(
            "iamcredentials.signBlob", "POST", f"{_ACCOUNTS}:signBlob", differs="signed with the local cloud's one key"
        )(self.sign_blob)
        self._server = HttpServer(self.api.app, name="iam-credentials", port=port, threads=4)
        self.address = self._server.address

    def start(self) -> IamCredentials:
        self._server.start()
        return self

    def close(self) -> None:
        self._server.close()

    def _resources_of(self, _kind: str, request: flask.Request) -> Iterator[str]:
        yield f"projects/{self._iam.project}/serviceAccounts/{(request.view_args or {})['account']}"

    def generate_access_token(self, account: str) -> Any:
        ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=_TOKEN_SECONDS)
        return {"accessToken": f"{_TOKEN}{account}", "expireTime": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}

    def sign_blob(self, account: str) -> Any:
        del account  # there is one key for all
        body: Any = flask.request.get_json(force=True, silent=True)
        try:
            payload = base64.b64decode(body["payload"], validate=True)
        except (TypeError, KeyError, ValueError):
            raise ApiError(400, "INVALID_ARGUMENT", "payload must be bytes in base64.") from None
        key_id, signature = self._mint.sign(payload)
        return {"keyId": key_id, "signedBlob": base64.b64encode(signature).decode()}


def _bearer() -> str:
    """Whose token came along. Raises ApiError 401 for none of ours."""
    kind, _, token = flask.request.headers.get("Authorization", "").partition(" ")
    if kind != "Bearer" or not token.startswith(_TOKEN):
        raise ApiError(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
    return f"serviceAccount:{token.removeprefix(_TOKEN)}"


def _text(text: str) -> flask.Response:
    return flask.Response(text, headers=_FLAVOR, content_type="application/text")


def _json(document: dict[str, Any]) -> flask.Response:
    response = flask.jsonify(document)
    response.headers.update(_FLAVOR)
    return response
