"""Google's accounts: identity tokens of the accounts that deliver events, and certificates to verify them with.

The key is this cloud's own and never leaves its state folder; tokens and certificates have Google's format.
"""

from __future__ import annotations

import base64
import collections
import datetime
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flask
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID
from google.auth import crypt, jwt

from local_cloud.api import Api
from local_cloud.faults import Faults
from local_cloud.http import HttpServer

#: Google's last for an hour.
_TOKEN_SECONDS = 3600
#: A token is used for many deliveries, as Google's are: signing takes a millisecond of processor time.
_REUSED_SECONDS = 600
_CERTIFICATE_DAYS = 3650


_REMEMBERED_SIGNATURES = 1000


class TokenMint:
    """Signs identity tokens with a key of its own, made at the first token and kept in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._key: rsa.RSAPrivateKey | None = None
        self._signer: crypt.RSASigner | None = None
        self._tokens: dict[tuple[str, str], tuple[float, str]] = {}
        self._signatures: collections.deque[bytes] = collections.deque(maxlen=_REMEMBERED_SIGNATURES)

    def token(self, email: str, audience: str) -> str:
        """An identity token of the account `email`, made out to `audience`."""
        with self._lock:
            made, text = self._tokens.get((email, audience), (0.0, ""))
            now = time.time()
            if now - made > _REUSED_SECONDS:
                text = self._sign(email, audience, int(now))
                self._tokens[email, audience] = (now, text)
            return text

    def certificates(self) -> dict[str, str]:
        """Certificates in PEM by key id, as https://www.googleapis.com/oauth2/v1/certs has them."""
        with self._lock:
            key = self._own_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "local-cloud.identity")])
        made = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(made)
            .not_valid_after(made + datetime.timedelta(days=_CERTIFICATE_DAYS))
            .sign(key, hashes.SHA256())
        )
        return {_key_id(key): certificate.public_bytes(serialization.Encoding.PEM).decode()}

    def sign(self, payload: bytes) -> tuple[str, bytes]:
        """The key's id and its signature of `payload`, as IAM's signBlob makes one (RSA, SHA-256)."""
        with self._lock:
            key = self._own_key()
            signature = key.sign(payload, padding.PKCS1v15(), hashes.SHA256())
            self._signatures.append(signature)
        return _key_id(key), signature

    def has_signed(self, signature: bytes) -> bool:
        """Whether a signature is one of the last that `sign` made."""
        with self._lock:
            return signature in self._signatures

    def jwks(self) -> dict[str, Any]:
        """The public key as a JSON Web Key Set, as App Check and Firebase Auth have theirs."""
        with self._lock:
            key = self._own_key()
        numbers = key.public_key().public_numbers()
        modulus, exponent = _base64_of(numbers.n), _base64_of(numbers.e)
        return {
            "keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": _key_id(key), "n": modulus, "e": exponent}]
        }

    def signed(self, claims: Mapping[str, Any]) -> str:
        """A token that says just this."""
        with self._lock:
            return self._encode(claims)

    def _sign(self, email: str, audience: str, now: int) -> str:
        # Source of the claims: https://cloud.google.com/pubsub/docs/authenticate-push-subscriptions
        claims = {
            "aud": audience,
            "azp": email,
            "email": email,
            "email_verified": True,
            "exp": now + _TOKEN_SECONDS,
            "iat": now,
            "iss": "https://accounts.google.com",
            "sub": email,
        }
        return self._encode(claims)

    def _encode(self, claims: Mapping[str, Any]) -> str:
        if self._signer is None:  # reading a key checks it, which takes longer than anything else here
            key = self._own_key()
            pem = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
            self._signer = crypt.RSASigner.from_string(pem, _key_id(key))
        return bytes(jwt.encode(self._signer, claims)).decode()

    def _own_key(self) -> rsa.RSAPrivateKey:
        if self._key is None:
            self._key = _kept_key(self._folder / "identity.pem")
        return self._key


class Identity:
    """The mint's certificates over HTTP, for GOOGLE_CERTS_URL."""

    def __init__(self, mint: TokenMint, *, faults: Faults, port: int = 0) -> None:
        self._mint = mint
        self.api = Api("identity", faults=faults)
        self.api.operation("oauth2.certs", "GET", "/oauth2/v1/certs")(self.certificates)
        self._server = HttpServer(self.api.app, name="identity", port=port, threads=2)
        self.address = self._server.address
        self.certs_url = f"http://{self.address}/oauth2/v1/certs"

    def start(self) -> Identity:
        self._server.start()
        return self

    def close(self) -> None:
        self._server.close()

    def certificates(self) -> flask.Response:
        response = flask.jsonify(self._mint.certificates())
        response.headers["Cache-Control"] = "public, max-age=3600, must-revalidate, no-transform"
        return response


def _kept_key(path: Path) -> rsa.RSAPrivateKey:
    if path.exists():
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ValueError(f"{path} is not an RSA key: delete it, and a new one is made")
        return key
    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(
            made.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    temporary.replace(path)
    return made


def _base64_of(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()


def _key_id(key: rsa.RSAPrivateKey) -> str:
    return f"{key.public_key().public_numbers().n & (1 << 160) - 1:040x}"
