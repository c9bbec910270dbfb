"""Rows of `build/bench/report.json`: what was measured, against what, and how."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

REPORT = Path(__file__).resolve().parent.parent / "build" / "bench" / "report.json"


@dataclasses.dataclass(frozen=True)
class Row:
    """One number with its unit; `goal` is for `ratio` (value / baseline) if there is a baseline, else for `value`."""

    name: str
    value: float
    unit: str
    baseline: float | None
    goal: float | None
    how: str

    @property
    def ratio(self) -> float | None:
        """Value against baseline, to two digits."""
        return round(self.value / self.baseline, 2) if self.baseline else None


def append_rows(rows: Iterable[Row], *, path: Path = REPORT) -> None:
    """Add the rows to the report, in place of older rows of the same names, and print them."""
    document = json.loads(path.read_text()) if path.exists() else []
    for row in rows:
        entry = {**dataclasses.asdict(row), "ratio": row.ratio}
        document = [*(older for older in document if older["name"] != row.name), entry]
        against = f", {row.ratio} x {row.baseline:,g}" if row.baseline else ""
        goal = f" (goal {row.goal:g})" if row.goal is not None else ""
        print(f"{row.name}: {row.value:,g} {row.unit}{against}{goal}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
