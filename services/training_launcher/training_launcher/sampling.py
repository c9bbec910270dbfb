"""Which shards are opened, and how many bytes of each are read, when not everything can be."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

#: Opening an object costs a round trip, so a sample rather leaves shards out than read less than this of each.
SMALLEST_SHARE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Plan:
    """`shares`: bytes to read of each shard, from its beginning, in the order of the shards; 0 for one left out.

    `seed` names the draw: the same shards under the same limits give the same draw again.
    """

    shares: tuple[int, ...]
    seed: str
    is_drawn: bool

    @property
    def opened(self) -> list[int]:
        """The numbers of the shards that are opened."""
        return [number for number, share in enumerate(self.shares) if share]


def plan(
    names: Sequence[str], sizes: Sequence[int], held_out: Sequence[bool], *, max_bytes: int, max_shards: int
) -> Plan:
    """Divide `max_bytes` over the shards, or over a random sample of at most `max_shards` of them.

    Both sides of the split are drawn from by their number of shards, and neither is left without one. Small shards are
    read whole and leave the rest of their share to the others.
    """
    seed = hashlib.sha256("\n".join(f"{name} {size}" for name, size in zip(names, sizes, strict=True)).encode())
    occupied = [number for number, size in enumerate(sizes) if size]
    most = max_shards
    if sum(sizes) > max_bytes:
        most = min(most, max(max_bytes // SMALLEST_SHARE, len({held_out[number] for number in occupied})))
    chosen = occupied
    if len(occupied) > most:
        chosen = _drawn(occupied, names, held_out, most, seed.hexdigest())
    return Plan(tuple(_divided(sizes, chosen, max_bytes)), seed.hexdigest()[:12], len(chosen) < len(occupied))


def _drawn(numbers: Sequence[int], names: Sequence[str], held_out: Sequence[bool], most: int, seed: str) -> list[int]:
    """`most` of the shards, each with the same chance on its side of the split."""
    order = sorted(numbers, key=lambda number: hashlib.sha256(f"{seed} {names[number]}".encode()).digest())
    evaluation = [number for number in order if held_out[number]]
    training = [number for number in order if not held_out[number]]
    for_evaluation = 0
    if evaluation:
        by_number = round(most * len(evaluation) / len(order))
        for_evaluation = max(1, most - len(training), min(by_number, most - 1 if training else most))
    return sorted(evaluation[:for_evaluation] + training[: most - for_evaluation])


def _divided(sizes: Sequence[int], chosen: Sequence[int], max_bytes: int) -> list[int]:
    shares, left = [0] * len(sizes), max_bytes
    for place, number in enumerate(sorted(chosen, key=lambda number: sizes[number])):
        shares[number] = min(sizes[number], left // (len(chosen) - place))
        left -= shares[number]
    return shares
