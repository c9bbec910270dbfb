"""Eventarc: finalized objects become CloudEvents that are posted to services until they are accepted.

Delivery is at least once: an event is in the journal before its object's upload is forgotten by the outbox,
and leaves it only after a service answered 2xx or after it was given up to the dead letters.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import heapq
import json
import logging
import sqlite3
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from local_cloud.faults import EVENT_DELIVERY, Faults
from local_cloud.iam import Refused
from local_cloud.poster import NoAnswer, Poster
from local_cloud.topology import Trigger

logger = logging.getLogger(__name__)

FINALIZED = "google.cloud.storage.object.v1.finalized"

CONCURRENT_DELIVERIES_PER_TRIGGER = 8
#: How often a lane looks whether the service it waits for has been registered.
_REGISTRATION_POLL_SECONDS = 0.2
#: How long closing may take, all workers of all triggers together.
_CLOSE_SECONDS = 5.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, trigger TEXT NOT NULL, event TEXT NOT NULL, headers TEXT NOT NULL,
    body BLOB NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL, UNIQUE (trigger, event));
"""


def cloud_event(resource: Mapping[str, Any]) -> tuple[dict[str, str], bytes]:
    """Headers and body of the binary-mode CloudEvent for a finalized object.

    Source: https://cloud.google.com/eventarc/docs/cloudevents and, for header values, the percent-encoding of
    https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/http-protocol-binding.md
    """
    bucket, name, generation = resource["bucket"], resource["name"], resource["generation"]
    headers = {
        # The same object always makes the same id, as a redelivered event has the id of the first delivery.
        "ce-id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"//storage/{bucket}/{generation}/{name}").int % 10**17),
        "ce-specversion": "1.0",
        "ce-type": FINALIZED,
        "ce-source": f"//storage.googleapis.com/projects/_/buckets/{bucket}",
        "ce-subject": _header_value(f"objects/{name}"),
        "ce-time": resource["timeCreated"],
        "ce-bucket": bucket,
        "content-type": "application/json",
    }
    return headers, json.dumps(resource).encode()


def transport(project: str, location: str, trigger: str) -> tuple[str, str]:
    """The full names of the topic and of the subscription that Eventarc makes for a trigger."""
    stem = f"eventarc-{location}-{trigger}"
    number = int(hashlib.sha256(stem.encode()).hexdigest(), 16) % 1000
    return f"projects/{project}/topics/{stem}-{number:03d}", f"projects/{project}/subscriptions/{stem}-sub-{number:03d}"


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """How long to wait between attempts, and after how many to give up."""

    first_backoff_seconds: float = 0.2
    last_backoff_seconds: float = 10.0
    max_attempts: int = 20

    def backoff(self, attempts: int) -> float:
        """Seconds to wait after `attempts` failed deliveries: doubling, up to the last."""
        return min(self.first_backoff_seconds * 2.0 ** (attempts - 1), self.last_backoff_seconds)


@dataclasses.dataclass(frozen=True)
class Delivery:
    """One event on its way to one trigger's service."""

    id: int
    event: str
    headers: Mapping[str, str]
    body: bytes
    attempts: int
    due: float  # seconds since the epoch


