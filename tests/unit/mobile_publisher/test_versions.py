"""Two versions of the service at once: what a newer one wrote is read, kept, and never strands a release."""

from __future__ import annotations

from typing import Any

import pytest

from dualdeploy.errors import ServiceUnavailable
from dualdeploy.ledger import State
from support.chain_data import overwrite
from support.publishing import Publishing

STAGED = {"rollout": {"steps": [10, 50, 100], "bake": "1h"}}
FIRST, SECOND = "flowers-000000000001", "flowers-000000000002"
RELEASE = f"runs/{SECOND}/mobile/release-1.json"


@pytest.fixture
def project() -> Publishing:
    """The first run is live, and a tenth of the phones have the second."""
    project = Publishing()
    project.configure(publishing=STAGED)
    project.train(1)
    project.tick(times=3)
    project.train(2)
    project.tick()
    assert project.release(SECOND).step == "bake"
    return project


def newer_everywhere(document: dict[str, Any]) -> None:
    """A field more in every document that the release carries, and a key more in its configuration."""
    document["carbon"] = {"grams": 4}
    document["config"]["publishing"]["rollout"]["pause"] = None
    for part in ("rollout", "before", "file"):
        document[part]["novel"] = True
    document["file"]["figures"]["energy_mj"] = 0.4


def test_what_a_newer_version_wrote_survives_and_the_rollout_goes_on(project: Publishing) -> None:
    project.change(RELEASE, newer_everywhere)
    project.change("serving/mobile/flowers.json", lambda document: document["current"].update(novel=[1]))
    project.change("claims/names/flowers.json", lambda document: document.update(tier="gold"))
    project.tick(3600, times=3)
    release = project.release(SECOND).model_dump()
    assert release["state"] == State.LIVE, release["reason"]
    assert release["carbon"] == {"grams": 4}
    assert (release["rollout"]["novel"], release["before"]["novel"], release["file"]["novel"]) == (True, True, True)
    assert release["file"]["figures"]["energy_mj"] == 0.4
    serving = project.serving().model_dump()
    assert serving["previous"]["novel"] == [1]
    assert serving["current"]["file"]["novel"] is True


@pytest.mark.parametrize("way", ["abort", "rollback", "an hour"])
def test_a_step_that_only_a_newer_version_knows_is_taken_back_completely(project: Publishing, way: str) -> None:
    def at_a_newer_step(document: dict[str, Any]) -> None:
        newer_everywhere(document)
        document |= {"step": "survey", "state": "surveying"}

    project.change(RELEASE, at_a_newer_step)
    old = project.version(FIRST)
    if way == "rollback":
        response = project.http.post("/rollback", json={"dataset": "flowers"})
        assert (response.status_code, response.json["send"]["path"]) == (409, "/abort")
        way = "abort"
    if way == "abort":
        project.post("abort")
    project.tick(times=3)
    if way == "an hour":
        assert not project.release(SECOND).is_over
        project.tick(times=75)
    assert project.release(SECOND).is_over
    assert (project.seen(), project.pointer(), project.expression()) == ({old}, old, "")
    assert project.firebase_holds(FIRST)
    third = project.train(3)
    project.tick()
    assert project.release(third).state is State.CANARY


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"v": 2}', b"\xff"])
def test_a_release_whose_document_cannot_be_read_is_taken_back_by_what_its_claim_kept(
    project: Publishing, data: bytes
) -> None:
    old = project.version(FIRST)
    overwrite(project.ledger_store, RELEASE, data)
    third = project.train(3)
    project.post("abort")
    project.tick(times=3)
    assert project.release(SECOND).is_over
    assert "its document could not be read" in project.release(SECOND).history[0].note
    assert old in project.seen()
    project.tick(3600, times=4)
    assert project.live() == third
    assert project.seen() == {project.pointer()} == {project.version(third)}


@pytest.mark.parametrize(
    "name", ["claims/names/flowers.json", "serving/mobile/flowers.json", f"runs/{SECOND}/run.json"]
)
def test_an_abort_works_whatever_cannot_be_read_beside_the_release(project: Publishing, name: str) -> None:
    old = project.version(FIRST)
    if name.startswith("serving"):
        # Who asks is told which document it is; whoever mends it finds the abort where the release is.
        project.change(RELEASE, lambda document: document.update(abort={"at": "2026-11-23T13:00:00.000Z"}))
    else:
        project.post("abort")
    overwrite(project.ledger_store, name, b"{")
    project.tick(times=75)
    assert project.release(SECOND).is_over
    assert (project.seen(), project.pointer(), project.expression()) == ({old}, old, "")
    assert project.firebase_holds(FIRST)


def test_a_rollback_finds_its_file_although_the_documents_of_its_run_cannot_be_read(project: Publishing) -> None:
    old = project.version(FIRST)
    project.tick(3600, times=3)
    assert project.live() == SECOND
    overwrite(project.ledger_store, f"runs/{FIRST}/mobile/release-1.json", b"{")
    for name in project.models.names():
        project.models.delete(name, expect=project.models.read(name).generation)
    project.post("rollback")
    project.tick(times=2)
    assert project.live() == FIRST, project.release(FIRST).reason
    assert (project.seen(), project.pointer()) == ({old}, old)


def test_a_configured_value_that_only_a_newer_version_knows_is_left_to_it_for_an_hour(project: Publishing) -> None:
    """`stored` refuses what it cannot understand: nothing is published by guesswork."""
    third = project.train(3)

    def full(name: str, _when: str) -> None:
        if name == "models.put":
            raise ServiceUnavailable("503")

    project.interfere = full
    project.tick()
    project.interfere = lambda _name, _when: None
    assert project.release(third).step == "export"
    project.change(
        f"runs/{third}/mobile/release-1.json",
        lambda document: document["config"]["publishing"].update(quantization="int4"),
    )
    project.tick(times=4)
    holdup = project.release(third).holdup
    assert holdup
    assert "a version of the service that understands its configuration" in holdup.what
    project.tick(times=65)
    assert project.release(third).state is State.FAILED
    assert "was written by another version: publishing.quantization" in project.release(third).reason
