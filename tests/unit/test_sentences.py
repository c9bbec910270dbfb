"""Every sentence that the product may say is read once: plain English, in the words of docs/glossary.md.

A sentence is a text in the code that is not a docstring: what is raised, logged, printed, written into the ledger.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
#: What engineers at another company would stumble over, and what to write instead.
RULES: Mapping[str, str] = {
    r"\bwhoever\b": "name the role: the caller, the person who …",
    r"\bnobody\b": "no one, and only for people; for a thing: nothing, not … by any service",
    r"\bsomebody\b": "someone, and only for people",
    r"\beverybody\b": "everyone",
    r"\banybody\b": "anyone, and only for people",
    r"\bfor ever\b": "forever",
    r"\bper cents?\b": "percent",
    r"(?<!\bthere )\b(?:is|are|was|were) no (?!longer\b|more\b|such\b|one\b)\w": "is not a …",
    r"\b(?:the|a|no|its) rights? (?:to|of|is|are)\b": "permission",
    r"\b(?:stands|named|listed) twice\b": "duplicate …",
    r"\bpassed over\b": "ignored",
    r"\bgone on with\b": "resumed",
    r"\b(?:hygiene|janitor|surplus)\b": "cleanup",
    r"\b(?:branch|branches) (?:of|is|are|has|waits)\b": "target, training or release",
    r"\bbring(?:s)? .{0,30}\bout\b|\bbrought out\b": "release",
    r"\bthis very\b": "exactly this",
    r"\b(?:can|cannot|may|to) be had\b": "available",
    r"\bis none of\b": "is not one of",
    r"\bhas not (?:its|the|an?)\b": "does not have, does not include",
    r"\b(?:ends|ended) well\b": "succeeded",
    r"\bof before\b": "previous",
    r"\b(?:is|are) not good\b": "is not valid",
    r"\b(?:is|are) told nothing\b|\bhears? nothing\b": "gets no message",
    r"\bis one too many\b": "is a duplicate",
    r"\breckons?\b": "compute",
    r"\bno one (?:asks|has asked)\b|\basks no one\b": "for a model: without requests, never asks",
}
_MAKE = re.compile(r"(?:`make |\bmake (?=[a-z-]+ [A-Z]+=))([a-z-]+)")
_PROSE = re.compile(r"[A-Za-z]+ [A-Za-z]+ [A-Za-z]+|\w+ \w+$")


def sources() -> list[Path]:
    """What people and services run; generators of data and benchmarks are not read."""
    folders = (
        "services",
        "shared/src/dualdeploy",
        "infra/cli",
        "infra/demo",
        "infra/deploy",
        "infra/local_cloud/src",
        "infra/shards",
    )
    found = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    return sorted(path for path in found if "testing" not in path.parts and "build" not in path.parts)


def sentences(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every sentence; what is filled in stands as `…`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(each.value) if isinstance(each, ast.Constant) else "…" for each in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation | inside:
            text = node.value
        else:
            continue
        if _PROSE.search(text):
            yield node.lineno, text


@functools.cache
def everything() -> list[tuple[str, str]]:
    """Where each sentence stands, and what it says."""
    return [(f"{path.relative_to(REPOSITORY)}:{line}", text) for path in sources() for line, text in sentences(path)]


@pytest.mark.parametrize("rule", RULES)
def test_no_sentence_breaks_the_rule(rule: str) -> None:
    pattern = re.compile(rule, re.IGNORECASE)
    broken = [f"{place}: {text}" for place, text in everything() if pattern.search(text)]
    assert broken == [], RULES[rule]


def test_pages_name_people_only_where_people_are_meant() -> None:
    pages = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("infra/**/README.md")]
    words = re.compile(r"\b(?:whoever|nobody|somebody|everybody|anybody)\b", re.IGNORECASE)
    assert [f"{page}: {word}" for page in pages for word in words.findall(page.read_text(encoding="utf-8"))] == []


def test_commands_that_a_sentence_names_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = [(place, name) for place, text in everything() for name in _MAKE.findall(text)]
    assert len(named) > 10
    assert [f"{place}: make {name}" for place, name in named if name not in targets] == []


def test_sentences_are_found(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('"""This is no sentence."""\nx = f"{1} is no such {2}"\ny = "whoever reads this"\nz = "name"\n')
    assert list(sentences(module)) == [(2, "… is no such …"), (3, "whoever reads this")]
    assert len(everything()) > 1000
