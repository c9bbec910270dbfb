"""What arriving data, a changed configuration and a request for training lead to.

    object finalized ─► arrival noted ─┬─► `_SUCCESS`, or the last of a numbered set: claimed at once
                                       └─► all others: the quiet period completes the batch (`arrivals`)
    retrain requested ─► claimed at once                    claimed ─► validated, launched (`launching`)
    configuration changed ─► looked at (`configurations`)

The claim comes before the validation: of any number of duplicate events, one validates and spends.
"""

from __future__ import annotations

import logging

from dualdeploy.clock import Clock
from dualdeploy.contracts import dataset_config
from dualdeploy.contracts import shards as shard_names
from dualdeploy.contracts.dataset_config import DATASET_NAME, DatasetConfig
from dualdeploy.contracts.events import ObjectFinalized, RetrainRequested
from dualdeploy.contracts.shards import Kind, NumberedShard, ShardNames
from dualdeploy.errors import CannotEverSucceed, UnknownDataset
from dualdeploy.google import config_bucket
from dualdeploy.google.object_store import ObjectStore
from dualdeploy.http.ticks import Ticks
from dualdeploy.ledger import Ledger, Run, names, run_id_of
from dualdeploy.ledger.due import Due
from dualdeploy.outcome import Outcome, already_done, done, ignored
from training_launcher import intake, snapshots
from training_launcher.arrivals import WHOLE_SETS, Arrivals, NoShards
from training_launcher.claiming import Claiming, Wish
from training_launcher.configurations import CONFIG, dataset_of
from training_launcher.data_sets import DataSets
from training_launcher.intake import Intake
from training_launcher.markers import BY_MARKER, BY_NAMES, request_of, spoken_for
from training_launcher.settings import LauncherSettings
from training_launcher.snapshots import Listing

log = logging.getLogger(__name__)


