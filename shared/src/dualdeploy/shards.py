"""Which objects are TFRecord shards, and when a set of them is whole."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

from dualdeploy.contracts import split
from dualdeploy.contracts.split import BY_NAMES, SplitRule

#: TFRecord file names in the wild: `train-00003-of-00016.tfrecord`, `.tfrecords`, `.tfrec` (the public flowers data
#: set: `flowers00-230.tfrec`), each perhaps with `.gz`; TensorFlow Datasets write `flowers.tfrecord-00000-of-00004`.
_SHARD = re.compile(r"\.(tfrecords?|tfrec)(-\d+-of-\d+)?(\.gz)?$", re.IGNORECASE)
#: Only the base name counts: a folder may be called `batch-1-of-2`.
_NUMBERED = re.compile(r"^(?P<stem>(.*/)?[^/]*?)-(?P<index>\d{1,6})-of-(?P<count>\d{1,6})(?P<rest>[^/]*)$")

#: An empty object of this name says "the batch is complete" (Hadoop, Spark and Beam write it last).
SUCCESS_MARKER = "_SUCCESS"


@dataclasses.dataclass(frozen=True)
class NumberedShard:
    """One of a `-SSSSS-of-NNNNN` set; `set_name` is the same for all of them."""

    set_name: str
    index: int
    count: int


def is_shard(name: str) -> bool:
    """Whether the object `name` holds TFRecords, judged by its name."""
    return _SHARD.search(base_name(name)) is not None


def is_success_marker(name: str) -> bool:
    return base_name(name) == SUCCESS_MARKER


def base_name(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def numbered(name: str) -> NumberedShard | None:
    """The place of `name` in its `-SSSSS-of-NNNNN` set, or None when its name gives none."""
    match = _NUMBERED.match(name)
    if match is None or not is_shard(name):
        return None
    count, index = int(match["count"]), int(match["index"])
    if index >= count:
        return None
    return NumberedShard(f"{match['stem']}-of-{match['count']}{match['rest']}", index, count)


def missing_from_sets(names: Iterable[str]) -> Mapping[str, list[int]]:
    """For every numbered set among `names` that is not whole: the numbers that are missing."""
    seen: dict[str, tuple[int, set[int]]] = {}
    for name in names:
        if shard := numbered(name):
            seen.setdefault(shard.set_name, (shard.count, set()))[1].add(shard.index)
    return {
        set_name: sorted(set(range(count)) - indices)
        for set_name, (count, indices) in seen.items()
        if len(indices) < count
    }


def describe_missing(missing: Mapping[str, list[int]]) -> str:
    """`train-of-00016.tfrecord lacks 00003, 00007`: for logs and refusals."""
    parts = []
    for set_name, indices in sorted(missing.items()):
        shown = ", ".join(f"{index:05d}" for index in indices[:5])
        more = f" and {len(indices) - 5} more" if len(indices) > 5 else ""
        parts.append(f"{set_name} lacks {shown}{more}")
    return "; ".join(parts)


def is_whole(names: Iterable[str], *, prefix: str = "", rule: SplitRule = BY_NAMES) -> bool:
    """Whether the names alone prove that a batch is complete.

    Every shard belongs to a numbered set, every set is whole, and both kinds (training and held out) are there.
    Without held-out shards nothing proves that none are still coming: then the quiet period decides.
    """
    shard_names = list(names)
    if not shard_names or any(numbered(name) is None for name in shard_names):
        return False
    found = split.divide(shard_names, prefix=prefix, rule=rule)
    return bool(found.train and found.eval) and not found.faults and not missing_from_sets(shard_names)
