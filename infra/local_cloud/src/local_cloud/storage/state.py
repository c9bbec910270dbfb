"""State: every bucket, object, notification, upload session and undelivered event, on disk and under one lock.

One SQLite transaction holds the precondition check, the new version and the events it causes, so a process
that dies at any moment leaves the old object or the new one, and an event exactly for the new one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from local_cloud.storage.blobs import Blobs, OpenBlob
from local_cloud.storage.errors import BucketExists, ObjectNotFound, bucket_not_found, conflict
from local_cloud.storage.preconditions import Preconditions
from local_cloud.storage.rates import Rates
from local_cloud.storage.records import Bucket, Content, StoredObject

_SCHEMA = """
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT OR IGNORE INTO counters VALUES ('generation', 0);
CREATE TABLE IF NOT EXISTS buckets (
    name TEXT PRIMARY KEY, project TEXT NOT NULL, generation INTEGER NOT NULL, metageneration INTEGER NOT NULL,
    updated INTEGER NOT NULL, properties TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS objects (
    bucket TEXT NOT NULL, name TEXT NOT NULL, generation INTEGER NOT NULL, metageneration INTEGER NOT NULL,
    updated INTEGER NOT NULL, blob TEXT NOT NULL, size INTEGER NOT NULL, crc32c TEXT NOT NULL, md5 TEXT,
    properties TEXT NOT NULL, component_count INTEGER, PRIMARY KEY (bucket, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notifications (
    bucket TEXT NOT NULL, id TEXT NOT NULL, config TEXT NOT NULL, PRIMARY KEY (bucket, id));
CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY, bucket TEXT NOT NULL, name TEXT NOT NULL, blob TEXT NOT NULL, received INTEGER NOT NULL,
    request TEXT NOT NULL, finished TEXT, begun INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY AUTOINCREMENT, payload TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_by_destination ON events (coalesce(json_extract(payload, '$.topic'), ''));
"""

#: Google forgets an unfinished resumable upload after a week.
_SESSION_LIFETIME_MICROSECONDS = 7 * 24 * 3600 * 1_000_000

_OBJECT_COLUMNS = (
    "bucket, name, generation, metageneration, updated, blob, size, crc32c, md5, properties, component_count"
)


@dataclasses.dataclass(frozen=True)
class Change:
    """What happened to an object, told to whoever turns changes into events."""

    event_type: str  # OBJECT_FINALIZE, OBJECT_METADATA_UPDATE or OBJECT_DELETE
    stored: StoredObject
    overwrote_generation: int | None = None
    overwritten_by_generation: int | None = None


@dataclasses.dataclass(frozen=True)
class Session:
    """A resumable upload: what it will become, and how many bytes have arrived."""

    id: str
    bucket: str
    name: str
    blob: str
    received: int
    request: Mapping[str, Any]
    finished: StoredObject | None


class MayWrite(Protocol):
    """Raises what the caller is answered if it may not create the object, or not replace the one that is there."""

    def __call__(self, bucket: str, name: str, *, replaces: bool) -> None: ...


def _anyone_may(bucket: str, name: str, *, replaces: bool) -> None:
    """Until somebody judges."""


#: Turns a change into the events (JSON documents) to deliver, given the bucket's notification configs.
EventsOf = Callable[[Change, list[dict[str, Any]]], list[dict[str, Any]]]


class State:
    """The whole state of one emulated Cloud Storage in one folder; safe for concurrent use."""

    def __init__(self, folder: Path, *, events_of: EventsOf, rates: Rates) -> None:
        self.rates = rates
        folder.mkdir(parents=True, exist_ok=True)
        self.blobs = Blobs(folder / "blobs")
        self.events_arrived = threading.Event()
        #: Asked before an object is created and, where a live one is there, before it is replaced; raises to refuse.
        self.may_write: MayWrite = _anyone_may
        self._events_of = events_of
        self._lock = threading.RLock()
        self._database = sqlite3.connect(folder / "storage.sqlite3", check_same_thread=False, isolation_level=None)
        # A write-ahead log without a sync per commit: what was committed survives the process, not the power.
        self._database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" + _SCHEMA)
        self._clean_up()

    def close(self) -> None:
        with self._lock:
            self._database.close()

    # --- buckets -------------------------------------------------------------------------------------------

    def create_bucket(self, name: str, project: str, properties: Mapping[str, Any]) -> Bucket:
        with self._transaction():
            if self._bucket(name) is not None:
                raise BucketExists
            generation = self._next_generation()
            bucket = Bucket(name, generation, 1, generation, dict(properties))
            self._write_bucket(bucket, project)
            return bucket

    def bucket(self, name: str) -> Bucket:
        with self._lock:
            bucket = self._bucket(name)
        if bucket is None:
            raise bucket_not_found()
        return bucket

    def buckets(self, project: str, prefix: str) -> list[Bucket]:
        """The project's buckets by name; every project's where `project` is empty."""
        query = "SELECT name FROM buckets WHERE project = ? OR ? = '' ORDER BY name"
        with self._lock:
            names = [row[0] for row in self._database.execute(query, (project, project))]
            return [self.bucket(name) for name in names if name.startswith(prefix)]

    def usage(self) -> Mapping[str, tuple[int, int]]:
        """Objects and bytes of every bucket that has any."""
        query = "SELECT bucket, COUNT(*), SUM(size) FROM objects GROUP BY bucket"
        with self._lock:
            return {name: (count, size) for name, count, size in self._database.execute(query)}

    def change_bucket(
        self, name: str, preconditions: Preconditions, change: Callable[[Mapping[str, Any]], dict[str, Any]]
    ) -> Bucket:
        with self._transaction():
            old = self.bucket(name)
            preconditions.check(old)
            properties = change(old.properties)
            if properties == old.properties:
                return old  # what changes nothing is no change
            self.rates.take(name)
            return self._rewrite_bucket(dataclasses.replace(old, properties=properties))

    def count_change(self, bucket: str) -> None:
        """Count a change of a bucket that is kept elsewhere. Raises ApiError 429 when it comes too soon."""
        with self._lock:
            self.rates.take(bucket)

    def delete_bucket(self, name: str, preconditions: Preconditions) -> None:
        with self._transaction():
            preconditions.check(self.bucket(name))
            if self._database.execute("SELECT 1 FROM objects WHERE bucket = ? LIMIT 1", (name,)).fetchone():
                raise conflict(f"The bucket you tried to delete is not empty: {name}")
            self._database.execute("DELETE FROM notifications WHERE bucket = ?", (name,))
            self._database.execute("DELETE FROM buckets WHERE name = ?", (name,))

    # --- objects -------------------------------------------------------------------------------------------

    def object(self, bucket: str, name: str, generation: int | None = None) -> StoredObject:
        """The live object, or ApiError 404; also when another `generation` was asked for."""
        with self._lock:
            self.bucket(bucket)
            stored = self._object(bucket, name)
        if stored is None or generation not in {None, stored.generation}:
            raise ObjectNotFound(bucket, name, generation)
        return stored

    def open_object(
        self, bucket: str, name: str, generation: int | None, preconditions: Preconditions
    ) -> tuple[StoredObject, OpenBlob]:
        """The live object and its bytes, opened before anybody can replace them."""
        with self._lock:
            stored = self.object(bucket, name, generation)
            preconditions.check(stored, reading=True)
            return stored, self.blobs.open(stored.content.blob)

    def objects(self, bucket: str, start: str) -> Iterator[StoredObject]:
        """The bucket's objects from `start` on, by name in UTF-8 order; call under `reading()`."""
        query = f"SELECT {_OBJECT_COLUMNS} FROM objects WHERE bucket = ? AND name >= ? ORDER BY name"  # noqa: S608  # a constant list of columns
        for row in self._database.execute(query, (bucket, start)):
            yield _object_of(row)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """A stretch in which nothing changes."""
        with self._lock:
            yield

    def require_writable(self, bucket: str, name: str, preconditions: Preconditions) -> None:
        """Refuse early what `put_object` would refuse later."""
        with self._lock:
            self.bucket(bucket)
            self._require_writable(bucket, name, preconditions)

    def put_object(
        self,
        bucket: str,
        name: str,
        content: Content,
        *,
        properties: Mapping[str, Any],
        preconditions: Preconditions,
        component_count: int | None = None,
        session: str | None = None,
    ) -> StoredObject:
        """Make `content` the live version if the preconditions hold; else its blob is discarded."""
        try:
            with self._transaction():
                self.bucket(bucket)
                old = self._require_writable(bucket, name, preconditions)
                self.rates.take(f"{bucket}/{name}")
                generation = self._next_generation()
                stored = StoredObject(
                    bucket, name, generation, 1, generation, content, dict(properties), component_count
                )
                self._write_object(stored)
                if session is not None:
                    self._database.execute(
                        "UPDATE sessions SET finished = ? WHERE id = ?", (_row_json(stored), session)
                    )
                self._record_put(stored, old)
        except BaseException:
            self.blobs.discard(content.blob)
            raise
        self._discard_blob_of(old)
        return stored

    def _require_writable(self, bucket: str, name: str, preconditions: Preconditions) -> StoredObject | None:
        """The live object that a new one would replace; refuses in the order in which Cloud Storage does."""
        self.may_write(bucket, name, replaces=False)
        old = self._object(bucket, name)
        preconditions.check(old)
        if old is not None:
            self.may_write(bucket, name, replaces=True)
        return old

    def change_object(
        self,
        bucket: str,
        name: str,
        generation: int | None,
        preconditions: Preconditions,
        change: Callable[[Mapping[str, Any]], dict[str, Any]],
    ) -> StoredObject:
        """Change metadata: the generation stays, the metageneration grows by one."""
        with self._transaction():
            old = self.object(bucket, name, generation)
            preconditions.check(old)
            self.rates.take(f"{bucket}/{name}")
            stored = dataclasses.replace(
                old,
                metageneration=old.metageneration + 1,
                updated=_now(),
                properties=change(old.properties),
            )
            self._write_object(stored)
            self._record(Change("OBJECT_METADATA_UPDATE", stored))
            return stored

    def delete_object(self, bucket: str, name: str, generation: int | None, preconditions: Preconditions) -> None:
        with self._transaction():
            old = self.object(bucket, name, generation)
            preconditions.check(old)
            self.rates.take(f"{bucket}/{name}")
            self._database.execute("DELETE FROM objects WHERE bucket = ? AND name = ?", (bucket, name))
            self._record(Change("OBJECT_DELETE", old))
        self._discard_blob_of(old)

    def duplicate_content(
        self, bucket: str, name: str, generation: int | None, preconditions: Preconditions
    ) -> tuple[StoredObject, Content]:
        """The source of a copy, and its content under a second blob name that nobody can delete."""
        with self._lock:
            source = self.object(bucket, name, generation)
            preconditions.check(source)
            copy = self.blobs.duplicate(source.content.blob)
            return source, dataclasses.replace(source.content, blob=copy)

    # --- notification configs --------------------------------------------------------------------------------

    def add_notification(self, bucket: str, config: Mapping[str, Any]) -> dict[str, Any]:
        with self._transaction():
            changed = self.bucket(bucket)
            self._rewrite_bucket(changed)
            number = str(changed.metageneration)
            stored = {**config, "id": number, "etag": number}
            self._database.execute("INSERT INTO notifications VALUES (?, ?, ?)", (bucket, number, json.dumps(stored)))
            return stored

    def notifications(self, bucket: str) -> list[dict[str, Any]]:
        with self._lock:
            self.bucket(bucket)
            query = "SELECT config FROM notifications WHERE bucket = ? ORDER BY CAST(id AS INTEGER)"
            return [json.loads(row[0]) for row in self._database.execute(query, (bucket,))]

    def delete_notification(self, bucket: str, notification: str) -> bool:
        with self._transaction():
            changed = self.bucket(bucket)
            cursor = self._database.execute(
                "DELETE FROM notifications WHERE bucket = ? AND id = ?", (bucket, notification)
            )
            if cursor.rowcount:
                self._rewrite_bucket(changed)
            return cursor.rowcount == 1

    # --- resumable uploads -----------------------------------------------------------------------------------

    def begin_session(self, bucket: str, name: str, request: Mapping[str, Any]) -> str:
        identifier, blob = uuid.uuid4().hex, self.blobs.new_name()
        self.blobs.write_at(blob, 0, ())
        with self._transaction():
            self._database.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?, 0, ?, NULL, ?)",
                (identifier, bucket, name, blob, json.dumps(request), _now()),
            )
        return identifier

    def session(self, identifier: str) -> Session | None:
        query = "SELECT id, bucket, name, blob, received, request, finished FROM sessions WHERE id = ?"
        with self._lock:
            row = self._database.execute(query, (identifier,)).fetchone()
        if row is None:
            return None
        finished = None if row[6] is None else _object_of(json.loads(row[6]))
        return Session(row[0], row[1], row[2], row[3], row[4], json.loads(row[5]), finished)

    def advance_session(self, identifier: str, received: int) -> None:
        with self._transaction():
            self._database.execute("UPDATE sessions SET received = ? WHERE id = ?", (received, identifier))

    def end_session(self, session: Session) -> None:
        with self._transaction():
            self._database.execute("DELETE FROM sessions WHERE id = ?", (session.id,))
        if session.finished is None:
            self.blobs.discard(session.blob)

    # --- events ----------------------------------------------------------------------------------------------

    def event_destinations(self) -> list[str]:
        """Where the undelivered events go: topics by their full names, and '' for Eventarc."""
        query = "SELECT DISTINCT coalesce(json_extract(payload, '$.topic'), '') FROM events"
        with self._lock:
            return [row[0] for row in self._database.execute(query)]

    def next_event(self, destination: str) -> tuple[int, dict[str, Any]] | None:
        """The oldest event for a destination that was not delivered yet."""
        query = (
            "SELECT id, payload FROM events WHERE coalesce(json_extract(payload, '$.topic'), '') = ? "
            "ORDER BY id LIMIT 1"
        )
        with self._lock:
            row = self._database.execute(query, (destination,)).fetchone()
        return None if row is None else (row[0], json.loads(row[1]))

    def event_delivered(self, identifier: int) -> None:
        with self._transaction():
            self._database.execute("DELETE FROM events WHERE id = ?", (identifier,))

    # --- within a transaction --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def _count(self, counter: str, least: int) -> int:
        query = "UPDATE counters SET value = max(value + 1, ?) WHERE name = ? RETURNING value"
        return int(self._database.execute(query, (least, counter)).fetchone()[0])

    def _next_generation(self) -> int:
        """Microseconds since the epoch, but always more than any before, also after the clock went back."""
        return self._count("generation", _now())

    def _bucket(self, name: str) -> Bucket | None:
        query = "SELECT name, generation, metageneration, updated, properties FROM buckets WHERE name = ?"
        row = self._database.execute(query, (name,)).fetchone()
        return None if row is None else Bucket(row[0], row[1], row[2], row[3], json.loads(row[4]))

    def _rewrite_bucket(self, bucket: Bucket) -> Bucket:
        """Write a change of a bucket, which every change of its notification configs is too."""
        changed = dataclasses.replace(bucket, metageneration=bucket.metageneration + 1, updated=_now())
        project = self._database.execute("SELECT project FROM buckets WHERE name = ?", (bucket.name,)).fetchone()
        self._write_bucket(changed, project[0])
        return changed

    def _write_bucket(self, bucket: Bucket, project: str) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO buckets VALUES (?, ?, ?, ?, ?, ?)",
            (
                bucket.name,
                project,
                bucket.generation,
                bucket.metageneration,
                bucket.updated,
                json.dumps(bucket.properties),
            ),
        )

    def _object(self, bucket: str, name: str) -> StoredObject | None:
        query = f"SELECT {_OBJECT_COLUMNS} FROM objects WHERE bucket = ? AND name = ?"  # noqa: S608  # a constant list of columns
        row = self._database.execute(query, (bucket, name)).fetchone()
        return None if row is None else _object_of(row)

    def _write_object(self, stored: StoredObject) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", _row_of(stored)
        )

    def _record_put(self, stored: StoredObject, old: StoredObject | None) -> None:
        if old is None:
            self._record(Change("OBJECT_FINALIZE", stored))
            return
        self._record(Change("OBJECT_FINALIZE", stored, overwrote_generation=old.generation))
        self._record(Change("OBJECT_DELETE", old, overwritten_by_generation=stored.generation))

    def _record(self, change: Change) -> None:
        events = self._events_of(change, self.notifications(change.stored.bucket))
        for event in events:
            self._database.execute("INSERT INTO events (payload) VALUES (?)", (json.dumps(event),))
        if events:
            # Woken before the commit: the reader waits for the same lock, and so reads after it.
            self.events_arrived.set()

    def _discard_blob_of(self, replaced: StoredObject | None) -> None:
        if replaced is not None:
            self.blobs.discard(replaced.content.blob)

    def _clean_up(self) -> None:
        """Forget uploads older than a week and the blobs that a killed process left without an object."""
        with self._transaction():
            oldest = _now() - _SESSION_LIFETIME_MICROSECONDS
            self._database.execute("DELETE FROM sessions WHERE begun < ?", (oldest,))
            referenced = {row[0] for row in self._database.execute("SELECT blob FROM objects")}
            query = "SELECT blob FROM sessions WHERE finished IS NULL"
            referenced |= {row[0] for row in self._database.execute(query)}
        self.blobs.sweep(referenced)
        self.events_arrived.set()


def _now() -> int:
    return time.time_ns() // 1000


def _row_of(stored: StoredObject) -> tuple[Any, ...]:
    content = stored.content
    return (
        stored.bucket,
        stored.name,
        stored.generation,
        stored.metageneration,
        stored.updated,
        content.blob,
        content.size,
        content.crc32c,
        content.md5,
        json.dumps(stored.properties),
        stored.component_count,
    )


def _row_json(stored: StoredObject) -> str:
    return json.dumps(_row_of(stored))


def _object_of(row: Any) -> StoredObject:
    content = Content(row[5], row[6], row[7], row[8])
    return StoredObject(row[0], row[1], row[2], row[3], row[4], content, json.loads(row[9]), row[10])
