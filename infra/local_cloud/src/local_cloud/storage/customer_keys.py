"""Objects under a key that only their owner has: a reader has to bring it.

Source: https://cloud.google.com/storage/docs/encryption/customer-supplied-keys
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

from local_cloud.storage.errors import invalid
from local_cloud.storage.records import StoredObject

_KEY_BYTES = 32


class Headers(Protocol):
    def get(self, key: str, /) -> str | None: ...


def encryption_of(headers: Headers) -> dict[str, Any]:
    """The property of an object that is written with these headers; empty without a key."""
    digest = _digest(headers)
    return {"customerEncryption": {"encryptionAlgorithm": "AES256", "keySha256": digest}} if digest else {}


def has_key(stored: StoredObject, headers: Headers) -> bool:
    """Whether the headers bring what the object was written with; true for an object without a key of its own."""
    kept = stored.properties.get("customerEncryption")
    return not isinstance(kept, Mapping) or kept["keySha256"] == _digest(headers)


def require_key(stored: StoredObject, headers: Headers) -> None:
    """Refuse to read an object whose key is missing or wrong."""
    if has_key(stored, headers):
        return
    if _digest(headers):
        raise invalid("The provided encryption key is incorrect.", reason="customerEncryptionKeyIsIncorrect")
    raise invalid(
        "The target object is encrypted by a customer-supplied encryption key.",
        reason="resourceIsEncryptedWithCustomerEncryptionKey",
    )


def _digest(headers: Headers) -> str:
    """SHA-256 of the key, base64; empty without a key. The key itself is checked and forgotten."""
    key = headers.get("X-Goog-Encryption-Key")
    if not key:
        return ""
    try:
        decoded = base64.b64decode(key, validate=True)
    except binascii.Error:
        decoded = b""
    digest = base64.b64encode(hashlib.sha256(decoded).digest()).decode()
    sent = headers.get("X-Goog-Encryption-Key-Sha256")
    if headers.get("X-Goog-Encryption-Algorithm") != "AES256" or len(decoded) != _KEY_BYTES or sent != digest:
        raise invalid(
            "Missing or malformed customer-supplied encryption key.", reason="customerEncryptionKeyFormatIsInvalid"
        )
    return digest
