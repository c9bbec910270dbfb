"""Channel `firebase-storage`: files that never change and one pointer, in a bucket that phones read over HTTPS.

    models/<name>/<version>/model.tflite      always the same bytes, cached for a year
    models/<name>/<version>/manifest.json     what they are
    models/<name>/latest.json                 which version to use now, never cached
    models/<name>/routing/<version>.json      when to ask the cloud model, cached for minutes (`routings`)

The pointer is moved by compare-and-swap after both files of its version are there: a phone sees the old version or the
new one, whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from dualdeploy.contracts.routing import MAX_AGE_SECONDS
from dualdeploy.errors import CannotEverSucceed, LedgerContention
from dualdeploy.google.object_store import ABSENT, Generation, GenerationChanged, ObjectMissing, ObjectStore

if TYPE_CHECKING:
    from mobile_publisher.release import File

#: A year, the longest that HTTP caches honour. Source: RFC 9111; `immutable`: RFC 8246.
IMMUTABLE = "public, max-age=31536000, immutable"
#: Cloud Storage caches public objects for an hour unless told otherwise. Source: cloud.google.com/storage/docs/caching
ALWAYS_FRESH = "no-cache, max-age=0"

_FOR_MINUTES = f"public, max-age={MAX_AGE_SECONDS}"

#: What a pointer takes from a manifest.
_NEEDED = frozenset({"version", "sha256", "size"})


class VersionTaken(CannotEverSucceed):
    """The bucket holds other bytes under a version's name, which was promised never to change."""


class NoManifest(CannotEverSucceed):
    """What lies in a manifest's place does not say which version it is, nor how to check the file."""


class PointerMoved(CannotEverSucceed):
    """Someone moved the pointer by hand: it is theirs now, and is not moved back behind them."""


