"""Exact duplicates among up to a million images, in 14 bytes per image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an image was read: number of the shard, number of the record, and the label it has there."""

    shard: int
    record: int
    label: int


@dataclasses.dataclass(frozen=True)
class Copies:
    """How many images are copies in one sense, and the first few: (the copy, what it is a copy of)."""

    count: int
    examples: tuple[tuple[Place, Place], ...]


class Fingerprints:
    """64-bit fingerprints of images in the order they were read; those beyond `most` are counted only.

    Among a million images, two different ones share a fingerprint with a probability of 3 in 100 million.
    """

    def __init__(self, most: int) -> None:
        self.tracked = 0
        self.seen = 0
        self._most = most
        self._prints: list[npt.NDArray[np.uint64]] = []
        self._records: list[npt.NDArray[np.uint32]] = []
        self._labels: list[npt.NDArray[np.uint16]] = []
        self._shards: list[int] = []

    def add(
        self,
        shard: int,
        fingerprints: npt.NDArray[np.uint64],
        records: npt.NDArray[np.uint32],
        labels: npt.NDArray[np.uint32],
    ) -> None:
        """Take images of one shard: their fingerprints, record numbers and labels, in order."""
        self.seen += len(fingerprints)
        room = max(0, self._most - self.tracked)
        kept = len(fingerprints[:room])
        if kept:
            self._prints.append(fingerprints[:room])
            self._records.append(records[:room])
            self._labels.append(labels[:room].astype(np.uint16))
            self._shards.append(shard)
            self.tracked += kept

    def repeated(self) -> Repeated:
        """Return the images whose fingerprint occurs more than once."""
        if not self._prints:
            nothing = np.zeros(0, np.uint32)
            return Repeated(nothing.astype(np.uint64), nothing, nothing.astype(np.uint16), nothing)
        prints = np.concatenate(self._prints)
        ordered = np.sort(prints)
        chosen = np.isin(prints, ordered[1:][ordered[1:] == ordered[:-1]])
        shards = np.repeat(np.array(self._shards, np.uint32), [len(part) for part in self._prints])
        records, labels = np.concatenate(self._records), np.concatenate(self._labels)
        return Repeated(prints[chosen], records[chosen], labels[chosen], shards[chosen])


@dataclasses.dataclass(frozen=True)
class Repeated:
    """Images that are not unique, side by side and in order: fingerprint, record, label and shard of each."""

    fingerprints: npt.NDArray[np.uint64]
    records: npt.NDArray[np.uint32]
    labels: npt.NDArray[np.uint16]
    shards: npt.NDArray[np.uint32]

    def within(self, shards: Sequence[int], most_examples: int) -> Copies:
        """Images of these shards that these shards had before."""
        places = np.flatnonzero(np.isin(self.shards, shards))
        order = places[np.argsort(self.fingerprints[places], kind="stable")]
        return self._neighbours(order, self._repeats(order), most_examples)

    def between(self, shards: Sequence[int], others: Sequence[int], most_examples: int) -> Copies:
        """Images of `shards` that are also in `others`."""
        in_others = np.isin(self.shards, others)
        candidates = np.flatnonzero(np.isin(self.shards, shards))
        copies = candidates[np.isin(self.fingerprints[candidates], self.fingerprints[in_others])]
        examples = []
        for copy in copies[:most_examples].tolist():
            original = np.flatnonzero(in_others & (self.fingerprints == self.fingerprints[copy]))[0]
            examples.append((self._place(copy), self._place(int(original))))
        return Copies(len(copies), tuple(examples))

    def conflicting(self, most_examples: int) -> Copies:
        """Copies of an image whose label differs from the copy before."""
        order = np.argsort(self.fingerprints, kind="stable")
        repeats = self._repeats(order)
        differs = self.labels[order[repeats]] != self.labels[order[repeats - 1]]
        return self._neighbours(order, repeats[differs], most_examples)

    def _repeats(self, order: npt.NDArray[Any]) -> npt.NDArray[Any]:
        ordered = self.fingerprints[order]
        return np.flatnonzero(ordered[1:] == ordered[:-1]) + 1

    def _neighbours(self, order: npt.NDArray[Any], repeats: npt.NDArray[Any], most_examples: int) -> Copies:
        shown = repeats[:most_examples].tolist()
        examples = ((self._place(int(order[at])), self._place(int(order[at - 1]))) for at in shown)
        return Copies(len(repeats), tuple(examples))

    def _place(self, index: int) -> Place:
        return Place(int(self.shards[index]), int(self.records[index]), int(self.labels[index]))
