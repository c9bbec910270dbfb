"""Arithmetic of traffic splits: whole per cents by deployed model id that always sum to 100."""

from __future__ import annotations

from collections.abc import Mapping


def with_share(before: Mapping[str, int], candidate: str, share: int) -> dict[str, int]:
    """The split in which `candidate` has `share` per cent, and the others of `before` divide the rest as they did.

    Without any others the candidate has everything.
    """
    others = {key: part for key, part in before.items() if part and key != candidate}
    if not others:
        return {candidate: 100}
    rest, whole = 100 - share, sum(others.values())
    split = {key: part * rest // whole for key, part in others.items()}
    # What rounding left over goes to the largest.
    split[max(others, key=lambda key: others[key])] += rest - sum(split.values())
    return {**split, candidate: share}


def without(before: Mapping[str, int], candidate: str) -> dict[str, int]:
    """The split in which the others of `before` divide what `candidate` has too; empty without any others."""
    return {key: part for key, part in with_share(before, candidate, 0).items() if key != candidate}


def same(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Whether two splits send the same traffic; a share of 0 and none are the same."""
    return {key: part for key, part in one.items() if part} == {key: part for key, part in other.items() if part}
