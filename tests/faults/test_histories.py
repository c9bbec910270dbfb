"""Fifty seeded histories; `make histories N=5000` plays as many as there is time for."""

from __future__ import annotations

import pytest

from histories import History


@pytest.mark.parametrize("block", range(5))
def test_no_history_breaks_a_promise(block: int) -> None:
    for seed in range(block * 10, block * 10 + 10):
        History(seed).play()
