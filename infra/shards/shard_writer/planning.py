"""Which picture goes into which shard: the same pictures give the same shards, on every machine and in every order."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from dualdeploy.contracts.split import Side, held_out_by_checksum
from shard_writer.reading import Judged
from shard_writer.sources import Picture, Source

#: About as large as shards should be: small enough to be spread over replicas, large enough to be read in one go.
SHARD_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class Entry:
    """One picture of a shard."""

    picture: Picture
    label: int
    judged: Judged


@dataclasses.dataclass(frozen=True)
class Plan:
    """`shards`: their names and pictures, in order. `copies` were left out, `unusable` with the reason of each."""

    shards: Mapping[str, Sequence[Entry]]
    labels: Sequence[str]
    copies: Sequence[str]
    disagreeing: Sequence[str]
    unusable: Mapping[str, str]
    converted: int
    by_checksum: bool

    def counts(self, side: Side) -> Counter[int]:
        """Pictures of each class on one side."""
        return Counter(entry.label for name, shard in self.shards.items() if name.startswith(side) for entry in shard)

    @property
    def digest(self) -> str:
        """Of everything that the shards hold."""
        lines = [
            f"{name}\0{entry.picture.name}\0{entry.label}\0{entry.judged.checksum}\n"
            for name, shard in self.shards.items()
            for entry in shard
        ]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def plan(source: Source, judged: Mapping[str, Judged], *, shards: int | None = None) -> Plan:
    """Divide the pictures; `shards` is how many there are for training, else it follows from their bytes."""
    index = {label: number for number, label in enumerate(source.labels)}
    usable = [each for each in source.pictures if not judged[each.name].problem]
    entries = [Entry(each, index[each.label], judged[each.name]) for each in usable]
    kept, copies, disagreeing = _without_copies(entries)
    by_checksum = not any(entry.picture.side == "eval" for entry in kept)
    sides = _by_checksum(kept) if by_checksum else _by_name(kept)
    return Plan(
        shards={**_shards("train", sides["train"], shards), **_shards("eval", sides["eval"], None)},
        labels=source.labels,
        copies=copies,
        disagreeing=disagreeing,
        unusable={name: each.problem for name, each in judged.items() if each.problem},
        converted=sum(each.converted for each in judged.values()),
        by_checksum=by_checksum,
    )


def _without_copies(entries: Sequence[Entry]) -> tuple[list[Entry], list[str], list[str]]:
    """One of each picture, the held-out one rather than one to train on; names of copies; those with another label.

    A copy weighs double, and on the other side of the split it rewards what was learnt by heart.
    """
    kept: dict[tuple[int, int], Entry] = {}
    copies, disagreeing = [], []
    for entry in sorted(entries, key=lambda each: (each.picture.side != "eval", each.picture.name)):
        first = kept.setdefault((entry.judged.checksum, entry.judged.size), entry)
        if first is not entry:
            copies.append(f"{entry.picture.name} (of {first.picture.name})")
            if first.label != entry.label:
                disagreeing.append(f"{entry.picture.name} and {first.picture.name}")
    return sorted(kept.values(), key=lambda each: each.picture.name), copies, disagreeing


def _by_name(entries: Sequence[Entry]) -> dict[Side, list[Entry]]:
    return {
        "train": [entry for entry in entries if entry.picture.side != "eval"],
        "eval": [entry for entry in entries if entry.picture.side == "eval"],
    }


def _by_checksum(entries: Sequence[Entry]) -> dict[Side, list[Entry]]:
    """One in five by its own bytes, at least one of each class that has two, and never all of a class."""
    sides: dict[Side, list[Entry]] = {"train": [], "eval": []}
    by_label: dict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_label[entry.label].append(entry)
    for of_class in by_label.values():
        ordered = sorted(of_class, key=_order)
        held_out = [each for each in ordered if held_out_by_checksum(each.judged.checksum)]
        if len(ordered) > 1 and len(held_out) == len(ordered):
            held_out = held_out[:-1]
        elif len(ordered) > 1 and not held_out:
            held_out = ordered[:1]
        names = {each.picture.name for each in held_out}
        sides["eval"] += held_out
        sides["train"] += [each for each in ordered if each.picture.name not in names]
    return sides


def _shards(side: Side, entries: Sequence[Entry], wanted: int | None) -> dict[str, Sequence[Entry]]:
    """Deal the pictures of each class in turn, so that shards differ by one picture of a class at most."""
    if not entries:
        return {}
    size = sum(entry.judged.size for entry in entries)
    count = min(len(entries), wanted or max(1, round(size / SHARD_BYTES)))
    dealt: list[list[Entry]] = [[] for _ in range(count)]
    ordered = sorted(entries, key=lambda entry: (entry.label, _order(entry)))
    for place, entry in enumerate(ordered):
        dealt[place % count].append(entry)
    return {
        f"{side}-{number:05d}-of-{count:05d}.tfrecord": sorted(shard, key=_order) for number, shard in enumerate(dealt)
    }


def _order(entry: Entry) -> bytes:
    """Neither the alphabet nor the class: as if shuffled, and the same every time."""
    return hashlib.sha256(f"{entry.judged.checksum} {entry.picture.name}".encode()).digest()
