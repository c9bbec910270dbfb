"""What a contributor is told is so: kinds of tests, versions, the license, and what GitHub runs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[3]


def text(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def test_every_folder_of_tests_is_a_kind_of_test_that_is_explained() -> None:
    kinds = {path.name for path in (REPOSITORY / "tests").iterdir() if any(path.rglob("test_*.py"))}
    explained = set(re.findall(r"`tests/([a-z0-9]+)/", text("CONTRIBUTING.md")))
    assert kinds
    assert kinds <= explained


def test_every_package_has_the_version_of_the_changelog() -> None:
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", text("CHANGELOG.md"), re.MULTILINE)
    packages = sorted([*REPOSITORY.glob("*/pyproject.toml"), *REPOSITORY.glob("*/*/pyproject.toml")])
    assert len(packages) > 15
    assert versions == sorted(versions, key=lambda each: [int(part) for part in each.split(".")], reverse=True)
    for path in packages:
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        assert (project["version"], project["license"]) == (versions[0], "Apache-2.0"), path


def test_github_runs_what_ci_runs_with_actions_that_cannot_change() -> None:
    workflow = yaml.safe_load(text(".github/workflows/ci.yml"))
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    for step in job["steps"]:
        assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"])
    assert workflow["permissions"] == {"contents": "read"}


def test_every_target_of_make_that_ci_runs_is_one() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    run = set(re.findall(r"^make ([a-z-]+)", text(".ci/run"), re.MULTILINE))
    assert run
    assert run <= targets


def test_the_license_is_whole() -> None:
    lines = text("LICENSE").splitlines()
    assert lines[0].strip() == "Apache License"
    assert "   END OF TERMS AND CONDITIONS" in lines
