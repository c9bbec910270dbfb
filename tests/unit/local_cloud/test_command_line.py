"""`local-cloud` teaches, and refuses a wrong line with what mends it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click.testing
import pytest

from local_cloud.__main__ import FIRST_FIXED_PORT, program
from local_cloud.cloud import Ports

README = (Path(__file__).parents[3] / "infra" / "local_cloud" / "README.md").read_text(encoding="utf-8")


def invoke(*arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(program, arguments)


def test_help_says_how_to_begin() -> None:
    assert "local-cloud serve --topology topology.json" in invoke("--help").output
    told = invoke("serve", "--help").output
    for option in ("--topology", "--bindings", "--state", "--ports", "--environment-file", "Examples:"):
        assert option in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--topology", "nowhere.json"], "nowhere.json: no such file; name the topology file"),
        (["--bindings", "nowhere.json"], "nowhere.json: no such file; name the file of bindings"),
        (["--project", "X"], "project 'X': 6 to 30 of [a-z0-9-]"),
        (["--ports", "some"], "free, fixed, or a port from 1024 to 65000"),
        (["--ports", "80"], "free, fixed, or a port from 1024 to 65000"),
        (["--clock-seconds", "0"], "0.0 is not in the range x>0"),
    ],
)
def test_a_wrong_line_ends_with_2_and_says_what_is_wrong(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = invoke("serve", "--state", str(tmp_path), *arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output


def test_fixed_ports_are_those_of_the_readme() -> None:
    fixed = dataclasses.asdict(Ports.fixed(FIRST_FIXED_PORT))
    assert list(fixed.values()) == list(range(FIRST_FIXED_PORT, FIRST_FIXED_PORT + len(fixed)))
    for name, port in fixed.items():
        assert f"| {port} | `{name}` |" in README
