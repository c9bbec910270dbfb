"""Which versions of which shards make the data of a run."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import itertools
from collections.abc import Iterable, Mapping, Sequence

from dualdeploy.clock import Clock
from dualdeploy.contracts import shards as shard_names
from dualdeploy.contracts.dataset_config import DatasetConfig
from dualdeploy.contracts.shards import Kind, PassedOver
from dualdeploy.google.object_store import ObjectStore, ObjectSummary
from dualdeploy.ledger import Shard, Snapshot


@dataclasses.dataclass(frozen=True)
class Listing:
    """The shards of a data set as one listing saw them; `listed_at` is when the listing began.

    `objects` is everything that lies there, by name. `newest` is when the last object came that is data, may be meant
    as data, or is of a writer that is at work; where there is none of these, when any came.
    """

    snapshot: Snapshot
    listed_at: datetime.datetime
    newest: datetime.datetime | None
    passed_over: PassedOver
    objects: Mapping[str, ObjectSummary]

    @property
    def names(self) -> list[str]:
        return [shard.name for shard in self.snapshot.shards]

    def quiet_for(self) -> float:
        """Seconds between the newest object and the listing."""
        return (self.listed_at - self.newest).total_seconds() if self.newest else 0.0


def list_shards(store: ObjectStore, config: DatasetConfig, *, bucket: str, clock: Clock) -> Listing:
    """List the data set once. What is not a shard by its name is no part of the data."""
    listed_at = clock()
    return _listing(store.list(config.data.prefix), config, bucket=bucket, listed_at=listed_at)


def list_one_page(
    store: ObjectStore, config: DatasetConfig, *, bucket: str, clock: Clock, page_size: int
) -> Listing | None:
    """The same for a data set of at most `page_size` objects, else None: what an event may look at is limited."""
    listed_at = clock()
    found = list(itertools.islice(store.list(config.data.prefix), page_size + 1))
    return _listing(found, config, bucket=bucket, listed_at=listed_at) if len(found) <= page_size else None


def _listing(
    summaries: Iterable[ObjectSummary], config: DatasetConfig, *, bucket: str, listed_at: datetime.datetime
) -> Listing:
    rule, every = config.data.shard_names, list(summaries)
    by_kind: dict[Kind, list[ObjectSummary]] = {kind: [] for kind in Kind}
    for summary in every:
        by_kind[rule.kind(summary.name)].append(summary)
    chosen = set(
        shard_names.of_last_folders(
            [each.name for each in by_kind[Kind.SHARD]], config.data.last_folders, prefix=config.data.prefix
        )
    )
    found = [each for each in by_kind[Kind.SHARD] if each.name in chosen]
    at_work = [each for each in by_kind[Kind.HIDDEN] if shard_names.is_of_a_writer_at_work(each.name)]
    newest = max((each.updated for each in (*found, *by_kind[Kind.UNKNOWN], *at_work) or every), default=None)
    passed_over = shard_names.pass_over((summary.name for summary in every), rule)
    snapshot = snapshot_of(found, bucket=bucket, prefix=config.data.prefix)
    return Listing(snapshot, listed_at, newest, passed_over, {each.name: each for each in every})


def snapshot_of(found: Sequence[ObjectSummary], *, bucket: str, prefix: str) -> Snapshot:
    """Exactly these objects, as they were listed."""
    shards = tuple(
        Shard(name=each.name, generation=each.generation, size=each.size, crc32c=each.crc32c) for each in found
    )
    classes = collections.Counter(each.storage_class for each in found if each.storage_class != "STANDARD")
    return Snapshot(bucket=bucket, prefix=prefix, shards=shards, storage_classes=dict(classes))
