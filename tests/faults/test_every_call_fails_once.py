"""Every remote call may fail, before it did its work or after: each one of the chain's calls does, one at a time."""

from __future__ import annotations

import functools

import pytest

from support.stories import STORIES, Once, fail, spread, told


def what_is_wrong(name: str, failure: Once) -> str:
    """Empty when the chain recovered from this failure."""
    chain, _ = told(STORIES[name], failure)
    try:
        assert failure.operation, "the planned failure never happened"
        STORIES[name].check(chain)
    except AssertionError as exc:
        return f"failed {failure.when} operation {failure.number} ({failure.operation}): {exc}"
    return ""


@functools.cache
def undisturbed(name: str) -> tuple[int, list[int]]:
    """How many operations a story has, and which of them have an answer that can be lost."""
    chain, _ = told(STORIES[name])
    return len(chain.operations), list(chain.answered)


@pytest.mark.parametrize("name", STORIES)
def test_a_call_that_fails_once_delays_a_run_and_harms_nothing(name: str) -> None:
    count, _ = undisturbed(name)
    failures = [what_is_wrong(name, Once(number, fail)) for number in spread(range(count))]
    assert [failure for failure in failures if failure] == []


@pytest.mark.parametrize("name", STORIES)
def test_a_lost_answer_delays_a_run_and_does_nothing_twice(name: str) -> None:
    _, answered = undisturbed(name)
    failures = [what_is_wrong(name, Once(number, fail, "after")) for number in spread(answered)]
    assert [failure for failure in failures if failure] == []
