"""The bytes of a snapshot's shard, wherever they are now."""

from __future__ import annotations

from typing import BinaryIO

from dualdeploy.google.object_store import Generation, ObjectStore, open_content
from dualdeploy.ledger import Shard


def open_shard(store: ObjectStore, shard: Shard, *, length: int | None = None) -> BinaryIO:
    """A stream over the bytes that the snapshot recorded, or the first `length` of them, as they are stored.

    Raises ObjectMissing, here or at the first read, when they are gone.

    An upload that is repeated replaces every object by an equal one: the recorded generation is gone, and what came
    instead is no new run, because a snapshot is known by names, sizes and checksums. So equal bytes will do.
    """
    return open_content(store, shard.name, generation=Generation(shard.generation), crc32c=shard.crc32c, length=length)
