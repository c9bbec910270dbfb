"""A service account's key for Firebase ML: where it is read from, and what is said of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from dualdeploy import settings
from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable
from dualdeploy.google.firebase_ml import credential_of_key
from dualdeploy.google.object_store import ABSENT
from dualdeploy.settings import WrongSettings
from mobile_publisher import signing_key
from mobile_publisher.settings import PublisherSettings
from support.fakes import MemoryObjectStore

#: What must be set, whatever it is.
ENVIRONMENT = {
    variable: "demo" for variable, is_required in settings.variables(PublisherSettings).items() if is_required
}


@pytest.fixture(scope="module")
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def key(private_key: rsa.RSAPrivateKey) -> bytes:
    """What `gcloud iam service-accounts keys create` writes."""
    pem = private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    document = {
        "type": "service_account",
        "client_email": "publisher@demo-project.iam.gserviceaccount.com",
        "private_key": pem.decode(),
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    return json.dumps(document).encode()


def read(**variables: str) -> PublisherSettings:
    return settings.load(PublisherSettings, ENVIRONMENT | variables)


def test_without_a_key_the_service_signs_as_itself() -> None:
    assert signing_key.reader(read()) is None


def test_the_key_is_read_from_the_file_that_the_secret_is_mounted_at(tmp_path: Path, key: bytes) -> None:
    path = tmp_path / "key"
    reader = signing_key.reader(read(FIREBASE_KEY_FILE=str(path)))
    assert reader is not None
    with pytest.raises(ServiceUnavailable, match=r"FIREBASE_KEY_FILE=.*/key cannot be read .*mount the secret there"):
        reader()
    path.write_bytes(key)
    assert reader() == key


def test_the_key_may_lie_in_a_bucket_with_a_warning(key: bytes, caplog: pytest.LogCaptureFixture) -> None:
    stores: dict[str, Any] = {}

    def store(bucket: str) -> MemoryObjectStore:
        return stores.setdefault(bucket, MemoryObjectStore(bucket))

    reader = signing_key.reader(read(FIREBASE_CREDENTIAL_URI="gs://secrets/firebase/key.json"), store=store)
    assert reader is not None
    with pytest.raises(ServiceUnavailable, match=r"gs://secrets/firebase/key.json is not there"):
        reader()
    store("secrets").put("firebase/key.json", key, expect=ABSENT)
    with caplog.at_level(logging.WARNING):
        assert reader() == key
    assert "put it into Secret Manager" in caplog.text
    assert "PRIVATE KEY" not in caplog.text


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"FIREBASE_KEY_FILE": "/secrets/key", "FIREBASE_CREDENTIAL_URI": "gs://b/key"}, "both set"),
        ({"FIREBASE_CREDENTIAL_URI": "secrets/key.json"}, "is not gs://BUCKET/NAME"),
        ({"FIREBASE_CREDENTIAL_URI": "gs://secrets"}, "is not gs://BUCKET/NAME"),
        ({"LEASE_SECONDS": "0"}, "LEASE_SECONDS='0' is wrong: must be at least 1"),
        ({"CONVERSION_TIMEOUT_SECONDS": "0"}, "CONVERSION_TIMEOUT_SECONDS='0' is wrong: must be at least 1"),
        ({"CONVERSION_MEMORY_MB": "-1"}, "CONVERSION_MEMORY_MB='-1' is wrong: must be at least 0"),
        ({"FIREBASE_ML_ENDS": "next year"}, "FIREBASE_ML_ENDS='next year' is not a day such as 2027-06-15"),
    ],
)
def test_a_wrong_setting_is_refused_at_the_start(variables: dict[str, str], complaint: str) -> None:
    with pytest.raises(WrongSettings, match=complaint):
        read(**variables)


def test_a_key_signs_without_asking_google(key: bytes, private_key: rsa.RSAPrivateKey) -> None:
    credential = credential_of_key(key)
    signature = credential.sign_bytes(b"url")
    private_key.public_key().verify(signature, b"url", padding.PKCS1v15(), hashes.SHA256())
    assert credential.signer_email == "publisher@demo-project.iam.gserviceaccount.com"


@pytest.mark.parametrize(
    "change",
    [{"private_key": "secret-that-is-no-key"}, {"type": "x", "token_uri": 1, "private_key": ""}, None, []],
    ids=repr,
)
def test_what_is_not_a_key_is_refused_without_a_word_of_it(key: bytes, change: Any) -> None:
    document = {**json.loads(key), **change} if isinstance(change, dict) else change
    with pytest.raises(RejectedByGoogle, match="not a service account key") as caught:
        credential_of_key(json.dumps(document).encode())
    assert "secret-that" not in str(caught.value)
    assert caught.value.__suppress_context__
