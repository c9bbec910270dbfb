"""Retiring shows what it does, frees the name, and takes nothing from a phone."""

from __future__ import annotations

import pytest

from dualdeploy.ledger import State
from dualdeploy.ledger.names import name_claim
from mobile_publisher.release import NameClaim
from support.publishing import Publishing

KEY = "dualdeploy_flowers_version"
STAGED = {"rollout": {"steps": [50, 100], "bake": "1m"}}


@pytest.fixture
def project() -> Publishing:
    """Two runs were live one after the other, and Remote Config names the second one's version."""
    project = Publishing()
    project.configure(publishing=STAGED)
    for number in (1, 2):
        project.train(number)
        project.tick(times=5)
    assert project.remote_config.values(KEY) == {project.pointer()}
    return project


def everything(project: Publishing) -> tuple[object, ...]:
    files = {name: project.phones.read(name).data for name in project.phones.names()}
    return files, dict(project.firebase.models), project.remote_config.document, dict(project.ledger_store._entries)


def claim(project: Publishing, name: str = "flowers") -> NameClaim:
    found = project.ledger.find(name_claim(name), NameClaim)
    assert found is not None
    return found.document


def test_it_first_shows_what_it_would_do_and_does_nothing(project: Publishing) -> None:
    before = everything(project)
    answer = project.post("retire")
    version = project.pointer()
    assert answer["takes_down"] == [
        "the name 'flowers' becomes free: another data set may publish under it",
        f"Remote Config's {KEY} lets apps follow latest.json, which names the same version",
        f"stays: gs://phones/models/flowers/latest.json, which names {version}, and its files: apps load them",
        "stays: Firebase ML model flowers (101): apps load it",
    ]
    assert answer["send"] == {"path": "/retire", "body": {"dataset": "flowers", "confirm": True}}
    project.tick(times=3)
    assert everything(project)[:3] == before[:3]
    assert claim(project).dataset == "flowers"


def test_confirmed_it_frees_the_name_and_every_phone_keeps_its_version(project: Publishing) -> None:
    version, files = project.pointer(), project.phones.names()
    project.post("retire", confirm=True, reason="renamed to botany")
    project.tick()
    release = project.release("flowers-000000000002")
    assert (release.state, release.reason) == (
        State.ROLLED_BACK,
        "retire: renamed to botany; phones keep what they have",
    )
    assert (claim(project).dataset, claim(project).formerly, claim(project).parameter) == ("", ("flowers",), False)
    assert project.serving().retired_at
    assert project.http.get("/status/flowers").json["live"]["retired_at"]
    # Apps that read Remote Config follow the pointer now, and it names the very version that they have.
    assert project.remote_config.values(KEY) == set()
    assert (project.pointer(), project.phones.names()) == (version, files)
    assert project.firebase_holds("flowers-000000000002")
    assert project.messages(run_id="flowers-000000000002", outcome="rolled_back")


def test_a_renamed_data_set_takes_the_name_over_at_once_and_in_shares(project: Publishing) -> None:
    old = project.pointer()
    project.post("retire", confirm=True)
    project.tick()
    project.delete_config()
    project.configure("botany", publishing={"name": "flowers", **STAGED})
    renamed = project.train(3, dataset="botany")
    project.tick()
    assert project.release(renamed).state is State.CANARY, project.release(renamed).reason
    assert project.seen() == {old, project.version(renamed)}
    project.tick(times=5)
    assert project.seen() == {project.pointer()} == {project.version(renamed)}
    assert claim(project).formerly == ("flowers",)


def test_a_default_that_the_team_chose_by_hand_stays_and_is_told(project: Publishing) -> None:
    by_hand = project.version("flowers-000000000001", 1)
    project.change_parameter(KEY, defaultValue={"value": by_hand})
    project.post("retire", confirm=True)
    project.tick()
    assert project.seen() == {by_hand}
    assert f"Remote Config's {KEY} goes on naming {by_hand}, which was chosen by hand" in (
        project.release("flowers-000000000002").reason
    )
    # Whoever takes the name over still learns that Remote Config has a say.
    assert claim(project).parameter


def test_a_data_set_that_comes_back_takes_its_name_again(project: Publishing) -> None:
    project.post("retire", confirm=True)
    project.tick()
    again = project.train(3)
    project.tick(times=5)
    assert project.live() == again
    assert project.serving().retired_at == ""
    assert claim(project).dataset == "flowers"


def test_a_data_set_without_a_configuration_can_be_retired(project: Publishing) -> None:
    project.delete_config()
    project.post("retire", confirm=True)
    project.tick()
    assert claim(project).dataset == ""


def test_while_a_release_is_under_way_it_is_refused_with_what_to_send(project: Publishing) -> None:
    project.train(3)
    project.tick()
    response = project.http.post("/retire", json={"dataset": "flowers", "confirm": True})
    assert response.status_code == 409
    assert response.json["send"]["path"] == "/abort"


def test_a_name_that_it_had_before_is_freed_too(project: Publishing) -> None:
    project.configure(publishing={"name": "botany"})
    project.train(3)
    project.tick(times=3)
    project.post("retire", confirm=True)
    project.tick()
    assert (claim(project).dataset, claim(project, "botany").dataset) == ("", "")
