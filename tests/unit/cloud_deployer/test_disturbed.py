"""Releases that are disturbed: whatever happens at whatever step, the record says what serves, and nothing is left."""

from __future__ import annotations

import datetime
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from cloud_deployer.route import FORWARD, IN_PLACE
from dualdeploy.errors import PermissionSpreads, ServiceUnavailable
from dualdeploy.google.vertex import Answer, DeployedModel
from dualdeploy.ledger import State, names
from support.deployer import KINDS, Deployer, Freeze, Kill, a_project, kill_points, overwrite
from support.fakes.failing import ProcessDied
from support.fakes.vertex import label_in_picture

#: A model of AutoML's goes the first of these: what is done to it differs, and when, does not.
WAYS = ("side by side", "in place")

#: Every step of both ways, but the engine's own.
STEPS = [
    (kind, step.name)
    for kind, route in (("side by side", FORWARD), ("in place", IN_PLACE))
    for step in route.steps
    if step.name != "claim"
]


def both(deployer: Deployer) -> tuple[str, str]:
    """The runs, older first."""
    older = deployer.live_run()
    (newer,) = set(deployer.ledger.run_ids("flowers")) - {older}
    return older, newer


def on_the_way(kind: str, step: str) -> tuple[Deployer, str]:
    """A project whose second release is at a step; steps that do not wait are stopped before they are taken."""
    deployer = a_project(KINDS[kind])
    _, newer = both(deployer)

    def die(_number: int, name: str, when: str) -> None:
        n = deployer.ledger.newest_release_number(newer, "cloud")
        if n and deployer.release(newer).step == step:
            deployer.interfere = lambda *_: None
            raise ProcessDied

    deployer.interfere = die
    for _ in range(40):
        deployer.begin(newer)
        if deployer.release(newer).step == step:
            return deployer, newer
        deployer.tick()
        deployer.vertex.finish_operations()
    raise AssertionError(deployer.release(newer))


def fails(run_id: str) -> Callable[[DeployedModel, Mapping[str, Any]], Answer]:
    def serve(one: DeployedModel, instance: Mapping[str, Any]) -> Answer:
        if one.display_name == run_id:
            raise ServiceUnavailable("500: the model server fell over")
        return label_in_picture(one, instance)

    return serve


# The configuration ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["breaks", "is deleted", "names another endpoint"])
@pytest.mark.parametrize(("kind", "step"), STEPS)
def test_a_configuration_that_changes_on_the_way_is_a_matter_of_the_next_release(
    kind: str, step: str, what: str
) -> None:
    deployer, newer = on_the_way(kind, step)
    if what == "breaks":
        deployer.write_config("flowers", b"labels: [")
    elif what == "is deleted":
        deployer.forget()
    else:
        deployer.configure(serving={**KINDS[kind].serving, "endpoint": "elsewhere"})
    release = deployer.go_through(newer)
    assert release.state is State.LIVE, release.reason
    deployer.check_promises()
    assert deployer.live_run() == newer


@pytest.mark.parametrize("step", ["upload", "endpoint", "deploy"])
def test_a_first_release_whose_configuration_breaks_during_an_operation_leaves_nothing_behind(step: str) -> None:
    deployer = Deployer()
    run_id = deployer.train(1)
    deployer.go_to(run_id, step, begun=True)
    deployer.write_config("flowers", b"labels: [")
    assert deployer.go_through(run_id).state is State.LIVE
    deployer.check_promises()
    assert deployer.shares() == {run_id: 100}


@pytest.mark.parametrize("kind", KINDS)
def test_a_way_back_needs_no_configuration(kind: str) -> None:
    deployer = a_project(KINDS[kind])
    older, newer = both(deployer)
    deployer.go_to(newer, "bake")
    deployer.forget()
    deployer.vertex.serve = fails(newer)
    assert deployer.go_through(newer).state is State.ROLLED_BACK
    deployer.check_promises()
    assert deployer.live_run() == older


# Aborts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "step"), STEPS)
def test_at_every_step_an_abort_leaves_what_served_or_says_that_a_rollback_is_the_way(kind: str, step: str) -> None:
    deployer, newer = on_the_way(kind, step)
    older, _ = both(deployer) if deployer.live_run() != newer else (deployer.serving().previous.run_id, newer)
    response = deployer.post("abort", dataset="flowers", reason="second thoughts")
    if response.status_code == 409:
        assert deployer.live_run() == newer
        assert response.json["send"]["path"] == "/rollback"
        assert deployer.post("rollback", dataset="flowers").status_code == 202
    deployer.settle(ticks=40)
    deployer.check_promises()
    assert deployer.live_run() == older


