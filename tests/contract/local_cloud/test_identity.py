"""Identity tokens of the local cloud, judged by google-auth and by what the services ask of a caller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests
from google.auth.transport.requests import Request
from google.oauth2 import id_token

from dualdeploy.http.callers import CallerRefused, Callers
from dualdeploy.http.certificates import Certificates
from local_cloud.cloud import LocalCloud
from local_cloud.identity import TokenMint


def test_google_auth_verifies_a_token_with_the_certificates(cloud: LocalCloud) -> None:
    token = cloud.mint.token("caller@demo.iam.gserviceaccount.com", "http://127.0.0.1:8080")

    claims = id_token.verify_token(
        token, Request(), audience="http://127.0.0.1:8080", certs_url=cloud.environment()["GOOGLE_CERTS_URL"]
    )

    assert claims["email"] == "caller@demo.iam.gserviceaccount.com"
    assert claims["email_verified"] is True
    assert claims["iss"] == "https://accounts.google.com"
    with pytest.raises(ValueError, match="audience"):
        id_token.verify_token(token, Request(), audience="x", certs_url=cloud.environment()["GOOGLE_CERTS_URL"])


@pytest.mark.parametrize(
    ("service_name", "path"),
    [("training_launcher", "/events/object-finalized"), ("job_notifier", "/events/training-result")],
)
def test_eventarc_and_pubsub_deliver_with_a_token_that_the_service_accepts(
    cloud: LocalCloud, service: Any, service_name: str, path: str
) -> None:
    cloud.register_service(service_name, service.address)
    for key, name in (("data", "flowers/one.tfrecord"), ("models", "results/flowers-0/cloud.json")):
        bucket = cloud.topology.buckets[key].name
        upload = f"http://{cloud.storage.address}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}"
        requests.post(upload, data=b"x", timeout=5).raise_for_status()

    headers, _ = service.wait_for(path)

    callers = Callers(
        audiences=[f"http://{service.address}"],
        event_senders=[cloud.topology.caller_of(service_name)],
        certificates=Certificates(cloud.environment()["GOOGLE_CERTS_URL"]),
    )
    lower = {name.lower(): value for name, value in headers.items()}
    assert callers.require_event_sender({"Authorization": lower["authorization"]})


def test_a_key_lasts_over_a_restart_and_differs_between_clouds(tmp_path: Path) -> None:
    token = TokenMint(tmp_path / "a").token("a@example.com", "x")
    assert TokenMint(tmp_path / "a").certificates() == TokenMint(tmp_path / "a").certificates()
    assert TokenMint(tmp_path / "a").token("a@example.com", "x").split(".")[0] == token.split(".")[0]
    assert set(TokenMint(tmp_path / "b").certificates()).isdisjoint(TokenMint(tmp_path / "a").certificates())
    assert (tmp_path / "a" / "identity.pem").stat().st_mode & 0o077 == 0


def test_a_person_can_have_a_token_too(cloud: LocalCloud) -> None:
    wanted = {"email": "jo@example.com", "audience": "http://127.0.0.1:1"}
    address = f"http://{cloud.control.address}/tokens"
    token = requests.post(address, json=wanted, timeout=5).json()["token"]
    callers = Callers(
        audiences=["http://127.0.0.1:1"],
        event_senders=[],
        certificates=Certificates(cloud.environment()["GOOGLE_CERTS_URL"]),
    )
    assert callers.identity({"Authorization": f"Bearer {token}"}) == "jo@example.com"
    with pytest.raises(CallerRefused):
        callers.require_event_sender({"Authorization": f"Bearer {token}"})
    assert requests.post(address, json={"email": "jo@example.com"}, timeout=5).status_code == 400
