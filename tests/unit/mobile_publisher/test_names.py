"""A publishing name has one holder at a time, whatever happens at the same moment; and it can be passed on."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from dualdeploy.google.object_store import ABSENT
from dualdeploy.ledger import State
from dualdeploy.ledger.names import name_claim
from mobile_publisher.release import NameClaim
from mobile_publisher.steps.names import UNCONFIGURED_SECONDS
from support.chain_data import overwrite
from support.publishing import Publishing

BOTH = ["firebase-ml", "firebase-storage"]


@pytest.fixture
def project() -> Publishing:
    """`flowers` is live under its name; `tulips` is configured with the same one."""
    project = Publishing()
    project.train(1)
    project.tick()
    project.configure("tulips", publishing={"name": "flowers"})
    return project


def claim(project: Publishing) -> NameClaim:
    found = project.ledger.find(name_claim("flowers"), NameClaim)
    assert found is not None
    return found.document


def published(project: Publishing) -> tuple[object, ...]:
    """Everything that phones can see."""
    files = {name: project.phones.read(name).data for name in project.phones.names()}
    return files, dict(project.firebase.models), project.remote_config.document


@pytest.mark.parametrize("channels", [["firebase-ml"], ["firebase-storage"], BOTH])
def test_a_name_that_another_data_set_holds_is_refused_with_who_and_since_when(channels: list[str]) -> None:
    project = Publishing()
    project.configure(publishing={"channels": channels})
    project.train(1)
    project.tick()
    before = published(project)
    project.configure("tulips", publishing={"name": "flowers", "channels": channels})
    other = project.train(2, dataset="tulips")
    project.tick()
    assert project.release(other).state is State.FAILED
    assert project.release(other).reason == (
        f"NameTaken: publishing.name 'flowers' of tulips is held by flowers since {claim(project).since}: give one of"
        " the two another name, or free it by /retire of the data set that holds it, then redeploy"
    )
    assert published(project) == before


def test_of_two_data_sets_whose_first_releases_cross_at_any_operation_one_is_published() -> None:
    number = 0
    while True:
        number += 1
        project = Publishing()
        project.configure("tulips", publishing={"name": "flowers"})
        project.train(1)
        crossed = cross(project, number, lambda project: project.train(2, dataset="tulips"))
        project.tick(times=5)
        live = [dataset for dataset in ("flowers", "tulips") if project.live(dataset)]
        assert len(live) == 1, (number, live)
        assert claim(project).dataset == live[0]
        if not crossed:
            break
    assert number > 40


def cross(project: Publishing, number: int, train: Callable[[Publishing], str]) -> bool:
    """At one operation of the first release, another data set's is handled from beginning to end."""
    seen = 0
    crossed = False

    def interfere(_name: str, when: str) -> None:
        nonlocal seen, crossed
        seen += when == "before"
        if seen == number and not crossed:
            crossed = True
            project.interfere = lambda _name, _when: None
            train(project)
            project.tick(times=2)

    project.interfere = interfere
    project.tick()
    return crossed


def test_a_name_that_its_holder_changed_in_its_configuration_is_free_at_once(project: Publishing) -> None:
    project.configure(publishing={"name": "old-flowers"})
    other = project.train(2, dataset="tulips")
    project.tick()
    assert project.release(other).state is State.LIVE
    assert project.firebase_holds(other)
    assert (claim(project).dataset, claim(project).formerly) == ("tulips", ("flowers",))


@pytest.mark.parametrize("gone", ["deleted", "deleted and created anew", "broken"])
def test_a_name_of_a_data_set_without_a_configuration_is_passed_on_after_a_while(
    project: Publishing, gone: str
) -> None:
    before = published(project)
    if gone == "broken":
        project.write_config(b"labels: [")
    else:
        project.delete_config()
    other = project.train(2, dataset="tulips")
    project.tick()
    if gone == "broken":
        # Someone is about to mend it, and what phones have under the name is still its model.
        assert project.release(other).reason.startswith("NameTaken")
        assert published(project) == before
        return
    assert project.release(other).state is State.DEPLOYING
    assert "is held by flowers, a data set without a configuration" in project.release(other).holdup.what
    project.tick(UNCONFIGURED_SECONDS - 60)
    assert project.release(other).state is State.DEPLOYING
    if gone == "deleted and created anew":
        project.configure()
    project.tick(times=2)
    assert project.release(other).state is (State.LIVE if gone == "deleted" else State.FAILED)
    assert (claim(project).dataset, claim(project).unconfigured_since) == (
        "tulips" if gone == "deleted" else "flowers",
        "",
    )


