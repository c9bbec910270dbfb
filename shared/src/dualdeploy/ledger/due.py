"""What a service has to look at, and when: markers in the ledger, named after the tick at which they are due.

    due/<service>/<time>/<kind>/<key>

A tick lists them up to now and publishes one `advance` for each (`ticks`); nothing else is listed, so what is not due
costs nothing. An instance that handles one takes it first::

    due at 12:00 ─► taken at 12:00, moved to 12:03 ─┬─► finished: removed
                                                    ├─► to be looked at again: moved to that minute
                                                    └─► its process died: due again at 12:03

Taking counts in the marker how often its work was begun, so that what kills every process that touches it comes to an
end. A marker is a reminder and not a lock: two instances may take two markers of one key, and what they do then is
decided by the documents.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import uuid

from dualdeploy.errors import LedgerContention
from dualdeploy.google.object_store import ABSENT, Generation, GenerationChanged
from dualdeploy.ledger import Document, Ledger, UnreadableDocument
from dualdeploy.ledger.ledger import encode

_TIME = "%Y-%m-%dT%H%M%S"

#: Seconds between two ticks, unless a service is told otherwise (TICK_SECONDS).
EVERY_SECONDS = 60.0

#: How often a marker that is put, taken and finished at the same time is put again.
_PUTS = 5


class Marker(Document):
    """`begun` counts how often the work was begun and never ended, `failures` how often it failed, `why` the last time.

    `later_since` is since when each look was told to come later. `taker` is what is at work on it, empty for one that
    waits.
    """

    begun: int = 0
    failures: int = 0
    why: str = ""
    later_since: str = ""
    taker: str = ""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A marker's place: `time` as in its name, `key` is `<kind>/<what>`."""

    time: str
    key: str


@dataclasses.dataclass(frozen=True)
class Taken:
    """A marker that this instance is at work on: where it stands now, and at which generation."""

    entry: Entry
    marker: Marker
    generation: Generation


class Due:
    """The markers of one service; `every` is how many seconds lie between two ticks."""

    def __init__(self, service: str, ledger: Ledger, *, every: float = EVERY_SECONDS) -> None:
        self.service = service
        self.every = every
        self._ledger = ledger

    def put(self, key: str, at: datetime.datetime | None = None, *, service: str = "") -> None:
        """Have `key` looked at at the first tick from `at` on, or now; by another service if one is named.

        An instance that creates a document puts a marker a few minutes ahead before it, for the case that it dies, and
        one of now after it: a marker that was there already may be taken before the document is written.
        """
        entry = Entry(self.time_of(at or self._ledger.clock()), key)
        name = self._name(entry, service)
        for _ in range(_PUTS):
            with contextlib.suppress(GenerationChanged):
                self._ledger.store.put(name, encode(Marker()), expect=ABSENT)
                return
            found = self._find(name)
            if found is None:
                continue
            marker, generation = found
            if not marker.taker:
                # The instance that takes it begins after this moment.
                return
            # The one at work may have looked already: it can no longer finish this marker, which is due again.
            with contextlib.suppress(GenerationChanged):
                self._ledger.store.put(name, encode(marker.changed(taker="")), expect=generation)
                return
        raise LedgerContention(f"{name} is created and deleted again and again")

    def entries(self) -> list[Entry]:
        """What is due by now, the oldest first; one listing."""
        prefix = f"due/{self.service}/"
        end = prefix + self.time_of(self._ledger.clock() + datetime.timedelta(seconds=self.every))
        found = (summary.name.removeprefix(prefix) for summary in self._ledger.store.list(prefix, end=end))
        return [Entry(time, key) for time, _, key in (name.partition("/") for name in found) if key]

    def all_keys(self) -> list[str]:
        """What is due now or later: for people and tests."""
        prefix = f"due/{self.service}/"
        return sorted({name.removeprefix(prefix).partition("/")[2] for name in self._ledger.names(prefix)})

    def take(self, entry: Entry, *, seconds: float) -> Taken | None:
        """Be at work on a marker for `seconds`, after which it is due again. None when it is gone, or worked on."""
        found = self._read(entry)
        if found is None:
            return None
        marker, generation = found
        until = self._ledger.clock() + datetime.timedelta(seconds=seconds + self.every)
        moved = Entry(self.time_of(until), entry.key)
        mine = marker.changed(begun=marker.begun + 1, taker=uuid.uuid4().hex)
        if moved == entry:
            expect = generation
        else:
            there = self._read(moved)
            if there and there[0].taker:
                return None
            expect = there[1] if there else ABSENT
        try:
            taken = Taken(moved, mine, self._ledger.store.put(self._name(moved), encode(mine), expect=expect))
        except GenerationChanged:
            return None
        if moved != entry:
            self._ledger.remove(self._name(entry), expect=generation)
        return taken

    def finish(self, taken: Taken) -> None:
        """There is nothing left to do."""
        self._ledger.remove(self._name(taken.entry), expect=taken.generation)

    def put_back(self, taken: Taken, at: datetime.datetime, *, failed: str = "", later_since: str = "") -> None:
        """Look again at `at`. `failed`: why the work was to no avail this time, which is counted."""
        failures = taken.marker.failures + 1 if failed else 0
        marker = Marker(failures=failures, why=failed, later_since=later_since)
        entry = Entry(self.time_of(at), taken.entry.key)
        same = entry == taken.entry
        try:
            self._ledger.store.put(self._name(entry), encode(marker), expect=taken.generation if same else ABSENT)
        except GenerationChanged:
            if same:
                return
            self._refresh(entry, marker)
        if not same:
            self._ledger.remove(self._name(taken.entry), expect=taken.generation)

    def _refresh(self, entry: Entry, marker: Marker) -> None:
        """There is a reminder for that time already: what it counted is older than what this look found."""
        there = self._read(entry)
        if there and not there[0].taker:
            with contextlib.suppress(GenerationChanged):
                self._ledger.store.put(self._name(entry), encode(marker), expect=there[1])

    def _read(self, entry: Entry) -> tuple[Marker, Generation] | None:
        return self._find(self._name(entry))

    def _find(self, name: str) -> tuple[Marker, Generation] | None:
        try:
            found = self._ledger.find(name, Marker)
        except UnreadableDocument:
            # It reminds of its key all the same.
            generation = next((each.generation for each in self._ledger.store.list(name) if each.name == name), None)
            return (Marker(), generation) if generation else None
        return (found.document, found.generation) if found else None

    def _name(self, entry: Entry, service: str = "") -> str:
        return f"due/{service or self.service}/{entry.time}/{entry.key}"

    def soon(self) -> datetime.datetime:
        """The earliest time for another look: the next tick."""
        return self._ledger.clock() + datetime.timedelta(seconds=self.every)

    def time_of(self, moment: datetime.datetime) -> str:
        """`2026-11-28T031500`, in UTC: the tick that `moment` belongs to; sorts by time."""
        whole = moment.timestamp() // self.every * self.every
        return datetime.datetime.fromtimestamp(whole, datetime.UTC).strftime(_TIME)
