"""The key of a service account for Firebase ML, for teams that must use one.

None is needed otherwise: see `dualdeploy.google.firebase_ml`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from dualdeploy.errors import ServiceUnavailable
from dualdeploy.google.object_store import GcsObjectStore, ObjectMissing, ObjectStore
from mobile_publisher.settings import PublisherSettings

log = logging.getLogger(__name__)


def reader(
    settings: PublisherSettings, *, store: Callable[[str], ObjectStore] = GcsObjectStore
) -> Callable[[], bytes] | None:
    """What reads the configured key when it is first needed; None when there is none. `store` opens a bucket.

    The key comes anew with every process, so one that was rotated holds from the next instance on. A key that cannot be
    read raises ServiceUnavailable: the message waits until someone has mended the configuration, and is not lost.
    """
    if settings.firebase_key_file:
        return lambda: _mounted(Path(settings.firebase_key_file))
    if settings.firebase_credential_uri:
        bucket, _, name = settings.firebase_credential_uri.removeprefix("gs://").partition("/")
        return lambda: _in_bucket(store(bucket), name)
    return None


def _mounted(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ServiceUnavailable(
            f"FIREBASE_KEY_FILE={path} cannot be read ({exc.strerror}): mount the secret there"
        ) from exc


def _in_bucket(store: ObjectStore, name: str) -> bytes:
    log.warning(
        "the key for Firebase is read from %s, as everyone can who may read that bucket: put it into Secret Manager"
        " and set FIREBASE_KEY_FILE, or delete it, since this service signs without a key",
        store.uri(name),
    )
    try:
        return store.read(name).data
    except ObjectMissing as exc:
        raise ServiceUnavailable(f"FIREBASE_CREDENTIAL_URI={store.uri(name)} is not there") from exc
