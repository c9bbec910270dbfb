"""check-module: what cannot be a network is told before TensorFlow is imported (stages: tests/slow/model_check)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dualdeploy_cli import exits
from support.command_line import invoke


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read (No such file or directory): name a file of Python"),
        ("def build(", "it is not Python: line 1"),
        ("x = 1", "it defines no function `build(classes, image_size)`"),
    ],
)
def test_a_file_that_is_not_a_module_is_told_at_once(tmp_path: Path, content: str | None, says: str) -> None:
    file = tmp_path / "net.py"
    if content is not None:
        file.write_text(content)
    before = set(sys.modules)
    code, text = invoke("check-module", str(file), "--json")
    assert code == exits.REFUSED
    verdict = json.loads(text)
    assert (verdict["passed"], verdict["stage"], verdict["stages"]) == (False, "read", [])
    assert says in verdict["says"]
    assert "model_check.stages" not in set(sys.modules) - before


def test_a_network_of_keras_is_refused_as_a_configuration_would_be() -> None:
    code, text = invoke("check-module", "keras:MobilenetV2", "--json")
    assert (code, json.loads(text)["passed"]) == (exits.REFUSED, False)
    assert "write keras:MobileNetV2, for instance" in json.loads(text)["says"]