class StorageChannel:
    """`models` is the bucket that exports lie in, `bucket` the one that phones read."""

    def __init__(self, *, models: ObjectStore, bucket: ObjectStore) -> None:
        self._models = models
        self._bucket = bucket

    def upload(self, name: str, file: File) -> None:
        """Copy a file and its manifest to their places. Repeating it changes nothing.

        Raises VersionTaken, and CannotEverSucceed when the file is gone from the models bucket and was never copied.
        """
        try:
            described = self._models.read(self._inside(file.manifest))
            tflite = self._models.read(self._inside(file.uri))
        except ObjectMissing as exc:
            # What phones had before may have been cleaned up there since; here it stays.
            if self.holds(name, file.version):
                return
            raise CannotEverSucceed(f"{file.uri} is gone, so it cannot be published: export it again") from exc
        self.store(name, json.loads(described.data), described.data, tflite.data)

    def store(self, name: str, manifest: Mapping[str, Any], described: bytes, tflite: bytes) -> None:
        """Put a version's file and its manifest (`described` are the latter's bytes) where nothing points at them yet.

        Raises VersionTaken.
        """
        folder = _folder(name, str(manifest["version"]))
        files = {
            # The manifest last: who finds it finds the file too.
            f"{folder}/model.tflite": (tflite, "application/octet-stream"),
            f"{folder}/manifest.json": (described, "application/json"),
        }
        for path, (content, content_type) in files.items():
            try:
                self._bucket.put(path, content, expect=ABSENT, content_type=content_type, cache_control=IMMUTABLE)
            except GenerationChanged as exc:
                raise VersionTaken(f"{self._bucket.uri(path)} holds something else: {exc}") from exc

    def stored(self, name: str, version: str) -> tuple[Mapping[str, Any], bytes] | None:
        """Manifest and file of a version as they lie there; None when it is not there whole.

        Raises NoManifest.
        """
        folder = _folder(name, version)
        try:
            return self._manifest(f"{folder}/manifest.json"), self._bucket.read(f"{folder}/model.tflite").data
        except ObjectMissing:
            return None

    def latest(self, name: str) -> Mapping[str, Any] | None:
        """The pointer as it is now; None when there is none, empty when what lies there is none."""
        return self._read_pointer(name)[0]

    def described(self, name: str) -> Mapping[str, Any] | None:
        """The manifest of the version that the pointer names; None where it names none, empty where there is none."""
        version = named(self.latest(name))
        if not version:
            return None
        try:
            return self._manifest(f"{_folder(name, version)}/manifest.json")
        except (ObjectMissing, NoManifest):
            return {}

    def holds(self, name: str, version: str) -> bool:
        """Whether a version is there, whole: its manifest is written last."""
        try:
            self._bucket.read(f"{_folder(name, version)}/manifest.json")
        except ObjectMissing:
            return False
        return True

    def check(self, name: str, *, among: Collection[str]) -> None:
        """Raise PointerMoved if the pointer names a version that is not `among` these."""
        _refuse_other_hands(self.uri(name), named(self.latest(name)), among)

    def point(
        self, name: str, version: str, *, among: Collection[str] = (), guard: Callable[[], None] = lambda: None
    ) -> None:
        """Make a version the latest; repeating it changes nothing.

        With `among`, PointerMoved is raised if the pointer names neither that version nor one of these. `guard` is
        called between look and write, and raises if nothing may be written any more. Raises LedgerContention when
        someone just moved the pointer, and CannotEverSucceed when the version is not there.
        """
        current, generation = self._read_pointer(name)
        if named(current) == version:
            return
        if among:
            _refuse_other_hands(self.uri(name), named(current), among)
        folder = _folder(name, version)
        try:
            manifest = self._manifest(f"{folder}/manifest.json")
        except ObjectMissing as exc:
            gone = self._bucket.uri(f"{folder}/manifest.json")
            raise CannotEverSucceed(f"{gone} is gone, so {version} cannot be pointed at") from exc
        pointer = {
            "v": 1,
            "name": name,
            "version": version,
            "model": f"{folder}/model.tflite",
            "manifest": f"{folder}/manifest.json",
            "sha256": manifest["sha256"],
            "size": manifest["size"],
            "min_app_version": manifest.get("min_app_version", ""),
            "previous": named(current),
        }
        guard()
        try:
            self._bucket.put(_pointer(name), _encode(pointer), expect=generation, cache_control=ALWAYS_FRESH)
        except GenerationChanged as exc:
            raise LedgerContention(f"{self._bucket.uri(_pointer(name))} was moved by another instance") from exc

    def touch(self, name: str) -> None:
        """Write the pointer as it is: an instance that has looked at it before then cannot move it any more.

        Where there is no pointer there is nothing that could be written. Raises LedgerContention.
        """
        try:
            stored = self._bucket.read(_pointer(name))
            self._bucket.put(_pointer(name), stored.data, expect=stored.generation, cache_control=ALWAYS_FRESH)
        except ObjectMissing:
            return
        except GenerationChanged as exc:
            raise LedgerContention(f"{self._bucket.uri(_pointer(name))} was moved by another instance") from exc

    def tell(self, path: str, document: Mapping[str, Any], *, guard: Callable[[], None]) -> None:
        """Write an object that changes, whatever it says now. Repeating it changes nothing.

        `guard` is called between look and write, as for `point`. Raises LedgerContention.
        """
        generation = self._generation(path)
        guard()
        try:
            self._bucket.put(path, _encode(document), expect=generation, cache_control=_FOR_MINUTES)
        except GenerationChanged as exc:
            raise LedgerContention(f"{self._bucket.uri(path)} was written by another instance") from exc

    def withdraw(self, path: str, *, guard: Callable[[], None]) -> None:
        """Take such an object away; raises as `tell` does."""
        generation = self._generation(path)
        if generation == ABSENT:
            return
        guard()
        try:
            self._bucket.delete(path, expect=generation)
        except GenerationChanged as exc:
            raise LedgerContention(f"{self._bucket.uri(path)} was written by another instance") from exc

    def _generation(self, path: str) -> Generation:
        try:
            return self._bucket.read(path).generation
        except ObjectMissing:
            return ABSENT

    def uri(self, name: str) -> str:
        """Where the pointer lies."""
        return self._bucket.uri(_pointer(name))

    def _manifest(self, path: str) -> dict[str, Any]:
        try:
            manifest = json.loads(self._bucket.read(path).data)
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict) or not _NEEDED.issubset(manifest):
            raise NoManifest(f"{self._bucket.uri(path)} was overwritten and is not a manifest any more: delete it")
        return manifest

    def _read_pointer(self, name: str) -> tuple[dict[str, Any] | None, Generation]:
        try:
            stored = self._bucket.read(_pointer(name))
        except ObjectMissing:
            return None, ABSENT
        try:
            pointer = json.loads(stored.data)
        except ValueError:
            pointer = None
        # Whatever stands there, a pointer or someone's accident, is replaced under its generation.
        return (pointer if isinstance(pointer, dict) else {}), stored.generation

    def _inside(self, uri: str) -> str:
        return uri.removeprefix(self._models.uri(""))


def named(pointer: Mapping[str, Any] | None) -> str:
    """The version that a pointer names; empty when there is none, or it names none."""
    return str((pointer or {}).get("version", ""))


def _refuse_other_hands(uri: str, found: str, among: Collection[str]) -> None:
    # A pointer that names nothing is an accident, and no one's choice.
    if found and found not in among:
        expected = " or ".join(each for each in among if each) or "nothing"
        raise PointerMoved(f"{uri} was moved by hand: it names {found}, not {expected}; it stays so")


def _folder(name: str, version: str) -> str:
    return f"models/{name}/{version}"


def _pointer(name: str) -> str:
    return f"models/{name}/latest.json"


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=False).encode()
