"""Where a model scales to zero it is alone on its endpoint: a release takes down what serves, and brings it back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from cloud_deployer.cleanup.report import read_report
from cloud_deployer.naming import model_id_of
from cloud_deployer.steps import in_place
from dualdeploy import clock as clocks
from dualdeploy.errors import ModelAsleep, RejectedByGoogle, ServiceUnavailable
from dualdeploy.google.vertex import Answer, DeployedModel, ScaleToZero
from dualdeploy.ledger import State
from support.deployer import Deployer
from support.fakes import Failing
from support.fakes.vertex import label_in_picture

ALONE = {"scale_to_zero": {"idle": "10m", "warm": "5m"}, "canary": {"bake": 0, "answers": 2}}
SIDE_BY_SIDE = {"canary": {"steps": [50, 100], "bake": 0, "answers": 2}}
ASLEEP = ModelAsleep("429: Model is not yet ready for inference")


@pytest.fixture
def deployer() -> Deployer:
    """A project whose first run scales to zero, and serves."""
    deployer = Deployer()
    deployer.configure(serving=ALONE)
    released(deployer)
    return deployer


@pytest.fixture
def older(deployer: Deployer) -> str:
    return deployer.serving().current.run_id


def released(deployer: Deployer, edition: int = 1) -> str:
    return deployer.bring_out(edition)


def check_record(deployer: Deployer, run_id: str) -> None:
    """What is recorded as live is what is deployed, under that very id."""
    (one,) = deployer.vertex.endpoints["flowers"].deployed
    current = deployer.serving().current
    assert (current.run_id, current.deployed_model) == (run_id, one.id)
    assert one.display_name == run_id
    assert deployer.serving().undeployed_at == ""


def fails(run_id: str) -> Any:
    def serve(one: DeployedModel, instance: Mapping[str, Any]) -> Answer:
        if one.display_name == run_id:
            raise ServiceUnavailable("500: the model server fell over")
        return label_in_picture(one, instance)

    return serve


# Forward -------------------------------------------------------------------------------------------------------


def test_the_periods_reach_vertex_ai_and_the_first_release_goes_out_at_once(deployer: Deployer, older: str) -> None:
    (deployment,) = deployer.vertex.deployments.values()
    assert deployment.scale_to_zero == ScaleToZero(idle=600.0, warm=300.0)
    assert (deployment.min_replicas, deployment.max_replicas) == (1, 1)
    assert deployer.release(older).state is State.LIVE
    assert deployer.shares() == {older: 100}


def test_what_serves_is_taken_down_before_the_new_model_is_deployed_with_all_traffic(
    deployer: Deployer, older: str
) -> None:
    newer = deployer.train(2, announce=False)
    deployer.go_to(newer, "replace")
    assert deployer.shares() == {}
    release = deployer.go_through(newer)
    assert release.state is State.LIVE, release.reason
    assert deployer.shares() == {newer: 100}
    check_record(deployer, newer)
    assert deployer.release(older).state is State.SUPERSEDED
    assert [step["share"] for step in release.plan.passed] == [100]


def test_a_bake_time_goes_on_asking_and_brings_the_former_model_back(deployer: Deployer, older: str) -> None:
    deployer.configure(serving={**ALONE, "canary": {"bake": "30m", "answers": 2}})
    newer = deployer.train(2, announce=False)
    deployer.go_to(newer, "bake")
    assert deployer.shares() == {newer: 100}
    deployer.vertex.serve = fails(newer)
    release = deployer.go_through(newer)
    assert release.state is State.ROLLED_BACK
    assert deployer.shares() == {older: 100}
    check_record(deployer, older)


@pytest.mark.parametrize("command", ["redeploy", "rollback"])
def test_a_redeploy_and_a_rollback_replace_what_serves_too(deployer: Deployer, older: str, command: str) -> None:
    newer = released(deployer, edition=2)
    expected = {"redeploy": newer, "rollback": older}[command]
    before = deployer.serving().current.deployed_model
    deployer.post(command, dataset="flowers")
    assert deployer.go_through(expected).state is State.LIVE
    assert deployer.shares() == {expected: 100}
    check_record(deployer, expected)
    assert deployer.serving().current.deployed_model != before


def test_a_model_that_wakes_up_is_asked_again_and_not_blamed(deployer: Deployer) -> None:
    newer = deployer.train(2, announce=False)
    deployer.vertex.faults.plan("predict", *[Failing(ASLEEP)] * 5)
    release = deployer.go_through(newer)
    assert release.state is State.LIVE, release.reason
    assert deployer.vertex.faults.calls["predict"] >= 7
    assert release.plan.tally.failures == 0


def test_a_model_that_never_wakes_up_makes_way_for_the_former_one(deployer: Deployer, older: str) -> None:
    newer = deployer.train(2, announce=False)
    deployer.vertex.faults.plan("predict", *[Failing(ASLEEP)] * 60)
    release = deployer.go_through(newer)
    assert release.state is State.ROLLED_BACK
    assert "for the new model to wake up: 429" in release.reason
    began, ended = (next(m.at for m in release.history if m.state == state) for state in ("canary", "rolled_back"))
    assert 20 <= (clocks.from_text(ended) - clocks.from_text(began)).total_seconds() / 60 <= 25
    check_record(deployer, older)


# Both ways between the two kinds of release --------------------------------------------------------------------


def test_the_option_can_be_taken_up_and_given_up_again_each_with_one_release_in_place() -> None:
    deployer = Deployer()
    deployer.configure(serving={**SIDE_BY_SIDE, "cool_down": "1h"})
    for edition in (1, 2):
        last = deployer.train(edition, announce=False)
        deployer.go_through(last)
    assert len(deployer.shares()) == 2
    for edition, serving, is_in_place in ((3, ALONE, True), (4, SIDE_BY_SIDE, True), (5, SIDE_BY_SIDE, False)):
        deployer.configure(serving=serving)
        run_id = released(deployer, edition)
        release = deployer.release(run_id)
        assert release.state is State.LIVE, release.reason
        assert (release.plan.in_place is not None) is is_in_place
        assert deployer.shares() == {run_id: 100}
        check_record(deployer, run_id)


def test_a_model_goes_back_as_it_was_deployed_whatever_is_configured_now(deployer: Deployer, older: str) -> None:
    deployer.configure(serving={**SIDE_BY_SIDE, "machine": "n1-standard-16"})
    newer = deployer.train(2, announce=False)
    deployer.vertex.serve = fails(newer)
    assert deployer.go_through(newer).state is State.ROLLED_BACK
    check_record(deployer, older)
    again = deployer.vertex.deployments[deployer.serving().current.deployed_model]
    assert (again.machine, again.scale_to_zero) == ("n1-standard-4", ScaleToZero(idle=600.0, warm=300.0))


@pytest.mark.parametrize("name", ["theirs", "flowers-experiment"])
def test_a_model_of_someone_else_stops_the_release_before_anything_is_taken_down(
    deployer: Deployer, older: str, name: str
) -> None:
    endpoint = deployer.vertex.endpoints["flowers"]
    stranger = DeployedModel("72", f"projects/p/locations/l/models/not-{model_id_of('flowers')}", "1", name)
    deployer.vertex.endpoints["flowers"] = dataclasses.replace(endpoint, deployed=(*endpoint.deployed, stranger))
    release = deployer.go_through(deployer.train(2, announce=False))
    assert release.state is State.FAILED
    assert "a model that is not ours (72)" in release.reason
    assert deployer.shares() == {older: 100, name: 0}


# Back ----------------------------------------------------------------------------------------------------------


def test_a_model_that_fails_behind_the_endpoint_makes_way_for_the_former_one(deployer: Deployer, older: str) -> None:
    newer = deployer.train(2, announce=False)
    deployer.vertex.serve = fails(newer)
    release = deployer.go_through(newer)
    assert release.state is State.ROLLED_BACK
    assert release.reason.startswith("at 100 % of the traffic: error_rate 1 <= 0.1: failed")
    assert f"; {older} was deployed again, as " in release.reason
    assert deployer.shares() == {older: 100}
    check_record(deployer, older)
    # And it can be replaced from there.
    deployer.vertex.serve = label_in_picture
    newest = released(deployer, edition=3)
    check_record(deployer, newest)


@pytest.mark.parametrize("step", ["vacate", "replace", "probe", "bake"])
def test_a_release_that_is_stopped_in_the_middle_brings_the_former_model_back(
    deployer: Deployer, older: str, step: str
) -> None:
    deployer.configure(serving={**ALONE, "canary": {"bake": "30m", "answers": 2}})
    newer = deployer.train(2, announce=False)
    if step == "probe":
        deployer.vertex.faults.plan("predict", *[Failing(ASLEEP)] * 3)
    deployer.go_to(newer, step)
    deployer.post("abort", dataset="flowers", reason="second thoughts")
    release = deployer.go_through(newer)
    assert release.state is State.ROLLED_BACK
    assert release.reason.startswith("aborted: second thoughts; ")
    assert deployer.shares() == {older: 100}
    check_record(deployer, older)


def test_a_deployment_that_fails_brings_the_former_model_back(deployer: Deployer, older: str) -> None:
    deployer.vertex.fail_operation("deploy", "Model server never became ready")
    release = deployer.go_through(deployer.train(2, announce=False))
    assert release.state is State.ROLLED_BACK
    assert "Model server never became ready" in release.reason
    check_record(deployer, older)


def test_an_undeployment_that_google_refuses_leaves_the_former_model_alone(deployer: Deployer, older: str) -> None:
    before = deployer.serving()
    deployer.vertex.faults.plan("start_undeploy", *[Failing(RejectedByGoogle("permission was taken away"))] * 2)
    release = deployer.go_through(deployer.train(2, announce=False))
    assert release.state is State.ROLLED_BACK
    assert release.reason == "RejectedByGoogle: permission was taken away; nothing was replaced yet"
    assert deployer.serving() == before
    check_record(deployer, older)


def test_a_first_model_that_fails_leaves_an_empty_endpoint() -> None:
    deployer = Deployer()
    deployer.configure(serving=ALONE)
    run_id = deployer.train(1, announce=False)
    deployer.vertex.serve = fails(run_id)
    release = deployer.go_through(run_id)
    assert (release.state, deployer.shares(), deployer.live_run()) == (State.ROLLED_BACK, {}, "")


def test_a_machine_that_is_missing_for_the_former_model_is_asked_for_again(deployer: Deployer, older: str) -> None:
    for _ in range(in_place.REINSTATE_ATTEMPTS):
        deployer.vertex.fail_operation("deploy", "the zone has no n1-standard-4")
    release = deployer.go_through(deployer.train(2, announce=False))
    assert release.state is State.ROLLED_BACK
    check_record(deployer, older)


def test_when_the_former_model_cannot_come_back_every_record_says_that_nothing_serves(
    deployer: Deployer, older: str
) -> None:
    for _ in range(in_place.REINSTATE_ATTEMPTS + 1):
        deployer.vertex.fail_operation("deploy", "the zone has no n1-standard-4")
    release = deployer.go_through(deployer.train(2, announce=False))
    assert release.state is State.FAILED
    assert f"; {older} does not serve: it could not be deployed again: " in release.reason
    live = deployer.http().get("/status/flowers").json["live"]
    assert live["undeployed_because"] == release.reason
    assert live["undeployed_at"]
    deployer.post("redeploy", dataset="flowers", reason="there are machines again")
    assert deployer.go_through(older).state is State.LIVE
    check_record(deployer, older)


def test_a_new_model_that_cannot_be_taken_down_is_told_as_what_serves(deployer: Deployer, older: str) -> None:
    newer = deployer.train(2, announce=False)
    deployer.go_to(newer, "replace")
    deployer.vertex.serve = fails(newer)
    deployer.vertex.faults.plan("start_undeploy", *[Failing(RejectedByGoogle("permission was taken away"))] * 9)
    release = deployer.go_through(newer)
    assert release.state is State.FAILED
    assert release.reason.endswith("stands in its place and serves; redeploy to bring it back")
    assert "permission was taken away" in release.reason
    assert deployer.serving().undeployed_at


def test_an_endpoint_that_is_deleted_on_the_way_back_ends_the_release(deployer: Deployer, older: str) -> None:
    newer = deployer.train(2, announce=False)
    deployer.go_to(newer, "replace")
    deployer.vertex.finish_operations()
    deployer.vertex.serve = fails(newer)
    del deployer.vertex.endpoints["flowers"]
    release = deployer.go_through(newer)
    assert release.state is State.FAILED
    assert "endpoint flowers was deleted" in release.reason
    assert deployer.serving().undeployed_at


# While no one asks ---------------------------------------------------------------------------------------------


def test_no_one_is_told_of_a_cost_that_there_is_not(deployer: Deployer, older: str) -> None:
    deployer.configure(serving={**ALONE, "idle_after": "2h"})
    for _ in range(5 * 60):
        deployer.tick()
    assert read_report(deployer.ledger, "flowers").document.idle is None
    assert deployer.shares() == {older: 100}


@pytest.mark.parametrize("command", ["redeploy", "release"])
def test_what_vertex_ai_undeployed_after_thirty_days_is_told_and_comes_back(
    deployer: Deployer, older: str, command: str
) -> None:
    endpoint = deployer.vertex.endpoints["flowers"]
    deployer.vertex.endpoints["flowers"] = dataclasses.replace(endpoint, deployed=(), traffic={})
    for _ in range(70):
        deployer.tick()
    live = deployer.http().get("/status/flowers").json["live"]
    assert live["current"]["run_id"] == older
    assert "Vertex AI undeploys what was scaled to zero for 30 days" in live["undeployed_because"]
    assert "flowers" in deployer.vertex.endpoints
    if command == "redeploy":
        deployer.post(command, dataset="flowers")
    expected = older if command == "redeploy" else deployer.train(2, announce=False)
    assert deployer.go_through(expected).state is State.LIVE
    check_record(deployer, expected)
