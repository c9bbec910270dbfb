"""How many GPUs there are, without TensorFlow."""

from __future__ import annotations

from pathlib import Path

import pytest

from predictor import accelerators


def test_devices_are_counted_from_zero_whatever_their_numbers(tmp_path: Path) -> None:
    for name in ("nvidia3", "nvidia7", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert accelerators.names({}, devices=tmp_path) == ["0", "1"]


def test_a_machine_without_gpu_has_none(tmp_path: Path) -> None:
    assert accelerators.names({}, devices=tmp_path) == []


@pytest.mark.parametrize(
    ("setting", "names"), [("", []), ("-1", []), ("0,2", ["0", "2"]), ("1,-1,2", ["1"]), ("GPU-8f2a", ["GPU-8f2a"])]
)
def test_what_cuda_is_told_to_see_wins(setting: str, names: list[str], tmp_path: Path) -> None:
    (tmp_path / "nvidia0").touch()
    assert accelerators.names({accelerators.VISIBLE: setting}, devices=tmp_path) == names
