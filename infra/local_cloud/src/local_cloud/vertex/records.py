"""Durable records: JSON documents by collection and name, in one SQLite file, changed under one lock.

A write is on disk before the call returns, so what was answered survives the death of the local cloud.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    collection TEXT NOT NULL,
    name TEXT NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (collection, name)
)
"""

Record = dict[str, Any]


class Records:
    """Documents that outlive the process; `transaction` makes several writes one, and is re-entrant."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._depth = 0
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        # A write-ahead log with synchronous=NORMAL loses nothing when the process dies (only a power cut
        # may cost the last writes), and does not wait for the disk on each of a test's hundred writes.
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute(_SCHEMA)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes of the body or none; other threads wait."""
        with self._lock:
            outermost = self._depth == 0
            if outermost:
                self._connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
            except BaseException:
                if outermost:
                    self._connection.execute("ROLLBACK")
                raise
            else:
                if outermost:
                    self._connection.execute("COMMIT")
            finally:
                self._depth -= 1

    def get(self, collection: str, name: str) -> Record | None:
        with self._lock:
            row = self._connection.execute(
                "SELECT body FROM records WHERE collection = ? AND name = ?", (collection, name)
            ).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, collection: str, name: str, record: Record) -> None:
        """Create or replace; the place in the order of creation is kept."""
        with self.transaction():
            self._connection.execute(
                "INSERT INTO records (collection, name, body) VALUES (?, ?, ?)"
                " ON CONFLICT (collection, name) DO UPDATE SET body = excluded.body",
                (collection, name, json.dumps(record)),
            )

    def remove(self, collection: str, name: str) -> None:
        with self.transaction():
            self._connection.execute("DELETE FROM records WHERE collection = ? AND name = ?", (collection, name))

    def all(self, collection: str) -> list[tuple[int, Record]]:
        """Every document of `collection` with its sequence number, in order of creation."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT sequence, body FROM records WHERE collection = ? ORDER BY sequence", (collection,)
            ).fetchall()
        return [(sequence, json.loads(body)) for sequence, body in rows]

    def close(self) -> None:
        with self._lock:
            self._connection.close()
