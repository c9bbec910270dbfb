"""Signing for Firebase ML as Cloud Run does it: by impersonation of itself through IAM, without any key."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import google.auth
import google.auth.transport.requests
import pytest
from google.auth import credentials, iam

from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable, SigningRefused
from dualdeploy.google import firebase_ml as firebase

PUBLISHER = "mobile-publisher@demo-project.iam.gserviceaccount.com"


class OfTheMetadataServer(credentials.Credentials):  # type: ignore[misc]  # google.auth is half typed
    """What Cloud Run gives a service: cannot sign, and learns only by a refresh whose it is."""

    def __init__(self, becomes: str) -> None:
        super().__init__()
        self.service_account_email = "default"
        self._becomes = becomes

    def refresh(self, request: Any) -> None:  # the interface of google.auth
        self.token = "token-of-the-service"  # noqa: S105  # of nobody
        self.service_account_email = self._becomes


class Iam:
    """iamcredentials.googleapis.com: signs whatever it is asked to, and remembers it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes]] = []
        #: The status that everything is refused with, if any.
        self.refuses: tuple[int, str] | None = None
        iam_service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if iam_service.refuses:
                    code, status = iam_service.refuses
                    self._answer(code, {"error": {"code": code, "status": status, "message": "Permission denied"}})
                    return
                payload = base64.b64decode(request["payload"])
                iam_service.asked.append((self.path, self.headers["Authorization"], payload))
                self._answer(200, {"signedBlob": base64.b64encode(b"signed:" + payload).decode()})

            def _answer(self, status: int, document: dict[str, Any]) -> None:
                answer = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_arguments: object) -> None:
                """Quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def iam_service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Iam]:
    service = Iam()
    account = f"{service.address}/v1/projects/-/serviceAccounts/{{}}"
    monkeypatch.setattr(iam, "_IAM_SIGN_ENDPOINT", f"{account}:signBlob")
    monkeypatch.setattr(iam, "_IAM_ENDPOINT", f"{account}:generateAccessToken")
    firebase._impersonating_signer.cache_clear()
    yield service
    firebase._impersonating_signer.cache_clear()
    service.close()


def on_cloud_run_as(email: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(google.auth, "default", lambda **_: (OfTheMetadataServer(email), "demo-project"))


@pytest.mark.parametrize("configured", ["", "signer@demo-project.iam.gserviceaccount.com"])
def test_a_service_without_a_key_has_iam_sign_as_itself_or_as_the_account_it_is_told(
    configured: str, iam_service: Iam, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cloud_run_as(PUBLISHER, monkeypatch)
    signer = firebase._impersonating_signer(configured)
    # What `generate_signed_url` asks of a credential, for the URL that Firebase fetches the file by.
    assert isinstance(signer, credentials.Signing)
    assert signer.signer_email == (configured or PUBLISHER)
    assert signer.sign_bytes(b"a URL") == b"signed:a URL"
    path = f"/v1/projects/-/serviceAccounts/{configured or PUBLISHER}:signBlob"
    assert iam_service.asked == [(path, "Bearer token-of-the-service", b"a URL")]


def test_a_machine_that_does_not_know_whose_it_is_is_told_what_to_set(
    iam_service: Iam, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cloud_run_as("default", monkeypatch)
    with pytest.raises(RejectedByGoogle, match="set FIREBASE_SIGNER"):
        firebase._impersonating_signer("")
    assert iam_service.asked == []


CALLS: dict[str, Callable[[Any], Any]] = {
    "a signature": lambda signer: signer.sign_bytes(b"a URL"),
    "a token": lambda signer: signer.refresh(google.auth.transport.requests.Request()),
}


@pytest.mark.parametrize("wanted", CALLS)
def test_a_right_that_is_missing_is_told_with_the_command_that_gives_it(
    wanted: str, iam_service: Iam, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cloud_run_as(PUBLISHER, monkeypatch)
    iam_service.refuses = (403, "PERMISSION_DENIED")
    signer = firebase._impersonating_signer("")
    with pytest.raises(SigningRefused) as caught:
        firebase._call("create flowers", lambda: CALLS[wanted](signer))
    assert (
        f"gcloud iam service-accounts add-iam-policy-binding {PUBLISHER} --member=serviceAccount:{PUBLISHER}"
        " --role=roles/iam.serviceAccountTokenCreator"
    ) in str(caught.value)


@pytest.mark.parametrize("wanted", CALLS)
def test_an_iam_that_has_too_much_to_do_is_not_a_missing_permission(
    wanted: str, iam_service: Iam, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cloud_run_as(PUBLISHER, monkeypatch)
    iam_service.refuses = (429, "RESOURCE_EXHAUSTED")
    signer = firebase._impersonating_signer("")
    with pytest.raises(ServiceUnavailable) as caught:
        firebase._call("create flowers", lambda: CALLS[wanted](signer))
    assert not isinstance(caught.value, SigningRefused)
