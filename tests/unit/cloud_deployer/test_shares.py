"""A new model gets its traffic share by share, and loses it at once when it does not keep its promise."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from cloud_deployer.steps import back
from dualdeploy.errors import PermissionSpreads, RejectedByGoogle, ServiceUnavailable
from dualdeploy.google.vertex import Answer, DeployedModel
from dualdeploy.ledger import State
from support.deployer import LABELS, Deployer
from support.fakes import Failing
from support.fakes.vertex import label_in_picture

#: A new model at these shares, each held for five minutes, four answers each.
CAREFUL = {"canary": {"steps": [5, 25, 50, 100], "bake": "5m", "answers": 4}}

Serve = Callable[[DeployedModel, Mapping[str, Any]], Answer]


@pytest.fixture
def deployer() -> Deployer:
    """A project whose first run serves everyone; the second is trained and has not begun."""
    deployer = Deployer()
    deployer.bring_out()
    deployer.train(2, announce=False)
    deployer.vertex.splits.clear()
    return deployer


@pytest.fixture
def older(deployer: Deployer) -> str:
    return deployer.live_run()


@pytest.fixture
def newer(deployer: Deployer, older: str) -> str:
    (run_id,) = set(deployer.ledger.run_ids("flowers")) - {older}
    return run_id


def go_to_share(deployer: Deployer, run_id: str, share: int) -> None:
    deployer.begin(run_id)
    for _ in range(60):
        if deployer.shares().get(run_id) == share:
            return
        deployer.tick()
        if deployer.shares().get(run_id) != share:
            deployer.vertex.finish_operations()
    raise AssertionError(deployer.release(run_id))


def bad_model(run_id: str, serve: Serve) -> Serve:
    """Everybody answers as they should, but the model of `run_id`."""

    def answer(deployed: DeployedModel, instance: Mapping[str, Any]) -> Answer:
        return (serve if deployed.display_name == run_id else label_in_picture)(deployed, instance)

    return answer


def wrong_label_order(deployed: DeployedModel, instance: Mapping[str, Any]) -> Answer:
    label = base64.b64decode(instance["b64"]).decode()
    return Answer(deployed.id, {"label": LABELS[1 - LABELS.index(label)]}, 0.01)


def failing(deployed: DeployedModel, instance: Mapping[str, Any]) -> Answer:
    raise ServiceUnavailable("500: the model server fell over")


def slow(deployed: DeployedModel, instance: Mapping[str, Any]) -> Answer:
    return dataclasses.replace(label_in_picture(deployed, instance), seconds=3.0)


# Forward -------------------------------------------------------------------------------------------------------


def test_a_good_model_rises_through_every_share_and_traffic_always_sums_to_100(
    deployer: Deployer, older: str, newer: str
) -> None:
    deployer.configure(serving=CAREFUL)
    assert deployer.go_through(newer).state is State.LIVE
    serving = deployer.serving()
    ids = serving.previous.deployed_model, serving.current.deployed_model
    risen = [(split.get(ids[0], 0), split.get(ids[1], 0)) for _, split in deployer.vertex.splits]
    assert risen == [(100, 0), (95, 5), (75, 25), (50, 50), (0, 100), (0, 100)]
    assert deployer.shares() == {newer: 100}
    assert [moment.state for moment in deployer.release(newer).history][-2:] == [State.CANARY, State.LIVE]


def test_each_share_is_held_for_its_bake_time_and_no_tick_waits_for_it(deployer: Deployer, newer: str) -> None:
    deployer.configure(serving=CAREFUL)
    go_to_share(deployer, newer, 5)
    for _ in range(4):
        deployer.tick()
        assert deployer.shares()[newer] == 5
    deployer.tick()
    deployer.tick()
    assert deployer.shares()[newer] == 25


def test_the_old_model_stays_deployed_until_the_new_one_has_passed_with_all_traffic(
    deployer: Deployer, older: str, newer: str
) -> None:
    deployer.configure(serving=CAREFUL)
    go_to_share(deployer, newer, 100)
    assert deployer.shares() == {older: 0, newer: 100}
    assert deployer.serving().current.run_id == older


def test_what_every_share_was_passed_with_is_recorded(deployer: Deployer, newer: str) -> None:
    deployer.configure(serving=CAREFUL)
    passed = deployer.go_through(newer).plan.passed
    assert [step["share"] for step in passed] == [5, 25, 50, 100]
    assert all({rule["name"] for rule in step["rules"]} >= {"error_rate", "label_agreement"} for step in passed)


def test_a_configuration_that_breaks_during_the_canary_does_not_strand_traffic(deployer: Deployer, newer: str) -> None:
    deployer.configure(serving=CAREFUL)
    go_to_share(deployer, newer, 25)
    deployer.write_config("flowers", b"dataset: [")
    assert deployer.go_through(newer).state is State.LIVE
    assert deployer.shares() == {newer: 100}


def test_a_first_model_has_no_one_to_compare_with_and_no_bake_but_is_probed(deployer: Deployer) -> None:
    deployer = Deployer()
    deployer.configure(serving=CAREFUL)
    release = deployer.go_through(deployer.train(), ticks=6)
    assert [step["share"] for step in release.plan.passed] == [100]
    assert len(deployer.vertex.answered) == 4


# Back ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (wrong_label_order, "label_agreement 0 >= 0.9: failed"),
        (failing, "first failure: 500: the model server fell over"),
        (slow, "p95_seconds 3 <= 0.27: failed"),
    ],
)
def test_a_model_that_fails_behind_the_endpoint_is_rolled_back_at_the_first_share(
    deployer: Deployer, older: str, newer: str, serve: Serve, words: str
) -> None:
    deployer.configure(serving=CAREFUL)
    deployer.vertex.serve = bad_model(newer, serve)
    through = deployer.go_through(newer)
    assert through.state is State.ROLLED_BACK
    assert through.reason.startswith("at 5 % of the traffic: ")
    assert words in through.reason
    assert max(split.get(through.plan.candidate, 0) for _, split in deployer.vertex.splits) == 5
    assert deployer.shares() == {older: 100}
    assert deployer.serving().current.run_id == older
    assert deployer.release(older).state is State.LIVE
    (message,) = deployer.messages(run_id=newer)
    assert (message["outcome"], message["reason"]) == ("rolled_back", through.reason)


def test_traffic_is_as_before_at_the_very_tick_that_sees_the_breach(deployer: Deployer, older: str, newer: str) -> None:
    deployer.configure(serving=CAREFUL)
    go_to_share(deployer, newer, 25)
    deployer.vertex.serve = bad_model(newer, failing)
    deployer.tick()
    assert deployer.shares() == {older: 100, newer: 0}


def test_a_model_that_is_bad_with_all_traffic_gives_it_back(deployer: Deployer, older: str, newer: str) -> None:
    deployer.configure(serving=CAREFUL)
    go_to_share(deployer, newer, 100)
    deployer.vertex.serve = bad_model(newer, wrong_label_order)
    assert deployer.go_through(newer).state is State.ROLLED_BACK
    assert deployer.shares() == {older: 100}


def test_a_first_model_that_fails_leaves_an_empty_endpoint() -> None:
    deployer = Deployer()
    run_id = deployer.train(announce=False)
    deployer.vertex.serve = bad_model(run_id, failing)
    assert deployer.go_through(run_id).state is State.ROLLED_BACK
    assert deployer.shares() == {}
    assert deployer.serving().current is None


def test_failures_of_the_model_that_serves_are_not_charged_to_the_new_one(
    deployer: Deployer, older: str, newer: str
) -> None:
    answers = []

    def every_other_fails(deployed: DeployedModel, instance: Mapping[str, Any]) -> Answer:
        answers.append(1)
        if len(answers) % 2:
            raise ServiceUnavailable("503: busy")
        return label_in_picture(deployed, instance)

    deployer.configure(serving={"canary": {"steps": [50, 100], "bake": 0, "answers": 8}})
    deployer.vertex.serve = bad_model(older, every_other_fails)
    # Half of the live model's answers fail; of a split in half, a quarter of all requests does.
    assert deployer.go_through(newer).state is State.LIVE


def test_an_endpoint_that_answers_no_one_ends_the_rollout_before_it_takes_traffic(
    deployer: Deployer, older: str, newer: str
) -> None:
    deployer.vertex.serve = failing
    through = deployer.go_through(newer)
    assert through.state is State.ROLLED_BACK
    assert "to answer a probe, even before the new model has traffic" in through.reason
    assert {tuple(share for share in split.values() if share) for _, split in deployer.vertex.splits} == {(100,)}


def test_a_short_silence_of_the_endpoint_is_waited_out(deployer: Deployer, newer: str) -> None:
    deployer.vertex.faults.plan("predict", *[Failing(ServiceUnavailable("no answer"))] * 4)
    assert deployer.go_through(newer).state is State.LIVE


def test_a_permission_that_the_service_lacks_for_a_while_is_not_charged_to_the_model(
    deployer: Deployer, newer: str
) -> None:
    deployer.vertex.faults.plan("predict", *[Failing(PermissionSpreads("403: aiplatform.endpoints.predict"))] * 8)
    assert deployer.go_through(newer).state is State.LIVE


def test_a_split_that_google_refuses_sends_the_candidate_back(deployer: Deployer, older: str, newer: str) -> None:
    deployer.vertex.faults.plan("set_traffic", Failing(RejectedByGoogle("no such split")))
    through = deployer.go_through(newer)
    assert (through.state, through.reason) == (State.ROLLED_BACK, "RejectedByGoogle: no such split")
    assert deployer.shares() == {older: 100}


def test_a_candidate_that_cannot_be_taken_down_is_named_in_the_record(
    deployer: Deployer, older: str, newer: str
) -> None:
    deployer.vertex.serve = bad_model(newer, failing)
    deployer.vertex.faults.plan("start_undeploy", Failing(RejectedByGoogle("internal trouble")))
    through = deployer.go_through(newer)
    assert through.state is State.ROLLED_BACK
    assert "could not be taken down: internal trouble" in through.reason
    assert deployer.shares() == {older: 100, newer: 0}


@pytest.mark.parametrize("share", [0, 40])
def test_a_split_that_someone_made_by_hand_is_left_to_them(
    deployer: Deployer, older: str, newer: str, share: int
) -> None:
    deployer.configure(serving=CAREFUL)
    go_to_share(deployer, newer, 25)
    by_hand = {older: 100 - share, newer: share}
    deployer.set_traffic(by_hand)
    through = deployer.go_through(newer)
    assert through.state is State.FAILED
    assert "traffic was moved away from it" in through.reason
    assert deployer.shares() == by_hand


def test_a_golden_set_that_is_gone_fails_the_run_before_anything_is_uploaded(deployer: Deployer, newer: str) -> None:
    name = f"runs/{newer}/cloud/golden.json"
    deployer.models.delete(name, expect=deployer.models.read(name).generation)
    through = deployer.go_through(newer)
    assert through.state is State.FAILED
    assert "golden.json is gone" in through.reason
    assert len(deployer.vertex.uploads) == 1


# The warm model ------------------------------------------------------------------------------------------------


def test_the_replaced_model_stays_warm_if_so_configured_and_goes_with_the_next_release(
    deployer: Deployer, older: str, newer: str
) -> None:
    deployer.configure(serving={"keep_previous": 1, "canary": {"bake": 0, "answers": 2}})
    deployer.go_through(newer)
    assert deployer.shares() == {older: 0, newer: 100}
    deployer.clock.advance(3600)
    newest = deployer.train(3, announce=False)
    deployer.go_through(newest)
    assert deployer.shares() == {newer: 0, newest: 100}


# What Google refuses on the way back ---------------------------------------------------------------------------


def test_an_old_split_that_google_refuses_for_now_is_asked_for_again(
    deployer: Deployer, older: str, newer: str
) -> None:
    deployer.configure(serving=CAREFUL)
    go_to_share(deployer, newer, 5)
    deployer.vertex.serve = bad_model(newer, failing)
    deployer.vertex.faults.plan("set_traffic", Failing(RejectedByGoogle("the endpoint is being updated")))
    branch = deployer.go_through(newer)
    assert branch.state is State.ROLLED_BACK, branch.reason
    assert deployer.shares() == {older: 100}


def test_a_candidate_whose_traffic_cannot_be_moved_loses_it_by_being_taken_down(
    deployer: Deployer, older: str, newer: str
) -> None:
    deployer.configure(serving=CAREFUL)
    go_to_share(deployer, newer, 5)
    deployer.vertex.serve = bad_model(newer, failing)
    deployer.vertex.faults.plan("set_traffic", *[Failing(RejectedByGoogle("no"))] * back.RESTORE_ATTEMPTS)
    branch = deployer.go_through(newer)
    assert branch.state is State.ROLLED_BACK, branch.reason
    assert deployer.shares() == {older: 100}


def test_a_candidate_that_keeps_its_traffic_against_all_efforts_is_not_called_rolled_back(
    deployer: Deployer, newer: str
) -> None:
    deployer.configure(serving=CAREFUL)
    go_to_share(deployer, newer, 5)
    deployer.vertex.serve = bad_model(newer, failing)
    for call in ("set_traffic", "start_undeploy"):
        deployer.vertex.faults.plan(call, *[Failing(RejectedByGoogle("permission was taken away"))] * 9)
    branch = deployer.go_through(newer)
    assert branch.state is State.FAILED
    assert branch.reason.endswith("it still has 5 % of flowers: move them away by hand")
    assert "permission was taken away" in branch.reason
