"""Every file parses as HCL, and says what it is for; needs neither terraform nor the provider."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

hcl2 = pytest.importorskip("hcl2", reason="python-hcl2 is not installed here; `make setup` installs it")

TERRAFORM = Path(__file__).resolve().parents[3] / "infra" / "terraform"
FILES = sorted(TERRAFORM.rglob("*.tf"))
FOLDERS = sorted({file.parent for file in FILES})


def name_of(path: Path) -> str:
    return str(path.relative_to(TERRAFORM))


def parse(file: Path) -> dict[str, Any]:
    with file.open(encoding="utf-8") as stream:
        return hcl2.load(stream)  # type: ignore[no-any-return]


def blocks(folder: Path, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(label, body) of every block of one kind with one label."""
    for file in sorted(folder.glob("*.tf")):
        for block in parse(file).get(kind, []):
            for label, body in block.items():
                if not label.startswith("__"):
                    yield label.strip('"'), body


def text_of(folder: Path) -> str:
    return "\n".join(file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.tf")))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_file_parses(file: Path) -> None:
    assert parse(file)


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_every_variable_is_described_and_used(folder: Path) -> None:
    text = text_of(folder)
    for name, body in blocks(folder, "variable"):
        assert body.get("description"), f"variable {name} has no description"
        assert re.search(rf"\bvar\.{name}\b", text), f"variable {name} is used nowhere"


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_every_variable_in_use_is_declared(folder: Path) -> None:
    declared = {name for name, _ in blocks(folder, "variable")}
    assert set(re.findall(r"\bvar\.(\w+)", text_of(folder))) <= declared


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_every_output_is_described(folder: Path) -> None:
    assert [name for name, body in blocks(folder, "output") if not body.get("description")] == []


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder.name != "topology"], ids=name_of)
def test_every_module_pins_terraform_and_the_provider_alike(folder: Path) -> None:
    text = (folder / "versions.tf").read_text(encoding="utf-8")
    assert 'required_version = ">= 1.9"' in text
    assert 'version = "~> 8.0"' in text


def test_nothing_is_opened_to_everyone() -> None:
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        grants = [line for line in text.splitlines() if "allUsers" in line or "allAuthenticatedUsers" in line]
        assert [line for line in grants if "!contains" not in line] == [], name_of(file)


def test_what_is_deployed_names_every_setting() -> None:
    # Whoever deploys later without terraform.tfvars has nothing else to know them from.
    folder = TERRAFORM / "environments" / "example"
    (configuration,) = [body["value"] for name, body in blocks(folder, "output") if name == "configuration"]
    assert set(configuration) == {name for name, _ in blocks(folder, "variable")}
