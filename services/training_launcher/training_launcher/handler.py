"""Decides what arriving data, a request for training and the clock lead to.

    object finalized ─┐
    retrain requested ┼─► batch complete? ─► snapshot ─► claim the run ─► validate ─► two labelled jobs
    clock ────────────┘

The claim comes before the validation: of any number of duplicate events, one validates and spends.
"""

from __future__ import annotations

import contextlib
import logging
import uuid

from dualdeploy import clock as clocks
from dualdeploy import dataset_config
from dualdeploy import shards as shard_names
from dualdeploy.clock import Clock
from dualdeploy.dataset_config import DatasetConfig
from dualdeploy.errors import (
    CannotEverSucceed,
    LeaseHeld,
    LedgerContention,
    RejectedByGoogle,
    RetryLater,
    UnknownDataset,
)
from dualdeploy.events import ObjectFinalized, RetrainRequested
from dualdeploy.ledger import Ledger, Rejected, Run, run_id_of
from dualdeploy.object_store import ObjectStore
from dualdeploy.outcome import Outcome, already_done, done, ignored
from dualdeploy.shards import Kind, NumberedShard, PassedOver, ShardNames
from dualdeploy.vertex import Vertex
from training_launcher import intake, snapshots
from training_launcher.intake import Intake
from training_launcher.launching import Launching
from training_launcher.retraining import Due, Retraining
from training_launcher.settings import LauncherSettings
from training_launcher.snapshots import Listing

log = logging.getLogger(__name__)

#: Forced repetitions of one snapshot: more than this is a loop somewhere, not a wish.
MAX_REPEATS = 99

#: Why a batch is complete before its quiet period is over.
WHOLE_SETS = "every numbered set is whole"


class IncompleteSet(CannotEverSucceed):
    """A `-SSSSS-of-NNNNN` set lacks shards although the batch was said to be complete."""


class NoShards(CannotEverSucceed):
    """Objects arrived, or training was asked for, but what there is, is not a shard of the data set."""


