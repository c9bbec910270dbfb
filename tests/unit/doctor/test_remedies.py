"""Every command that the doctor tells people to type exists, with every flag."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
SOURCES = REPOSITORY / "infra" / "deploy" / "doctor"
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
#: `--name` in f-strings that are put together of several.
_FLAG = re.compile(r"--[a-z]+(?:-[a-z]+)*")
#: Where a name stands in a command, it ends what is the command itself.
_NAME = "\N{REPLACEMENT CHARACTER}"


def texts() -> Iterator[str]:
    """Every text in the sources, with a sign where a value is filled in."""
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(each.value if isinstance(each, ast.Constant) else _NAME for each in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def commands() -> Mapping[str, set[str]]:
    """gcloud's commands by their words, each with the flags that stand behind it."""
    found: dict[str, set[str]] = {}
    for text in texts():
        for said in re.split(r"&&|   ", text):
            if match := re.search(r"\bgcloud ((?:[a-z][a-z-]*(?: |$))+)(.*)", said):
                # An argument of our own looks like a word of gcloud's: a file.
                words = match[1].removesuffix(" ")
                found.setdefault(words, set()).update(_FLAG.findall(match[2]))
    return found


def test_there_are_commands_to_look_for() -> None:
    assert len(commands()) > 12
    assert {"--service", "--quota-id", "--dimensions"} <= commands()["beta quotas preferences create"]


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted(commands()))
def test_gcloud_has_the_command_and_every_flag(command: str) -> None:
    if shutil.which("gcloud") is None:
        pytest.skip("gcloud is not installed here")
    done = subprocess.run(
        ["gcloud", *command.split(), "--help"], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).replace("--[no-]", "--")
    known = {*_FLAG.findall(text), "--project"}
    # The flag that turns something on has one that turns it off.
    known |= {flag.replace("--", "--no-", 1) for flag in known}
    assert commands()[command] <= known


def test_make_has_every_target_that_is_told() -> None:
    told = {target for text in texts() for target in re.findall(r"\bmake ([a-z-]+) [A-Z]+=", text)}
    assert {"deploy", "replay", "run", "firebase-migrate"} <= told
    assert told <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
