"""How much memory there is, from what Linux says."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.process.free_memory import available


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, 8_000 * 1024), ("max", 8_000 * 1024), ("5000000", 4_000_000), ("10", 0)]
)
def test_the_machine_or_its_container_says_whichever_has_less(limit: str | None, expected: int, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       16000 kB\nMemAvailable:    8000 kB\n")
    if limit:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text("1000000\n")
    assert available(proc=tmp_path, groups=tmp_path) == expected


def test_where_the_machine_does_not_say_there_is_none(tmp_path: Path) -> None:
    assert available(proc=tmp_path, groups=tmp_path) == 0
