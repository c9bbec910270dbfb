"""The page of the routes says what the lists say."""

from __future__ import annotations

from pathlib import Path

from support.routes_table import rendered

PAGE = Path(__file__).parents[3] / "docs" / "routes.md"


def test_the_page_of_the_routes_is_made_of_them() -> None:
    assert PAGE.read_text(encoding="utf-8") == rendered(), "make routes-table writes it"
