"""Topics, subscriptions and unacknowledged messages on disk, so that no restart loses one.

SQLite in WAL mode, written without fsync: what a call committed survives the death of this process (the operating
system has it), not the loss of power, which a laptop's trial run need not survive.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE topics (name TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE subscriptions (name TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE messages (number INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE deliveries (
    number INTEGER NOT NULL, subscription TEXT NOT NULL, attempts INTEGER NOT NULL, acked INTEGER NOT NULL,
    PRIMARY KEY (number, subscription)
) WITHOUT ROWID;
CREATE TABLE reserved (next_number INTEGER NOT NULL);
INSERT INTO reserved VALUES (1);
"""


class StoreUnusable(RuntimeError):
    """The state folder cannot be used; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class StoredDelivery:
    """One row: message `number` for `subscription`."""

    number: int
    subscription: str
    attempts: int
    acked: bool


class Store:
    """One SQLite file, owned by one process at a time; its caller serialises the calls."""

    def __init__(self, state_dir: Path) -> None:
        state_dir.mkdir(parents=True, exist_ok=True)
        self._path = state_dir / "pubsub.sqlite3"
        self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        # The timeout lets a predecessor that was just killed finish dying.
        connection = sqlite3.connect(self._path, timeout=1, isolation_level=None, check_same_thread=False)
        try:
            # Exclusive, so that a second local cloud on the same folder is told instead of sharing messages.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("BEGIN IMMEDIATE")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        except sqlite3.DatabaseError as exc:
            connection.close()
            busy = "locked" in str(exc)
            advice = "another local cloud uses it; stop that one" if busy else f"move it away ({exc})"
            raise StoreUnusable(f"cannot use {self._path}: {advice}") from exc
        if version not in {0, SCHEMA_VERSION}:
            connection.close()
            raise StoreUnusable(f"{self._path} has format {version}, not {SCHEMA_VERSION}: move it away")
        return connection

    def close(self) -> None:
        self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes of the body, or none; a body inside another joins it."""
        if self._connection.in_transaction:
            yield
            return
        self._connection.execute("BEGIN")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def topics(self) -> list[bytes]:
        return [body for (body,) in self._connection.execute("SELECT body FROM topics ORDER BY name")]

    def subscriptions(self) -> list[bytes]:
        return [body for (body,) in self._connection.execute("SELECT body FROM subscriptions ORDER BY name")]

    def messages(self) -> Iterator[tuple[int, bytes]]:
        yield from self._connection.execute("SELECT number, body FROM messages ORDER BY number")

    def deliveries(self) -> Iterator[StoredDelivery]:
        """Every delivery, in the order of publishing."""
        rows = self._connection.execute("SELECT number, subscription, attempts, acked FROM deliveries ORDER BY number")
        for number, subscription, attempts, acked in rows:
            yield StoredDelivery(number, subscription, attempts, bool(acked))

    def put_topic(self, name: str, body: bytes) -> None:
        self._connection.execute("INSERT OR REPLACE INTO topics VALUES (?, ?)", (name, body))

    def delete_topic(self, name: str) -> None:
        self._connection.execute("DELETE FROM topics WHERE name = ?", (name,))

    def put_subscription(self, name: str, body: bytes) -> None:
        self._connection.execute("INSERT OR REPLACE INTO subscriptions VALUES (?, ?)", (name, body))

    def delete_subscription(self, name: str) -> None:
        with self.transaction():
            self._connection.execute("DELETE FROM subscriptions WHERE name = ?", (name,))
            self.delete_backlog(name)

    def delete_backlog(self, subscription: str) -> None:
        with self.transaction():
            self._connection.execute("DELETE FROM deliveries WHERE subscription = ?", (subscription,))
            self._connection.execute("DELETE FROM messages WHERE number NOT IN (SELECT number FROM deliveries)")

    def reserve_numbers(self, count: int) -> int:
        """The first of `count` message numbers that no run before or after this one uses."""
        with self.transaction():
            (first,) = self._connection.execute(
                "SELECT max(next_number, (SELECT ifnull(max(number), 0) + 1 FROM messages)) FROM reserved"
            ).fetchone()
            self._connection.execute("UPDATE reserved SET next_number = ?", (first + count,))
        return int(first)

    def add_message(self, number: int, body: bytes, subscriptions: Sequence[str]) -> None:
        """Keep a message for those who must get it; nobody: nothing is kept."""
        if not subscriptions:
            return
        with self.transaction():
            self._connection.execute("INSERT INTO messages VALUES (?, ?)", (number, body))
            self._connection.executemany(
                "INSERT INTO deliveries VALUES (?, ?, 0, 0)", [(number, name) for name in subscriptions]
            )

    def put_deliveries(self, deliveries: Iterable[StoredDelivery]) -> None:
        """Overwrite attempts and acknowledgement of known deliveries."""
        with self.transaction():
            self._connection.executemany(
                "UPDATE deliveries SET attempts = ?, acked = ? WHERE number = ? AND subscription = ?",
                [(d.attempts, d.acked, d.number, d.subscription) for d in deliveries],
            )

    def delete_delivery(self, subscription: str, number: int) -> None:
        """Forget a delivery, and its message when it was the last."""
        with self.transaction():
            self._connection.execute(
                "DELETE FROM deliveries WHERE number = ? AND subscription = ?", (number, subscription)
            )
            self._connection.execute(
                "DELETE FROM messages WHERE number = ?1 AND NOT EXISTS (SELECT 1 FROM deliveries WHERE number = ?1)",
                (number,),
            )
