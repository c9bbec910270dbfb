"""Whether the batch of a data set is complete; the kind of due work `arrivals/<dataset>`.

::

    event at 12:00:10 ─► marker of 12:01 ─► looked at from 12:01 on ─┬─► complete: claimed
         noted first, whatever fails afterwards                      ├─► not quiet yet: looked at when it may be
                                                                     └─► cannot be looked at: kept, and said why

A marker is of the tick after the arrival: whoever takes it lists the data after every arrival that it stands for.
"""

from __future__ import annotations

import datetime
import logging

from dualdeploy import clock as clocks
from dualdeploy.contracts import shards as shard_names
from dualdeploy.contracts.dataset_config import DatasetConfig
from dualdeploy.contracts.shards import Kind
from dualdeploy.errors import CannotEverSucceed, InvalidDatasetConfig, RejectedByGoogle, UnknownDataset
from dualdeploy.google import config_bucket
from dualdeploy.google.object_store import ObjectStore
from dualdeploy.http.ticks import Next
from dualdeploy.ledger import Ledger, Rejected, Run
from training_launcher import snapshots
from training_launcher.claiming import Claiming, Wish
from training_launcher.data_sets import DataSets
from training_launcher.markers import BY_NAMES, begun_too_early
from training_launcher.snapshots import Listing

log = logging.getLogger(__name__)

#: The kind of due work.
ARRIVALS = "arrivals"

#: Why a batch is complete before its quiet period is over.
WHOLE_SETS = "every numbered set is whole"

#: When data is looked at again that people have to mend something for.
_MENDING_SECONDS = 120.0


class IncompleteSet(CannotEverSucceed):
    """A `-SSSSS-of-NNNNN` set lacks shards although the batch was said to be complete."""


class NoShards(CannotEverSucceed):
    """Objects arrived, or training was asked for, but what there is, is not a shard of the data set."""


