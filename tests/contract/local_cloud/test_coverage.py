"""COVERAGE.md is the route tables, written down."""

from __future__ import annotations

from pathlib import Path

from local_cloud import topology
from local_cloud.api import Operation
from local_cloud.coverage import Section, page, render


def test_the_committed_page_is_current(repository: Path) -> None:
    described = topology.load(repository / "infra" / "topology.json", project="demo-dualdeploy", region="us-central1")
    committed = (repository / "infra" / "local_cloud" / "COVERAGE.md").read_text(encoding="utf-8")

    assert committed == page(described, repository), "run `python -m local_cloud coverage`"


def test_a_section_lists_operations_by_name_and_what_is_absent() -> None:
    operations = [Operation("b.get", "GET", "/b/<x>", "a | b"), Operation("a.list", "GET", "/a", "")]
    text = render([Section("An API", "its client", operations, ("the rest",))])

    assert text.index("a.list") < text.index("b.get")
    assert "| `b.get` | GET | `/b/<x>` | a \\| b |" in text
    assert "- the rest" in text
