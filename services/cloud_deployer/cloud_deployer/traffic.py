"""Arithmetic of traffic splits: whole per cents by deployed model id that always sum to 100."""

from __future__ import annotations

from collections.abc import Mapping


def with_share(before: Mapping[str, int], candidate: str, share: int) -> dict[str, int]:
    """The split in which `candidate` has `share` per cent, and those of `before` divide the rest as they did all.

    `before` sums to 100 without the candidate, or is empty: then the candidate has everything.
    """
    others = {key: part for key, part in before.items() if part and key != candidate}
    if not others:
        return {candidate: 100}
    rest = 100 - share
    split = {key: part * rest // 100 for key, part in others.items()}
    # What rounding left over goes to the largest.
    split[max(others, key=lambda key: others[key])] += rest - sum(split.values())
    return {**split, candidate: share}


def same(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Whether two splits send the same traffic; a share of 0 and none are the same."""
    return {key: part for key, part in one.items() if part} == {key: part for key, part in other.items() if part}
