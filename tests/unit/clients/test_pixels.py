"""shared/fixtures/pixels.json holds what Python makes of odd pictures; each client is held to the same file."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from dualdeploy.images.pixels import decode_rgb, resize_bilinear

PATH = Path(__file__).parents[3] / "shared" / "fixtures" / "pixels.json"
PICTURES: list[dict[str, Any]] = json.loads(PATH.read_text(encoding="utf-8"))["pictures"]


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture["name"])
def test_python_decodes_and_resizes_as_the_file_says(picture: dict[str, Any]) -> None:
    pixels = decode_rgb(base64.b64decode(picture["file"]))
    assert pixels.shape == (picture["height"], picture["width"], 3)
    assert pixels.tobytes() == base64.b64decode(picture["rgb"])
    for size, digest in picture["sizes"].items():
        assert hashlib.sha256(resize_bilinear(pixels, int(size)).astype("<f4").tobytes()).hexdigest() == digest
