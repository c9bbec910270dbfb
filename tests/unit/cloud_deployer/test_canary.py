"""A new model gets its traffic share by share, and loses it at once when it does not keep its promise."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from chain import LABELS, Chain
from releases import go_through, shares, tick, train_one

from cloud_deployer import canary
from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable
from dualdeploy.ledger import State
from dualdeploy.testing import Failing
from dualdeploy.testing.vertex import label_in_picture
from dualdeploy.vertex import Answer, DeployedModel

#: A new model at these shares, each held for five minutes, four answers each.
CAREFUL = {"canary": {"steps": [5, 25, 50, 100], "bake": "5m", "answers": 4}}

Serve = Callable[[DeployedModel, Mapping[str, Any]], Answer]


@pytest.fixture
def chain() -> Chain:
    """A project whose first run serves everybody; the second is trained and has not begun."""
    chain = Chain()
    train_one(chain)
    go_through(chain, chain.run_ids()[0])
    assert chain.live("cloud") is not None
    chain.clock.advance(3600)
    train_one(chain, edition=2)
    chain.vertex.splits.clear()
    return chain


@pytest.fixture
def older(chain: Chain) -> str:
    return chain.live("cloud").current.run_id


@pytest.fixture
def newer(chain: Chain, older: str) -> str:
    (run_id,) = set(chain.run_ids()) - {older}
    return run_id


def go_to_share(chain: Chain, run_id: str, share: int) -> None:
    for _ in range(60):
        if shares(chain).get(run_id) == share:
            return
        tick(chain)
        if shares(chain).get(run_id) != share:
            chain.vertex.finish_operations()
    raise AssertionError(chain.branch(run_id, "cloud"))


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
    chain: Chain, older: str, newer: str
) -> None:
    chain.configure(serving=CAREFUL)
    assert go_through(chain, newer).state is State.LIVE
    old, new = (chain.ledger.read_live("flowers", "cloud").document.previous, chain.live("cloud").current)
    ids = old.facts["deployed_model"], new.facts["deployed_model"]
    risen = [(split.get(ids[0], 0), split.get(ids[1], 0)) for _, split in chain.vertex.splits]
    assert risen == [(100, 0), (95, 5), (75, 25), (50, 50), (0, 100), (0, 100)]
    assert shares(chain) == {newer: 100}
    assert [moment.state for moment in chain.branch(newer, "cloud").history][-2:] == [State.CANARY, State.LIVE]


def test_each_share_is_held_for_its_bake_time_and_no_tick_waits_for_it(chain: Chain, newer: str) -> None:
    chain.configure(serving=CAREFUL)
    go_to_share(chain, newer, 5)
    for _ in range(4):
        tick(chain)
        assert shares(chain)[newer] == 5
    tick(chain)
    tick(chain)
    assert shares(chain)[newer] == 25


def test_the_old_model_stays_deployed_until_the_new_one_has_passed_with_all_traffic(
    chain: Chain, older: str, newer: str
) -> None:
    chain.configure(serving=CAREFUL)
    go_to_share(chain, newer, 100)
    assert shares(chain) == {older: 0, newer: 100}
    assert chain.live("cloud").current.run_id == older


def test_what_every_share_was_passed_with_is_recorded(chain: Chain, newer: str) -> None:
    chain.configure(serving=CAREFUL)
    passed = canary.rollout_of(go_through(chain, newer)).passed
    assert [step["share"] for step in passed] == [5, 25, 50, 100]
    assert all({rule["name"] for rule in step["rules"]} >= {"error_rate", "label_agreement"} for step in passed)


def test_a_configuration_that_breaks_during_the_canary_does_not_strand_traffic(chain: Chain, newer: str) -> None:
    chain.configure(serving=CAREFUL)
    go_to_share(chain, newer, 25)
    chain.write_config("flowers", b"dataset: [")
    assert go_through(chain, newer).state is State.LIVE
    assert shares(chain) == {newer: 100}


def test_a_first_model_has_nobody_to_compare_with_and_no_bake_but_is_probed(chain: Chain) -> None:
    chain = Chain()
    chain.configure(serving=CAREFUL)
    run_id = train_one(chain)
    go_through(chain, run_id, ticks=6)
    assert [step["share"] for step in canary.rollout_of(chain.branch(run_id, "cloud")).passed] == [100]
    assert len(chain.vertex.answered) == 4


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
    chain: Chain, older: str, newer: str, serve: Serve, words: str
) -> None:
    chain.configure(serving=CAREFUL)
    chain.vertex.serve = bad_model(newer, serve)
    through = go_through(chain, newer)
    assert through.state is State.ROLLED_BACK
    assert through.reason.startswith("at 5 % of the traffic: ")
    assert words in through.reason
    assert max(split.get(canary.rollout_of(through).candidate, 0) for _, split in chain.vertex.splits) == 5
    assert shares(chain) == {older: 100}
    assert chain.live("cloud").current.run_id == older
    assert chain.branch(older, "cloud").state is State.LIVE
    (message,) = chain.messages("deployment-completed", run_id=newer)
    assert (message["outcome"], message["reason"]) == ("rolled_back", through.reason)


def test_traffic_is_as_before_at_the_very_tick_that_sees_the_breach(chain: Chain, older: str, newer: str) -> None:
    chain.configure(serving=CAREFUL)
    go_to_share(chain, newer, 25)
    chain.vertex.serve = bad_model(newer, failing)
    tick(chain)
    assert shares(chain) == {older: 100, newer: 0}


def test_a_model_that_is_bad_with_all_traffic_gives_it_back(chain: Chain, older: str, newer: str) -> None:
    chain.configure(serving=CAREFUL)
    go_to_share(chain, newer, 100)
    chain.vertex.serve = bad_model(newer, wrong_label_order)
    assert go_through(chain, newer).state is State.ROLLED_BACK
    assert shares(chain) == {older: 100}


def test_a_first_model_that_fails_leaves_an_empty_endpoint() -> None:
    chain = Chain()
    run_id = train_one(chain)
    chain.vertex.serve = bad_model(run_id, failing)
    assert go_through(chain, run_id).state is State.ROLLED_BACK
    assert shares(chain) == {}
    assert chain.live("cloud") is None


def test_failures_of_the_model_that_serves_are_not_charged_to_the_new_one(chain: Chain, older: str, newer: str) -> None:
    answers = []

    def every_other_fails(deployed: DeployedModel, instance: Mapping[str, Any]) -> Answer:
        answers.append(1)
        if len(answers) % 2:
            raise ServiceUnavailable("503: busy")
        return label_in_picture(deployed, instance)

    chain.configure(serving={"canary": {"steps": [50, 100], "bake": 0, "answers": 8}})
    chain.vertex.serve = bad_model(older, every_other_fails)
    # Half of the live model's answers fail; of a split in half, a quarter of all requests does.
    assert go_through(chain, newer).state is State.LIVE


def test_an_endpoint_that_answers_nobody_ends_the_rollout_before_it_takes_traffic(
    chain: Chain, older: str, newer: str
) -> None:
    chain.vertex.serve = failing
    through = go_through(chain, newer)
    assert through.state is State.ROLLED_BACK
    assert "answers no probe, even before the new model has traffic" in through.reason
    assert {tuple(share for share in split.values() if share) for _, split in chain.vertex.splits} == {(100,)}


def test_a_short_silence_of_the_endpoint_is_waited_out(chain: Chain, newer: str) -> None:
    chain.vertex.faults.plan("predict", *[Failing(ServiceUnavailable("no answer"))] * 4)
    assert go_through(chain, newer).state is State.LIVE


def test_a_split_that_google_refuses_sends_the_candidate_back(chain: Chain, older: str, newer: str) -> None:
    chain.vertex.faults.plan("set_traffic", Failing(RejectedByGoogle("no such split")))
    through = go_through(chain, newer)
    assert (through.state, through.reason) == (State.ROLLED_BACK, "RejectedByGoogle: no such split")
    assert shares(chain) == {older: 100}


def test_a_candidate_that_cannot_be_taken_down_is_named_in_the_record(chain: Chain, older: str, newer: str) -> None:
    chain.vertex.serve = bad_model(newer, failing)
    chain.vertex.faults.plan("start_undeploy", Failing(RejectedByGoogle("internal trouble")))
    through = go_through(chain, newer)
    assert through.state is State.ROLLED_BACK
    assert "could not be taken down: internal trouble" in through.reason
    assert shares(chain) == {older: 100, newer: 0}


@pytest.mark.parametrize("share", [0, 40])
def test_a_split_that_somebody_made_by_hand_is_left_to_them(chain: Chain, older: str, newer: str, share: int) -> None:
    chain.configure(serving=CAREFUL)
    go_to_share(chain, newer, 25)
    endpoint = chain.vertex.endpoints["flowers"]
    ids = {deployed.display_name: deployed.id for deployed in endpoint.deployed}
    by_hand = {ids[older]: 100 - share, ids[newer]: share}
    chain.vertex.endpoints["flowers"] = dataclasses.replace(endpoint, traffic=by_hand)
    through = go_through(chain, newer)
    assert through.state is State.FAILED
    assert "traffic was moved away from it" in through.reason
    assert dict(chain.vertex.endpoints["flowers"].traffic) == by_hand


def test_a_golden_set_that_is_gone_fails_the_run_before_anything_is_uploaded(chain: Chain, newer: str) -> None:
    name = f"runs/{newer}/cloud/golden.json"
    chain.models.delete(name, expect=chain.models.read(name).generation)
    through = go_through(chain, newer)
    assert through.state is State.FAILED
    assert "golden.json is gone" in through.reason
    assert len(chain.vertex.uploads) == 1


# The warm model ------------------------------------------------------------------------------------------------


def test_the_replaced_model_stays_warm_if_so_configured_and_goes_with_the_next_release(
    chain: Chain, older: str, newer: str
) -> None:
    chain.configure(serving={"keep_previous": 1, "canary": {"bake": 0, "answers": 2}})
    go_through(chain, newer)
    assert shares(chain) == {older: 0, newer: 100}
    chain.clock.advance(3600)
    newest = train_one(chain, edition=3)
    go_through(chain, newest)
    assert shares(chain) == {newer: 0, newest: 100}


# What Google refuses on the way back ---------------------------------------------------------------------------


def test_an_old_split_that_google_refuses_for_now_is_asked_for_again(chain: Chain, older: str, newer: str) -> None:
    chain.configure(serving=CAREFUL)
    go_to_share(chain, newer, 5)
    chain.vertex.serve = bad_model(newer, failing)
    chain.vertex.faults.plan("set_traffic", Failing(RejectedByGoogle("the endpoint is being updated")))
    branch = go_through(chain, newer)
    assert branch.state is State.ROLLED_BACK, branch.reason
    assert shares(chain) == {older: 100}


def test_a_candidate_whose_traffic_cannot_be_moved_loses_it_by_being_taken_down(
    chain: Chain, older: str, newer: str
) -> None:
    chain.configure(serving=CAREFUL)
    go_to_share(chain, newer, 5)
    chain.vertex.serve = bad_model(newer, failing)
    chain.vertex.faults.plan("set_traffic", *[Failing(RejectedByGoogle("no"))] * canary.RESTORE_ATTEMPTS)
    branch = go_through(chain, newer)
    assert branch.state is State.ROLLED_BACK, branch.reason
    assert shares(chain) == {older: 100}


def test_a_candidate_that_keeps_its_traffic_against_all_efforts_is_not_called_rolled_back(
    chain: Chain, newer: str
) -> None:
    chain.configure(serving=CAREFUL)
    go_to_share(chain, newer, 5)
    chain.vertex.serve = bad_model(newer, failing)
    for call in ("set_traffic", "start_undeploy"):
        chain.vertex.faults.plan(call, *[Failing(RejectedByGoogle("permission was taken away"))] * 9)
    branch = go_through(chain, newer)
    assert branch.state is State.FAILED
    assert branch.reason.endswith("it still has 5 % of flowers: move them away by hand")
    assert "permission was taken away" in branch.reason
