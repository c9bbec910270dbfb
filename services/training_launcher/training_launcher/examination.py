"""The validation of a run over as many requests as it takes: what one of them read, the next does not read again.

runs/<run>/validation-step-<n>.json    what the n-th request read, written once
runs/<run>/validation-unread.json      since when a shard cannot be read, and why; written once
runs/<run>/validation.json             the verdict, written once (`admission`)
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, BinaryIO, Protocol

from dualdeploy import clock as clocks
from dualdeploy.clock import Clock
from dualdeploy.contracts import dataset_config
from dualdeploy.errors import RejectedByGoogle, RetryLater
from dualdeploy.google.object_store import ObjectMissing, ObjectStore
from dualdeploy.ledger import Run, Shard
from dualdeploy.ledger.shard_versions import open_shard
from training_launcher.run_split import split_of_run

if TYPE_CHECKING:
    from training_launcher.validation import Validation

#: How long one request reads: it lives 60 seconds, of which the rest is for what follows a verdict.
READING_SECONDS = 40.0

#: What cannot be read for so long is a fault of the object and no moment of the network. Longer than a grant takes to
#: spread (about 7 minutes). Source: https://cloud.google.com/iam/docs/access-change-propagation
UNREADABLE_SECONDS = 900.0


class ValidationUnderWay(RetryLater):
    """This request read what it had time for; the next goes on behind it."""


class ShardUnreadable(RetryLater):
    """A shard cannot be read at the moment; the run is rejected when that lasts."""

    patience = UNREADABLE_SECONDS


class Notes(Protocol):
    """Documents of one run that are written once, by their names below `runs/<run>/`."""

    def read(self, name: str) -> bytes | None: ...

    def keep(self, name: str, data: bytes) -> bytes:
        """Write it if there is none; what is there now."""


@dataclasses.dataclass(frozen=True)
class StoredShard:
    """One version of one shard in a bucket, as the validator reads it."""

    shard: Shard
    store: ObjectStore

    @property
    def name(self) -> str:
        return self.shard.name

    @property
    def size(self) -> int:
        return self.shard.size

    def open(self, length: int) -> BinaryIO:
        return open_shard(self.store, self.shard, length=length)


def examine(
    run: Run,
    *,
    notes: Notes,
    data: ObjectStore,
    clock: Clock = clocks.utc_now,
    seconds: float = READING_SECONDS,
    earlier: Iterable[Run] = (),
) -> bytes:
    """The document of the verdict (`Verdict.to_json`); `earlier` runs of the data set tell what has changed.

    Raises ValidationUnderWay, or ShardUnreadable.
    """
    if locked := [shard.name for shard in run.snapshot.shards if not shard.crc32c]:
        return _rejected(
            f"{_some(locked)}: encrypted with a key that only its owner has (a customer-supplied encryption key), which"
            " neither validation nor training has; rewrite it with Google's or with a Cloud KMS key"
        )
    try:
        validation = _validation(run, data, earlier)
        return _examine(validation, run, notes, clock, clock() + datetime.timedelta(seconds=seconds))
    except ObjectMissing as exc:
        return _rejected(
            f"a shard was replaced or deleted after the snapshot ({exc}); what replaces it becomes a run of its own,"
            " be it the same bytes",
            about="objects",
        )
    except (ValidationUnderWay, ShardUnreadable):
        raise
    except (OSError, RetryLater, RejectedByGoogle) as exc:
        return _unreadable(run, notes, clock(), exc)


def _examine(validation: Validation, run: Run, notes: Notes, clock: Clock, until: datetime.datetime) -> bytes:
    steps = 0
    while (step := notes.read(_step(steps + 1))) is not None:
        validation.take_up(step)
        steps += 1
    taken_up, is_read = validation.shards_read, False
    try:
        is_read = validation.read(go_on=lambda: clock() < until)
    finally:
        if not is_read and validation.shards_read > taken_up:
            notes.keep(_step(steps + 1), validation.step())
    if not is_read:
        raise ValidationUnderWay(
            f"{validation.shards_read:,} of {validation.shards_planned:,} shards of {run.run_id} are validated;"
            " the next tick goes on"
        )
    found = validation.conclude()
    return dataclasses.replace(found, notes=(*found.notes, *_paid_reading(run))).to_json()


def _validation(run: Run, data: ObjectStore, earlier: Iterable[Run]) -> Validation:
    # NumPy and Pillow: an event that leads to no new run must not pay for them.
    from training_launcher.validation import Validation, ValidationLimits  # noqa: PLC0415

    config = dataset_config.stored(run.config)
    return Validation(
        [StoredShard(shard, data) for shard in run.snapshot.shards],
        labels=config.labels,
        features=config.data.features.model_dump(),
        first_label=config.data.first_label,
        split=split_of_run(run, earlier=earlier),
        limits=ValidationLimits(
            max_bytes=config.validation.max_bytes,
            max_shards=config.validation.max_shards,
            max_bad_records=config.training.tolerated_bad_records,
        ),
        keep=True,
    )


def _unreadable(run: Run, notes: Notes, now: datetime.datetime, exc: Exception) -> bytes:
    """Wait for what may pass, and reject the run with the reason when it does not."""
    reason = f"{type(exc).__name__}: {exc}"
    first = {"v": 1, "since": clocks.to_text(now), "reason": reason}
    noted = json.loads(notes.keep("validation-unread.json", json.dumps(first).encode()))
    since = clocks.from_text(noted["since"])
    if (now - since).total_seconds() < UNREADABLE_SECONDS:
        raise ShardUnreadable(f"a shard of {run.run_id} cannot be read since {noted['since']}: {reason}") from exc
    return _rejected(
        f"a shard could not be read from {noted['since']} to {clocks.to_text(now)}: {reason}; upload it again, or send"
        " a forced retrain request when it can be read",
        about="objects",
    )


def _paid_reading(run: Run) -> tuple[str, ...]:
    """What to say of shards that cost something each time they are read.

    Source: https://cloud.google.com/storage/pricing#retrieval-pricing
    """
    classes, total = run.snapshot.storage_classes, len(run.snapshot.shards)
    if not classes:
        return ()
    listed = ", ".join(f"{count:,} {name}" for name, count in sorted(classes.items()))
    told = (
        f"Stored for rare reading: {listed}, of {total:,} shards. Without Autoclass, Cloud Storage charges"
        " for each gigabyte read of them, and validation, both trainings and publishing read them."
    )
    return (told,)


def _rejected(reason: str, *, about: str = "data") -> bytes:
    """`about` is `objects` when other objects with the same bytes are to be judged anew."""
    return json.dumps({"v": 1, "verdict": "rejected", "about": about, "reason": reason}).encode()


def _step(number: int) -> str:
    return f"validation-step-{number}.json"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
