"""Staged rollouts killed, unanswered and crossed at every operation: phones have the old or the new version, whole."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from chain import Chain, Delivery
from stories import Once, Story, fail, in_order_of_time, kill, told, upload

from dualdeploy.errors import LeaseHeld
from dualdeploy.ledger import State
from dualdeploy.outcome import Outcome
from dualdeploy.remote_config import TemplateChanged

KEY = "dualdeploy_flowers_version"
TEAMS_OWN = {"defaultValue": {"value": "theirs"}}


def two_live_runs(chain: Chain) -> None:
    chain.configure(publishing={"rollout": {"steps": [10, 50, 100], "bake": "1m"}})
    chain.remote_config.edit_by_hand({"parameters": {"colour": TEAMS_OWN}})
    for edition in (1, 2):
        upload(chain, edition=edition)
        chain.settle(ticks=20)
        chain.clock.advance(3600)


def watched(begin: Callable[[Chain], None]) -> Callable[[Chain], None]:
    """The same, with every phone looked at after each handling, however it ended."""

    def beginning(chain: Chain) -> None:
        handle = chain.handle

        def handle_and_look(delivery: Delivery, **arguments: Any) -> bool:
            acknowledged = handle(delivery, **arguments)
            check_phones(chain)
            return acknowledged

        chain.handle = handle_and_look  # type: ignore[method-assign]
        begin(chain)

    return beginning


def check_phones(chain: Chain) -> None:
    """Whatever a phone may be told now is a whole version of one of the runs."""
    pointer = json.loads(chain.phones.read("models/flowers/latest.json").data)
    for version in {pointer["version"], *chain.remote_config.values(KEY)}:
        manifest = json.loads(chain.phones.read(f"models/flowers/{version}/manifest.json").data)
        model = chain.phones.read(f"models/flowers/{version}/model.tflite").data
        assert hashlib.sha256(model).hexdigest() == manifest["sha256"], version
    assert chain.remote_config.document["parameters"]["colour"] == TEAMS_OWN


def stage_the_first_run_again(chain: Chain) -> None:
    first, _ = in_order_of_time(chain)
    chain.queue.append(chain.post("mobile", "redeploy", run_id=first, force=True, key="4711"))


def roll_back(chain: Chain) -> None:
    chain.queue.append(chain.post("mobile", "rollback", dataset="flowers", key="4711"))


def stage_and_abort(chain: Chain) -> None:
    stage_the_first_run_again(chain)
    chain.queue.append(once_at(chain, "bake", chain.post("mobile", "abort", dataset="flowers").handle))


def stage_and_abort_at_the_end(chain: Chain) -> None:
    stage_the_first_run_again(chain)
    # Firebase ML has the file and looks at it for longer than one tick.
    chain.firebase.looks_locked = 3
    chain.queue.append(once_at(chain, "register", chain.post("mobile", "abort", dataset="flowers").handle))


def stage_and_overtake(chain: Chain) -> None:
    def begin() -> Outcome:
        upload(chain, edition=3)
        return Outcome("done", "new data")

    stage_the_first_run_again(chain)
    chain.queue.append(once_at(chain, "bake", begin))


def once_at(chain: Chain, step: str, act: Callable[[], Outcome]) -> Delivery:
    """Something of the world's that happens when the first run is at a step, or past it."""
    first = in_order_of_time(chain)[0]
    began: list[bool] = []

    def act_in_time() -> Outcome:
        # The world looks, not a service: it is neither counted nor disturbed.
        chain._call.active = False
        branch = chain.standing(first, "mobile")
        chain._call.active = True
        if not began and branch.step != step and not (branch.is_over and branch.release > 1):
            raise LeaseHeld("not yet")
        began.append(True)
        return act()

    return Delivery(f"world/once at {step}", act_in_time)


def check_live(chain: Chain, run_id: str) -> None:
    """The ledger, the pointer, Remote Config and Firebase ML all say the same."""
    assert chain.live("mobile").current.run_id == run_id
    pointer = json.loads(chain.phones.read("models/flowers/latest.json").data)["version"]
    assert pointer.startswith(run_id.removeprefix("flowers-"))
    assert chain.remote_config.values(KEY) == {pointer}
    assert chain.remote_config.document.get("conditions", []) == []
    (model,) = chain.firebase.models.values()
    assert f"run-{run_id.removeprefix('flowers-')}" in model.tags
    assert model.published
    check_phones(chain)
    chain.check_is_tidy()


def check_the_first_is_live(chain: Chain) -> None:
    first, second = in_order_of_time(chain)
    check_live(chain, first)
    assert chain.standing(second, "mobile").state is State.SUPERSEDED


def check_it_is_rolled_back(chain: Chain) -> None:
    first, second = in_order_of_time(chain)
    check_live(chain, first)
    assert chain.standing(second, "mobile").state is State.ROLLED_BACK


def check_the_second_is_live_still(chain: Chain) -> None:
    first, second = in_order_of_time(chain)
    check_live(chain, second)
    assert (chain.standing(first, "mobile").state, chain.standing(first, "mobile").reason) == (
        State.ROLLED_BACK,
        "aborted",
    )


