"""A data set that is retired leaves nothing that costs, and frees what only one can hold."""

from __future__ import annotations

import dataclasses
import functools

import pytest

from cloud_deployer.naming import model_id_of
from dualdeploy.errors import RejectedByGoogle
from dualdeploy.google.vertex import DATASET_LABEL, DeployedModel, ModelSpec
from dualdeploy.ledger import State
from support.deployer import Deployer, Kill, kill_points
from support.fakes import Failing
from support.fakes.vertex import PARENT


@pytest.fixture
def deployer() -> Deployer:
    return a_project()


def a_project() -> Deployer:
    return _project().continued()


@functools.cache
def _project() -> Deployer:
    """Two releases of which both are still deployed, and another data set."""
    deployer = Deployer()
    deployer.configure("fish")
    deployer.configure(serving={"keep_previous": 1})
    deployer.bring_out(1)
    deployer.bring_out(2)
    deployer.bring_out(1, dataset="fish")
    return deployer


def retire(deployer: Deployer, **more: object) -> None:
    response = deployer.post("retire", dataset="flowers", confirm=True, **more)
    assert response.status_code == 202, response.json
    deployer.settle()


def check_nothing_is_left(deployer: Deployer) -> None:
    assert list(deployer.vertex.endpoints) == ["fish"]
    assert list(deployer.vertex.models) == [model_id_of("fish")]
    assert list(deployer.shares("fish").values()) == [100]
    assert deployer.ledger.names("claims/endpoints/") == ["claims/endpoints/fish.json"]
    serving = deployer.serving()
    assert (serving.current, serving.previous, serving.under_way) == (None, None, None)
    assert serving.retired_at


def test_without_a_confirmation_it_only_tells_what_it_would_take_down(deployer: Deployer) -> None:
    older, newer = deployer.shares()
    before = (dict(deployer.vertex.endpoints), list(deployer.vertex.models))
    response = deployer.post("retire", dataset="flowers")
    assert response.status_code == 200
    ids = {one.display_name: one.id for one in deployer.vertex.endpoints["flowers"].deployed}
    assert response.json["takes_down"] == [
        f"deployed model {ids[older]} of endpoint flowers ({older})",
        f"deployed model {ids[newer]} of endpoint flowers ({newer})",
        "endpoint flowers",
        "model version 1 of dualdeploy-flowers",
        "model version 2 of dualdeploy-flowers",
    ]
    assert response.json["send"] == {"path": "/retire", "body": {"dataset": "flowers", "confirm": True}}
    deployer.settle(ticks=5)
    assert (dict(deployer.vertex.endpoints), list(deployer.vertex.models)) == before


def test_confirmed_it_takes_down_everything_of_the_data_set_and_nothing_else(deployer: Deployer) -> None:
    newer = deployer.live_run()
    retire(deployer, reason="the project ends")
    check_nothing_is_left(deployer)
    release = deployer.release(newer)
    assert (release.state, release.n) == (State.ROLLED_BACK, 2)
    assert release.reason == "retire: the project ends: nothing of flowers stands any more"
    assert deployer.release(newer, 1).state is State.ROLLED_BACK
    assert [m["outcome"] for m in deployer.messages(run_id=newer)] == ["live", "rolled_back"]


def test_it_works_without_a_configuration(deployer: Deployer) -> None:
    deployer.forget()
    retire(deployer)
    check_nothing_is_left(deployer)


def test_a_retired_data_set_that_gets_data_again_begins_anew(deployer: Deployer) -> None:
    retire(deployer)
    newest = deployer.bring_out(3)
    assert deployer.shares() == {newest: 100}
    assert deployer.serving().retired_at == ""
    assert deployer.serving().previous is None


def test_what_is_not_ours_stays_and_is_told(deployer: Deployer) -> None:
    endpoint = deployer.vertex.endpoints["flowers"]
    theirs = DeployedModel("72", f"{PARENT}/models/theirs", "1", "their experiment")
    deployer.vertex.endpoints["flowers"] = dataclasses.replace(endpoint, deployed=(*endpoint.deployed, theirs))
    spec = ModelSpec(
        model_id=model_id_of("flowers"),
        display_name="x",
        artifact_uri="gs://models/x",
        image="image",
        predict_route="/predict",
        health_route="/health",
        port=8080,
        environment={},
        labels={DATASET_LABEL: "flowers"},
        aliases=["by-hand"],
    )
    deployer.vertex.start_upload(spec)
    deployer.vertex.finish_operations()
    told = deployer.post("retire", dataset="flowers").json["takes_down"]
    assert "endpoint flowers, which stays: 1 of its models are not ours" in told
    retire(deployer)
    # Without a share of the traffic, nothing can take over from what serves.
    assert deployer.release(deployer.live_run()).state is State.FAILED
    assert "other models (72) and none of them has traffic" in deployer.release(deployer.live_run()).reason
    deployer.set_traffic({deployer.live_run(): 90, "their experiment": 10})
    retire(deployer)
    assert deployer.shares() == {"their experiment": 100}
    (version,) = deployer.vertex.models[model_id_of("flowers")].versions
    assert set(version.aliases) == {"by-hand", "default"}
    assert deployer.serving().current is None


def test_while_a_release_is_under_way_it_says_what_to_send_first(deployer: Deployer) -> None:
    newest = deployer.train(3)
    response = deployer.post("retire", dataset="flowers", confirm=True)
    assert response.status_code == 409
    assert response.json["send"] == {"path": "/abort", "body": {"dataset": "flowers", "run_id": newest}}
    deployer.go_through(newest)


def test_what_google_refuses_ends_it_with_googles_words_and_it_can_be_sent_again(deployer: Deployer) -> None:
    newer = deployer.live_run()
    deployer.vertex.faults.plan("start_delete_endpoint", Failing(RejectedByGoogle("a policy forbids it")))
    retire(deployer)
    assert deployer.release(newer).state is State.FAILED
    assert "a policy forbids it" in deployer.release(newer).reason
    assert deployer.serving().undeployed_because == "retire"
    retire(deployer)
    check_nothing_is_left(deployer)


def test_while_something_serves_the_record_does_not_say_that_nothing_does(deployer: Deployer) -> None:
    newer = deployer.live_run()
    # Its first call takes down what is kept, its second what serves.
    refused = Failing(RejectedByGoogle("a policy forbids it"))
    deployer.interfere = lambda _number, name, when: (
        deployer.vertex.faults.plan("start_undeploy", refused)
        if (name, when, len(deployer.shares())) == ("vertex.find_endpoint", "before", 1)
        else None
    )
    retire(deployer)
    assert deployer.release(newer).state is State.FAILED
    assert list(deployer.shares().values()) == [100]
    assert deployer.serving().undeployed_at == ""


def test_killed_at_any_operation_it_ends_with_nothing_left() -> None:
    def retired(kill: Kill | None = None) -> Deployer:
        deployer = a_project()
        deployer.operations.clear()
        live = deployer.live_run()
        assert deployer.post("retire", dataset="flowers", confirm=True).status_code == 202
        if kill:
            deployer.interfere = kill
        deployer.settle(ticks=25)
        assert deployer.release(live, 1).state is State.ROLLED_BACK
        return deployer

    failures = []
    for number, when in kill_points(retired().operations):
        kill = Kill(number, when)
        deployer = retired(kill)
        try:
            assert kill.happened
            check_nothing_is_left(deployer)
        except AssertionError as exc:
            failures.append(f"killed {when} {number} ({deployer.operations[number]}): {exc}")
    assert failures == []
