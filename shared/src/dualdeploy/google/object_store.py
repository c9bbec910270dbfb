"""One bucket as a port: reads tell the generation, writes state which generation they expect.

There is no unconditional write: `expect` has no default, and `ABSENT` is `if_generation_match=0`, one call,
never `exists()` then write. Source of the semantics: https://cloud.google.com/storage/docs/request-preconditions
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import io
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NewType, Protocol, TypeVar

from dualdeploy import lazily
from dualdeploy.errors import DualDeployError, PermissionSpreads, RejectedByGoogle
from dualdeploy.google.calls import call
from dualdeploy.google.read_ahead import Pipe, ReadAhead

if TYPE_CHECKING:
    from google.cloud import storage

#: Version of an object's content; Cloud Storage never gives one out twice for the same name.
Generation = NewType("Generation", int)

#: "The object must not exist": Cloud Storage's own encoding of it.
ABSENT: Final = Generation(0)

#: Seconds that one HTTP call may take, and seconds after which a failed one is not repeated any more: a handler has
#: to answer well inside its acknowledgement deadline (60 s, infra/topology.json).
CALL_TIMEOUT = 10.0
RETRY_DEADLINE = 25.0

#: Requests that one process may have under way at a time without opening a connection for each.
CONNECTIONS = 32

Result = TypeVar("Result")


class ObjectMissing(DualDeployError):
    """There is no object of this name (or not at this generation)."""


class RangeIsEmpty(DualDeployError):
    """The object ends before the bytes that were asked for."""


class GenerationChanged(DualDeployError):
    """The object is not at the generation that the write expected: read again, decide again."""


@dataclasses.dataclass(frozen=True)
class StoredObject:
    data: bytes
    generation: Generation


@dataclasses.dataclass(frozen=True)
class ObjectSummary:
    """What a listing tells: `size` in bytes, `crc32c` base64 of the big-endian value, as Cloud Storage gives it.

    `created` is when this generation was written, `updated` also moves with its metadata. Without `crc32c`, the object
    is encrypted with a key that only its owner has.
    """

    name: str
    generation: Generation
    size: int
    crc32c: str
    updated: datetime.datetime
    created: datetime.datetime
    storage_class: str = "STANDARD"


class ObjectStore(Protocol):
    """A bucket. Besides what each method names, it raises what `google.errors` makes of Cloud Storage's answer."""

    def uri(self, name: str) -> str:
        """`gs://bucket/name`."""

    def read(self, name: str) -> StoredObject:
        """The current content. Raises ObjectMissing."""

    def open(self, name: str, *, generation: Generation, length: int | None = None) -> BinaryIO:
        """A stream over exactly this generation, or its first `length` bytes, as they are stored.

        Nothing is decompressed (`Content-Encoding: gzip`), so that bytes, sizes and checksums are those of a listing.
        The bytes may be fetched ahead of the reader. Raises ObjectMissing, here or at the first read, when it is gone.
        """

    def put(
        self,
        name: str,
        data: bytes,
        *,
        expect: Generation,
        content_type: str = "application/json",
        cache_control: str = "",
    ) -> Generation:
        """Write if the object is at `expect`. Raises GenerationChanged, unless it already holds just these bytes.

        A response can be lost after the write was done, and the client library then repeats the call and is told
        412. Equal bytes therefore count as written: who needs to know that it was the writer puts a token into them.
        `cache_control` is the header that readers over HTTP get; empty for Cloud Storage's own.
        """

    def delete(self, name: str, *, expect: Generation) -> None:
        """Delete if the object is at `expect`; an absent object is fine. Raises GenerationChanged."""

    def list(self, prefix: str, *, end: str = "") -> Iterator[ObjectSummary]:
        """The objects whose names begin with `prefix` and come before `end`, if that is given, in the order of their
        names; pages are fetched as needed."""