class Arrivals:
    """Looks at data sets with arrivals; implements `ticks.Work`."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        config: ObjectStore,
        data: ObjectStore,
        claiming: Claiming,
        data_sets: DataSets,
        bucket: str,
    ) -> None:
        self._ledger = ledger
        self._config = config
        self._data = data
        self._claiming = claiming
        self._data_sets = data_sets
        self._bucket = bucket

    def advance(self, what: str) -> Next:
        """`what` is a data set."""
        known = self._data_sets.read(what)
        try:
            following = self._look(what, newest=known.newest)
        except CannotEverSucceed as exc:
            # Said once a day, not every minute: the name of the record is derived from what it says.
            self.record(what, exc)
            return self._kept(what, exc)
        if known.waits:
            self._data_sets.change(what, lambda found: found.changed(waits=""))
        return following

    def give_up(self, what: str, why: str) -> None:
        self.record(what, CannotEverSucceed(f"what arrived for {what} is given up: {why}"))

    def record(self, dataset: str, exc: CannotEverSucceed, *, kind: str = "quiet-period") -> None:
        """Keep what came of arrivals where people look."""
        reason = f"{type(exc).__name__}: {exc}"
        rejected = Rejected(
            at=clocks.to_text(self._ledger.clock()),
            service="training_launcher",
            kind=kind,
            reason=reason,
            event={"dataset": dataset},
        )
        self._ledger.record_rejected(rejected, event_id=f"{dataset} {reason}")

    def listing(self, config: DatasetConfig) -> Listing:
        """All shards of the data set as they are now."""
        return snapshots.list_shards(self._data, config, bucket=self._bucket, clock=self._ledger.clock)

    def no_shards(self, config: DatasetConfig, listing: Listing) -> NoShards:
        place = self._data.uri(config.data.prefix)
        return NoShards(
            f"data set {config.dataset!r} has no shards under {place}: {listing.passed_over.why_no_shards()}"
        )

    def wish(
        self, config: DatasetConfig, listing: Listing, *, reason: str, completed_by: str = "", newest: Run | None = None
    ) -> Wish:
        """The run of what was listed; it takes the place of the `newest` one if that is of a part of the same batch.

        Raises IncompleteSet.
        """
        if fault := shard_names.why_incomplete(listing.names):
            raise IncompleteSet(fault)
        said = "; ".join(filter(None, (reason, listing.passed_over.sentence())))
        extends = begun_too_early(listing, newest, within=config.data.quiet_period)
        return Wish(config=config, snapshot=listing.snapshot, reason=said, completed_by=completed_by, extends=extends)

    def _launch(self, config: DatasetConfig, listing: Listing, *, reason: str, newest: Run | None) -> str:
        """Claim the run of what was listed and have it launched; what came of it."""
        completed_by = BY_NAMES if reason == WHOLE_SETS else ""
        wish = self.wish(config, listing, reason=reason, completed_by=completed_by, newest=newest)
        run, is_new = self._claiming.claim(wish)
        passed_over = listing.passed_over.sentence()
        if passed_over and passed_over not in run.reason:
            self.record(config.dataset, NoShards(f"nothing new for {run.run_id}: {passed_over}"))
        if not is_new and (late := _left_out_since(run, config, listing)):
            self.record(config.dataset, NoShards(f"nothing new for {run.run_id}: {late}"))
        return self._claiming.launch(run, is_new=is_new).message

    # A look ----------------------------------------------------------------------------------------------------

    def _look(self, dataset: str, *, newest: str) -> Next:
        config = config_bucket.read(self._config, dataset)
        listing = self.listing(config)
        why = _why_complete(config, listing, is_new=not newest)
        if not why:
            return Next("its batch is not complete", _quiet_at(config, listing))
        if not listing.snapshot.shards:
            if listing.passed_over:
                raise self.no_shards(config, listing)
            return Next("there is no data")
        return Next(self._launch(config, listing, reason=why, newest=self._newest(newest)))

    def _newest(self, run_id: str) -> Run | None:
        try:
            return self._ledger.read_run(run_id) if run_id else None
        except CannotEverSucceed as exc:
            # A document that cannot be read must not stand in the way of every later batch.
            log.warning("%s is ignored: %s", run_id, exc)
            return None

    def _kept(self, dataset: str, exc: CannotEverSucceed) -> Next:
        """What becomes of arrivals that could not be looked at: they outlive what is not their fault."""
        if isinstance(exc, UnknownDataset | InvalidDatasetConfig | RejectedByGoogle):
            self._data_sets.change(dataset, lambda found: found.changed(waits=str(exc)))
        if isinstance(exc, InvalidDatasetConfig | RejectedByGoogle):
            return Next(f"waits: {exc}", self._ledger.clock() + datetime.timedelta(seconds=_MENDING_SECONDS))
        # Of an unknown data set, its configuration brings the arrivals back (`configurations`).
        return Next(str(exc))


def _left_out_since(run: Run, config: DatasetConfig, listing: Listing) -> str:
    """What to say of shards that arrived after the run was claimed, in folders that `data.snapshot` does not take."""
    shards = [name for name in sorted(listing.objects) if config.data.shard_names.kind(name) is Kind.SHARD]
    taken = set(shard_names.of_last_folders(shards, config.data.last_folders, prefix=config.data.prefix))
    claimed = clocks.from_text(run.created_at)
    late = [name for name in shards if name not in taken and listing.objects[name].created > claimed]
    if not late:
        return ""
    more = f" and {len(late) - 1} more" if len(late) > 1 else ""
    return (
        f"{late[0]}{more} came into a folder that data.snapshot ({config.data.snapshot}) leaves out; a folder whose"
        " name comes last is taken"
    )


def _why_complete(config: DatasetConfig, listing: Listing, *, is_new: bool) -> str:
    """Why the batch is complete, or nothing: whole sets need no quiet period."""
    if not listing.newest or listing.quiet_for() >= config.data.quiet_period:
        return "the quiet period is over"
    # Of a data set that was trained before, it is this very run, or may be a mixture of old shards and new ones: once a
    # set was complete, replacing its shards one by one leaves it "whole" after each of them.
    if is_new and shard_names.is_whole(listing.names, prefix=config.data.prefix, rule=config.data.split):
        return WHOLE_SETS
    return ""


def _quiet_at(config: DatasetConfig, listing: Listing) -> datetime.datetime:
    newest = listing.newest or listing.listed_at
    return newest + datetime.timedelta(seconds=config.data.quiet_period)
