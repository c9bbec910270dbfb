"""The environment file: KEY=value lines that a shell, a script or a test suite can read."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path


def write_environment(path: Path, environment: Mapping[str, str]) -> None:
    """Complete or not there: whoever waits for the file may read it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    # Quoted: a shell reads it too, and a checkout may lie in "My Projects".
    lines = (f"{key}={shlex.quote(value)}\n" for key, value in environment.items())
    draft.write_text("".join(lines), encoding="utf-8")
    draft.replace(path)


def read_environment(path: Path) -> dict[str, str]:
    """The variables of a file that `write_environment` wrote."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {key: "".join(shlex.split(value)) for key, value in pairs}
