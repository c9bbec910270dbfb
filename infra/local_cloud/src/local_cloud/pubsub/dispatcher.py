"""Pushing: one thread that decides what goes out now, and workers that post it.

No endpoint can starve another. A subscription with nothing under way always has a slot of its own, however many
slots the slow ones hold; what is left of the `workers` slots goes to whoever has messages.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections.abc import Callable

from local_cloud.identity import TokenMint
from local_cloud.pubsub.broker import Broker, Lease
from local_cloud.pubsub.push import Pusher, PushRequest
from local_cloud.pubsub.subscription import Subscription

_LOG = logging.getLogger("local_cloud.pubsub")

#: may_call(endpoint, account): why a call signed as this account would be refused before it arrives; empty if not.
MayCall = Callable[[str, str], str]

#: How long to pause, in seconds, when nothing could be handed out (the state could not be written).
_RETRY_SECONDS = 1.0


def anyone_may_call(_endpoint: str, _account: str) -> str:
    """Where no one stands before the endpoints."""
    return ""


class PushDispatcher:
    """Delivers the messages of every push subscription, and lets time pass for all subscriptions."""

    def __init__(self, broker: Broker, *, workers: int, mint: TokenMint, may_call: MayCall) -> None:
        self._mint = mint
        self._may_call = may_call
        self._broker = broker
        self._catalog = broker.catalog
        self._pusher = Pusher()
        self._slots = workers
        self._workers = _Workers()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pubsub-dispatcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Break off what is under way; a message whose endpoint had not answered stays owed."""
        self._closing.set()
        self._pusher.close()
        with self._catalog.lock:
            self._catalog.attention.notify_all()
        if self._thread.ident:
            self._thread.join(timeout=5)
        self._workers.close()

    def _run(self) -> None:
        with self._catalog.lock:
            while not self._closing.is_set():
                try:
                    wake = self._dispatch()
                except Exception:  # noqa: BLE001  # a full disk must not end all pushing until the next start
                    _LOG.exception("cannot push: trying again")
                    wake = self._broker.clock.monotonic() + _RETRY_SECONDS
                wait = wake - self._broker.clock.monotonic()
                if wait > 0:
                    # Every change notifies: a publish, an answer, a new endpoint. Idle costs nothing.
                    self._catalog.attention.wait(min(wait, threading.TIMEOUT_MAX))

    def _dispatch(self) -> float:
        """Start what may start; when the next thing is due (monotonic), infinity for nothing in sight."""
        wake = math.inf
        everything = self._catalog.all_subscriptions()
        for subscription in everything:
            self._broker.sweep(subscription)
        pushing = [one for one in everything if one.is_push]
        # Those with the fewest requests under way first, so that spare slots even out.
        for subscription in sorted(pushing, key=lambda one: one.in_flight):
            for lease in self._broker.take_pushes(subscription, self._free_slots(subscription, pushing)):
                self._start(lease)
            if self._free_slots(subscription, pushing):
                wake = min(wake, subscription.backlog.next_due_time())
        return min([wake, *(self._broker.next_sweep(one) for one in everything)])

    def _free_slots(self, subscription: Subscription, pushing: list[Subscription]) -> int:
        """How many requests this subscription may add without taking the last slot of another."""
        under_way = sum(one.in_flight for one in pushing)
        kept_for_others = sum(1 for one in pushing if one is not subscription and not one.in_flight)
        free = self._slots - under_way - kept_for_others
        return max(free, 0 if subscription.in_flight else 1)

    def _start(self, lease: Lease) -> None:
        # A planned duplicate goes out beside the original: two requests at once are the hardest case.
        copies = 2 if lease.fault == "duplicate" else 1
        for copy in range(copies):
            lease.subscription.in_flight += 1
            self._workers.submit(lambda settles=copy == 0: self._push(lease, settles=settles))

    def _push(self, lease: Lease, *, settles: bool) -> None:
        acked, answer = False, "not posted"
        try:
            if lease.fault.startswith("hang:"):
                self._closing.wait(float(lease.fault.partition(":")[2]))
            # "The push timeout is the acknowledgement deadline." Source: google.pubsub.v1.Subscription.
            timeout = float(lease.resource.ack_deadline_seconds)
            config = lease.resource.push_config
            if refusal := self._may_call(config.push_endpoint, config.oidc_token.service_account_email):
                answer = refusal
            else:
                acked, answer = self._pusher.post(PushRequest.of(lease, self._mint), timeout=timeout)
            if lease.fault == "lost-response":
                acked, answer = False, f"planned fault: the answer {answer} was lost"
        finally:
            self._finish(lease, acked=acked, answer=answer, settles=settles)

    def _finish(self, lease: Lease, *, acked: bool, answer: str, settles: bool) -> None:
        with self._catalog.lock:
            lease.subscription.in_flight -= 1
            self._catalog.attention.notify_all()
            if settles and not self._closing.is_set():
                self._broker.answered(lease, acked=acked, answer=answer)


class _Workers:
    """Threads started on demand and kept; the dispatcher's slots bound how many."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()  # type: ignore[type-arg]  # jobs, or None to stop
        self._threads: list[threading.Thread] = []
        self._idle = 0

    def submit(self, job: object) -> None:
        with self._lock:
            if self._idle:
                self._idle -= 1
            else:
                # Daemons: an endpoint that hangs must not keep the process from ending.
                name = f"pubsub-push-{len(self._threads)}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:  # noqa: BLE001  # a worker that dies would lose its slot for good
                _LOG.exception("a push failed")
            with self._lock:
                self._idle += 1

    def close(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(timeout=2)
