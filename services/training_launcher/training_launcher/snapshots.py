"""Which versions of which shards make the data of a run."""

from __future__ import annotations

import dataclasses
import datetime

from dualdeploy import shards as shard_names
from dualdeploy.clock import Clock
from dualdeploy.dataset_config import DatasetConfig
from dualdeploy.ledger import Shard, Snapshot
from dualdeploy.object_store import ObjectStore


@dataclasses.dataclass(frozen=True)
class Listing:
    """The shards of a data set as one listing saw them; `listed_at` is when the listing began."""

    snapshot: Snapshot
    listed_at: datetime.datetime
    newest: datetime.datetime | None

    @property
    def names(self) -> list[str]:
        return [shard.name for shard in self.snapshot.shards]

    def quiet_for(self) -> float:
        """Seconds between the newest shard and the listing."""
        return (self.listed_at - self.newest).total_seconds() if self.newest else 0.0


def list_shards(store: ObjectStore, config: DatasetConfig, *, bucket: str, clock: Clock) -> Listing:
    """List the data set once. What is not a shard by its name is no part of the data."""
    listed_at = clock()
    found = [summary for summary in store.list(config.data.prefix) if shard_names.is_shard(summary.name)]
    shards = tuple(
        Shard(name=summary.name, generation=summary.generation, size=summary.size, crc32c=summary.crc32c)
        for summary in found
    )
    newest = max((summary.updated for summary in found), default=None)
    return Listing(Snapshot(bucket=bucket, prefix=config.data.prefix, shards=shards), listed_at, newest)
