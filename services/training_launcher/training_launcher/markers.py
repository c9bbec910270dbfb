"""What a `_SUCCESS` marker speaks for: the objects that were there when it was written, and nothing that came later.

A folder that is copied together with its marker (`gcloud storage cp -r`) has the empty marker among its first objects.
The run that such a marker begins makes way for the run of the whole batch (`begun_too_early`, `superseding`); so
does one of whole sets that others follow.
"""

from __future__ import annotations

import dataclasses

from dualdeploy import clock as clocks
from dualdeploy.contracts import shards as shard_names
from dualdeploy.contracts.events import ObjectFinalized
from dualdeploy.ledger import Run
from training_launcher.snapshots import Listing, snapshot_of

#: What may complete a batch at once (`Run.completed_by`).
BY_MARKER, BY_NAMES = "marker", "names"


def request_of(bucket: str, name: str, generation: int | str) -> str:
    """What this version of a marker asks for, as one text (`Claiming.claim_once`)."""
    return f"marker:{bucket}/{name}#{generation}"


def begun_too_early(listing: Listing, newest: Run | None, *, within: float) -> str:
    """The name of the newest run if it was begun at once and its batch went on arriving; else empty.

    It is all there, and the next shard came `within` seconds.
    """
    if newest is None or not newest.completed_by:
        return ""
    before = {shard.name: shard.generation for shard in newest.snapshot.shards}
    present = {shard.name: shard.generation for shard in listing.snapshot.shards}
    more = present.keys() - before.keys()
    if not more or not before.items() <= present.items():
        return ""
    following = min(listing.objects[name].created for name in more)
    is_soon = (following - clocks.from_text(newest.created_at)).total_seconds() < within
    return newest.run_id if is_soon else ""


def spoken_for(listing: Listing, marker: ObjectFinalized, *, known: Run | None) -> Listing | None:
    """The batch that the marker completes; None when it cannot be told any more, because newer objects are there.

    An object that was written after the marker waits for the quiet period. Where it took the place of one that the
    marker spoke for (a shard of the newest run, or of a numbered set), what is left is a mixture, and is left alone.
    """
    present = listing.objects.get(marker.name)
    if present and present.generation != marker.generation:
        # Another one was written since, and speaks for itself.
        return None
    written = marker.created or (present.created if present else None)
    if written is None:
        return None
    later = {name for name in listing.names if listing.objects[name].created > written}
    if not later:
        return listing
    replaced = later & {shard.name for shard in known.snapshot.shards} if known else set()
    rest = [listing.objects[name] for name in listing.names if name not in later]
    if replaced or not rest or shard_names.why_incomplete(each.name for each in rest):
        return None
    of_all = listing.snapshot
    return dataclasses.replace(listing, snapshot=snapshot_of(rest, bucket=of_all.bucket, prefix=of_all.prefix))
