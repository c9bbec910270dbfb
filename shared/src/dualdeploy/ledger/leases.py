"""Leases: claims with an end, so that two instances do not do the same work.

::

    taken            until            until + anything
      |-- held -------|-- expired --------------->
      LeaseHeld        may be taken by compare-and-swap on the generation that was read as expired

A lease may be taken when the object is absent, when its time is over, or when it cannot be read: it was over after
minutes, whoever wrote it. It keeps two instances from doing the same work, not from harm: whoever holds one may be
frozen and go on afterwards. Harm is prevented by the generation that every write states.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import uuid
from collections.abc import Iterator

from dualdeploy import clock as clocks
from dualdeploy.errors import LeaseHeld, RetryLater
from dualdeploy.google.object_store import ABSENT, Generation, GenerationChanged, ObjectMissing
from dualdeploy.ledger import names
from dualdeploy.ledger.documents import Lease
from dualdeploy.ledger.ledger import Ledger, encode

log = logging.getLogger(__name__)


@contextlib.contextmanager
def lease(ledger: Ledger, name: str, *, seconds: float) -> Iterator[None]:
    """Be the only one to work on `name` for at most `seconds`. Raises LeaseHeld."""
    lock = names.lock(name)
    until = ledger.clock() + datetime.timedelta(seconds=seconds)
    generation = _take(ledger, lock, Lease(holder=uuid.uuid4().hex, until=clocks.to_text(until)))
    try:
        yield
    finally:
        try:
            ledger.store.delete(lock, expect=generation)
        except GenerationChanged:
            log.warning("lease %s ran out while its holder was still at work", name)
        except RetryLater as exc:
            # What was done under the lease is done, and the lease runs out by itself.
            log.warning("lease %s could not be given back: %s", name, exc)


def _take(ledger: Ledger, lock: str, wanted: Lease) -> Generation:
    expect = ABSENT
    for _ in range(3):
        with contextlib.suppress(GenerationChanged):
            return ledger.store.put(lock, encode(wanted), expect=expect)
        try:
            stored = ledger.store.read(lock)
        except ObjectMissing:
            expect = ABSENT
            continue
        until = _end_of(lock, stored.data)
        if until and until > ledger.clock():
            raise LeaseHeld(f"{lock} is held until {clocks.to_text(until)}")
        expect = stored.generation
    raise LeaseHeld(f"{lock} changes hands faster than it can be taken")


def _end_of(lock: str, data: bytes) -> datetime.datetime | None:
    """When a lease is over; None for one that cannot be read."""
    try:
        return clocks.from_text(Lease.model_validate_json(data).until)
    except ValueError as exc:  # pydantic's ValidationError is one
        log.warning("%s cannot be read and counts as expired: %s", lock, exc)
        return None
