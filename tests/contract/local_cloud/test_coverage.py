"""COVERAGE.md is the route tables, written down."""

from __future__ import annotations

from local_cloud.api import Operation
from local_cloud.coverage import PAGE, Section, page, render


def test_the_committed_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make coverage-table`"


def test_a_section_lists_operations_by_name_and_what_is_absent() -> None:
    operations = [Operation("b.get", "GET", "/b/<x>", "a | b"), Operation("a.list", "GET", "/a", "")]
    text = render([Section("An API", "its client", operations, ("the rest",))])

    assert text.index("a.list") < text.index("b.get")
    assert "| `b.get` | GET | `/b/<x>` | a \\| b |" in text
    assert "- the rest" in text