class GcsObjectStore:
    """A Cloud Storage bucket. The client is built on first use, once, and is shared by all threads.

    `call_timeout` and `retry_deadline` in seconds: one HTTP call, and a call with all its repetitions.
    """

    def __init__(
        self,
        bucket: str,
        *,
        client: Callable[[], storage.Client] | None = None,
        call_timeout: float = CALL_TIMEOUT,
        retry_deadline: float = RETRY_DEADLINE,
    ) -> None:
        self.bucket_name = bucket
        self._client = client or shared_client
        self._call_timeout = call_timeout
        self._retry_deadline = retry_deadline

    def uri(self, name: str) -> str:
        return f"gs://{self.bucket_name}/{name}"

    def read(self, name: str) -> StoredObject:
        blob = self._blob(name)
        data = _call(name, lambda: blob.download_as_bytes(**self._patience()))
        # The generation of the response that carried the data, so both belong together.
        return StoredObject(data, Generation(int(blob.generation)))

    def open(self, name: str, *, generation: Generation, length: int | None = None) -> BinaryIO:
        blob, patience = self._bucket().blob(name, generation=int(generation)), self._patience()

        def fetch(start: int, pipe: Pipe) -> None:
            if length is not None and start >= length:
                return
            # One request for all of it: raw, and without the client's checksum, which is that of the whole object.
            wanted = {"start": start or None, "end": None if length is None else length - 1}
            try:
                _call(
                    name,
                    lambda: blob.download_to_file(pipe, raw_download=True, checksum=None, **wanted, **patience),
                )
            except RangeIsEmpty:
                return

        return ReadAhead(fetch)  # type: ignore[return-value]  # it quacks for readers of bytes

    def put(
        self,
        name: str,
        data: bytes,
        *,
        expect: Generation,
        content_type: str = "application/json",
        cache_control: str = "",
    ) -> Generation:
        blob = self._blob(name)
        if cache_control:
            blob.cache_control = cache_control
        try:
            _call(
                name,
                lambda: blob.upload_from_string(
                    data,
                    content_type=content_type,
                    if_generation_match=int(expect),
                    checksum="crc32c",
                    **self._patience(),
                ),
            )
        except (GenerationChanged, PermissionSpreads, RejectedByGoogle) as refused:
            # Who may create and not replace (roles/storage.objectCreator) is refused for the lack of
            # storage.objects.delete where something is already; which Cloud Storage looks at first is not documented.
            if not isinstance(refused, GenerationChanged) and expect != ABSENT:
                raise
            return self._holding(name, data, refused)
        return Generation(int(blob.generation))

    def _holding(self, name: str, data: bytes, refused: DualDeployError) -> Generation:
        """The generation that holds just these bytes after all; raises what `refused` turns out to mean."""
        is_about_permission = not isinstance(refused, GenerationChanged)
        try:
            current = self.read(name)
        except ObjectMissing:
            if is_about_permission:
                raise refused from None
            raise GenerationChanged(f"{self.uri(name)} is gone that was expected: {refused}") from None
        if current.data == data:
            return current.generation
        if is_about_permission:
            raise GenerationChanged(f"{self.uri(name)} is there already: {refused}") from refused
        raise refused

    def delete(self, name: str, *, expect: Generation) -> None:
        blob = self._blob(name)
        try:
            _call(name, lambda: blob.delete(if_generation_match=int(expect), **self._patience()))
        except ObjectMissing:
            return

    def list(self, prefix: str, *, end: str = "") -> Iterator[ObjectSummary]:
        pages = _call(
            prefix,
            lambda: self._bucket().list_blobs(
                prefix=prefix,
                end_offset=end or None,
                fields="items(name,generation,size,crc32c,updated,timeCreated,storageClass),nextPageToken",
                **self._patience(),
            ),
        )
        blobs = iter(pages)
        # Page by page: every next() may be a call to Cloud Storage.
        while (blob := _call(prefix, lambda: next(blobs, None))) is not None:
            yield ObjectSummary(
                blob.name,
                Generation(int(blob.generation)),
                int(blob.size),
                blob.crc32c or "",
                updated=blob.updated,
                created=blob.time_created,
                storage_class=blob.storage_class or "STANDARD",
            )

    def _bucket(self) -> storage.Bucket:
        # The first call builds the client, which asks for credentials.
        return _call(self.uri(""), self._client).bucket(self.bucket_name)

    def _blob(self, name: str) -> storage.Blob:
        return self._bucket().blob(name)

    def _patience(self) -> dict[str, Any]:
        default = lazily.load("google.cloud.storage.retry").DEFAULT_RETRY
        # Safe to repeat: every write carries a generation, so a repetition cannot overwrite somebody else's.
        retry = default.with_timeout(self._retry_deadline).with_delay(initial=0.2, maximum=5.0)
        return {"timeout": self._call_timeout, "retry": retry}


def open_content(
    store: ObjectStore, name: str, *, generation: Generation, crc32c: str, length: int | None = None
) -> BinaryIO:
    """A stream over the object at `generation`, or over a later generation that holds the very same bytes.

    Uploading the same file again gives it a new generation and, in a bucket without versioning, takes the old one away;
    what was recorded of the data is true nevertheless. `crc32c` as Cloud Storage gives it (base64). Raises
    ObjectMissing, at opening or at the first read, when those bytes are gone.
    """
    return _SameContent(store, name, generation, crc32c, length)  # type: ignore[return-value]  # it quacks


class _SameContent(io.RawIOBase):
    """Takes the recorded generation, and looks for another with the same bytes only when that one is gone."""

    def __init__(self, store: ObjectStore, name: str, generation: Generation, crc32c: str, length: int | None) -> None:
        self._store = store
        self._name = name
        self._crc32c = crc32c
        self._length = length
        self._is_at_the_start = True
        try:
            self._stream = store.open(name, generation=generation, length=length)
        except ObjectMissing:
            self._stream = self._same_bytes()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            data = self._stream.read(size)
        except ObjectMissing:
            if not self._is_at_the_start:
                raise
            self._stream = self._same_bytes()
            data = self._stream.read(size)
        self._is_at_the_start = False
        return data

    def readinto(self, buffer: Any) -> int:
        """For `io.BufferedReader`, which calls only this."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()

    def _same_bytes(self) -> BinaryIO:
        self._is_at_the_start = False
        same = [each for each in self._store.list(self._name) if each.name == self._name]
        if not same or not self._crc32c or same[0].crc32c != self._crc32c:
            raise ObjectMissing(f"{self._name} is gone as it was recorded")
        return self._store.open(self._name, generation=same[0].generation, length=self._length)


_client_lock = threading.Lock()


@functools.cache
def _build_client() -> storage.Client:
    client: storage.Client = lazily.load("google.cloud.storage").Client()
    # Connections that are kept: with the default of ten, each of more requests at a time would pay for a handshake.
    adapter = lazily.load("requests.adapters").HTTPAdapter
    for scheme in ("https://", "http://"):
        client._http.mount(scheme, adapter(pool_maxsize=CONNECTIONS))
    return client


def shared_client() -> storage.Client:
    """The process's Cloud Storage client; honours STORAGE_EMULATOR_HOST, as the library does by itself."""
    with _client_lock:
        return _build_client()


def _call(name: str, function: Callable[[], Result]) -> Result:
    meanings = {404: ObjectMissing, 412: GenerationChanged, 416: RangeIsEmpty}
    return call(f"Cloud Storage, {name}", function, meanings=meanings)
