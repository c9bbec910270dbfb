"""The graph only sees batches that were warmed, and a broken picture is found without asking about each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def said(models: Path) -> Any:
    sources = [str(HERE.parents[2] / source) for source in ("services/predictor", "shared/src", "tests")]
    result = subprocess.run(
        [sys.executable, str(HERE / "ask_model.py"), str(models / "good")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sources), "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        timeout=120,
        stdout=subprocess.PIPE,
    )
    return json.loads(result.stdout.splitlines()[-1])


def test_every_size_is_warmed_once_and_a_processor_does_not_pad(said: Any) -> None:
    assert said["sizes"] == said["warmed"] == [1, 2, 4, 8]
    assert said["pads"] is False


def test_a_batch_of_a_size_between_is_padded_to_the_next_warmed_one(said: Any) -> None:
    assert said["five"] == {"labels": ["red", "green", "blue", "green", "red"], "batches": [8]}


def test_a_broken_picture_is_found_by_halving(said: Any) -> None:
    assert said["broken"]["labels"] == ["red", "green", "blue", "green", "red", None, "blue", "green"]
    # Eight fail, the first four are answered, the other four fail, and so on down to the one.
    assert said["broken"]["batches"] == [8, 4, 4, 2, 1, 1, 2]


def test_the_work_of_a_network_is_read_from_what_was_saved_and_tensorflow_told(said: Any) -> None:
    # The toy multiplies the mean of three colours with a matrix of 3 x 3, and does nothing else of that kind.
    assert set(said["multiply_adds"]) == {9}
    assert said["threads"] == 1