class Journal:
    """The deliveries that were not accepted yet, on disk."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._database = sqlite3.connect(folder / "eventarc.sqlite3", check_same_thread=False, isolation_level=None)
        self._database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" + _SCHEMA)

    def add(self, trigger: str, headers: Mapping[str, str], body: bytes) -> Delivery | None:
        """Record an event; None where the same event is already on its way."""
        event, due = headers["ce-id"], time.time()
        query = (
            "INSERT OR IGNORE INTO deliveries (trigger, event, headers, body, due) VALUES (?, ?, ?, ?, ?) RETURNING id"
        )
        with self._lock:
            row = self._database.execute(query, (trigger, event, json.dumps(headers), body, due)).fetchone()
        return None if row is None else Delivery(row[0], event, headers, body, 0, due)

    def pending(self, trigger: str) -> list[Delivery]:
        query = "SELECT id, event, headers, body, attempts, due FROM deliveries WHERE trigger = ? ORDER BY id"
        with self._lock:
            rows = self._database.execute(query, (trigger,)).fetchall()
        return [Delivery(row[0], row[1], json.loads(row[2]), row[3], row[4], row[5]) for row in rows]

    def postpone(self, delivery: Delivery) -> None:
        query = "UPDATE deliveries SET attempts = ?, due = ? WHERE id = ?"
        with self._lock:
            self._database.execute(query, (delivery.attempts, delivery.due, delivery.id))

    def remove(self, delivery: Delivery) -> None:
        with self._lock:
            self._database.execute("DELETE FROM deliveries WHERE id = ?", (delivery.id,))

    def close(self) -> None:
        with self._lock:
            self._database.close()


class Eventarc:
    """Delivers finalized objects to the services of the triggers.

    `services` maps a service's name to its "host:port" and may grow later: events for a service that is not
    there yet wait and lose no attempt. `publish(topic, data, attributes)` receives what was given up, where a
    `dead_letter_topic` is named. `token(trigger, address)` is the identity token that a delivery carries; it raises
    Refused where the trigger's account may not call the service.
    """

    def __init__(
        self,
        *,
        faults: Faults,
        state_dir: Path | str,
        triggers: Sequence[Trigger],
        services: Mapping[str, str],
        publish: Callable[[str, bytes, dict[str, str]], object] | None = None,
        token: Callable[[Trigger, str], str] | None = None,
        dead_letter_topic: str = "",
        retry_policy: RetryPolicy = RetryPolicy(),
        delivery_timeout_seconds: float = 60.0,
    ) -> None:
        self._journal = Journal(Path(state_dir))
        self._publish = publish
        self._dead_letter_topic = dead_letter_topic
        self._poster = Poster()
        self._lanes = [
            _Lane(
                trigger,
                journal=self._journal,
                services=services,
                faults=faults,
                poster=self._poster,
                give_up=self._give_up,
                token=token,
                retry_policy=retry_policy,
                timeout_seconds=delivery_timeout_seconds,
            )
            for trigger in triggers
            if trigger.event == FINALIZED
        ]
        #: Names of triggers that are deleted: what happens meanwhile they never hear of.
        self.deleted: set[str] = set()

    @property
    def triggers(self) -> list[Trigger]:
        """The triggers that there are now."""
        return [lane.trigger for lane in self._lanes if lane.trigger.name not in self.deleted]

    def start(self) -> Eventarc:
        for lane in self._lanes:
            lane.start()
        return self

    def close(self) -> None:
        """Break off what is under way; an event that was not accepted by then is delivered after the next start."""
        deadline = time.monotonic() + _CLOSE_SECONDS
        for lane in self._lanes:
            lane.stop()
        self._poster.close()
        for lane in self._lanes:
            lane.join(deadline)
        self._journal.close()

    def accept(self, resource: Mapping[str, Any]) -> None:
        """Take over a finalized object (a `storage#object` resource); returns when it is on disk."""
        headers, body = cloud_event(resource)
        for lane in self._lanes:
            if lane.trigger.bucket != resource["bucket"] or lane.trigger.name in self.deleted:
                continue
            delivery = self._journal.add(lane.trigger.name, headers, body)
            if delivery is not None:
                lane.add(delivery)

    def pending(self) -> int:
        """How many deliveries were not accepted yet."""
        return sum(len(self._journal.pending(lane.trigger.name)) for lane in self._lanes)

    def _give_up(self, trigger: Trigger, delivery: Delivery, reason: str) -> None:
        logger.error("event %s for %s given up: %s", delivery.event, trigger.name, reason)
        if self._publish is None or not self._dead_letter_topic:
            return
        attributes = {
            **{name: value for name, value in delivery.headers.items() if name.startswith("ce-")},
            "trigger": trigger.name,
            "service": trigger.service,
            "path": trigger.path,
            "attempts": str(delivery.attempts),
            "reason": reason[:1024],  # Pub/Sub's limit for an attribute's value
        }
        self._publish(self._dead_letter_topic, delivery.body, attributes)


class _Lane:
    """The deliveries of one trigger, with workers of their own: a hanging service delays nobody else."""

    def __init__(
        self,
        trigger: Trigger,
        *,
        journal: Journal,
        services: Mapping[str, str],
        faults: Faults,
        poster: Poster,
        give_up: Callable[[Trigger, Delivery, str], None],
        token: Callable[[Trigger, str], str] | None,
        retry_policy: RetryPolicy,
        timeout_seconds: float,
    ) -> None:
        self.trigger = trigger
        self._journal = journal
        self._services = services
        self._faults = faults
        self._poster = poster
        self._give_up = give_up
        self._token = token
        self._retry_policy = retry_policy
        self._timeout_seconds = timeout_seconds
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._queue = [(delivery.due, delivery.id, delivery) for delivery in journal.pending(trigger.name)]
        heapq.heapify(self._queue)
        faults.register(f"delivery.{trigger.name}", EVENT_DELIVERY)
        self._workers = [
            threading.Thread(target=self._run, name=f"eventarc-{trigger.name}-{number}", daemon=True)
            for number in range(CONCURRENT_DELIVERIES_PER_TRIGGER)
        ]

    def start(self) -> None:
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """Start no delivery any more."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()

    def join(self, deadline: float) -> None:
        """Wait for the workers until `deadline` on the monotonic clock."""
        for worker in self._workers:
            if worker.is_alive():
                worker.join(max(0.0, deadline - time.monotonic()))

    def add(self, delivery: Delivery) -> None:
        with self._changed:
            heapq.heappush(self._queue, (delivery.due, delivery.id, delivery))
            self._changed.notify()

    def _run(self) -> None:
        while (delivery := self._next()) is not None:
            # A journal that is closed while a slow service still answers is the end of this worker, not an error:
            # the delivery stays in the journal and is made again by the next process.
            with contextlib.suppress(sqlite3.ProgrammingError):
                self._attempt(delivery)

    def _next(self) -> Delivery | None:
        """The next delivery that is due and whose service is there; None when closed."""
        with self._changed:
            while not self._closing.is_set():
                if self._queue and self.trigger.service not in self._services:
                    self._changed.wait(_REGISTRATION_POLL_SECONDS)
                    continue
                wait = self._queue[0][0] - time.time() if self._queue else None
                if wait is None or wait > 0:
                    self._changed.wait(wait)
                    continue
                return heapq.heappop(self._queue)[2]
            return None

    def _attempt(self, delivery: Delivery) -> None:
        fault = self._faults.take(f"delivery.{self.trigger.name}") or ""
        if fault.startswith("delay:"):
            self._postpone(dataclasses.replace(delivery, due=time.time() + float(fault.removeprefix("delay:"))))
            return
        reason = self._deliver(delivery, fault)
        if not reason:
            self._journal.remove(delivery)
            return
        if self._closing.is_set():
            return  # broken off, which is no attempt of the service's: it stays in the journal as it is
        attempts = delivery.attempts + 1
        failed = dataclasses.replace(
            delivery, attempts=attempts, due=time.time() + self._retry_policy.backoff(attempts)
        )
        logger.info("event %s for %s, attempt %d: %s", delivery.event, self.trigger.name, attempts, reason)
        if attempts < self._retry_policy.max_attempts:
            self._postpone(failed)
            return
        try:
            self._give_up(self.trigger, failed, reason)
        except Exception:  # whatever publishing raises, the event is still ours
            logger.exception("event %s could not be given up, keeping it", delivery.event)
            self._postpone(failed)
        else:
            self._journal.remove(failed)

    def _postpone(self, delivery: Delivery) -> None:
        self._journal.postpone(delivery)
        self.add(delivery)

    def _deliver(self, delivery: Delivery, fault: str) -> str:
        """Post the event; returns why that failed, or nothing."""
        if fault.startswith("return-"):
            return f"planned fault: the service answered {fault.removeprefix('return-')}"
        if fault.startswith("hang:"):
            self._closing.wait(float(fault.removeprefix("hang:")))
        elif fault not in {"", "duplicate", "lost-response"}:
            return f"planned fault: {fault}, the service was not called"
        reason = self._post(delivery)
        if fault == "duplicate":
            return self._post(delivery) or reason
        if fault == "lost-response":
            return "planned fault: the service's answer was lost"
        return reason

    def _post(self, delivery: Delivery) -> str:
        address = self._services.get(self.trigger.service)
        if address is None:
            return f"service {self.trigger.service} is not registered any more"
        # What Eventarc adds for events of Cloud Storage, as request logs of Cloud Run show it.
        url = f"http://{address}{self.trigger.path}?__GCP_CloudEventsMode=GCS_NOTIFICATION"
        try:
            # At delivery, not in the journal: a token is over before the last attempt.
            authorization = {"authorization": f"Bearer {self._token(self.trigger, address)}"} if self._token else {}
            headers = {**delivery.headers, **authorization}
            answer = self._poster.post(url, headers=headers, body=delivery.body, timeout=self._timeout_seconds)
        except Refused as refused:
            return f"403, before the service heard of it: {refused}"
        except NoAnswer as exc:
            return f"{address}: {exc}"
        if 200 <= answer.status < 300:
            return ""
        return f"{address}{self.trigger.path} answered {answer.status}: {answer.complaint}"


def _header_value(text: str) -> str:
    """Percent-encode what a header cannot carry, as the HTTP binding of CloudEvents says."""
    printable = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
    return urllib.parse.quote(text, safe=printable)