# Documents that cannot be read ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "step"), STEPS)
def test_documents_beside_the_release_that_cannot_be_read_do_not_stop_it(kind: str, step: str) -> None:
    deployer, newer = on_the_way(kind, step)
    for name in (
        names.run(newer),
        names.launch(newer, "cloud"),
        names.ended(newer, "cloud", 1),
        names.lock(f"release/cloud/{newer}/1"),
        names.cleanup("flowers"),
    ):
        overwrite(deployer.ledger_store, name, b'{"owner": "x"')
    release = deployer.go_through(newer)
    assert release.state is State.LIVE, release.reason


@pytest.mark.parametrize("how", ["aborted", "left alone"])
@pytest.mark.parametrize(("kind", "step"), [each for each in STEPS if each[1] not in ("aliases", "undeploy")])
def test_a_release_that_cannot_be_read_is_taken_back_and_blocks_nothing(kind: str, step: str, how: str) -> None:
    deployer, newer = on_the_way(kind, step)
    older = deployer.live_run()
    overwrite(deployer.ledger_store, names.release(newer, "cloud", 1), b"{")
    if how == "aborted":
        assert deployer.post("abort", dataset="flowers").status_code == 202
    for _ in range(60):
        deployer.tick(240 if how == "left alone" else 60)
        deployer.vertex.finish_operations()
    assert deployer.live_run() == older
    assert deployer.shares() == {older: 100}
    newest = deployer.bring_out(3)
    assert deployer.shares()[newest] == 100


# Deaths --------------------------------------------------------------------------------------------------------


def a_story(kind: str, ending: str, interfere: Callable[..., None] | None = None) -> tuple[Deployer, str]:
    """A release that is good, bad or aborted, with a process that may die; the run that should serve in the end."""
    deployer = a_project(KINDS[kind])
    older, newer = both(deployer)
    expected = newer if ending == "good" else older
    deployer.operations.clear()
    if interfere:
        deployer.interfere = interfere
    if ending == "bad":
        deployer.vertex.serve = fails(newer)
    deployer.begin(newer)
    for minute in range(20):
        deployer.vertex.finish_operations()
        deployer.tick()
        if ending == "aborted" and minute == 2:
            assert deployer.post("abort", dataset="flowers").status_code == 202
    return deployer, expected


@pytest.mark.parametrize("ending", ["good", "bad", "aborted"])
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_operation_a_release_ends_as_it_would_have(kind: str, ending: str) -> None:
    undisturbed, _ = a_story(kind, ending)
    # Of three stories that begin alike, each is killed at every third place.
    places = list(kill_points(undisturbed.operations))[["good", "bad", "aborted"].index(ending) :: 3]
    failures = []
    for number, when in places:
        deployer, expected = a_story(kind, ending, Kill(number, when))
        try:
            deployer.check_promises()
            assert deployer.live_run() == expected
        except AssertionError as exc:
            failures.append(f"killed {when} {number} ({undisturbed.operations[number]}): {exc}"[:300])
    assert failures == []


# What passes by itself, late -----------------------------------------------------------------------------------

#: Longer than a missing permission is waited for on the way forward.
FORBIDDEN_MINUTES = 20


@pytest.mark.parametrize("operation", ["set_traffic", "start_undeploy", "start_deploy", "operation", "find_endpoint"])
@pytest.mark.parametrize("ending", ["good", "bad", "aborted"])
@pytest.mark.parametrize("kind", WAYS)
def test_a_permission_that_is_away_for_longer_than_it_is_waited_for_leaves_no_one_with_the_new_model(
    kind: str, ending: str, operation: str
) -> None:
    for works_before in (0, 1, 2):
        deployer = a_project(KINDS[kind])
        older, newer = both(deployer)
        left, until = [works_before], [deployer.clock()]

        def forbid(
            _number: int,
            name: str,
            when: str,
            deployer: Deployer = deployer,
            left: list[int] = left,
            until: list[datetime.datetime] = until,
        ) -> None:
            if (name, when) != (f"vertex.{operation}", "before"):
                return
            left[0] -= 1
            if left[0] == -1:
                until[0] = deployer.clock() + datetime.timedelta(minutes=FORBIDDEN_MINUTES)
            if deployer.clock() < until[0]:
                raise PermissionSpreads("403: permission denied")

        deployer.interfere = forbid
        if ending == "bad":
            deployer.vertex.serve = fails(newer)
        deployer.begin(newer)
        for minute in range(FORBIDDEN_MINUTES + 30):
            deployer.vertex.finish_operations()
            deployer.tick()
            if ending == "aborted" and minute == 4:
                deployer.post("abort", dataset="flowers")
        deployer.check_promises()
        assert deployer.live_run() in ((older,) if ending == "bad" else (older, newer))


