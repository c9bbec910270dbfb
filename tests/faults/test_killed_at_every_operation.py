"""A process may die between any two lines: the chain is killed at every one of its operations, one at a time."""

from __future__ import annotations

import functools

import pytest

from support.fakes.failing import When
from support.stories import STORIES, Once, kill, spread, told


@functools.cache
def deaths_of(name: str) -> list[tuple[int, When]]:
    """Dying after an operation is dying before the next one, but for a handling's last: only the answer follows it."""
    chain, last = told(STORIES[name])
    STORIES[name].check(chain)
    count = len(chain.operations)
    return spread([(number, "before") for number in range(count)] + [(number, "after") for number in sorted(last)])


def what_is_wrong(name: str, death: Once, *, redeliver: bool) -> str:
    """Empty when the chain recovered from this death."""
    chain, _ = told(STORIES[name], death, redeliver=redeliver)
    try:
        assert death.operation, "the planned death never happened"
        STORIES[name].check(chain)
    except AssertionError as exc:
        return f"killed {death.when} operation {death.number} ({death.operation}): {exc}"
    return ""


@pytest.mark.parametrize("name", STORIES)
def test_a_process_killed_at_any_operation_costs_no_second_job_and_loses_no_release(name: str) -> None:
    failures = [
        what_is_wrong(name, Once(number, kill, when), redeliver=True) for number, when in spread(deaths_of(name))
    ]
    assert [failure for failure in failures if failure] == []


@pytest.mark.parametrize("name", ["a first run", "a run whose cloud training fails"])
def test_the_clock_alone_brings_a_run_to_its_end_when_the_killed_event_never_comes_again(name: str) -> None:
    failures = [
        what_is_wrong(name, Once(number, kill, when), redeliver=False) for number, when in spread(deaths_of(name))
    ]
    assert [failure for failure in failures if failure] == []


def test_an_undisturbed_run_has_operations_of_every_kind_to_be_killed_at() -> None:
    chain, _ = told(STORIES["a second run"])
    for kind in (
        "data.list",
        "data.open",
        "config.read",
        "ledger.put",
        "ledger.delete",
        "models.put",
        "models.read",
        "vertex.create_custom_job",
        "vertex.start_upload",
        "vertex.start_deploy",
        "vertex.start_undeploy",
        "firebase.update",
        "pubsub.publish",
    ):
        assert kind in chain.operations
