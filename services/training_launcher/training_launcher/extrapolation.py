"""What the part of the data that was read says of all of it, and how sure that is."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from training_launcher.validation_report import Estimate, lengthened

#: Standard deviations around the middle of a normal distribution that hold 95 of 100 outcomes.
_DEVIATIONS = 1.96


def of_sample(hits: int, tries: int, everything: int) -> Estimate:
    """How many of `everything` are hits when `hits` of `tries` evenly drawn ones are (Wilson's score interval)."""
    if tries >= everything or not tries:
        return Estimate(hits, hits, hits)
    share, square = hits / tries, _DEVIATIONS**2
    middle = share + square / (2 * tries)
    reach = _DEVIATIONS * math.sqrt(share * (1 - share) / tries + square / (4 * tries**2))
    low, high = ((middle + sign * reach) / (1 + square / tries) for sign in (-1, 1))
    return Estimate(round(share * everything), max(hits, math.floor(low * everything)), math.ceil(high * everything))


class Extrapolation:
    """Counts of several kinds (classes) in shards of which parts were read, by the ratio of count to bytes.

    Shards, not records, are drawn, and records of one shard resemble each other: how much the ratio differs between
    the shards is what the uncertainty comes from. Source: W. G. Cochran, Sampling Techniques, section 6.4 (ratio
    estimator).
    """

    def __init__(self, kinds: int = 0) -> None:
        self.counts = np.zeros(kinds, np.int64)
        self._squares = np.zeros(kinds, np.float64)
        self._products = np.zeros(kinds, np.float64)
        self._bytes = 0.0
        self._squared_bytes = 0.0
        self._shards = 0

    def add(self, counts: npt.NDArray[np.int64], bytes_read: int) -> None:
        """Add what one shard has in the bytes that were read of it."""
        self.lengthen(len(counts))
        counts = lengthened(counts, len(self.counts))
        self.counts += counts
        self._squares += counts.astype(np.float64) ** 2
        self._products += counts.astype(np.float64) * bytes_read
        self._bytes += bytes_read
        self._squared_bytes += float(bytes_read) ** 2
        self._shards += 1

    def lengthen(self, kinds: int) -> None:
        """Make room for at least so many kinds."""
        if len(self.counts) < kinds:
            more = np.zeros(kinds - len(self.counts), np.float64)
            self.counts = lengthened(self.counts, kinds)
            self._squares = np.concatenate([self._squares, more])
            self._products = np.concatenate([self._products, more])

    def of_all(self, total_bytes: int) -> list[Estimate]:
        """Estimate the counts in all shards, which have `total_bytes` together."""
        if not self._bytes or self._bytes >= total_bytes:
            return [Estimate(count, count, count) for count in self.counts.tolist()]
        ratio, factor = self.counts / self._bytes, total_bytes / self._bytes
        rest = self._squares - 2 * ratio * self._products + ratio**2 * self._squared_bytes
        spread = np.zeros(len(self.counts))
        if self._shards > 1:
            unread = 1 - self._bytes / total_bytes
            spread = factor * np.sqrt(unread * self._shards / (self._shards - 1) * np.maximum(rest, 0.0))
        values, reach = self.counts * factor, _DEVIATIONS * spread
        return [
            Estimate(
                round(value),
                max(count, math.floor(value - width)) if self._shards > 1 else count,
                math.ceil(value + width) if self._shards > 1 else None,
            )
            for count, value, width in zip(self.counts.tolist(), values.tolist(), reach.tolist(), strict=True)
        ]
