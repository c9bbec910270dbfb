"""`build/local_cloud.env`: KEY=value lines that a shell, a script or a test suite can read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def write_environment(path: Path, environment: Mapping[str, str]) -> None:
    """Complete or not there: whoever waits for the file may read it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text("".join(f"{key}={value}\n" for key, value in environment.items()), encoding="utf-8")
    draft.replace(path)


def read_environment(path: Path) -> dict[str, str]:
    """The variables of a file that `write_environment` wrote."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)