class Launcher:
    """The decisions of training_launcher; everything it touches is handed to it."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        data: ObjectStore,
        config: ObjectStore,
        models: ObjectStore,
        vertex: Vertex,
        settings: LauncherSettings,
        clock: Clock = clocks.utc_now,
    ) -> None:
        self._ledger = ledger
        self._data = data
        self._config = config
        self._settings = settings
        self._clock = clock
        self._intake = Intake(config=config, ledger=ledger, clock=clock)
        self._retraining = Retraining(config=config, ledger=ledger, clock=clock)
        self._launching = Launching(
            ledger=ledger, data=data, models=models, vertex=vertex, settings=settings, clock=clock
        )

    # What happens ----------------------------------------------------------------------------------------------

    def on_object_finalized(self, event: ObjectFinalized) -> Outcome:
        """A shard or a `_SUCCESS` marker may complete a batch; what else arrives is looked at by the clock."""
        if event.bucket != self._settings.data_bucket or shard_names.is_never_data(event.name):
            return ignored(f"{event.name} is not in a data set")
        dataset, folder, _ = event.name.partition("/")
        if run_id := self._intake.run_with(dataset, event.name, event.generation):
            return already_done(f"nothing new: {run_id} is this very data")
        try:
            config = self._config_for(event.name, dataset if folder else "")
        except UnknownDataset as exc:
            return self._unknown_dataset(event.name, dataset, exc)
        if not event.name.startswith(config.data.prefix):
            return self._outside(event.name, config)
        # Before the listing: whoever forgets this arrival has listed the shards after it.
        self._intake.note_arrival(dataset)
        return self._arrived(event.name, config)

    def _arrived(self, name: str, config: DatasetConfig) -> Outcome:
        kind = config.data.shard_names.kind(name)
        if kind is Kind.MARKER:
            return self._complete_by_marker(name, config.dataset)
        if kind is not Kind.SHARD:
            return done(f"{name} noted; it is not a shard by its name, and the clock says what becomes of it")
        shard = shard_names.numbered(name)
        if shard is None:
            return done(f"{name} noted; the quiet period or {shard_names.SUCCESS_MARKER} completes its batch")
        return self._complete_by_numbers(name, shard, config)

    def _config_for(self, name: str, dataset: str) -> DatasetConfig:
        """The configuration that decides about the object `name`; raises UnknownDataset when it lies in no folder."""
        if dataset:
            return self._intake.config_of(dataset)
        raise UnknownDataset(
            f"{name} lies in no folder: put shards under {self._data.uri('<dataset>/')}, and the data set's"
            f" configuration at {self._config.uri(dataset_config.object_name('<dataset>'))}"
        )

    def _unknown_dataset(self, name: str, dataset: str, exc: UnknownDataset) -> Outcome:
        """Refuse data that belongs to no data set; what may be meant as data is told once a day."""
        kind = ShardNames(f"{dataset}/").kind(name)
        if kind in (Kind.SHARD, Kind.MARKER):
            raise exc
        if kind is Kind.UNKNOWN:
            self._record(dataset, exc, kind="upload")
        return ignored(str(exc))

    def _outside(self, name: str, config: DatasetConfig) -> Outcome:
        """Say once a day that data arrives where no run looks for it."""
        folder = name.rpartition("/")[0]
        message = f"{self._data.uri(folder)}/ is not under data.prefix, {self._data.uri(config.data.prefix)}"
        if config.data.shard_names.kind(name) is Kind.SHARD:
            self._record(config.dataset, NoShards(f"shards arrive outside of the data set: {message}"), kind="upload")
        return ignored(f"{name} is passed over: {message}")

    def on_retrain_requested(self, event: RetrainRequested, *, event_id: str) -> Outcome:
        """Train on what is there now: unchanged data only with `force`, and then once for each message."""
        reason = f"retrain requested: {event.reason or 'no reason given'}"
        return self._retrain(event.dataset, force=event.force, reason=reason, token=f"retrain:{event_id}")

    def on_clock(self) -> Outcome:
        """Launch batches whose quiet period is over, and go on with launches that were interrupted."""
        outcomes = [self._quiet(dataset, windows) for dataset, windows in self._ledger.arrivals().items()]
        outcomes += self._launching.resume_all()
        outcomes += self._retrain_in_time()
        return done("; ".join(filter(None, outcomes)) or "nothing waits")

    # Completing a batch ----------------------------------------------------------------------------------------

    def _list(self, config: DatasetConfig) -> Listing:
        return snapshots.list_shards(self._data, config, bucket=self._settings.data_bucket, clock=self._clock)

    def _complete_by_marker(self, name: str, dataset: str) -> Outcome:
        # Not the remembered configuration: whoever writes data after a new configuration means the new one.
        config = dataset_config.read(self._config, dataset)
        return self._launch_complete(config, self._list(config), reason=f"{name} arrived")

    def _complete_by_numbers(self, name: str, shard: NumberedShard, config: DatasetConfig) -> Outcome:
        """Launch if this shard was the last one; what one page of a listing cannot tell is left to the clock."""
        dataset = config.dataset
        if not self._intake.should_list(dataset, shard):
            return done(f"{name} noted; {_why_not_listed(shard)}")
        listing = self._list_one_page(config)
        self._intake.remember_listing(dataset, listing)
        if listing is None:
            return done(f"{name} noted; the clock looks whether its batch is complete")
        if not shard_names.is_whole(listing.names, prefix=config.data.prefix, rule=config.data.split):
            return done(f"{name} noted; its batch is not complete")
        if self._replaces_known_data(listing, dataset):
            return done(f"{name} noted; {dataset} was trained before, so the quiet period completes this batch")
        # Should the launch fail, the event comes again and has to look again.
        self._intake.forget_listing(dataset)
        current = dataset_config.read(self._config, dataset)
        if current != config:
            return done(f"{name} noted; the configuration has just changed, so the clock completes its batch")
        return self._launch_complete(config, listing, reason=WHOLE_SETS)

    def _list_one_page(self, config: DatasetConfig) -> Listing | None:
        return snapshots.list_one_page(
            self._data, config, bucket=self._settings.data_bucket, clock=self._clock, page_size=intake.PAGE_SIZE
        )

    def _replaces_known_data(self, listing: Listing, dataset: str) -> bool:
        """Whether a set that is whole by its names may still be a mixture of old shards and new ones.

        Once a set was complete, replacing its shards one by one leaves it "whole" after each of them: launching then
        would pay for as many runs as there are shards.
        """
        known = self._ledger.run_ids(dataset)
        return bool(known) and run_id_of(dataset, listing.snapshot) not in known

    def _launch_complete(self, config: DatasetConfig, listing: Listing, *, reason: str) -> Outcome:
        if not listing.snapshot.shards:
            return ignored("the batch has no shards")
        _refuse_incomplete(listing)
        run = self._run(config, listing, reason=reason, claim=uuid.uuid4().hex)
        claimed, created = self._ledger.claim(run)
        passed_over = listing.passed_over.sentence()
        if passed_over and passed_over not in claimed.reason:
            self._record(config.dataset, NoShards(f"nothing new for {claimed.run_id}: {passed_over}"))
        return self._launch(claimed, created=created)

    def _launch(self, run: Run, *, created: bool) -> Outcome:
        self._launching.open(run)
        self._intake.remember_claim(run)
        return self._launching.launch(run, created=created)

    def _retrain(self, dataset: str, *, force: bool, reason: str, token: str) -> Outcome:
        config = dataset_config.read(self._config, dataset)
        listing = self._list(config)
        if not listing.snapshot.shards:
            raise self._no_shards(config, listing)
        if not force:
            return self._launch_complete(config, listing, reason=reason)
        _refuse_incomplete(listing)
        return self._launch_forced(config, listing, reason=reason, token=token)

    def _no_shards(self, config: DatasetConfig, listing: Listing) -> NoShards:
        place = self._data.uri(config.data.prefix)
        return NoShards(
            f"data set {config.dataset!r} has no shards under {place}: {listing.passed_over.why_no_shards()}"
        )

    def _retrain_in_time(self) -> list[str]:
        """What the schedules of all data sets lead to."""
        try:
            return [self._retrain_due(due) for due in self._retraining.due()]
        except RetryLater as exc:
            log.warning("the schedules are looked at again at the next tick: %s", exc)
            return []
        except CannotEverSucceed as exc:
            # A right that is missing, say: no reason to reject the tick, whose launches went well.
            log.error("nothing is retrained until this is mended: %s", exc)  # noqa: TRY400
            return []

    def _retrain_due(self, due: Due) -> str:
        """Retrain one data set; empty when there is nothing to say."""
        try:
            message = self._retrain(due.dataset, force=due.force, reason=due.reason, token=due.token).message
        except LeaseHeld:
            return ""
        except RetryLater as exc:
            log.warning("%s is retrained at a later tick: %s", due.dataset, exc)
            return ""
        except CannotEverSucceed as exc:
            self._record(due.dataset, exc, kind="retrain-schedule")
            message = str(exc)
        except Exception:
            # A bug that one data set meets must not stop the clock for every other.
            log.exception("%s cannot be retrained", due.dataset)
            return ""
        with contextlib.suppress(LedgerContention):  # another instance did the same, and said so first
            self._retraining.served(due)
        return f"{due.dataset}: {message}"

    def _launch_forced(self, config: DatasetConfig, listing: Listing, *, reason: str, token: str) -> Outcome:
        """Claim the first free repetition; the message's id is the claim, so that a duplicate finds its own run."""
        for repeat in range(1, MAX_REPEATS + 1):
            run = self._run(config, listing, reason=reason, claim=token, repeat=repeat)
            claimed, created = self._ledger.claim(run)
            if created or claimed.claim == token:
                return self._launch(claimed, created=created)
        raise CannotEverSucceed(f"{run_id_of(config.dataset, listing.snapshot)} was repeated {MAX_REPEATS} times")

    def _run(self, config: DatasetConfig, listing: Listing, *, reason: str, claim: str, repeat: int = 1) -> Run:
        return Run(
            run_id=run_id_of(config.dataset, listing.snapshot, repeat=repeat),
            dataset=config.dataset,
            created_at=clocks.to_text(self._clock()),
            reason="; ".join(filter(None, (reason, listing.passed_over.sentence()))),
            snapshot=listing.snapshot,
            config=config.model_dump(mode="json"),
            claim=claim,
        )

    def _quiet(self, dataset: str, windows: list[int]) -> str:
        """What the clock does about one data set with arrivals; empty when there is nothing to say."""
        try:
            return self._complete_when_quiet(dataset, windows)
        except LeaseHeld:
            return ""
        except RetryLater as exc:
            log.warning("%s is looked at again at the next tick: %s", dataset, exc)
            return ""
        except Exception:
            # A bug that one data set meets must not stop the clock for every other.
            log.exception("%s cannot be looked at", dataset)
            return ""

    def _complete_when_quiet(self, dataset: str, windows: list[int]) -> str:
        # Before the listing: what arrives while a batch is validated and launched must not be forgotten with it.
        listed_at = self._clock()
        try:
            config = dataset_config.read(self._config, dataset)
            listing = self._list(config)
            reason = self._why_complete(config, listing)
            if not reason:
                return ""
            if listing.passed_over != PassedOver() and not listing.snapshot.shards:
                raise self._no_shards(config, listing)
            message = self._launch_complete(config, listing, reason=reason).message
        except CannotEverSucceed as exc:
            # Said once, not every minute: the name of the record is derived from what it says.
            self._record(dataset, exc)
            message = str(exc)
            if isinstance(exc, RejectedByGoogle):
                # A right that is missing says nothing about the data, which is launched as soon as it can be seen.
                return f"{dataset}: {message}"
        self._ledger.forget_arrivals(dataset, windows, listed_at=listed_at)
        return f"{dataset}: {message}"

    def _why_complete(self, config: DatasetConfig, listing: Listing) -> str:
        """Why the batch is complete, or nothing: whole sets need no quiet period."""
        if not listing.newest or listing.quiet_for() >= config.data.quiet_period:
            return "the quiet period is over"
        # Of a data set that was trained before, it is this very run, or may be a mixture (see `_replaces_known_data`).
        whole = shard_names.is_whole(listing.names, prefix=config.data.prefix, rule=config.data.split)
        if whole and not self._ledger.run_ids(config.dataset):
            return WHOLE_SETS
        return ""

    def _record(self, dataset: str, exc: CannotEverSucceed, *, kind: str = "quiet-period") -> None:
        reason = f"{type(exc).__name__}: {exc}"
        rejected = Rejected(
            at=clocks.to_text(self._clock()),
            service="training_launcher",
            kind=kind,
            reason=reason,
            event={"dataset": dataset},
        )
        self._ledger.record_rejected(rejected, event_id=f"{dataset} {reason}")


def _refuse_incomplete(listing: Listing) -> None:
    if fault := shard_names.why_incomplete(listing.names):
        raise IncompleteSet(fault)


def _why_not_listed(shard: NumberedShard) -> str:
    if shard.count > intake.PAGE_SIZE:
        return f"the clock looks whether all {shard.count} are there"
    return "its batch is not complete"
