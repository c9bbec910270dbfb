"""What the documents point to exists: files, sections, decisions, commands, and the states of a branch."""

from __future__ import annotations

import importlib.machinery
import json
import re
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from dualdeploy.ledger.states import RELEASE_MOVES, TRAINING_MOVES

REPOSITORY = Path(__file__).resolve().parents[3]
NOT_OURS = {".venv", "build", ".terraform", ".git", "node_modules"}
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z][a-z-]*):(?!=)", MAKEFILE, flags=re.MULTILINE))
MODULES = sorted(set(re.findall(r"python -m ([a-z_][a-z_.]*)", MAKEFILE)))

_FENCE = re.compile(r"^ *(```|~~~).*?^ *\1 *$", flags=re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^ {0,3}\[[^\]]+\]:\s*(\S+)", flags=re.MULTILINE)


def documents() -> list[Path]:
    """Every Markdown file of ours: those of the root, and all below docs, services and infra."""
    below = [path for folder in ("docs", "services", "infra") for path in (REPOSITORY / folder).rglob("*.md")]
    ours = [path for path in below if not NOT_OURS & set(path.relative_to(REPOSITORY).parts)]
    return sorted([*REPOSITORY.glob("*.md"), *ours])


def prose(path: Path) -> str:
    """A document without its code, where brackets mean other things."""
    return _CODE.sub("", _FENCE.sub("", path.read_text(encoding="utf-8")))


def code(path: Path) -> Iterator[str]:
    """What a document shows as code: each line of a fence, each span in a sentence."""
    text = path.read_text(encoding="utf-8")
    for fence in _FENCE.finditer(text):
        yield from (line.strip() for line in fence[0].splitlines())
    yield from (span.strip("` ") for span in _CODE.findall(_FENCE.sub("", text)))


def links(path: Path) -> list[str]:
    """The relative links and pictures of a document."""
    found = [first or second for first, second in _LINK.findall(prose(path))]
    return [link for link in found if not urllib.parse.urlsplit(link).scheme and not link.startswith("//")]


def sections(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+?) *$", _FENCE.sub("", path.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def shown(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


# Links -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", documents(), ids=shown)
def test_every_relative_link_leads_to_a_file_and_a_section_that_exist(document: Path) -> None:
    broken = []
    for link in links(document):
        name, _, section = urllib.parse.unquote(link).partition("#")
        place = document.parent / name if name else document
        if not place.exists():
            broken.append(f"{link}: no such file")
        elif section and section not in sections(place):
            broken.append(f"{link}: no such section")

    assert broken == []


def test_links_are_found_in_prose_and_not_in_code(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '[a](one.md) ![b](two.png "title") `[c](no.md)` [d](https://example.com/x.md)\n'
        "```\n[e](no.md)\n```\n[f]: three.md\n[g](<four.md>) [h](#it-is-so-far)\n\n## It is *so* far!\n",
        encoding="utf-8",
    )

    assert links(page) == ["one.md", "two.png", "three.md", "four.md", "#it-is-so-far"]
    assert sections(page) == {"it-is-so-far"}
    assert list(code(page)) == ["```", "[e](no.md)", "```", "[c](no.md)"]


def test_every_decision_is_listed() -> None:
    index = REPOSITORY / "docs" / "decisions" / "README.md"
    decisions = {path.name for path in index.parent.glob("*.md")} - {index.name}

    assert {Path(link).name for link in links(index)} == decisions


# Commands ----------------------------------------------------------------------------------------------------------


def commands(path: Path) -> set[str]:
    """The targets that a document tells people to make."""
    return {target for line in code(path) for target in re.findall(r"(?:^|[;&|] *)make ([a-z][a-z-]*)", line)}


@pytest.mark.parametrize("document", documents(), ids=shown)
def test_every_make_command_of_a_document_is_a_target(document: Path) -> None:
    assert commands(document) <= TARGETS


def test_every_make_command_of_the_topology_is_a_target() -> None:
    topology = json.loads((REPOSITORY / "infra" / "topology.json").read_text(encoding="utf-8"))
    readers = {entry.get("reader", "") for entry in topology["subscriptions"].values()}
    named = {reader.removeprefix("make ") for reader in readers if reader.startswith("make ")}

    assert named
    assert named <= TARGETS


def test_the_readme_is_seen_to_name_commands() -> None:
    assert {"demo", "test", "up"} <= commands(REPOSITORY / "README.md")


@pytest.mark.parametrize("module", MODULES)
def test_every_module_that_the_makefile_runs_exists(module: str) -> None:
    # As `python -m` in the root finds it. Importing it instead would run it.
    places = [str(REPOSITORY), *sys.path]
    for part in module.split("."):
        spec = importlib.machinery.PathFinder.find_spec(part, places)
        assert spec is not None, f"there is no {module}"
        places = list(spec.submodule_search_locations or [])
    # A package is run by its __main__.
    assert not places or importlib.machinery.PathFinder.find_spec("__main__", places)


def test_the_makefile_is_seen_to_run_modules() -> None:
    assert {"pytest", "local_cloud.coverage", "benchmarks"} <= set(MODULES)


# States ------------------------------------------------------------------------------------------------------------


def test_the_architecture_page_has_the_table_of_states_that_the_ledger_enforces() -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z_]+)` \| [^|]+ \| ([^|]*) \|$", page, flags=re.MULTILINE)

    assert {state: set(re.findall(r"`([a-z_]+)`", following)) for state, following in rows} == {
        str(state): {str(each) for each in following}
        for state, following in {**TRAINING_MOVES, **RELEASE_MOVES}.items()
    }
