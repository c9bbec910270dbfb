"""A tick is fan-out: it lists what is due and publishes one `advance` for each. Each `advance` is handled alone.

    Cloud Scheduler ─► tick ─► list due/<service>/ up to now ─► publish n `advance`
                                                                     │ each by itself, in parallel, always acknowledged
                                                                     ▼
                                                   take the marker ─► work ─► finished | look again at …

With k request slots and s seconds a look, each of n due markers is looked at within n·s/k seconds and one tick; one
that hangs or fails delays no other. An `advance` is always acknowledged, because a refusal would slow down the whole
subscription: what is to be done again is in the marker, and the next tick publishes it again.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
from collections.abc import Iterable, Mapping
from typing import Protocol

from dualdeploy import clock as clocks
from dualdeploy import health, logs
from dualdeploy.contracts.events import Envelope
from dualdeploy.errors import CannotEverSucceed, InvalidDatasetConfig, LeaseHeld, MalformedEvent, RetryLater
from dualdeploy.google.pubsub import Publisher
from dualdeploy.ledger import Ledger, Rejected, UnreadableDocument, names
from dualdeploy.ledger.due import Due, Entry, Taken
from dualdeploy.outcome import Outcome, already_done, done, ignored

log = logging.getLogger(__name__)

ADVANCE_TOPIC = "advance"

#: An `advance` that is older is dropped: a later tick has published it again.
LATEST_SECONDS = 120.0

#: How many looks one request slot has time for between two ticks, at a second a look.
MOST_PER_SLOT = 60

#: Work that was begun so often without ever ending (its process died each time), or failed so often for a reason that
#: is not known to pass, is given up.
MOST_BEGUN = 10

#: After a failure the next look is 1, 2, 4, … ticks later.
_LONGEST_WAIT = 30

#: How many ticks later work is looked at again that someone has to mend a document for.
_MENDING_TICKS = 10


@dataclasses.dataclass(frozen=True)
class Next:
    """What is left to do: nothing, or another look at `at`. `message` is for the log.

    `failed`: it was to no avail, which is counted, and in the end given up. `is_missing`: what it is about is not there
    (yet), which is counted, and in the end forgotten.
    """

    message: str
    at: datetime.datetime | None = None
    failed: bool = False
    is_missing: bool = False


class Work(Protocol):
    """One kind of work; `what` is the key without its kind, for example `flowers-0123456789ab/1`."""

    def advance(self, what: str) -> Next:
        """Do what can be done now.

        Raises RetryLater (looked at again, and told when it takes longer than its patience), UnreadableDocument or
        InvalidDatasetConfig of what is recorded (told, and looked at again until it is mended), or another
        CannotEverSucceed (recorded, given up).
        """

    def give_up(self, what: str, why: str) -> None:
        """Bring it to an end that people see: it was begun ten times, and its process died or failed each time."""


@dataclasses.dataclass(frozen=True)
class Advance:
    """The message: look at this marker."""

    entry: Entry
    at: datetime.datetime


def parse_advance(envelope: Envelope) -> Advance:
    """Raises MalformedEvent."""
    document = envelope.json()
    time, key, at = (document.get(name) for name in ("time", "key", "at"))
    if not (isinstance(time, str) and isinstance(key, str) and isinstance(at, str)):
        raise MalformedEvent("an advance has time, key and at, which are texts")
    try:
        return Advance(Entry(time, key), clocks.from_text(at))
    except ValueError as exc:
        raise MalformedEvent(f"at is not a time: {exc}") from exc


class Ticks:
    """The tick and the `advance` messages of one service; `works` are its kinds of work.

    `slots` is how many requests all instances of the service handle at once; `hourly` are keys that every full hour
    makes due.
    """

    def __init__(
        self,
        works: Mapping[str, Work],
        *,
        due: Due,
        ledger: Ledger,
        publisher: Publisher,
        lease_seconds: float,
        slots: int = 80,
        hourly: Iterable[str] = (),
    ) -> None:
        self._works = works
        self._due = due
        self._ledger = ledger
        self._publisher = publisher
        self._lease_seconds = lease_seconds
        self._most = slots * MOST_PER_SLOT
        self._hourly = tuple(hourly)

    def on_tick(self) -> Outcome:
        """Publish one `advance` for each marker that is due, the oldest first.

        Of more than the service can look at in a minute the rest waits for the next tick: messages that come too late
        to be taken would use up the request slots.
        """
        now = self._ledger.clock()
        if now.minute == 0:
            for key in self._hourly:
                self._due.put(key, now)
        entries = self._due.entries()
        attributes = {"service": self._due.service}
        messages = [(self._message(entry, now), attributes) for entry in entries[: self._most]]
        self._publisher.publish_all(ADVANCE_TOPIC, messages)
        return done(f"{len(entries)} due" + (f", {len(messages)} of them now" if len(messages) < len(entries) else ""))

    def on_advance(self, event: Advance) -> Outcome:
        """Take one marker and do its work. Never raises what would have it delivered again."""
        if (self._ledger.clock() - event.at).total_seconds() > LATEST_SECONDS:
            return already_done(f"{event.entry.key} is left to a later tick")
        return self._handle(event.entry)

    def nudge(self, key: str) -> None:
        """Ask for a look at `key` now, by whichever instance is free. The next tick does the same."""
        now = self._ledger.clock()
        message = self._message(Entry(self._due.time_of(now), key), now)
        self._publisher.publish(ADVANCE_TOPIC, message, {"service": self._due.service})

    def now(self, key: str) -> Outcome:
        """Do the work of `key` within the event that asks for it; if this instance dies, a tick goes on."""
        entry = Entry(self._due.time_of(self._ledger.clock()), key)
        self._due.put(key)
        return self._handle(entry)

    def _message(self, entry: Entry, now: datetime.datetime) -> bytes:
        message = {"v": 1, "time": entry.time, "key": entry.key, "at": clocks.to_text(now)}
        return json.dumps(message, sort_keys=True).encode()

    def _handle(self, entry: Entry) -> Outcome:
        kind, _, what = entry.key.partition("/")
        work = self._works.get(kind)
        if work is None:
            # Perhaps of a newer version, which goes on with it as soon as it serves again.
            return ignored(f"{entry.key} is of a kind that this version does not know")
        with logs.bind(due=entry.key):
            taken = self._due.take(entry, seconds=self._lease_seconds)
            if taken is None:
                return already_done(f"{entry.key} is being looked at, or done")
            if taken.marker.begun > MOST_BEGUN or taken.marker.failures >= MOST_BEGUN:
                return self._give_up(work, what, taken)
            return self._work(work, what, taken)

    def _work(self, work: Work, what: str, taken: Taken) -> Outcome:
        key = taken.entry.key
        try:
            following = work.advance(what)
        except LeaseHeld as exc:
            self._due.put_back(taken, self._due.soon())
            return already_done(f"{key} waits: {exc}")
        except RetryLater as exc:
            log.warning("%s is looked at again: %s", key, exc)
            self._put_off(taken, exc)
            return done(f"{key} later: {exc}")
        except (UnreadableDocument, InvalidDatasetConfig) as exc:
            # The work is not over: people mend the document, or a newer version of this service can read it.
            self._record(key, exc)
            self._due.put_back(taken, self._in_ticks(_MENDING_TICKS))
            return done(f"{key} waits for someone to mend it: {exc}")
        except CannotEverSucceed as exc:
            self._record(key, exc)
            self._due.finish(taken)
            return done(f"{key} can never succeed: {exc}")
        except Exception as exc:
            health.PROCESS.judge(exc)
            # A bug that one of them meets must delay no other.
            log.exception("%s failed", key)
            wait = min(2**taken.marker.failures, _LONGEST_WAIT)
            self._due.put_back(taken, self._in_ticks(wait), failed=f"{type(exc).__name__}: {exc}"[:500])
            return done(f"{key} failed and is looked at again in {wait} ticks: {exc}")
        return self._after(taken, following)

    def _after(self, taken: Taken, following: Next) -> Outcome:
        """Finish, or look again, as the work said."""
        key = taken.entry.key
        if following.is_missing and taken.marker.failures + 1 >= MOST_BEGUN:
            # Decided by this look and not by the count: what is written just now has a reminder of its own.
            self._due.finish(taken)
            return already_done(f"{key} is forgotten: {following.message}")
        if following.at is None:
            self._due.finish(taken)
        else:
            failed = following.message if following.failed or following.is_missing else ""
            at = max(following.at, self._due.soon())
            self._due.put_back(taken, at, failed=failed)
        return done(f"{key}: {following.message}")

    def _put_off(self, taken: Taken, exc: RetryLater) -> None:
        """Look again at the next tick. What should have passed by itself and did not is told: only people can help."""
        now = self._ledger.clock()
        since = taken.marker.later_since or clocks.to_text(now)
        if (now - clocks.from_text(since)).total_seconds() >= exc.patience:
            self._record(taken.entry.key, exc, remark=f"; so since {since}, and asked again at each tick")
        self._due.put_back(taken, self._due.soon(), later_since=since)

    def _give_up(self, work: Work, what: str, taken: Taken) -> Outcome:
        marker = taken.marker
        why = marker.why or "its process died each time"
        sentence = f"given up after {MOST_BEGUN} attempts: {why}"
        log.error("%s is %s", taken.entry.key, sentence)
        try:
            work.give_up(what, sentence)
        except RetryLater as exc:
            self._due.put_back(taken, self._due.soon(), failed=why)
            return done(f"{taken.entry.key} is given up later: {exc}")
        except Exception as exc:  # whatever it is, the marker must come to an end
            log.exception("%s cannot be given up in good order", taken.entry.key)
            self._record(taken.entry.key, CannotEverSucceed(f"{sentence}; {exc}"))
        self._due.finish(taken)
        return done(f"{taken.entry.key} is {sentence}")

    def _record(self, key: str, exc: CannotEverSucceed | RetryLater, *, remark: str = "") -> None:
        reason = f"{type(exc).__name__}: {exc}{remark}"
        log.error("%s does not succeed: %s", key, reason)
        of = key.split("/")[1] if "/" in key else ""
        rejected = Rejected(
            at=clocks.to_text(self._ledger.clock()),
            service=self._due.service,
            kind="advance",
            reason=reason,
            event={"key": key, "dataset": names.dataset_of(of) or of},
        )
        self._ledger.record_rejected(rejected, event_id=f"{key} {reason}")

    def _in_ticks(self, ticks: int) -> datetime.datetime:
        return self._ledger.clock() + datetime.timedelta(seconds=ticks * self._due.every)
