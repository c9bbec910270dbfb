"""Tiny models and pictures; nothing here needs TensorFlow."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture(scope="session")
def tiny_float32() -> bytes:
    """Names the mean colour of a picture; float32 [1, 8, 8, 3] in, three probabilities out."""
    return (FIXTURES / "tiny_float32.tflite").read_bytes()


@pytest.fixture(scope="session")
def tiny_uint8() -> bytes:
    """The same model, fully quantised, with uint8 in and out."""
    return (FIXTURES / "tiny_uint8.tflite").read_bytes()


@pytest.fixture(scope="session")
def tiny_nan() -> bytes:
    """The same model with weights that a bad conversion lost: every answer is NaN."""
    return (FIXTURES / "tiny_nan.tflite").read_bytes()


@pytest.fixture(scope="session")
def picture() -> Callable[[str], bytes]:
    """A PNG of one colour."""

    def draw(colour: str) -> bytes:
        out = io.BytesIO()
        Image.new("RGB", (20, 12), colour).save(out, "PNG")
        return out.getvalue()

    return draw
