"""The real converter, in its child process, on the SavedModel that the tiny fixtures come from."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mobile_publisher import conversion, on_device
from mobile_publisher.conversion import ConversionFailed, ConversionOutOfMemory

pytestmark = pytest.mark.slow

LABELS = ("red", "green", "blue")
MAKER = Path(__file__).parents[2] / "fixtures" / "make_tiny_tflite.py"


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "pixels_model"
    subprocess.run([sys.executable, str(MAKER), "saved-model", str(folder)], check=True, timeout=120)
    return folder


@pytest.mark.parametrize("variant", conversion.VARIANTS)
def test_every_variant_converts_and_answers_as_its_source(
    saved_model: Path,
    tmp_path: Path,
    variant: conversion.Variant,
    tiny_float32: bytes,
    picture: Callable[[str], bytes],
) -> None:
    random = np.random.default_rng(0)
    pictures = [np.full((8, 8, 3), random.integers(0, 256, 3), np.float32) for _ in range(40)]
    done = conversion.convert(
        saved_model, tmp_path / "model.tflite", variant=variant, representative=pictures, timeout=120
    )
    source = on_device.Classifier(tiny_float32, labels=LABELS)
    colours = ["red", "lime", "blue", "#c02010"]
    golden = [(picture(colour), list(source.probabilities(picture(colour)))) for colour in colours]
    found = on_device.agreement(done.path, golden, labels=LABELS)
    assert found.same_label == 1.0
    assert found.max_difference < (0.03 if variant == "int8" else 0.002)
    assert done.bytes == done.path.stat().st_size


def test_a_damaged_saved_model_is_refused_with_the_reason(saved_model: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "model"
    damaged.mkdir()
    (damaged / "saved_model.pb").write_bytes((saved_model / "saved_model.pb").read_bytes()[:100])
    with pytest.raises(ConversionFailed, match=r"refused: cannot convert .*not a SavedModel"):
        conversion.convert(damaged, tmp_path / "a", variant="float32")


def test_a_saved_model_without_the_signature_is_refused_with_the_reason(saved_model: Path, tmp_path: Path) -> None:
    other = tmp_path / "model"
    shutil.copytree(saved_model, other)
    document = (other / "saved_model.pb").read_bytes()
    (other / "saved_model.pb").write_bytes(document.replace(b"serving_default", b"serving_another"))
    with pytest.raises(ConversionFailed, match=r"takes nothing, and .*: write artifacts\.pixels_model"):
        conversion.convert(other, tmp_path / "a", variant="float32")


def test_pictures_of_another_size_are_refused_with_the_reason(saved_model: Path, tmp_path: Path) -> None:
    pictures = [np.zeros((9, 9, 3), np.float32)]
    with pytest.raises(ConversionFailed, match=r"\(9, 9, 3\).*\(8, 8, 3\)"):
        conversion.convert(saved_model, tmp_path / "a", variant="int8", representative=pictures)


def test_tensorflow_itself_is_stopped_at_the_memory_limit(saved_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionOutOfMemory):
        conversion.convert(saved_model, tmp_path / "a", variant="float32", memory_bytes=100 << 20)
