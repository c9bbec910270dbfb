"""The bytes of a snapshot's shard, wherever they are now."""

from __future__ import annotations

from typing import BinaryIO

from dualdeploy.ledger import Shard
from dualdeploy.object_store import Generation, ObjectMissing, ObjectStore


def open_shard(store: ObjectStore, shard: Shard) -> BinaryIO:
    """A stream over the bytes that the snapshot recorded. Raises ObjectMissing when they are gone.

    An upload that is repeated replaces every object by an equal one: the recorded generation is gone, and what came
    instead is no new run, because a snapshot is known by names, sizes and checksums. So equal bytes will do.
    """
    try:
        return store.open(shard.name, generation=Generation(shard.generation))
    except ObjectMissing:
        for summary in store.list(shard.name):
            if (summary.name, summary.size, summary.crc32c) == (shard.name, shard.size, shard.crc32c):
                return store.open(summary.name, generation=summary.generation)
        raise
