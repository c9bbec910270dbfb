"""A training's description, and records to train on."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from dualdeploy.images.tfrecord import encode_example

DOCUMENT: dict[str, Any] = {
    "v": 1,
    "run_id": "flowers-0123456789ab",
    "dataset": "flowers",
    "target": "cloud",
    "labels": ["daisy", "tulips"],
    "features": {"image": "image", "label": "class"},
    "shards": {
        "train": [{"uri": "gs://data/train.tfrecord", "generation": "1732", "size": 12, "crc32c": "AAAAAA=="}],
        "eval": [],
    },
    "training": {
        "architecture": "densenet121",
        "weights": "none",
        "image_size": 48,
        "epochs": 6,
        "batch_size": 32,
        "learning_rate": 0.001,
        "seed": 3,
        "max_bad_records": 0.01,
    },
    "output": {"directory": "gs://models/runs/r/cloud", "result": "gs://models/results/r/cloud.json"},
}


def jpeg(shade: int, side: int = 16) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (shade, shade, shade)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def record(shade: int, label: int, **others: bytes | int | float) -> bytes:
    return encode_example({"image": jpeg(shade), "class": label, **others})
