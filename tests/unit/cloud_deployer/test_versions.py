"""Two versions of the service at once: the next one has one more state, step, field and configuration key.

Either may be taken back while releases are under way; what the newer one wrote is read, kept, and strands nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from cloud_deployer.release import CloudRelease
from cloud_deployer.route import FORWARD, ROUTES
from cloud_deployer.service import Service
from cloud_deployer.target import CloudTarget
from cloud_deployer.world import World
from dualdeploy.ledger import State, names
from dualdeploy.release.route import Forward, Loop, Route, Step, Turn, Wait
from support.deployer import SETTINGS, Deployer

CAREFUL = {"canary": {"steps": [5, 50, 100], "bake": "5m", "answers": 4}}


class NewerRelease(CloudRelease):
    """One more field; what it writes into the plan, this version does not know either."""

    cost_center: str = ""


def shadow(release: NewerRelease, world: World) -> Turn[NewerRelease]:
    """The step that only the newer version has: it waits for some minutes."""
    if release.attempts < 3:
        return Wait(release.changed(attempts=release.attempts + 1), "the shadow to be compared")
    return Forward(release.with_plan(shadow="compared").changed(cost_center="42"))


def _with_shadow() -> Iterator[Step | Loop]:
    for part in FORWARD.parts:
        if isinstance(part, Loop):
            yield Step("shadow", State.CANARY, shadow, "compares with copied traffic")
        yield part


NEWER_ROUTES: Mapping[str, Route] = {**ROUTES, "forward": Route("forward", *_with_shadow())}


class NewerTarget(CloudTarget):
    release_kind = NewerRelease
    routes = NEWER_ROUTES


def newer_service(deployer: Deployer) -> Service:
    """Today's code with one more of everything."""
    service = deployer.another(SETTINGS)
    target = NewerTarget(service.world)
    service.worker._of = target  # type: ignore[attr-defined]
    service.commands._of = target  # type: ignore[attr-defined]
    return service


@pytest.fixture
def deployer() -> Deployer:
    """One run serves; a second is trained, for a careful rollout by either version."""
    deployer = Deployer()
    deployer.bring_out(1)
    deployer.configure(serving=CAREFUL)
    return deployer


def go_until(deployer: Deployer, service: Service, run_id: str, step: str) -> None:
    for _ in range(30):
        if deployer.release(run_id).step == step:
            return
        deployer.vertex.finish_operations()
        deployer.tick(service=service)
    raise AssertionError(deployer.release(run_id))


@pytest.mark.parametrize("step", ["upload", "deploy", "bake"])
def test_what_a_newer_version_began_an_older_one_brings_to_its_end_and_keeps_what_it_does_not_know(
    deployer: Deployer, step: str
) -> None:
    newer, run_id = newer_service(deployer), deployer.train(2, announce=False)
    deployer.announce(run_id, service=newer)
    go_until(deployer, newer, run_id, step)
    deployer.edit(names.release(run_id, "cloud", 1), with_news)
    release = deployer.go_through(run_id)
    assert release.state is State.LIVE, release.reason
    kept = deployer.ledger_store.read(names.release(run_id, "cloud", 1)).data.decode()
    assert '"cost_center": "42"' in kept
    deployer.check_promises()


def with_news(release: dict[str, Any]) -> None:
    """What another version may have written: a field here, in the plan, in its limits, in a tally, and a state."""
    release["cost_center"] = "42"
    release["config"]["serving"]["canary"]["min_requests"] = None
    release["config"]["serving"]["shadow"] = {"share": 1}
    if rollout := release.get("rollout"):
        rollout["shadow"] = "compared"
        rollout["limits"]["min_requests"] = None
        rollout["deployment"]["disk_gb"] = 100
        rollout["baseline"]["p99"] = 0.1


