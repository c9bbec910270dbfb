"""What one instance remembers between events, so that ten thousand of them do not cost ten thousand listings.

Everything here may be lost at any time: an instance without memory does more calls and reaches the same end. Nothing
that failed is remembered, and nothing for longer than it is true:

| remembered                       | true                                                                           |
|----------------------------------|--------------------------------------------------------------------------------|
| a configuration                  | for five seconds; read again before anything is launched with it               |
| that an arrival was noted        | until the next tick: its marker is of that one, and taken no sooner            |
| what the last listing missed     | for two seconds; each of the missing shards that comes is crossed off          |
| the versions of a claimed run    | for ever: a run and its snapshot do not change                                 |
"""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Mapping

from dualdeploy.clock import Clock
from dualdeploy.contracts import shards as shard_names
from dualdeploy.contracts.dataset_config import DatasetConfig
from dualdeploy.google import config_bucket
from dualdeploy.google.object_store import ObjectStore
from dualdeploy.ledger import Run
from dualdeploy.ledger.due import Due
from training_launcher.arrivals import ARRIVALS
from training_launcher.snapshots import Listing

#: What an event may look at: one page of a Cloud Storage listing. Larger sets are completed by the clock.
PAGE_SIZE = 1000

CONFIG_SECONDS = 5.0
LISTING_SECONDS = 2.0

#: For so long, a data set that is larger than a page is left to the clock without being looked at.
LARGE_SECONDS = 600.0

_MOST_CLAIMED = 16


@dataclasses.dataclass
class _Listed:
    """What a listing at `at` (seconds since the epoch) lacked, by set; `missing` is None for more than one page."""

    at: float
    missing: dict[str, set[int]] | None


class Intake:
    """The memory of one instance; thread-safe, because one instance handles many events at a time."""

    def __init__(self, *, config: ObjectStore, due: Due, clock: Clock) -> None:
        self._config = config
        self._due = due
        self._clock = clock
        self._lock = threading.Lock()
        self._configs: dict[str, tuple[float, DatasetConfig]] = {}
        self._noted: dict[str, str] = {}
        self._listed: dict[str, _Listed] = {}
        self._claimed: collections.OrderedDict[str, tuple[str, Mapping[str, int]]] = collections.OrderedDict()

    def config_of(self, dataset: str) -> DatasetConfig:
        """The configuration as it is, or was a few seconds ago. Raises as `config_bucket.read` does."""
        now = self._now()
        remembered = self._configs.get(dataset)
        if remembered and 0 <= now - remembered[0] < CONFIG_SECONDS:
            return remembered[1]
        config = config_bucket.read(self._config, dataset)
        self._configs[dataset] = (now, config)
        return config

    def note_arrival(self, dataset: str) -> None:
        """Have the data set looked at at the next tick, whatever becomes of this event."""
        at = self._due.soon()
        tick = self._due.time_of(at)
        if self._noted.get(dataset) != tick:
            self._due.put(f"{ARRIVALS}/{dataset}", at)
            self._noted[dataset] = tick

    # Which events are worth a listing --------------------------------------------------------------------------

    def should_list(self, dataset: str, shard: shard_names.NumberedShard) -> bool:
        """Whether this shard may be the one that completes its batch, as far as this instance knows."""
        if shard.count > PAGE_SIZE:
            return False
        with self._lock:
            listed = self._listed.get(dataset)
            age = self._now() - listed.at if listed else -1.0
            if listed is None or age < 0:
                return True
            if listed.missing is None:
                return age >= LARGE_SECONDS
            # A set that is counted from 1 need not have been known as such: what the listing called missing is wrong.
            counts_from_1 = shard.index == shard.count
            if age >= LISTING_SECONDS or shard.set_name not in listed.missing or counts_from_1:
                return True
            missing = listed.missing[shard.set_name]
            if shard.index not in missing:
                # It was there already: nothing that this event adds can complete anything.
                return False
            missing.discard(shard.index)
            return not any(listed.missing.values())

    def remember_listing(self, dataset: str, listing: Listing | None) -> None:
        """`listing` is None when the data set is larger than a page."""
        missing = None
        if listing:
            missing = {shard.set_name: set[int]() for name in listing.names if (shard := shard_names.numbered(name))}
            missing |= {name: set(indices) for name, indices in shard_names.missing_from_sets(listing.names).items()}
        with self._lock:
            self._listed[dataset] = _Listed(self._now(), missing)

    def forget_listing(self, dataset: str) -> None:
        """The next shard is worth a listing again."""
        with self._lock:
            self._listed.pop(dataset, None)

    # What is already in a run ----------------------------------------------------------------------------------

    def run_with(self, dataset: str, name: str, generation: int) -> str:
        """The claimed run that has this version of a shard, or a later one; empty when none is remembered."""
        claimed = self._claimed.get(dataset)
        if claimed is None or generation > claimed[1].get(name, -1):
            return ""
        return claimed[0]

    def remember_claim(self, run: Run) -> None:
        """Only for a run that was claimed: a marker brings it to its end."""
        generations = {shard.name: shard.generation for shard in run.snapshot.shards}
        with self._lock:
            self._claimed[run.dataset] = (run.run_id, generations)
            self._claimed.move_to_end(run.dataset)
            while len(self._claimed) > _MOST_CLAIMED:
                self._claimed.popitem(last=False)

    def _now(self) -> float:
        return self._clock().timestamp()
