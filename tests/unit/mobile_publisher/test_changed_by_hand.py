"""What the team changes by hand in Remote Config or in latest.json is respected and told, whenever it does so."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from dualdeploy.errors import ServiceUnavailable
from dualdeploy.ledger import State
from support.chain_data import overwrite
from support.publishing import Publishing

KEY = "dualdeploy_flowers_version"
POINTER = "models/flowers/latest.json"
STAGED = {"rollout": {"steps": [10, 50, 100], "bake": "1h"}}


def live_run(project: Publishing, number: int) -> str:
    run_id = project.train(number)
    project.tick(3600, times=4)
    assert project.live() == run_id, project.release(run_id).reason
    return run_id


def with_two(publishing: dict[str, object]) -> tuple[Publishing, str, str]:
    """A good version, and a bad one that replaced it and is live."""
    project = Publishing()
    project.configure(publishing=publishing)
    first = live_run(project, 1)
    return project, first, live_run(project, 2)


# Who gives phones another version by hand ----------------------------------------------------------------------


def in_the_parameter(project: Publishing, version: str) -> None:
    project.change_parameter(KEY, defaultValue={"value": version})


def in_the_pointer(project: Publishing, version: str) -> None:
    manifest = json.loads(project.phones.read(f"models/flowers/{version}/manifest.json").data)
    pointer = json.loads(project.phones.read(POINTER).data)
    overwrite(project.phones, POINTER, json.dumps({**pointer, **manifest}).encode())


def in_both(project: Publishing, version: str) -> None:
    in_the_parameter(project, version)
    in_the_pointer(project, version)


def by_the_pointer_alone(project: Publishing, version: str) -> None:
    """The parameter is taken out of the template, so that apps follow the pointer, which names the other version."""
    project.remote_config.edit_by_hand({"parameters": {}})
    in_the_pointer(project, version)


Hands = Callable[[Publishing, str], None]
WAYS: list[Hands] = [in_the_parameter, in_both, by_the_pointer_alone]


@pytest.mark.parametrize("hands", WAYS)
def test_phones_outside_the_share_keep_the_version_that_the_team_gave_them(hands: Hands) -> None:
    project, first, second = with_two(STAGED)
    good, bad = project.version(first), project.version(second)
    hands(project, good)
    third = project.train(3)
    outside = set()
    for _ in range(6):
        project.tick(1800)
        parameter = project.remote_config.document["parameters"][KEY]
        if parameter.get("conditionalValues"):
            outside.add(parameter["defaultValue"]["value"])
    assert outside == {good}, f"{bad} came back"
    told = f"phones were given {good} by hand instead of {bad} before {third} went out"
    assert any(told in moment.note for moment in project.release(third).history)
    assert project.live() == third
    assert project.seen() == {project.pointer()} == {project.version(third)}


@pytest.mark.parametrize("hands", WAYS)
@pytest.mark.parametrize("ends", ["aborted", "fails"])
def test_a_rollout_that_does_not_come_through_leaves_phones_with_what_the_team_gave_them(
    hands: Hands, ends: str
) -> None:
    project, first, _ = with_two(STAGED)
    hands(project, project.version(first))
    before = (project.seen(), project.pointer())
    third = project.train(3)
    project.tick()
    assert project.release(third).state is State.CANARY
    if ends == "aborted":
        project.post("abort")
    else:
        project.firebase.validate = lambda uri: "Invalid TFLite model" if third in uri else ""
    project.tick(3600, times=4)
    assert project.release(third).state is State.ROLLED_BACK
    assert (project.seen(), project.pointer(), project.expression()) == (*before, "")


EVERY_WAY = [({}, in_the_pointer), *[(STAGED, hands) for hands in WAYS]]


@pytest.mark.parametrize(("publishing", "hands"), EVERY_WAY)
def test_a_rollback_goes_to_what_the_team_gave_phones_and_not_to_what_it_took_back(
    publishing: dict[str, object], hands: Hands
) -> None:
    project, first, second = with_two(publishing)
    hands(project, project.version(first))
    third = live_run(project, 3)
    assert project.release(second, 1).state is State.ROLLED_BACK
    assert project.release(second, 1).reason.startswith("phones were given")
    assert project.post("rollback")["run_id"] == first
    project.tick()
    assert project.seen() == {project.pointer()} == {project.version(first)}
    assert project.release(third).state is State.ROLLED_BACK


@pytest.mark.parametrize(("publishing", "hands"), EVERY_WAY)
def test_where_the_team_went_further_back_someone_chooses_where_a_rollback_goes(
    publishing: dict[str, object], hands: Hands
) -> None:
    project, first, second = with_two(publishing)
    third = live_run(project, 3)
    hands(project, project.version(first))
    live_run(project, 4)
    response = project.http.post("/rollback", json={"dataset": "flowers"})
    assert response.status_code == 409
    assert f"{third}, which served before, was taken back (phones were given" in response.json["error"]
    assert set(response.json["candidates"]) == {first, second, third}
    project.post("rollback", to_run=first)
    project.tick()
    assert project.seen() == {project.version(first)}


def test_what_the_team_took_back_and_gave_again_is_where_a_rollback_goes() -> None:
    project, first, second = with_two({})
    in_the_pointer(project, project.version(first))
    third = project.train(3)
    project.firebase.validate = lambda uri: "Invalid TFLite model" if third in uri else ""
    project.tick(times=3)
    assert project.release(third).state is State.FAILED
    in_the_pointer(project, project.version(second))
    project.firebase.validate = lambda _uri: ""
    live_run(project, 4)
    assert project.post("rollback")["run_id"] == second


# In the middle of a release ------------------------------------------------------------------------------------


def test_a_pointer_that_the_team_moves_during_a_rollout_ends_it_and_stays() -> None:
    project, first, second = with_two(STAGED)
    third = project.train(3)
    project.tick()
    in_the_pointer(project, project.version(first))
    project.tick(3600, times=3)
    assert project.release(third).state is State.ROLLED_BACK
    reason = project.release(third).reason
    assert f"latest.json was moved by hand: it names {project.version(first)}, not {project.version(second)}" in reason
    assert f"not taken back: gs://phones/{POINTER} names {project.version(first)}, which was chosen by hand" in reason
    assert project.pointer() == project.version(first)
    assert project.seen() == {project.version(second)}
    assert project.firebase_holds(second)


@pytest.mark.parametrize("publishing", [STAGED, {}], ids=["staged", "at once"])
def test_a_pointer_that_the_team_moves_before_everyones_turn_stays(publishing: dict[str, object]) -> None:
    project, first, second = with_two(publishing)
    third = project.train(3)

    def unreachable(name: str, when: str) -> None:
        if (name, when) == ("firebase.find", "before"):
            raise ServiceUnavailable("503")

    project.interfere = unreachable
    project.tick(3600, times=4)
    assert project.release(third).step == "register"
    in_the_pointer(project, project.version(first))
    project.interfere = lambda _name, _when: None
    project.tick(times=4)
    assert project.release(third).state is (State.ROLLED_BACK if publishing else State.FAILED)
    assert "latest.json was moved by hand" in project.release(third).reason
    assert project.pointer() == project.version(first)
    assert project.firebase_holds(second)
    assert project.live() == second


def test_an_abort_leaves_a_default_that_the_team_chose_meanwhile_and_tells_it() -> None:
    project, first, _ = with_two(STAGED)
    third = project.train(3)
    project.tick()
    in_the_parameter(project, project.version(first))
    project.post("abort", reason="it sees cats")
    project.tick()
    assert project.release(third).reason == (
        f"aborted: it sees cats; not taken back: Remote Config: its default {project.version(first)} was chosen by hand"
    )
    assert project.seen() == {project.version(first)}


# What is no one's choice ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("publishing", [STAGED, {}], ids=["staged", "at once"])
@pytest.mark.parametrize("garbage", [b"{", b"{}", b'{"version": ""}'])
def test_a_pointer_that_names_nothing_in_the_middle_of_a_release_is_replaced(
    publishing: dict[str, object], garbage: bytes
) -> None:
    project, _, _ = with_two(publishing)
    third = project.train(3)
    moved = []

    def overwrite_once(name: str, when: str) -> None:
        if (name, when) == ("firebase.find", "before") and not moved:
            moved.append(name)
            overwrite(project.phones, POINTER, garbage)

    project.interfere = overwrite_once
    project.tick(3600, times=4)
    assert moved
    assert project.live() == third
    assert project.seen() == {project.pointer()} == {project.version(third)}
