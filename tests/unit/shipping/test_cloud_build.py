"""What Cloud Build does for a commit is what `make deploy` does, with options and files that exist."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from shipping.__main__ import _parser

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def build() -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / "infra" / "deploy" / "cloudbuild.yaml").read_text(encoding="utf-8"))


def script(build: dict[str, Any], step: str) -> str:
    """The shell's text of a step; $$ is how Cloud Build writes one dollar."""
    (found,) = [each for each in build["steps"] if each["id"] == step]
    return str(found["args"][-1]).replace("$$", "$")


def test_the_deployment_is_called_with_options_that_it_has(build: dict[str, Any]) -> None:
    line = next(line for line in script(build, "deploy").splitlines() if "shipping" in line)
    options = _parser().parse_args(shlex.split(line)[3:])
    assert (options.command, options.code_only, options.packaged) == ("deploy", True, True)
    assert options.region == "$_REGION"
    assert build["substitutions"].keys() == {"_REGION"}


def test_uv_is_installed_by_its_hashes_from_what_is_locked(build: dict[str, Any]) -> None:
    installed = next(line for line in script(build, "package").splitlines() if line.startswith("pip install"))
    options = shlex.split(installed)
    assert "--require-hashes" in options
    # tests/unit/test_workspace.py holds this file to the lock.
    assert (REPOSITORY / options[-1]).read_text(encoding="utf-8").startswith("uv==")


def test_both_builds_say_where_their_log_goes(build: dict[str, Any]) -> None:
    # Cloud Build refuses a build with an account of its own that does not.
    image = yaml.safe_load((REPOSITORY / "infra" / "deploy" / "image.yaml").read_text(encoding="utf-8"))
    assert build["options"]["logging"] == image["options"]["logging"] == "CLOUD_LOGGING_ONLY"
    assert image["images"] == ["$_IMAGE"]