class Launcher:
    """The events of training_launcher; everything it touches is handed to it."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        data: ObjectStore,
        config: ObjectStore,
        due: Due,
        arrivals: Arrivals,
        claiming: Claiming,
        data_sets: DataSets,
        settings: LauncherSettings,
    ) -> None:
        self._ledger = ledger
        self._data = data
        self._config = config
        self._arrivals = arrivals
        self._claiming = claiming
        self._data_sets = data_sets
        self._settings = settings
        self._clock: Clock = ledger.clock
        self._intake = Intake(config=config, due=due, clock=ledger.clock)

    # Events ----------------------------------------------------------------------------------------------------

    def on_object_finalized(self, event: ObjectFinalized) -> Outcome:
        """A shard or a `_SUCCESS` marker may complete a batch; what else arrives is looked at by the next tick."""
        if event.bucket != self._settings.data_bucket or shard_names.is_never_data(event.name):
            return ignored(f"{event.name} is not in a data set")
        dataset, folder, _ = event.name.partition("/")
        if not folder or not DATASET_NAME.fullmatch(dataset):
            return self._unknown_dataset(event.name, dataset, self._no_data_set(event.name))
        if run_id := self._intake.run_with(dataset, event.name, event.generation):
            return already_done(f"nothing new: {run_id} has exactly this data")
        # Before anything that can fail, and before any listing: what arrived is looked at whatever comes of this event.
        self._intake.note_arrival(dataset)
        try:
            config = self._intake.config_of(dataset)
        except UnknownDataset as exc:
            return self._unknown_dataset(event.name, dataset, exc)
        if not event.name.startswith(config.data.prefix):
            return self._outside(event.name, config)
        return self._arrived(event, config)

    def on_config_finalized(self, event: ObjectFinalized, ticks: Ticks) -> Outcome:
        """A configuration was written: its faults are told now, not when data arrives."""
        dataset = dataset_of(event.name)
        if event.bucket != self._settings.config_bucket or not dataset:
            return ignored(f"{event.name} is not a configuration")
        return ticks.now(f"{CONFIG}/{dataset}")

    def on_retrain_requested(self, event: RetrainRequested, *, event_id: str) -> Outcome:
        """Train on what is there now: unchanged data only with `force`, and once for each message."""
        reason = f"retrain requested: {event.reason or 'no reason given'}"
        return self._retrained(event.dataset, event.force, reason, f"retrain:{event_id}")

    def retrain(self, dataset: str, force: bool, reason: str, token: str) -> str:
        """The same for a schedule, whose time is the `token`."""
        return self._retrained(dataset, force, reason, token).message

    # Completing a batch ----------------------------------------------------------------------------------------

    def _arrived(self, event: ObjectFinalized, config: DatasetConfig) -> Outcome:
        name, kind = event.name, config.data.shard_names.kind(event.name)
        if kind is Kind.MARKER:
            return self._complete_by_marker(event)
        if kind is not Kind.SHARD:
            return done(f"{name} noted; it is not a shard by its name, and a later tick decides what becomes of it")
        shard = shard_names.numbered(name)
        if shard is None:
            return done(f"{name} noted; the quiet period or {shard_names.SUCCESS_MARKER} completes its batch")
        return self._complete_by_numbers(name, shard, config)

    def _complete_by_marker(self, event: ObjectFinalized) -> Outcome:
        request = request_of(event.bucket, event.name, event.generation)
        intended = self._claiming.intended(request)
        if intended:
            return self._launch(*intended)
        # Not the remembered configuration: whoever writes data after a new configuration means the new one.
        config = config_bucket.read(self._config, event.name.partition("/")[0])
        listing = self._arrivals.listing(config)
        newest = self._newest_run(config.dataset)
        batch = spoken_for(listing, event, known=newest)
        if batch is None:
            return done(f"{event.name} noted; newer objects are there, so the quiet period completes their batch")
        if not batch.snapshot.shards:
            return ignored("the batch has no shards")
        reason = f"{event.name} arrived"
        wish = self._arrivals.wish(config, batch, reason=reason, completed_by=BY_MARKER, newest=newest)
        return self._launch(*self._claiming.claim_once(request, wish, kind="marker"))

    def _newest_run(self, dataset: str) -> Run | None:
        newest = self._data_sets.read(dataset).newest
        found = self._ledger.find(names.run(newest), Run) if newest else None
        return found.document if found else None

    def _complete_by_numbers(self, name: str, shard: NumberedShard, config: DatasetConfig) -> Outcome:
        """Launch if this shard was the last one; what one page of a listing cannot tell is left to a later look."""
        dataset = config.dataset
        if not self._intake.should_list(dataset, shard):
            return done(f"{name} noted; {_why_not_listed(shard)}")
        listing = self._list_one_page(config)
        self._intake.remember_listing(dataset, listing)
        if listing is None:
            return done(f"{name} noted; a later tick checks whether its batch is complete")
        if not shard_names.is_whole(listing.names, prefix=config.data.prefix, rule=config.data.split):
            return done(f"{name} noted; its batch is not complete")
        if self._replaces_known_data(listing, dataset):
            return done(f"{name} noted; {dataset} was trained before, so the quiet period completes this batch")
        # Should the launch fail, the event comes again and has to look again.
        self._intake.forget_listing(dataset)
        current = config_bucket.read(self._config, dataset)
        if current != config:
            return done(f"{name} noted; the configuration has just changed, so a later tick completes its batch")
        wish = self._arrivals.wish(config, listing, reason=WHOLE_SETS, completed_by=BY_NAMES)
        return self._launch(*self._claiming.claim(wish))

    def _list_one_page(self, config: DatasetConfig) -> Listing | None:
        return snapshots.list_one_page(
            self._data, config, bucket=self._settings.data_bucket, clock=self._clock, page_size=intake.PAGE_SIZE
        )

    def _replaces_known_data(self, listing: Listing, dataset: str) -> bool:
        """Whether a set that is whole by its names may still be a mixture of old shards and new ones.

        Once a set was complete, replacing its shards one by one leaves it "whole" after each of them: launching then
        would pay for as many runs as there are shards.
        """
        if not self._data_sets.read(dataset).newest:
            return False
        return self._ledger.find(names.run(run_id_of(dataset, listing.snapshot.digest())), Run) is None

    def _launch(self, run: Run, is_new: bool) -> Outcome:
        self._intake.remember_claim(run)
        return self._claiming.launch(run, is_new=is_new)

    # Requests --------------------------------------------------------------------------------------------------

    def _retrained(self, dataset: str, force: bool, reason: str, request: str) -> Outcome:
        intended = self._claiming.intended(request)
        if intended:
            return self._launch(*intended)
        config = config_bucket.read(self._config, dataset)
        listing = self._arrivals.listing(config)
        if not listing.snapshot.shards:
            raise self._arrivals.no_shards(config, listing)
        wish = self._arrivals.wish(config, listing, reason=reason)
        wish = Wish(**{**dict(wish), "force": force, "token": request})
        return self._launch(*self._claiming.claim_once(request, wish, kind="retrain"))

    # What belongs to no data set ---------------------------------------------------------------------------------

    def _no_data_set(self, name: str) -> UnknownDataset:
        return UnknownDataset(
            f"{name} is not in the folder of a data set: put shards under {self._data.uri('<dataset>/')}, and the data"
            f" set's configuration at {self._config.uri(dataset_config.object_name('<dataset>'))}"
        )

    def _unknown_dataset(self, name: str, dataset: str, exc: UnknownDataset) -> Outcome:
        """Refuse data that belongs to no data set; what may be meant as data is told once a day."""
        kind = ShardNames(f"{dataset}/").kind(name)
        if kind in (Kind.SHARD, Kind.MARKER):
            raise exc
        if kind is Kind.UNKNOWN:
            self._record(dataset, exc)
        return ignored(str(exc))

    def _outside(self, name: str, config: DatasetConfig) -> Outcome:
        """Say once a day that data, or what may be meant as data, arrives where no run looks for it."""
        kind = config.data.shard_names.kind(name)
        # Of a thousand folders of pictures, the one that they lie in is told.
        folder = name.rpartition("/")[0] if kind is Kind.SHARD else "/".join(name.split("/")[:-1][:2])
        message = f"{self._data.uri(folder)}/ is not under data.prefix, {self._data.uri(config.data.prefix)}"
        if kind in (Kind.SHARD, Kind.UNKNOWN):
            what = "shards" if kind is Kind.SHARD else "objects that are not shards by their names"
            self._record(config.dataset, NoShards(f"{what} arrive outside of the data set: {message}"))
        return ignored(f"{name} is ignored: {message}")

    def _record(self, dataset: str, exc: CannotEverSucceed) -> None:
        self._arrivals.record(dataset, exc, kind="upload")


def _why_not_listed(shard: NumberedShard) -> str:
    if shard.count > intake.PAGE_SIZE:
        return f"a later tick checks whether all {shard.count} are there"
    return "its batch is not complete"
