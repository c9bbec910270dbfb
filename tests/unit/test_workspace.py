"""The workspace: what pyproject.toml files name, what uv.lock pins, and the two files that are made of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LOCKS = ("uv.lock", "infra/policy/uv.lock")
PYPI = ("https://pypi.org/simple", "https://files.pythonhosted.org/packages/")
EXPORT = ("--frozen", "--no-default-groups", "--no-emit-workspace", "--no-header", "--no-annotate")


def uv(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "uv", *arguments, "--offline", "--quiet", "--default-index", PYPI[0]],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def requirements() -> list[tuple[str, str]]:
    """Every requirement that a file of ours names, and the file."""
    found = []
    for file in [
        REPOSITORY / "pyproject.toml",
        *REPOSITORY.glob("shared/pyproject.toml"),
        *REPOSITORY.glob("*/*/pyproject.toml"),
    ]:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
        project, options = document.get("project", {}), document.get("tool", {}).get("uv", {})
        lists = [project.get("dependencies", []), options.get("constraint-dependencies", [])]
        lists += [*project.get("optional-dependencies", {}).values(), *document.get("dependency-groups", {}).values()]
        found += [(each, str(file.relative_to(REPOSITORY))) for named in lists for each in named]
    return found


def test_every_package_is_in_the_workspace_or_has_a_lock_of_its_own() -> None:
    workspace = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]["workspace"]
    members = {folder for member in workspace["members"] for folder in REPOSITORY.glob(member) if folder.is_dir()}
    packages = {
        file.parent
        for pattern in ("shared", "infra/*", "services/*")
        for file in REPOSITORY.glob(f"{pattern}/pyproject.toml")
    }
    assert members == packages - {(REPOSITORY / lock).parent for lock in LOCKS}


def test_no_service_finds_the_main_of_another(tmp_path: Path) -> None:
    look = "import importlib.util; print(importlib.util.find_spec('main'))"
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", look], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "None"


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_what_is_named(lock: str) -> None:
    uv("lock", "--check", "--project", str(Path(lock).parent))


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_registry_but_pypi(lock: str) -> None:
    addresses = set(re.findall(r'"(\w+://[^"]+)"', (REPOSITORY / lock).read_text(encoding="utf-8")))
    assert PYPI[0] in addresses
    assert [each for each in addresses if not each.startswith(PYPI)] == []


def test_a_version_is_written_in_one_place() -> None:
    named = requirements()
    assert len(named) > 100
    places = Counter(
        re.split(r"[^\w.-]", each)[0].lower() for each, _ in named if re.search(r"[<>=~]=?\s*\d", each.split(";")[0])
    )
    assert {"tensorflow", "tensorflow-cpu"} <= places.keys()
    assert {name for name, count in places.items() if count > 1} == set()


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("infra/deploy/uv.txt", ("--only-group", "uv")),
        ("infra/own_container/requirements.txt", ("--package", "own-container", "--all-extras")),
    ],
)
def test_a_file_that_is_made_of_the_lock_is_as_make_lock_writes_it(file: str, options: tuple[str, ...]) -> None:
    assert (REPOSITORY / file).read_text(encoding="utf-8") == uv("export", *EXPORT, *options)
