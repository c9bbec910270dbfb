"""Firebase ML in memory."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Sequence

from dualdeploy.errors import RejectedByGoogle, ResourceConflict, ServiceUnavailable
from dualdeploy.google.firebase_ml import FirebaseModel
from support.fakes.failing import Faults


class FakeFirebaseMl:
    """Implements `dualdeploy.google.firebase_ml.FirebaseMl`; with `looks_locked=n` a new file is locked for n looks."""

    def __init__(self, *, faults: Faults | None = None, looks_locked: int = 0) -> None:
        self.faults = faults or Faults()
        self.models: dict[str, FirebaseModel] = {}
        #: Judges a file's URI; a text is Firebase's complaint about it.
        self.validate: Callable[[str], str] = lambda _uri: ""
        #: Gives the bytes behind a file's URI, of which `model_hash` is the SHA-256.
        self.file: Callable[[str], bytes] = lambda uri: f"file of {uri}".encode()
        self.looks_locked = looks_locked
        self._locks: dict[str, int] = {}
        self._ids = itertools.count(101)

    def find(self, display_name: str) -> FirebaseModel | None:
        def found() -> FirebaseModel | None:
            for model in self.models.values():
                if model.display_name == display_name:
                    return self._look(model)
            return None

        return self.faults.run("find", found)

    def create(self, display_name: str, *, gcs_uri: str, tags: Sequence[str]) -> FirebaseModel:
        def created() -> FirebaseModel:
            if any(model.display_name == display_name for model in self.models.values()):
                raise ResourceConflict(f"{display_name} exists")
            return self._store(str(next(self._ids)), display_name, gcs_uri, tags, published=False)

        return self.faults.run("create", created)

    def update(self, model_id: str, *, gcs_uri: str, tags: Sequence[str]) -> FirebaseModel:
        def updated() -> FirebaseModel:
            model = self._unlocked(model_id)
            return self._store(model_id, model.display_name, gcs_uri, tags, published=model.published)

        return self.faults.run("update", updated)

    def publish(self, model_id: str) -> FirebaseModel:
        def published() -> FirebaseModel:
            model = self._unlocked(model_id)
            if model.error:
                raise RejectedByGoogle(f"{model_id} is not verified: {model.error}")
            self.models[model_id] = dataclasses.replace(model, published=True)
            return self.models[model_id]

        return self.faults.run("publish", published)

    def all(self) -> list[FirebaseModel]:
        return self.faults.run("all", lambda: sorted(self.models.values(), key=lambda model: model.display_name))

    def download(self, model: FirebaseModel) -> bytes:
        def downloaded() -> bytes:
            if not self.models[model.id].published:
                raise RejectedByGoogle(f"{model.display_name} is not published")
            return self.file(self.models[model.id].gcs_uri)

        return self.faults.run("download", downloaded)

    def _unlocked(self, model_id: str) -> FirebaseModel:
        if model_id not in self.models:
            raise RejectedByGoogle(f"no model {model_id}")
        if self.models[model_id].locked:
            raise ServiceUnavailable(f"an operation works on model {model_id}")
        return self.models[model_id]

    def _store(
        self, model_id: str, display_name: str, gcs_uri: str, tags: Sequence[str], *, published: bool
    ) -> FirebaseModel:
        data = self.file(gcs_uri)
        digest = hashlib.sha256(data).hexdigest()
        error = self.validate(gcs_uri)
        locked = self.looks_locked > 0
        self._locks[model_id] = self.looks_locked
        self.models[model_id] = FirebaseModel(
            model_id, display_name, tuple(tags), published, locked, digest, len(data), gcs_uri, error
        )
        return self.models[model_id]

    def _look(self, model: FirebaseModel) -> FirebaseModel:
        left = self._locks.get(model.id, 0)
        self._locks[model.id] = max(0, left - 1)
        self.models[model.id] = dataclasses.replace(model, locked=left > 0)
        return self.models[model.id]
