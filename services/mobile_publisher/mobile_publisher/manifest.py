"""manifest.json: what an app needs to know of a .tflite file before it downloads and trusts it.

The same labels and input stand inside the file as TFLite metadata; the manifest adds what a file cannot say of itself.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from dualdeploy import clock as clocks
from dualdeploy.contracts import architectures
from dualdeploy.contracts.training import TrainingResult
from dualdeploy.ledger import Run

VERSION = 1

#: How the versions of files begin that were trained elsewhere; those of ours begin with a run's digest.
IMPORTED = "firebase-"


def document(
    *,
    name: str,
    run: Run,
    result: TrainingResult,
    variant: str,
    sha256: str,
    size_bytes: int,
    accuracy: float,
    min_app_version: str,
    created: datetime.datetime,
) -> dict[str, Any]:
    """The manifest; `size_bytes` and `sha256` (hex) are of the whole file, `accuracy` is measured in LiteRT."""
    pixels = result.image_size
    return {
        "v": VERSION,
        "name": name,
        "version": version(run, sha256),
        "created": clocks.to_text(created),
        "sha256": sha256,
        "size": size_bytes,
        "variant": variant,
        "accuracy": accuracy,
        "labels": list(result.labels),
        "input": {
            "shape": [1, pixels, pixels, 3],
            "type": "float32",
            "range": [0, 255],
            "channels": "RGB",
            # Another resize costs more answers than eight-bit weights do: it belongs to the model.
            "resize": "bilinear, half-pixel centers, no antialiasing, aspect ratio not kept",
        },
        "output": {"shape": [1, len(result.labels)], "type": "float32", "holds": "probabilities by label"},
        "min_app_version": min_app_version,
        "run_id": run.run_id,
        "dataset": run.dataset,
        "snapshot_sha256": run.snapshot.digest(),
        "architecture": architectures.public(result.architecture),
    }


def imported(
    *,
    name: str,
    source: str,
    sha256: str,
    size_bytes: int,
    labels: Sequence[str],
    tensors: Mapping[str, Any],
    created: datetime.datetime,
) -> dict[str, Any]:
    """The manifest of a file that was trained elsewhere: what can be read from the file, and where it came from.

    `tensors` are `input` and `output`, each with shape and type, or without one that is not there exactly once.
    """
    return {
        "v": VERSION,
        "name": name,
        "version": imported_version(sha256),
        "created": clocks.to_text(created),
        "sha256": sha256,
        "size": size_bytes,
        "labels": list(labels),
        **tensors,
        "min_app_version": "",
        "imported_from": source,
    }


def imported_version(sha256: str) -> str:
    return f"{IMPORTED}{sha256[:12]}"


def version(run: Run, sha256: str) -> str:
    """Names one file forever: the run's own part of its id, and the beginning of the file's checksum."""
    return f"{run.run_id.removeprefix(f'{run.dataset}-')}-{sha256[:12]}"


def encode(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1, ensure_ascii=False).encode()
