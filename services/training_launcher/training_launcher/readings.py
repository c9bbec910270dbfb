"""What was read of each shard, kept for a validation that takes more than one request."""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from training_launcher.shard_scan import Images
from training_launcher.validation_report import Finding, Findings


@dataclasses.dataclass(frozen=True)
class ShardReading:
    """One shard as far as it was read; `number` is its place among all. Without `images` where none is kept."""

    number: int
    records: int
    bad_records: int
    bytes_read: int
    compressed: bool
    whole: bool
    stopped_early: bool
    decoded: int
    damaged: int
    findings: Findings
    images: Images | None = None


_NUMBERS = [field.name for field in dataclasses.fields(ShardReading) if field.name not in ("findings", "images")]
_COLUMNS = [field.name for field in dataclasses.fields(Images)]


def encode(readings: Sequence[ShardReading], *, seed: str) -> bytes:
    """A document of what one request read; `seed` tells of which draw of shards."""
    images = [reading.images or Images.none() for reading in readings]
    everything = Images.joined([Images.none(), *images])
    columns = {name: _packed(getattr(everything, name)) for name in _COLUMNS}
    shards = [
        {
            **{name: getattr(reading, name) for name in _NUMBERS},
            "images": len(each.labels),
            "findings": [[dataclasses.asdict(finding), tolerable] for finding, tolerable in reading.findings.kept],
            "counts": dict(reading.findings.counts),
        }
        for reading, each in zip(readings, images, strict=True)
    ]
    return json.dumps({"v": 1, "seed": seed, "shards_read": len(shards), "shards": shards, "images": columns}).encode()


def decode(document: bytes, *, seed: str, most: int, most_of_a_kind: int) -> list[ShardReading]:
    """What `encode` was given; nothing of another draw, or of a version that is not understood."""
    found = json.loads(document)
    if (found.get("v"), found.get("seed")) != (1, seed):
        return []
    everything = Images(**{name: _unpacked(found["images"][name]) for name in _COLUMNS})
    readings, start = [], 0
    for shard in found["shards"]:
        findings = Findings(most, most_of_a_kind)
        for finding, tolerable in shard["findings"]:
            findings.add(Finding(**finding), tolerable=tolerable)
        for code, count in shard["counts"].items():
            findings.count_more(code, count - findings.counts[code])
        images = everything.between(start, start + shard["images"])
        start += shard["images"]
        readings.append(ShardReading(**{name: shard[name] for name in _NUMBERS}, findings=findings, images=images))
    return readings


def _packed(column: Any) -> dict[str, str]:
    return {"type": column.dtype.str, "zlib": base64.b64encode(zlib.compress(column.tobytes(), 1)).decode()}


def _unpacked(packed: dict[str, str]) -> Any:
    return np.frombuffer(zlib.decompress(base64.b64decode(packed["zlib"])), np.dtype(packed["type"]))