# Frozen instances ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["abort", "a newer run"])
@pytest.mark.parametrize("kind", WAYS)
def test_an_instance_that_is_frozen_at_any_write_does_not_harm_what_others_did_meanwhile(
    kind: str, command: str
) -> None:
    undisturbed, _ = a_story(kind, "good")
    writes = [
        number
        for number, name in enumerate(undisturbed.operations)
        if name in ("ledger.put", "ledger.delete") or name.startswith(("vertex.start_", "vertex.set_"))
    ]
    failures = []
    for number in writes[::3]:
        deployer = a_project(KINDS[kind])
        older, newer = both(deployer)

        def meanwhile(deployer: Deployer = deployer) -> None:
            deployer.clock.advance(240)
            if command == "abort":
                deployer.post("abort", dataset="flowers")
            else:
                deployer.train(3)
            for _ in range(25):
                deployer.tick()
                deployer.vertex.finish_operations()

        place = [0]

        def is_here(name: str, when: str, number: int = number, place: list[int] = place) -> bool:
            place[0] += when == "before"
            return when == "before" and place[0] == number + 1

        deployer.interfere = Freeze(deployer, is_here, meanwhile)
        deployer.begin(newer)
        for _ in range(40):
            deployer.vertex.finish_operations()
            deployer.tick()
        try:
            deployer.check_promises()
            if command == "a newer run":
                assert deployer.live_run() not in (older, newer), "an older run replaced a newer one"
        except AssertionError as exc:
            failures.append(f"frozen at {number} ({undisturbed.operations[number]}): {exc}"[:300])
    assert failures == []


@pytest.mark.parametrize("kind", WAYS)
def test_an_instance_that_is_frozen_while_it_plans_changes_nothing_of_what_is_recorded_since(kind: str) -> None:
    for number in itertools.count(1):
        deployer = a_project(KINDS[kind])
        older, newer = both(deployer)

        def is_here(name: str, when: str, deployer: Deployer = deployer, newer: str = newer) -> bool:
            n = deployer.ledger.newest_release_number(newer, "cloud")
            return when == "before" and bool(n) and deployer.release(newer).step == "plan"

        freeze = Freeze(deployer, is_here, functools.partial(deployer.pass_time, 15), number=number)
        deployer.interfere = freeze
        deployer.begin(newer)
        deployer.pass_time(30)
        if not freeze.happened:
            break
        deployer.check_promises()
        serving = deployer.serving()
        assert (serving.current.run_id, serving.previous.run_id) == (newer, older), f"frozen at {number}"
        assert serving.previous.taken_back == ""
    assert number > 5


# The record of what serves -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "step"), STEPS)
def test_a_record_of_what_serves_that_is_mended_in_time_has_done_no_harm(kind: str, step: str) -> None:
    deployer, newer = on_the_way(kind, step)
    name = names.serving("cloud", "flowers")
    good = deployer.ledger_store.read(name).data
    overwrite(deployer.ledger_store, name, b"{")
    for _ in range(5):
        deployer.tick()
        deployer.vertex.finish_operations()
    assert "serving/cloud/flowers.json cannot be read" in deployer.standing(newer).waits_for
    overwrite(deployer.ledger_store, name, good)
    assert deployer.go_through(newer).state is State.LIVE
    deployer.check_promises()
    assert deployer.live_run() == newer


@pytest.mark.parametrize("step", ["measure", "deploy", "shift", "probe", "bake"])
def test_a_record_of_what_serves_that_no_one_mends_gives_the_traffic_back_and_blocks_nothing_once_it_is_mended(
    step: str,
) -> None:
    deployer, newer = on_the_way("side by side", step)
    name = names.serving("cloud", "flowers")
    good, older = deployer.ledger_store.read(name).data, deployer.live_run()
    overwrite(deployer.ledger_store, name, b"{")
    for _ in range(40):
        deployer.tick(180)
        deployer.vertex.finish_operations()
    assert deployer.release(newer).is_over
    assert deployer.shares()[older] == 100
    waits = deployer.train(3)
    deployer.tick()
    assert "serving/cloud/flowers.json cannot be read" in deployer.standing(waits).waits_for
    overwrite(deployer.ledger_store, name, good)
    assert deployer.go_through(waits).state is State.LIVE
    deployer.check_promises()
