"""Folders of small pictures, each different from every other."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

Paint = Callable[..., bytes]


def paint(seed: int, kind: str = "PNG") -> bytes:
    chance = random.Random(seed)
    picture = Image.new("RGB", (16, 12), (chance.randrange(256), chance.randrange(256), chance.randrange(256)))
    picture.putpixel((seed % 16, seed % 12), (chance.randrange(256), 1, 2))
    out = io.BytesIO()
    picture.save(out, kind)
    return out.getvalue()


@pytest.fixture
def picture() -> Paint:
    return paint


@pytest.fixture
def garden(tmp_path: Path) -> Path:
    """Forty roses and twenty-five tulips."""
    folder = tmp_path / "My Garden"
    for label, count, first in (("roses", 40, 0), ("tulips", 25, 1000)):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            kind = ("JPEG", "PNG")[number % 2]
            (folder / label / f"{number}.{kind.lower()}").write_bytes(paint(first + number, kind))
    return folder
