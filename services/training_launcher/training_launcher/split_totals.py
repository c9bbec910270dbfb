"""What is known of one split while its shards are being read: sizes of images, and records of each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training_launcher.extrapolation import Extrapolation
from training_launcher.shard_scan import Images
from training_launcher.validation_report import Distribution, SplitStatistics, Spread, lengthened

#: Medians of encoded sizes are exact to this many bytes, which bounds what a distribution remembers.
_SIZE_RESOLUTION = 64


class ImageSizes:
    """Sizes of images in bytes and pixels."""

    def __init__(self) -> None:
        self._distributions = (Distribution(_SIZE_RESOLUTION), Distribution(), Distribution())

    def add(self, images: Images) -> None:
        """Count the images."""
        columns = (images.sizes, images.widths, images.heights)
        for distribution, column in zip(self._distributions, columns, strict=True):
            distribution.add(column)

    def spreads(self) -> tuple[Spread | None, Spread | None, Spread | None]:
        """Return the spreads of bytes, width and height."""
        encoded, widths, heights = self._distributions
        return encoded.spread(), widths.spread(), heights.spread()


class SplitTotals:
    """Totals of the usable images of one split; class indices are the places in the arrays."""

    def __init__(self, name: str, shards: Sequence[int], classes: int) -> None:
        self.name = name
        self.shards = shards
        self.class_records = np.zeros(classes, np.int64)
        self.class_bytes = np.zeros(classes, np.int64)
        #: The same counts with what they say of the shards that were not read.
        self.extrapolation = Extrapolation(classes)
        self._of_shard = np.zeros(classes, np.int64)
        self._sizes = ImageSizes()

    @property
    def records(self) -> int:
        """Number of usable records."""
        return int(self.class_records.sum())

    def add(self, images: Images) -> None:
        """Count the images."""
        if not len(images.labels):
            return
        self._sizes.add(images)
        self.lengthen(int(images.labels.max()) + 1)
        classes = len(self.class_records)
        counts = np.bincount(images.labels, minlength=classes)
        self.class_records += counts
        self._of_shard = lengthened(self._of_shard, classes) + counts
        self.class_bytes += np.bincount(images.labels, weights=images.sizes, minlength=classes).astype(np.int64)

    def close_shard(self, bytes_read: int) -> None:
        """All images of a shard were added; so many stored bytes were read of it."""
        self.extrapolation.add(self._of_shard, bytes_read)
        self._of_shard = np.zeros(len(self.class_records), np.int64)

    def lengthen(self, classes: int) -> None:
        """Make room for at least so many classes."""
        self.class_records = lengthened(self.class_records, classes)
        self.class_bytes = lengthened(self.class_bytes, classes)
        self.extrapolation.lengthen(classes)

    def statistics(self, duplicates: int) -> SplitStatistics:
        """Return the totals as a part of the verdict."""
        total = int(self.class_bytes.sum())
        return SplitStatistics(self.name, len(self.shards), self.records, total, *self._sizes.spreads(), duplicates)
