"""Nested values for property tests, at most three levels deep.

`hypothesis.strategies.recursive` keeps a count beside the data that it draws, and was seen to call its own draws
inconsistent in the middle of a long run; levels that are written out have nothing to be inconsistent about.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Strategy = st.SearchStrategy[Any]


def nested(leaves: Strategy, extend: Callable[[Strategy], Strategy], *, levels: int = 3) -> Strategy:
    """`leaves`, or what `extend` makes of them, or of that again, `levels` times."""
    grown = leaves
    for _ in range(levels):
        grown = leaves | extend(grown)
    return grown
