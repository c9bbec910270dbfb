"""Where an endpoint takes one model only, a process may die anywhere and people may stop a release at any moment: it
ends with the new model or with the former one, and the record names what is deployed.

That a death or a freeze alone does no harm is tested with the other releases (`stories.RELEASE_STORIES`).
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest

from support.chain import Chain, Delivery, Interleaving
from support.stories import (
    RELEASE_STORIES,
    Once,
    Story,
    check_serves,
    commands_at_once,
    deployers_operations,
    fail,
    kill,
    spread,
    told,
    two_live_runs_in_place,
    upload,
)


@pytest.mark.parametrize("name", ["a good model in place", "a bad model in place", "a rollback in place"])
@pytest.mark.parametrize("answer_is_lost", [True, False])
def test_a_process_killed_at_any_change_and_a_release_stopped_by_people_leave_one_model_serving(
    name: str, answer_is_lost: bool
) -> None:
    failures = []
    for number in changes(name):
        chain, death = killed_and_aborted(name, number, answer_is_lost=answer_is_lost)
        try:
            assert death.operation
            check_serves(chain, chain.live("cloud").current.run_id)
            chain.check_is_tidy()
        except AssertionError as exc:
            failures.append(f"killed at {number} ({chain.operations[number]}): {exc}")
    assert failures == []


@pytest.mark.parametrize("name", ["a good model in place", "a bad model in place"])
def test_a_call_that_fails_once_or_whose_answer_is_lost_delays_a_release_and_harms_nothing(name: str) -> None:
    story = RELEASE_STORIES[name]
    took = set(told(story)[0].answered)
    failures = []
    for number in spread(deployers_operations(story)):
        for when in ("before", "after") if number in took else ("before",):
            failure = Once(number, fail, when)
            chain, _ = told(story, failure)
            try:
                assert failure.operation
                story.check(chain)
            except AssertionError as exc:
                failures.append(f"failed {when} operation {number} ({chain.operations[number]}): {exc}")
    assert failures == []


@functools.cache
def changes(name: str) -> list[int]:
    """Those of the deployer's operations that change something and are not refused: reading leaves nothing to undo."""
    chain, _ = told(RELEASE_STORIES[name])
    kinds = ("vertex.start_", "vertex.set_", "vertex.change_", "ledger.put")
    took = set(chain.answered)
    return [
        number
        for number in spread(deployers_operations(RELEASE_STORIES[name]))
        if number in took and chain.operations[number].startswith(kinds)
    ]


def killed_and_aborted(name: str, number: int, *, answer_is_lost: bool) -> tuple[Chain, Once]:
    """The abort is the next thing that the deployer hears, as soon as the dead instance's lease is over."""
    chains: list[Chain] = []
    death = Once(number, kill, "after" if answer_is_lost else "before")

    def begin(chain: Chain) -> None:
        chains.append(chain)
        RELEASE_STORIES[name].begin(chain)
        handle = chain.handle

        def handle_and_abort(delivery: Delivery, **arguments: Any) -> bool:
            had_happened = death.operation
            acknowledged = handle(delivery, **arguments)
            if death.operation and not had_happened:
                chain.clock.advance(120)
                handle(chain.post("cloud", "abort", dataset="flowers"))
                # Heard of before the operation is through that the dead instance has begun.
                chain.tick_of("cloud_deployer")
            return acknowledged

        chain.handle = handle_and_abort  # type: ignore[method-assign]

    told(Story(RELEASE_STORIES[name].prepare, begin, lambda _: None), death)
    return chains[0], death


# Everything at once --------------------------------------------------------------------------------------------


@functools.cache
def _two_live_runs() -> Chain:
    chain = Chain()
    two_live_runs_in_place(chain)
    return chain


@pytest.mark.parametrize("block", range(1))
def test_two_runs_a_redeploy_and_a_rollback_at_once_leave_one_model_that_serves_and_is_recorded(block: int) -> None:
    for seed in range(block * 25, block * 25 + 25):
        chain, interleaving = _two_live_runs().continued(), Interleaving(seed)
        asked = commands_at_once(chain, seed, abort=seed % 2 == 0)
        upload(chain, edition=3)
        for turn in itertools.count():
            assert turn < 60, f"seed {seed} never comes to rest: {chain.active()}"
            waiting, chain.queue = chain.queue + asked[:1], []
            asked = asked[1:]
            chain.clock.advance(60)
            if turn == 25:
                # What was claimed before a rollback is held until someone says so.
                chain.handle(chain.post("cloud", "resume", dataset="flowers"))
            chain.queue += interleaving.run(chain, waiting + chain.tick_deliveries())
            for job in chain.unfinished_jobs():
                chain.train(job)
            chain.vertex.finish_operations()
            if not asked and chain.is_quiet():
                break
        check_serves(chain, chain.live("cloud").current.run_id)
        chain.check_is_tidy()
