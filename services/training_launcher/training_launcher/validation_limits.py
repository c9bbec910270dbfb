"""How far a validation goes, and what it still accepts."""

from __future__ import annotations

import dataclasses

from dualdeploy.images.image_file import MAX_PIXELS
from dualdeploy.images.tfrecord import MAX_GZIP_RATIO, MAX_RECORD_BYTES


@dataclasses.dataclass(frozen=True)
class ValidationLimits:
    """Bounds of one validation; the defaults keep it below a minute and 100 MB of memory."""

    #: Stored (compressed) bytes read in all, shared evenly by the shards.
    max_bytes: int = 2 << 30
    #: Shards opened at most; of more, a random sample is.
    max_shards: int = 10_000
    #: Shards that are opened while one is read: round trips that overlap.
    opened_ahead: int = 24
    #: Images decoded pixel by pixel, spread evenly over what is read, and their pixels together.
    full_decode_sample: int = 256
    full_decode_pixels: int = 500_000_000
    #: Findings listed, in all and of one kind. All are counted.
    max_findings: int = 100
    max_findings_per_code: int = 10
    max_record_bytes: int = MAX_RECORD_BYTES
    max_gzip_ratio: int = MAX_GZIP_RATIO
    max_image_pixels: int = MAX_PIXELS
    #: Images compared with each other for duplicates: 14 bytes of memory each, and as much again for sorting.
    max_compared_images: int = 1_000_000
    #: Fraction of unusable records up to which they are warnings, because the trainer skips that many.
    max_bad_records: float = 0.0
    #: A shard is given up when it has this many unusable records, and more of them than others.
    max_bad_records_per_shard: int = 10_000
    #: Fraction of held-out images that are also trained on, up to which that is a warning.
    max_leaked_images: float = 0.01
    #: Largest class against smallest, in training; beyond it is a warning.
    max_class_imbalance: float = 10.0