def test_a_step_that_an_older_version_does_not_know_waits_for_the_newer_one_and_then_goes_back(
    deployer: Deployer,
) -> None:
    older_run = deployer.live_run()
    newer, run_id = newer_service(deployer), deployer.train(2, announce=False)
    deployer.announce(run_id, service=newer)
    go_until(deployer, newer, run_id, "shadow")
    deployer.tick()
    waits_for = deployer.standing(run_id).waits_for
    assert (
        "a version of the service that knows step 'shadow' of route 'forward'; /abort takes the release back"
        in waits_for
    )
    # The newer version is back within the hour, and goes on as if nothing had been.
    deployer.tick(1800)
    for _ in range(40):
        deployer.vertex.finish_operations()
        deployer.tick(service=newer)
    release = deployer.ledger.find_release(NewerRelease, run_id, "cloud", 1).document
    assert release.state is State.LIVE, release.reason
    assert (release.cost_center, release.plan.model_dump()["shadow"]) == ("42", "compared")
    deployer.clock.advance(3600)
    # The next time it is not.
    another = deployer.train(3, announce=False)
    deployer.announce(another, service=newer)
    go_until(deployer, newer, another, "shadow")
    assert deployer.go_through(another).state is State.ROLLED_BACK
    deployer.check_promises()
    assert deployer.live_run() == run_id
    del older_run


@pytest.mark.parametrize("share", [5, 50])
def test_an_abort_takes_the_traffic_from_what_a_newer_version_began(deployer: Deployer, share: int) -> None:
    older_run = deployer.live_run()
    newer, run_id = newer_service(deployer), deployer.train(2, announce=False)
    deployer.announce(run_id, service=newer)
    for _ in range(40):
        if deployer.vertex.endpoints and deployer.shares().get(run_id) == share:
            break
        deployer.vertex.finish_operations()
        deployer.tick(service=newer)
    deployer.edit(names.release(run_id, "cloud", 1), with_news)
    assert deployer.post("abort", dataset="flowers").status_code == 202
    assert deployer.go_through(run_id).state is State.ROLLED_BACK
    deployer.check_promises()
    assert deployer.live_run() == older_run


def test_a_state_that_an_older_version_does_not_know_is_a_text_like_any_other(deployer: Deployer) -> None:
    run_id = deployer.train(2)
    deployer.go_to(run_id, "bake")
    deployer.edit(names.release(run_id, "cloud", 1), lambda release: release.update(state="shadowing"))
    assert deployer.standing(run_id).state == "shadowing"
    release = deployer.go_through(run_id)
    assert release.state is State.LIVE, release.reason


def test_a_value_of_the_configuration_that_an_older_version_cannot_understand_ends_the_release_by_name(
    deployer: Deployer,
) -> None:
    older_run = deployer.live_run()
    run_id = deployer.train(2, announce=False)
    deployer.announce(run_id, service=newer_service(deployer))
    deployer.edit(
        names.release(run_id, "cloud", 1), lambda release: release["config"]["serving"].update(min_replicas="a few")
    )
    release = deployer.go_through(run_id)
    assert release.state is State.FAILED
    assert "the recorded configuration was written by another version: serving.min_replicas" in release.reason
    deployer.check_promises()
    assert deployer.live_run() == older_run


@pytest.mark.parametrize("seed", range(6))
def test_two_versions_that_take_turns_bring_a_release_to_its_end(deployer: Deployer, seed: int) -> None:
    newer, run_id = newer_service(deployer), deployer.train(2, announce=False)
    services = [deployer.service, newer]
    deployer.announce(run_id, service=services[seed % 2])
    for minute in range(90):
        deployer.vertex.finish_operations()
        deployer.tick(service=services[(minute * (seed + 3) // 4) % 2])
    release = deployer.release(run_id)
    assert release.state is State.LIVE, (release.state, release.step, release.reason)
    deployer.check_promises()
    assert deployer.live_run() == run_id


def test_what_serves_keeps_what_a_newer_version_wrote_about_it(deployer: Deployer) -> None:
    name = names.serving("cloud", "flowers")
    deployer.edit(name, lambda serving: serving.update(region_of_users="eu"))
    deployer.edit(name, lambda serving: serving["current"].update(shadow="compared"))
    deployer.bring_out(2)
    document = deployer.serving().model_dump()
    assert document["region_of_users"] == "eu"
    assert document["previous"]["shadow"] == "compared"
