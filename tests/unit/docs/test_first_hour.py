"""docs/first-hour.md explains every refusal that a deployment is known to meet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support import google_says

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "first-hour.md").read_text(encoding="utf-8")
#: What Google says, in the first column; … and names stand for anything.
QUOTED = [
    re.sub(r"\\?…|\bx\b", ".*", re.escape(each))
    for row in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    for each in re.findall(r"`([^`]+)`", row)
]


@pytest.mark.parametrize("what", [*google_says.WAIT, *google_says.FINAL])
def test_every_refusal_is_explained(what: str) -> None:
    says = {**google_says.WAIT, **google_says.FINAL}[what].says
    assert any(re.search(quoted, says, re.IGNORECASE) for quoted in QUOTED), says
