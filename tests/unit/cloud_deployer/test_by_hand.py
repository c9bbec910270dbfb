"""What people change by hand on the endpoint is respected, and told: it is theirs."""

from __future__ import annotations

import dataclasses

import pytest

from cloud_deployer.steps.shares import TrafficMoved
from dualdeploy.google.vertex import DeployedModel
from dualdeploy.ledger import State
from support.deployer import Deployer
from support.fakes.vertex import PARENT

KEEPS = {"keep_previous": 1}


@pytest.fixture
def deployer() -> Deployer:
    """Two releases; the first is kept for a rollback."""
    deployer = Deployer()
    deployer.configure(serving=KEEPS)
    deployer.bring_out(1)
    deployer.bring_out(2)
    return deployer


def both(deployer: Deployer) -> tuple[str, str]:
    return deployer.serving().previous.run_id, deployer.live_run()


def test_a_rollback_goes_to_what_people_gave_users_and_not_to_what_they_took_away(deployer: Deployer) -> None:
    good, bad = both(deployer)
    deployer.set_traffic({good: 100})
    newest = deployer.bring_out(3)
    assert deployer.shares() == {good: 0, newest: 100}
    assert deployer.release(bad).state is State.ROLLED_BACK
    assert deployer.release(bad).reason == "its traffic was moved away by hand"
    response = deployer.post("rollback", dataset="flowers", reason="it sees cats")
    assert (response.status_code, response.json["run_id"]) == (202, good)
    assert deployer.go_through(good, n=2).state is State.LIVE
    assert deployer.shares()[good] == 100


def test_when_people_gave_the_traffic_to_a_model_of_theirs_someone_has_to_choose_where_a_rollback_goes(
    deployer: Deployer,
) -> None:
    older, newer = both(deployer)
    endpoint = deployer.vertex.endpoints["flowers"]
    theirs = DeployedModel("72", f"{PARENT}/models/theirs", "1", "their experiment")
    deployer.vertex.endpoints["flowers"] = dataclasses.replace(endpoint, deployed=(*endpoint.deployed, theirs))
    deployer.set_traffic({"their experiment": 100})
    newest = deployer.bring_out(3)
    assert deployer.live_run() == newest
    response = deployer.post("rollback", dataset="flowers")
    assert response.status_code == 409
    assert (
        f"{newer}, which served before, was taken back (its traffic was moved away by hand)" in response.json["error"]
    )
    assert response.json["candidates"] == [newer, older]
    assert deployer.post("rollback", dataset="flowers", to_run=older).status_code == 202
    assert deployer.go_through(older, n=2).state is State.LIVE


def test_a_share_that_people_took_from_what_serves_changes_nothing_about_the_way_back(deployer: Deployer) -> None:
    older, newer = both(deployer)
    deployer.set_traffic({older: 30, newer: 70})
    deployer.bring_out(3)
    assert deployer.post("rollback", dataset="flowers").json["run_id"] == newer


@pytest.mark.parametrize("step", ["baseline", "shift", "probe", "bake"])
@pytest.mark.parametrize("split", [{"older": 100}, {"older": 60, "newer": 40}, {"newer": 100}])
def test_a_split_that_is_changed_in_the_middle_of_a_rollout_stays(
    deployer: Deployer, step: str, split: dict[str, int]
) -> None:
    deployer.configure(serving={**KEEPS, "canary": {"steps": [5, 50, 100], "bake": "5m", "answers": 2}})
    _, serves = both(deployer)
    newest = deployer.train(3)
    by_hand = {{"older": serves, "newer": newest}[key]: share for key, share in split.items()}
    deployer.go_to(newest, "deploy", begun=True)
    deployer.vertex.finish_operations()

    def move(_number: int, name: str, when: str) -> None:
        if deployer.release(newest).step == step and (name, when) == ("vertex.find_endpoint", "before"):
            deployer.interfere = lambda *_: None
            deployer.set_traffic(by_hand)

    deployer.interfere = move
    for _ in range(20):
        deployer.tick()
        deployer.vertex.finish_operations()
    release = deployer.release(newest)
    if release.state is State.FAILED:
        assert release.reason.startswith(TrafficMoved.__name__)
        assert {run_id: share for run_id, share in deployer.shares().items() if share} == by_hand
        assert deployer.live_run() == serves
    else:
        # Before the first share, what people left as it was is what the rollout begins with.
        assert step in ("baseline", "shift")
        assert split == {"older": 100}