def check_one_of_both_is_live(chain: Chain) -> None:
    """An abort that came too late because of what went wrong was refused."""
    run_id = chain.live("mobile").current.run_id
    check_live(chain, run_id)
    first, second = in_order_of_time(chain)
    ended = {State.LIVE, State.ROLLED_BACK} if run_id == second else {State.LIVE, State.SUPERSEDED}
    assert {chain.standing(each, "mobile").state for each in (first, second)} == ended


def check_the_third_is_live(chain: Chain) -> None:
    first, _, third = in_order_of_time(chain)
    check_live(chain, third)
    assert (chain.standing(first, "mobile").state, chain.standing(first, "mobile").reason) == (
        State.SUPERSEDED,
        f"replaced by {third}",
    )


STORIES = {
    "a staged rollout": Story(two_live_runs, watched(stage_the_first_run_again), check_the_first_is_live),
    "a rollback": Story(two_live_runs, watched(roll_back), check_it_is_rolled_back),
    "an abort half-way": Story(two_live_runs, watched(stage_and_abort), check_the_second_is_live_still),
    "an abort at the end": Story(two_live_runs, watched(stage_and_abort_at_the_end), check_one_of_both_is_live),
    "a newer run half-way": Story(two_live_runs, watched(stage_and_overtake), check_the_third_is_live),
}


@functools.cache
def undisturbed(name: str) -> tuple[list[str], list[int]]:
    """The operations of a story, and which of them have an answer that can be lost."""
    chain, _ = told(STORIES[name])
    STORIES[name].check(chain)
    return chain.operations, list(chain.answered)


def publishers_own(name: str) -> list[int]:
    """The operations that are the publisher's: those that come before the newer run is trained are other tests'."""
    operations, _ = undisturbed(name)
    began = max((number for number, kind in enumerate(operations) if kind.startswith("vertex.")), default=0)
    to_phones = ("remote_config.", "phones.", "firebase.")
    return [number for number, operation in enumerate(operations) if number >= began or operation.startswith(to_phones)]


def conflict(name: str) -> None:
    raise TemplateChanged(f"{name}: somebody else published")


def wrong(name: str, once: Once) -> str:
    """Empty when the story recovered from what happened."""
    try:
        chain, _ = told(STORIES[name], once)
        assert once.operation, "what was planned never happened"
        STORIES[name].check(chain)
    except AssertionError as exc:
        return f"{once.act.__name__} {once.when} operation {once.number} ({once.operation}): {exc}"
    return ""


def test_undisturbed_stories_go_where_they_say() -> None:
    for name, story in STORIES.items():
        operations, _ = undisturbed(name)
        assert {"remote_config.read", "remote_config.write", "phones.put"} & set(operations), name
        assert len(publishers_own(name)) > 20, name
        story.check(told(story)[0])
    chain, _ = told(STORIES["an abort at the end"])
    check_the_second_is_live_still(chain)
    chain, _ = told(STORIES["a newer run half-way"])
    states = [moment.state for moment in chain.standing(in_order_of_time(chain)[0], "mobile").history]
    assert states[-2:] == [State.CANARY, State.SUPERSEDED]


@pytest.mark.parametrize("name", STORIES)
def test_a_process_killed_at_any_operation_leaves_phones_with_whole_versions(name: str) -> None:
    failures = [wrong(name, Once(number, kill)) for number in publishers_own(name)]
    assert [failure for failure in failures if failure] == []


@pytest.mark.parametrize("name", STORIES)
def test_a_call_that_fails_once_delays_a_rollout_and_harms_nothing(name: str) -> None:
    failures = [wrong(name, Once(number, fail)) for number in publishers_own(name)]
    assert [failure for failure in failures if failure] == []


@pytest.mark.parametrize("name", STORIES)
def test_a_lost_answer_delays_a_rollout_and_does_nothing_twice(name: str) -> None:
    _, answered = undisturbed(name)
    numbers = [number for number in publishers_own(name) if number in answered]
    failures = [wrong(name, Once(number, fail, "after")) for number in numbers]
    assert [failure for failure in failures if failure] == []


@pytest.mark.parametrize("name", STORIES)
def test_a_conflict_at_any_write_of_the_template_is_decided_anew(name: str) -> None:
    operations, _ = undisturbed(name)
    writes = [number for number, kind in enumerate(operations) if kind == "remote_config.write"]
    assert writes
    failures = [wrong(name, Once(number, conflict)) for number in writes]
    assert [failure for failure in failures if failure] == []


@pytest.mark.parametrize("name", STORIES)
def test_what_the_team_publishes_at_any_moment_is_kept(name: str) -> None:
    failures = []
    story, (operations, _) = STORIES[name], undisturbed(name)
    for number in [number for number, kind in enumerate(operations) if kind.startswith("remote_config.")]:
        chains: list[Chain] = []

        def remember(chain: Chain, chains: list[Chain] = chains) -> None:
            chains.append(chain)
            story.begin(chain)

        def publish(_name: str, chains: list[Chain] = chains) -> None:
            document = chains[0].remote_config.document
            document["parameters"]["shape"] = {"defaultValue": {"value": "round"}}
            chains[0].remote_config.edit_by_hand(document)

        once = Once(number, publish)
        chain, _ = told(Story(story.prepare, remember, story.check), once)
        try:
            story.check(chain)
            assert chain.remote_config.values("shape") == {"round"}
        except AssertionError as exc:
            failures.append(f"published at {number} ({once.operation}): {exc}")
    assert failures == []
