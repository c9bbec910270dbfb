"""Where a model scales to zero it is alone on its endpoint: a release takes down what serves, and brings it back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
from chain import Chain
from releases import go_through, shares, tick, train_one

from cloud_deployer import canary, hygiene, replacing
from cloud_deployer.handler import model_id_of
from dualdeploy.errors import ModelAsleep, RejectedByGoogle, ServiceUnavailable
from dualdeploy.ledger import State
from dualdeploy.testing import Failing
from dualdeploy.testing.vertex import label_in_picture
from dualdeploy.vertex import Answer, DeployedModel, ScaleToZero

ALONE = {"scale_to_zero": {"idle": "10m", "warm": "5m"}, "canary": {"bake": 0, "answers": 2}}
SIDE_BY_SIDE = {"canary": {"steps": [50, 100], "bake": 0, "answers": 2}}
ASLEEP = ModelAsleep("429: Model is not yet ready for inference")


@pytest.fixture
def chain() -> Chain:
    """A project whose first run scales to zero, and serves."""
    chain = Chain()
    chain.configure(serving=ALONE)
    released(chain)
    return chain


@pytest.fixture
def older(chain: Chain) -> str:
    return chain.live("cloud").current.run_id


def released(chain: Chain, edition: int = 1) -> str:
    run_id = train_one(chain, edition)
    go_through(chain, run_id)
    chain.clock.advance(3600)
    return run_id


def go_to(chain: Chain, run_id: str, step: str) -> None:
    for _ in range(20):
        tick(chain)
        if chain.branch(run_id, "cloud").step == step:
            return
        chain.vertex.finish_operations()
    raise AssertionError(chain.branch(run_id, "cloud"))


def check_record(chain: Chain, run_id: str) -> None:
    """What is recorded as live is what is deployed, under that very id."""
    (one,) = chain.vertex.endpoints["flowers"].deployed
    current = chain.live("cloud").current
    assert (current.run_id, current.facts["deployed_model"]) == (run_id, one.id)
    assert one.display_name == run_id
    assert chain.live("cloud").undeployed_at == ""


def fails(run_id: str) -> Any:
    def serve(one: DeployedModel, instance: Mapping[str, Any]) -> Answer:
        if one.display_name == run_id:
            raise ServiceUnavailable("500: the model server fell over")
        return label_in_picture(one, instance)

    return serve


# Forward -------------------------------------------------------------------------------------------------------


def test_the_periods_reach_vertex_ai_and_the_first_release_goes_out_at_once(chain: Chain, older: str) -> None:
    (deployment,) = chain.vertex.deployments.values()
    assert deployment.scale_to_zero == ScaleToZero(idle=600.0, warm=300.0)
    assert (deployment.min_replicas, deployment.max_replicas) == (1, 1)
    assert chain.branch(older, "cloud").state is State.LIVE
    assert shares(chain) == {older: 100}


def test_what_serves_is_taken_down_before_the_new_model_is_deployed_with_all_traffic(chain: Chain, older: str) -> None:
    newer = train_one(chain, edition=2)
    go_to(chain, newer, "replace")
    assert shares(chain) == {}
    branch = go_through(chain, newer)
    assert branch.state is State.LIVE, branch.reason
    assert shares(chain) == {newer: 100}
    check_record(chain, newer)
    assert chain.branch(older, "cloud").state is State.SUPERSEDED
    assert [step["share"] for step in canary.rollout_of(branch).passed] == [100]


def test_a_bake_time_goes_on_asking_and_brings_the_former_model_back(chain: Chain, older: str) -> None:
    chain.configure(serving={**ALONE, "canary": {"bake": "30m", "answers": 2}})
    newer = train_one(chain, edition=2)
    go_to(chain, newer, "bake")
    assert shares(chain) == {newer: 100}
    chain.vertex.serve = fails(newer)
    branch = go_through(chain, newer)
    assert branch.state is State.ROLLED_BACK
    assert shares(chain) == {older: 100}
    check_record(chain, older)


@pytest.mark.parametrize("command", ["redeploy", "rollback"])
def test_a_redeploy_and_a_rollback_replace_what_serves_too(chain: Chain, older: str, command: str) -> None:
    newer = released(chain, edition=2)
    expected = {"redeploy": newer, "rollback": older}[command]
    before = chain.live("cloud").current.facts["deployed_model"]
    chain.handle(chain.post("cloud", command, dataset="flowers"))
    assert go_through(chain, expected).state is State.LIVE
    assert shares(chain) == {expected: 100}
    check_record(chain, expected)
    assert chain.live("cloud").current.facts["deployed_model"] != before


def test_a_model_that_wakes_up_is_asked_again_and_not_blamed(chain: Chain) -> None:
    newer = train_one(chain, edition=2)
    chain.vertex.faults.plan("predict", *[Failing(ASLEEP)] * 5)
    branch = go_through(chain, newer)
    assert branch.state is State.LIVE, branch.reason
    assert chain.vertex.faults.calls["predict"] >= 7
    assert canary.rollout_of(branch).tally.failures == 0


def test_a_model_that_never_wakes_up_makes_way_for_the_former_one(chain: Chain, older: str) -> None:
    newer = train_one(chain, edition=2)
    chain.vertex.faults.plan("predict", *[Failing(ASLEEP)] * 3 * replacing.WAKE_ATTEMPTS)
    began = chain.clock()
    branch = go_through(chain, newer)
    assert branch.state is State.ROLLED_BACK
    assert "the new model was still asleep at the 20th look: 429" in branch.reason
    assert 20 <= (chain.clock() - began).total_seconds() / 60 <= 30
    check_record(chain, older)


# Both ways between the two kinds of release --------------------------------------------------------------------


def test_the_option_can_be_taken_up_and_given_up_again_each_with_one_release_in_place() -> None:
    chain = Chain()
    chain.configure(serving={**SIDE_BY_SIDE, "cool_down": "1h"})
    for edition in (1, 2):
        last = train_one(chain, edition)
        go_through(chain, last)
    assert len(shares(chain)) == 2
    for edition, serving, is_in_place in ((3, ALONE, True), (4, SIDE_BY_SIDE, True), (5, SIDE_BY_SIDE, False)):
        chain.configure(serving=serving)
        run_id = released(chain, edition)
        branch = chain.branch(run_id, "cloud")
        assert branch.state is State.LIVE, branch.reason
        assert (canary.rollout_of(branch).in_place is not None) is is_in_place
        assert shares(chain) == {run_id: 100}
        check_record(chain, run_id)


def test_a_model_goes_back_as_it_was_deployed_whatever_is_configured_now(chain: Chain, older: str) -> None:
    chain.configure(serving={**SIDE_BY_SIDE, "machine": "n1-standard-16"})
    newer = train_one(chain, edition=2)
    chain.vertex.serve = fails(newer)
    assert go_through(chain, newer).state is State.ROLLED_BACK
    check_record(chain, older)
    again = chain.vertex.deployments[chain.live("cloud").current.facts["deployed_model"]]
    assert (again.machine, again.scale_to_zero) == ("n1-standard-4", ScaleToZero(idle=600.0, warm=300.0))


@pytest.mark.parametrize("name", ["theirs", "flowers-experiment"])
def test_a_model_of_somebody_else_stops_the_release_before_anything_is_taken_down(
    chain: Chain, older: str, name: str
) -> None:
    endpoint = chain.vertex.endpoints["flowers"]
    stranger = DeployedModel("72", f"projects/p/locations/l/models/not-{model_id_of('flowers')}", "1", name)
    chain.vertex.endpoints["flowers"] = dataclasses.replace(endpoint, deployed=(*endpoint.deployed, stranger))
    branch = go_through(chain, train_one(chain, edition=2))
    assert branch.state is State.FAILED
    assert "a model that is not ours (72)" in branch.reason
    assert shares(chain) == {older: 100, name: 0}


# Back ----------------------------------------------------------------------------------------------------------


def test_a_model_that_fails_behind_the_endpoint_makes_way_for_the_former_one(chain: Chain, older: str) -> None:
    newer = train_one(chain, edition=2)
    chain.vertex.serve = fails(newer)
    branch = go_through(chain, newer)
    assert branch.state is State.ROLLED_BACK
    assert branch.reason.startswith("at 100 % of the traffic: error_rate 1 <= 0.1: failed")
    assert f"; {older} was deployed again, as " in branch.reason
    assert shares(chain) == {older: 100}
    check_record(chain, older)
    # And it can be replaced from there.
    chain.vertex.serve = label_in_picture
    newest = released(chain, edition=3)
    check_record(chain, newest)


@pytest.mark.parametrize("step", ["vacate", "replace", "probe", "bake"])
def test_a_release_that_is_stopped_in_the_middle_brings_the_former_model_back(
    chain: Chain, older: str, step: str
) -> None:
    chain.configure(serving={**ALONE, "canary": {"bake": "30m", "answers": 2}})
    newer = train_one(chain, edition=2)
    if step == "probe":
        chain.vertex.faults.plan("predict", *[Failing(ASLEEP)] * 3)
    go_to(chain, newer, step)
    chain.handle(chain.post("cloud", "abort", dataset="flowers", reason="second thoughts"))
    branch = go_through(chain, newer)
    assert branch.state is State.ROLLED_BACK
    assert branch.reason.startswith("aborted: second thoughts; ")
    assert shares(chain) == {older: 100}
    check_record(chain, older)


def test_a_deployment_that_fails_brings_the_former_model_back(chain: Chain, older: str) -> None:
    chain.vertex.fail_operation("deploy", "Model server never became ready")
    branch = go_through(chain, train_one(chain, edition=2))
    assert branch.state is State.ROLLED_BACK
    assert "Model server never became ready" in branch.reason
    check_record(chain, older)


def test_an_undeployment_that_google_refuses_leaves_the_former_model_alone(chain: Chain, older: str) -> None:
    before = chain.live("cloud")
    chain.vertex.faults.plan("start_undeploy", *[Failing(RejectedByGoogle("permission was taken away"))] * 2)
    branch = go_through(chain, train_one(chain, edition=2))
    assert branch.state is State.ROLLED_BACK
    assert branch.reason == "RejectedByGoogle: permission was taken away; nothing was replaced yet"
    assert chain.live("cloud") == before
    check_record(chain, older)


def test_a_first_model_that_fails_leaves_an_empty_endpoint() -> None:
    chain = Chain()
    chain.configure(serving=ALONE)
    run_id = train_one(chain, edition=1)
    chain.vertex.serve = fails(run_id)
    branch = go_through(chain, run_id)
    assert (branch.state, shares(chain), chain.live("cloud")) == (State.ROLLED_BACK, {}, None)


def test_a_machine_that_is_missing_for_the_former_model_is_asked_for_again(chain: Chain, older: str) -> None:
    for _ in range(replacing.REINSTATE_ATTEMPTS):
        chain.vertex.fail_operation("deploy", "the zone has no n1-standard-4")
    branch = go_through(chain, train_one(chain, edition=2))
    assert branch.state is State.ROLLED_BACK
    check_record(chain, older)


def test_when_the_former_model_cannot_come_back_every_record_says_that_nothing_serves(chain: Chain, older: str) -> None:
    for _ in range(replacing.REINSTATE_ATTEMPTS + 1):
        chain.vertex.fail_operation("deploy", "the zone has no n1-standard-4")
    branch = go_through(chain, train_one(chain, edition=2))
    assert branch.state is State.FAILED
    assert f"; {older} does not serve: it could not be deployed again: " in branch.reason
    live = chain.http("cloud").get("/status/flowers").json["live"]
    assert live["undeployed_because"] == branch.reason
    assert live["undeployed_at"]
    chain.handle(chain.post("cloud", "redeploy", dataset="flowers", reason="there are machines again"))
    assert go_through(chain, older).state is State.LIVE
    check_record(chain, older)


def test_a_new_model_that_cannot_be_taken_down_is_told_as_what_serves(chain: Chain, older: str) -> None:
    newer = train_one(chain, edition=2)
    go_to(chain, newer, "replace")
    chain.vertex.serve = fails(newer)
    chain.vertex.faults.plan("start_undeploy", *[Failing(RejectedByGoogle("permission was taken away"))] * 9)
    branch = go_through(chain, newer)
    assert branch.state is State.FAILED
    assert branch.reason.endswith("stands in its place and serves; redeploy to bring it back")
    assert "permission was taken away" in branch.reason
    assert chain.live("cloud").undeployed_at


def test_an_endpoint_that_is_deleted_on_the_way_back_ends_the_release(chain: Chain, older: str) -> None:
    newer = train_one(chain, edition=2)
    go_to(chain, newer, "replace")
    chain.vertex.finish_operations()
    chain.vertex.serve = fails(newer)
    del chain.vertex.endpoints["flowers"]
    branch = go_through(chain, newer)
    assert branch.state is State.FAILED
    assert "endpoint flowers was deleted" in branch.reason
    assert chain.live("cloud").undeployed_at


# While nobody asks ---------------------------------------------------------------------------------------------


def test_nobody_is_told_of_a_cost_that_there_is_not(chain: Chain, older: str) -> None:
    chain.configure(serving={**ALONE, "idle_after": "2h"})
    for _ in range(5 * 60):
        tick(chain)
    assert hygiene.read_report(chain.ledger, "flowers").document.idle is None
    assert shares(chain) == {older: 100}


@pytest.mark.parametrize("command", ["redeploy", "release"])
def test_what_vertex_ai_undeployed_after_thirty_days_is_told_and_comes_back(
    chain: Chain, older: str, command: str
) -> None:
    endpoint = chain.vertex.endpoints["flowers"]
    chain.vertex.endpoints["flowers"] = dataclasses.replace(endpoint, deployed=(), traffic={})
    for _ in range(70):
        tick(chain)
    live = chain.http("cloud").get("/status/flowers").json["live"]
    assert live["current"]["run_id"] == older
    assert "Vertex AI undeploys what was scaled to zero for 30 days" in live["undeployed_because"]
    assert "flowers" in chain.vertex.endpoints
    if command == "redeploy":
        chain.handle(chain.post("cloud", command, dataset="flowers"))
    expected = older if command == "redeploy" else train_one(chain, edition=2)
    assert go_through(chain, expected).state is State.LIVE
    check_record(chain, expected)