def test_a_configuration_that_was_away_twice_for_a_moment_keeps_its_name(project: Publishing) -> None:
    """The ten minutes are of one absence, not of the time since the first one."""
    project.delete_config()
    first = project.train(2, dataset="tulips")
    project.tick()
    project.configure()
    project.tick(UNCONFIGURED_SECONDS)
    assert project.release(first).state is State.FAILED
    project.delete_config()
    second = project.train(3, dataset="tulips")
    project.tick()
    assert project.release(second).state is State.DEPLOYING
    assert project.live("tulips") == ""


@pytest.mark.parametrize("step", ["bake", "register", "publish", "point", "settle"])
def test_a_release_whose_name_was_passed_on_meanwhile_touches_nothing_any_more(step: str) -> None:
    """Its holder's configuration names another one, and the release under way was planned before that."""
    project = Publishing()
    project.configure(publishing={"rollout": {"steps": [50, 100], "bake": "1h"}})
    project.train(1)
    project.tick()
    late = project.train(2)
    stop_at(project, late, step)
    project.configure(publishing={"name": "botany"})
    project.configure("tulips", publishing={"name": "flowers"})
    other = project.train(3, dataset="tulips")
    project.interfere = lambda _name, _when: None
    # The others' release is looked at first, and is through before the late one goes on.
    project.change(f"runs/{late}/mobile/release-1.json", lambda document: document.update(step="of another version"))
    project.tick(times=3)
    assert project.release(other).state is State.LIVE, project.release(other).reason
    project.change(f"runs/{late}/mobile/release-1.json", lambda document: document.update(step=step))
    before = published(project)
    project.tick(3600, times=3)
    assert project.release(late).is_over
    assert project.release(late).reason.startswith("NameTaken"), project.release(late).reason
    assert published(project) == before
    assert project.pointer() == project.version(other)
    assert project.firebase_holds(other)


def stop_at(project: Publishing, run_id: str, step: str) -> None:
    """Tick until the run's release is at a step, and cannot get on."""

    def stop(name: str, when: str) -> None:
        at = json.loads(project.ledger_store.read(f"runs/{run_id}/mobile/release-1.json").data)["step"]
        if (at, when) == (step, "before") and name.partition(".")[0] in ("firebase", "phones", "remote_config"):
            raise TimeoutError

    project.tick()
    if step == "bake":
        assert project.release(run_id).step == step
        return
    project.interfere = stop
    project.tick(3600)
    assert project.release(run_id).step == step


def test_a_claim_that_cannot_be_read_is_refused_by_name(project: Publishing) -> None:
    overwrite(project.ledger_store, name_claim("flowers"), b"{")
    run_id = project.train(2)
    project.tick()
    assert project.release(run_id).state is State.FAILED
    assert "gs://ledger/claims/names/flowers.json cannot be read as a NameClaim" in project.release(run_id).reason


def test_a_data_set_that_takes_a_name_over_lets_phones_follow_the_pointer_that_a_rollout_had_pinned() -> None:
    """Remote Config goes on naming the former holder's version until a release under the name changes that."""
    project = Publishing()
    project.configure(publishing={"rollout": {"steps": [50, 100], "bake": "1m"}})
    project.train(1)
    project.tick()
    assert project.remote_config.values("dualdeploy_flowers_version")
    project.configure(publishing={"name": "old-flowers"})
    project.configure("tulips", publishing={"name": "flowers"})
    other = project.train(2, dataset="tulips")
    project.tick()
    assert project.seen() == {project.pointer()} == {project.version(other)}
    assert not claim(project).parameter


def test_what_a_release_costs_does_not_grow_with_data_sets() -> None:
    def reads(others: int) -> int:
        project = Publishing()
        for number in range(others):
            name = f"serving/mobile/other{number}.json"
            project.ledger_store.put(name, b'{"dataset": "x", "target": "mobile"}', expect=ABSENT)
        project.train(1)
        project.tick()
        assert project.live()
        return project.ledger_store.faults.calls["read"] + project.ledger_store.faults.calls["list"]

    assert reads(1000) == reads(1)
