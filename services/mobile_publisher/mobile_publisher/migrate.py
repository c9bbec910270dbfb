"""`dualdeploy firebase-migrate`: bring the models that Firebase ML hosts to channel `firebase-storage`, before it ends.

For each published model: download what phones get, check it against Firebase's own checksum, store it with a manifest
under a version made of its content, read it back, and let the pointer name it. All that this knows of its progress is
what lies in the bucket, so it can be ended anywhere and begun again. A pointer that mobile_publisher moved stays.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from dualdeploy.errors import DualDeployError
from dualdeploy.google.firebase_ml import FirebaseModel, HostedModels
from dualdeploy.google.object_store import ObjectStore
from mobile_publisher import manifest, on_device, tflite_metadata
from mobile_publisher.storage_channel import StorageChannel

#: Where `infra/topology.json` lets phones read.
BUCKET = "{project}-mobile"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)


class NotTheSameFile(DualDeployError):
    """What was downloaded, or what lies in the bucket, does not have the checksum that it should have."""


@dataclasses.dataclass(frozen=True)
class Migrated:
    """What became of one model. `copied` and `there` are good ends, `skipped` has nothing to copy."""

    name: str
    outcome: Literal["copied", "there", "skipped", "failed"]
    note: str
    version: str = ""
    size_bytes: int = 0


class Migration:
    """Copies one model after another; one that fails does not keep the others."""

    def __init__(self, models: HostedModels, bucket: ObjectStore, *, project: str) -> None:
        self._models = models
        self._project = project
        # Nothing is exported here: only the bucket of the phones is touched.
        self._channel = StorageChannel(models=bucket, bucket=bucket)

    def run(self) -> Iterator[Migrated]:
        """Copy all models of the project. Raises DualDeployError when they cannot even be listed."""
        for model in self._models.all():
            try:
                yield self._migrate(model)
            except DualDeployError as exc:
                yield Migrated(model.display_name, "failed", f"{exc}; run this again")

    def _migrate(self, model: FirebaseModel) -> Migrated:
        name = model.display_name
        if model.locked:
            return Migrated(name, "failed", "Firebase is at work on it: run this again in a minute")
        if not model.published:
            why = f"its file is bad: {model.error}" if model.error else "no phone can load it"
            return Migrated(name, "skipped", f"not published, {why}")
        known = model.model_hash.lower()
        there = self._there(name, known) if _SHA256.fullmatch(known) else None
        if there is None:
            described = self._copy(model, known)
            outcome: Literal["copied", "there"] = "copied"
        else:
            described, outcome = there, "there"
        note = self._point(name, described)
        return Migrated(name, outcome, note, str(described["version"]), int(described["size"]))

    def _there(self, name: str, sha256: str) -> dict[str, Any] | None:
        """The manifest of an earlier copy of just this file."""
        stored = self._channel.stored(name, manifest.imported_version(sha256))
        if stored is None:
            return None
        described, tflite = stored
        if described.get("sha256") != sha256 or _digest(tflite) != sha256:
            version = manifest.imported_version(sha256)
            raise NotTheSameFile(f"{version} in the bucket is not what Firebase has; delete it")
        return dict(described)

    def _copy(self, model: FirebaseModel, known: str) -> dict[str, Any]:
        tflite = self._models.download(model)
        sha256 = _digest(tflite)
        if _SHA256.fullmatch(known) and sha256 != known:
            raise NotTheSameFile(f"the downloaded file has the checksum {sha256[:12]}…, Firebase says {known[:12]}…")
        described = manifest.imported(
            name=model.display_name,
            source=f"projects/{self._project}/models/{model.id}",
            sha256=sha256,
            size_bytes=len(tflite),
            labels=_labels(tflite),
            tensors=_tensors(tflite),
            # Of the model and not of now: a copy that is made again must be the same to the byte.
            created=model.created or _EPOCH,
        )
        self._channel.store(model.display_name, described, manifest.encode(described), tflite)
        if self._there(model.display_name, sha256) is None:
            raise NotTheSameFile(f"{described['version']} was written and is not there")
        return described

    def _point(self, name: str, described: dict[str, Any]) -> str:
        pointer = self._channel.latest(name)
        version = str((pointer or {}).get("version", ""))
        if version and not version.startswith(manifest.IMPORTED):
            return f"the pointer stays at {version}, which mobile_publisher published"
        self._channel.point(name, str(described["version"]))
        return f"{self._channel.uri(name)} points at it"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _labels(tflite: bytes) -> Sequence[str]:
    try:
        return tflite_metadata.read(tflite).labels
    except tflite_metadata.MetadataError:
        return ()


def _tensors(tflite: bytes) -> dict[str, Any]:
    try:
        return on_device.tensors(tflite)
    except on_device.UnusableModel:
        # Operators that only its app has, perhaps. Phones run it today.
        return {}
