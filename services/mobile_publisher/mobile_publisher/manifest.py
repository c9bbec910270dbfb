"""manifest.json: what an app needs to know of a .tflite file before it downloads and trusts it.

The same labels and input stand inside the file as TFLite metadata; the manifest adds what a file cannot say of itself.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from dualdeploy import clock as clocks
from dualdeploy.contracts import architectures
from dualdeploy.contracts.training import TrainingResult
from dualdeploy.ledger import Run

VERSION = 1

#: The variant of a file that Google made of what AutoML trained.
AUTOML = "automl"

#: How the versions of files begin that were trained elsewhere; those of ours begin with a run's digest.
IMPORTED = "firebase-"


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a file takes and gives: pixels from 0 to 255 of `input_type`; a value for each of `labels`, in this order.

    Where the values are integers, each is worth `scale` from `zero_point` on.
    """

    image_size: int
    labels: Sequence[str]
    input_type: str = "float32"
    output_type: str = "float32"
    scale: float = 0.0
    zero_point: int = 0


def document(
    *,
    name: str,
    run: Run,
    result: TrainingResult,
    shape: Shape,
    variant: str,
    sha256: str,
    size_bytes: int,
    accuracy: float,
    min_app_version: str,
    created: datetime.datetime,
) -> dict[str, Any]:
    """The manifest; `size_bytes` and `sha256` (hex) are of the whole file, `accuracy` is measured in LiteRT."""
    pixels = shape.image_size
    return {
        "v": VERSION,
        "name": name,
        "version": version(run, sha256),
        "created": clocks.to_text(created),
        "sha256": sha256,
        "size": size_bytes,
        "variant": variant,
        "accuracy": accuracy,
        "labels": list(shape.labels),
        "input": {
            "shape": [1, pixels, pixels, 3],
            "type": shape.input_type,
            "range": [0, 255],
            "channels": "RGB",
            # Another resize costs more answers than eight-bit weights do: it belongs to the model.
            "resize": "bilinear, half-pixel centers, no antialiasing, aspect ratio not kept",
        },
        "output": {
            "shape": [1, len(shape.labels)],
            "type": shape.output_type,
            "holds": "probabilities by label",
            # Of integers: probability = scale * (value - zero_point).
            **({} if shape.output_type == "float32" else {"scale": shape.scale, "zero_point": shape.zero_point}),
        },
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
