"""Releases for phones killed, frozen, unanswered and crossed at every operation: phones have whole versions of one run.

The service is alone here, with its buckets and Firebase around it; what it is told comes again when its process died.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest

from dualdeploy.errors import ServiceUnavailable
from dualdeploy.google.remote_config import TemplateChanged
from dualdeploy.ledger import State, dataset_of
from support.fakes.failing import ProcessDied
from support.publishing import Publishing
from support.stories import spread

KEY = "dualdeploy_flowers_version"
TEAMS_OWN = {"defaultValue": {"value": "theirs"}}
STAGED = {"rollout": {"steps": [10, 50, 100], "bake": "1m"}}
FIRST, SECOND, THIRD = (f"flowers-{number:012x}" for number in (1, 2, 3))
TULIPS = "tulips-000000000009"

#: A lease and a marker of a dead process run out after some minutes, each share bakes for one.
ENOUGH = 25


@functools.cache
def two_live_runs() -> Publishing:
    """Not to be touched, only to be continued."""
    project = Publishing(looks_locked=1)
    project.configure(publishing=STAGED)
    project.remote_config.edit_by_hand({"parameters": {"colour": TEAMS_OWN}})
    for number in (1, 2):
        project.train(number)
        project.tick(times=6)
    assert project.live() == SECOND
    return project


@dataclasses.dataclass(frozen=True)
class Story:
    """How it begins; what happens once the release of `run_id` is at `step`, or past it; and how it must end."""

    begin: Callable[[Publishing], object]
    live: tuple[str, ...]
    run_id: str = ""
    step: str = ""
    then: Callable[[Publishing], object] = lambda _project: None


def stage_again(project: Publishing) -> None:
    project.redeploy(FIRST, force=True)


def stage_a_third(project: Publishing) -> None:
    project.train(3)


def abort(project: Publishing) -> None:
    """It may come too late, because of what went wrong: then it is refused."""
    response = project.http.post("/abort", json={"dataset": "flowers"})
    assert response.status_code in (202, 409), response.json


def retire(project: Publishing) -> None:
    project.post("retire", confirm=True)


def take_over(project: Publishing) -> None:
    project.configure("tulips", publishing={"name": "flowers"})
    project.train(9, dataset="tulips")


def refuse_the_third(project: Publishing) -> None:
    project.firebase.validate = lambda uri: "Invalid TFLite model" if THIRD in uri else ""
    project.train(3)


STORIES = {
    "a staged rollout": Story(stage_a_third, (THIRD,)),
    "an earlier run again": Story(stage_again, (FIRST,)),
    "at once": Story(lambda project: (project.configure(), project.train(3)), (THIRD,)),
    "a rollback": Story(lambda project: project.post("rollback"), (FIRST,)),
    "an abort half-way": Story(stage_a_third, (SECOND, THIRD), THIRD, "bake", abort),
    "an abort at the end": Story(stage_a_third, (SECOND, THIRD), THIRD, "register", abort),
    "a file that Firebase ML refuses": Story(refuse_the_third, (SECOND,)),
    "a newer run half-way": Story(stage_again, (THIRD,), FIRST, "bake", stage_a_third),
    "a name that is passed on": Story(retire, (TULIPS,), SECOND, "", take_over),
}

Act = Callable[[Publishing, str], object]


class Once:
    """Does something at one operation, once; counts the operations, and those that were answered."""

    def __init__(self, project: Publishing, number: int, act: Act, when: str = "before") -> None:
        self.number, self.act, self.when = number, act, when
        self.count = 0
        self.answered: set[int] = set()
        self.names: list[str] = []
        self.done = ""
        self._project = project
        project.interfere = self

    def __call__(self, name: str, when: str) -> None:
        if when == "before":
            self.count += 1
            self.names.append(name)
        else:
            self.answered.add(self.count)
        if (self.count, when) == (self.number, self.when) and not self.done:
            self.done = name
            self.act(self._project, name)


def nothing(_project: Publishing, _name: str) -> None:
    """Undisturbed."""


def kill(_project: Publishing, _name: str) -> None:
    raise ProcessDied


def fail(_project: Publishing, name: str) -> None:
    raise ServiceUnavailable(f"{name} got no answer")


def conflict(_project: Publishing, name: str) -> None:
    raise TemplateChanged(f"{name}: someone else published")


def freeze(minutes: int) -> Act:
    """The instance stops here for longer than its lease; others go on, and then it does too."""
    return lambda project, _name: project.tick(times=minutes)


def publish(project: Publishing, _name: str) -> None:
    """What the app team does meanwhile."""
    document = project.remote_config.document
    document["parameters"]["shape"] = {"defaultValue": {"value": "round"}}
    project.remote_config.edit_by_hand(document)


def break_configuration(project: Publishing, _name: str) -> None:
    project.write_config(b"dataset: [")


def delete_configuration(project: Publishing, _name: str) -> None:
    project.delete_config()


def told(story: Story, act: Act = nothing, number: int = 0, when: str = "before") -> tuple[Publishing, Once]:
    project = two_live_runs().continued()
    once = Once(project, number, act, when)
    story.begin(project)
    happened = False
    for number_of_tick in range(2 * ENOUGH):
        if number_of_tick > ENOUGH and project.due.all_keys() == []:
            break
        project.tick()
        check_phones(project)
        if story.run_id and not happened and is_past(project, story):
            happened = True
            story.then(project)
    return project, once


def is_past(project: Publishing, story: Story) -> bool:
    n = project.ledger.newest_release_number(story.run_id, "mobile")
    if n == 0 or (story.run_id == FIRST and n == 1):
        return False
    release = project.release(story.run_id)
    return release.is_over or (story.step != "" and release.step == story.step)


def check_phones(project: Publishing) -> None:
    project.check_phones()
    assert project.remote_config.document["parameters"]["colour"] == TEAMS_OWN


def check(project: Publishing, story: Story) -> None:
    """The ledger, the pointer, Remote Config and Firebase ML all say the same, and nothing is left to do."""
    live = next((project.live(dataset) for dataset in ("tulips", "flowers") if project.live(dataset)), "")
    assert live in story.live, live
    version = project.serving(dataset_of(live)).current.version
    assert (project.seen(), project.pointer(), project.expression()) == ({version}, version, "")
    assert project.firebase_holds(live)
    assert project.due.all_keys() == []
    assert not [name for name in project.ledger_store.names() if name.startswith("rejected/")]
    for name in project.ledger_store.names():
        if "/mobile/release-" in name:
            _, run_id, _, number = name.split("/")
            release = project.release(run_id, int(number[len("release-") : -len(".json")]))
            assert release.is_over, release
            assert release.announced, release
    for dataset in ("flowers", "tulips"):
        assert (project.serving(dataset).under_way, project.serving(dataset).waiting) == (None, ())


def wrong(name: str, act: Act, number: int, when: str = "before") -> str:
    """Empty when the story recovered from what happened."""
    story = STORIES[name]
    once = None
    try:
        project, once = told(story, act, number, when)
        assert once.done, "what was planned never happened"
        check(project, story)
    except AssertionError as exc:
        return f"{when} operation {number} ({once.done if once else '?'}): {exc}"
    return ""


_undisturbed: dict[str, Once] = {}


def undisturbed(name: str) -> Once:
    if name not in _undisturbed:
        project, once = told(STORIES[name])
        check(project, STORIES[name])
        _undisturbed[name] = once
    return copy.copy(_undisturbed[name])


def of_the_service(name: str, *, most: int = 60) -> list[int]:
    """The operations of a story up to the last one that is not of an idle tick; see `spread`."""
    names = undisturbed(name).names
    last = max(number for number, each in enumerate(names, start=1) if each != "ledger.list")
    return spread(range(1, last + 1), most=most)


def failures(name: str, act: Act, numbers: list[int], when: str = "before") -> list[str]:
    return [failure for number in numbers if (failure := wrong(name, act, number, when))]


@pytest.mark.parametrize("name", STORIES)
def test_undisturbed_stories_go_where_they_say(name: str) -> None:
    once = undisturbed(name)
    assert {"remote_config.read", "phones.put", "ledger.put"} & set(once.names)
    assert len(once.names) > 60
    if name == "an abort at the end":
        project, _ = told(STORIES[name])
        assert (project.live(), project.release(THIRD).reason) == (SECOND, "aborted")
    if name == "a newer run half-way":
        project, _ = told(STORIES[name])
        states = [moment.state for moment in project.release(FIRST).history]
        assert states[-2:] == [State.CANARY, State.SUPERSEDED]


@pytest.mark.parametrize("name", STORIES)
def test_a_process_killed_at_any_operation_leaves_phones_with_whole_versions(name: str) -> None:
    assert failures(name, kill, of_the_service(name)) == []


@pytest.mark.parametrize("name", STORIES)
def test_an_instance_frozen_at_any_operation_does_no_harm_when_it_goes_on(name: str) -> None:
    # Firebase ML knows no precondition: what is on its way there when an instance freezes gets there.
    names = undisturbed(name).names
    numbers = [number for number in of_the_service(name, most=40) if not names[number - 1].startswith("firebase.")]
    assert failures(name, freeze(12), numbers) == []


@pytest.mark.parametrize("name", ["a staged rollout", "at once"])
def test_what_is_aborted_while_an_instance_is_frozen_stays_aborted_when_it_goes_on(name: str) -> None:
    def abort_and_wait(project: Publishing, _name: str) -> None:
        if project.ledger.newest_release_number(THIRD, "mobile"):
            abort(project)
        project.tick(times=6)

    story = dataclasses.replace(STORIES[name], live=(SECOND, THIRD))
    names = undisturbed(name).names
    for number in [number for number in of_the_service(name) if not names[number - 1].startswith("firebase.")]:
        project, once = told(story, abort_and_wait, number)
        try:
            check(project, story)
            release = project.release(THIRD)
            assert (project.live() == THIRD) == (release.state == State.LIVE), release.reason
            assert project.live() == SECOND or not release.abort
        except AssertionError as exc:
            raise AssertionError(f"frozen and aborted before operation {number} ({once.done})") from exc


@pytest.mark.parametrize("name", STORIES)
def test_a_call_that_fails_once_delays_a_rollout_and_harms_nothing(name: str) -> None:
    assert failures(name, fail, of_the_service(name, most=40)) == []


@pytest.mark.parametrize("name", STORIES)
def test_a_lost_answer_delays_a_rollout_and_does_nothing_twice(name: str) -> None:
    answered = undisturbed(name).answered
    assert (
        failures(name, fail, [number for number in of_the_service(name, most=40) if number in answered], "after") == []
    )


@pytest.mark.parametrize("name", STORIES)
def test_a_conflict_at_any_write_of_the_template_is_decided_anew(name: str) -> None:
    names = undisturbed(name).names
    writes = [number for number, each in enumerate(names, start=1) if each == "remote_config.write"]
    assert failures(name, conflict, writes) == []


@pytest.mark.parametrize("name", STORIES)
def test_what_the_team_publishes_at_any_moment_is_kept(name: str) -> None:
    names = undisturbed(name).names
    story = STORIES[name]
    for number in [number for number, each in enumerate(names, start=1) if each.startswith("remote_config.")]:
        project, once = told(story, publish, number)
        check(project, story)
        assert once.done
        assert project.remote_config.values("shape") == {"round"}


@pytest.mark.parametrize("act", [break_configuration, delete_configuration])
@pytest.mark.parametrize("name", ["a staged rollout", "a rollback", "an abort half-way"])
def test_a_configuration_that_goes_at_any_operation_changes_nothing_that_has_begun(
    name: str, act: Callable[..., Any]
) -> None:
    """Before the beginning it is waited for, which is told."""
    story = STORIES[name]
    wrong_ends = []
    for number in of_the_service(name, most=30):
        project, _ = told(story, act, number)
        release = project.release(FIRST if name == "a rollback" else THIRD)
        if not release.route:
            assert "a configuration that can be read" in release.holdup.what
            continue
        try:
            check(project, story)
        except AssertionError as exc:
            wrong_ends.append(f"{number}: {exc}")
    assert wrong_ends == []


# Two releases at once ------------------------------------------------------------------------------------------

OLDER, NEWER = THIRD, f"flowers-{4:012x}"


@pytest.mark.parametrize("minutes", [1, 3, 6])
def test_an_older_run_frozen_at_any_operation_never_goes_out_over_a_newer_one(minutes: int) -> None:
    # See `test_an_instance_frozen_at_any_operation…` about Firebase ML.
    names = undisturbed("a staged rollout").names
    numbers = of_the_service("a staged rollout", most=40)
    for number in [number for number in numbers if not names[number - 1].startswith("firebase.")]:
        project = two_live_runs().continued()
        project.train(3)

        def newer_comes(project: Publishing, _name: str) -> None:
            project.train(4)
            project.tick(times=minutes)

        once = Once(project, number, newer_comes)
        for _ in range(2 * ENOUGH):
            project.tick()
            check_phones(project)
        try:
            assert once.done
            check(project, Story(stage_a_third, (NEWER,)))
            assert project.release(OLDER).state in (State.SUPERSEDED, State.LIVE)
        except AssertionError as exc:
            raise AssertionError(f"the older one frozen before operation {number} ({once.done})") from exc


def test_of_two_redeploys_that_begin_beside_each_other_both_come_to_an_end() -> None:
    for number in of_the_service("an earlier run again", most=40):
        project = two_live_runs().continued()
        project.redeploy(FIRST, force=True)

        def another(project: Publishing, _name: str) -> None:
            # It may be refused, because the first one is under way.
            project.http.post("/redeploy", json={"run_id": SECOND})
            project.tick(times=3)

        once = Once(project, number, another)
        project.tick(times=ENOUGH)
        project.train(3)
        project.tick(times=ENOUGH)
        try:
            assert once.done
            # Nor does it stand in the way of what comes later.
            check(project, Story(stage_a_third, (THIRD,)))
        except AssertionError as exc:
            raise AssertionError(f"frozen before operation {number} ({once.done})") from exc
