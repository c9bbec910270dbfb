"""An endpoint belongs to one data set: users of one are never answered by the model of another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from cloud_deployer import claims
from cloud_deployer.cleanup.report import read_report
from dualdeploy.ledger import Claim, State, names
from support.deployer import Deployer, Freeze, overwrite

CLAIM = names.endpoint_claim("flowers")


@pytest.fixture
def deployer() -> Deployer:
    """`flowers` serves on its endpoint; `birds` is configured with the same one."""
    deployer = Deployer()
    deployer.bring_out()
    deployer.configure("birds", serving={"endpoint": "flowers"})
    return deployer


def holder(deployer: Deployer) -> Claim:
    found = claims.holder_of(deployer.ledger, "flowers")
    assert found is not None
    return found.document


def test_a_second_data_set_does_not_take_the_traffic_of_the_first(deployer: Deployer) -> None:
    before, since = deployer.shares(), holder(deployer).since
    birds = deployer.train(2, dataset="birds")
    release = deployer.go_through(birds)
    assert release.state is State.FAILED
    assert f"endpoint flowers is held by data set flowers since {since}" in release.reason
    assert "give birds another serving.endpoint, or send flowers to /retire" in release.reason
    assert deployer.shares() == before
    assert "dualdeploy-birds" not in deployer.vertex.models


def test_a_data_set_whose_configuration_is_broken_keeps_its_endpoint(deployer: Deployer) -> None:
    deployer.write_config("flowers", b"dataset: [")
    assert deployer.go_through(deployer.train(2, dataset="birds")).state is State.FAILED
    assert holder(deployer).dataset == "flowers"


def test_the_holder_itself_is_not_in_its_own_way(deployer: Deployer) -> None:
    since = holder(deployer).since
    deployer.bring_out(2)
    assert holder(deployer).since == since


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_of_two_first_releases_at_once_one_has_the_endpoint_in_whatever_order_their_writes_come(
    number: int, when: str
) -> None:
    """One instance is frozen around an operation of the step that claims, while the other release goes all the way."""
    deployer = Deployer()
    deployer.configure("birds", serving={"endpoint": "flowers"})
    birds, flowers = deployer.train(2, dataset="birds", announce=False), deployer.train(1, announce=False)
    deployer.interfere = Freeze(
        deployer, at_reserve(deployer, flowers, when), lambda: deployer.go_through(birds), number=number
    )
    deployer.go_through(flowers)
    assert deployer.interfere.happened
    assert {deployer.release(each).state for each in (birds, flowers)} == {State.LIVE, State.FAILED}
    assert list(deployer.shares().values()) == [100]
    assert dataset_that_serves(deployer) == holder(deployer).dataset


def at_reserve(deployer: Deployer, run_id: str, when: str) -> Callable[[str, str], bool]:
    """At an operation on the ledger while that release is at the step that claims the endpoint."""

    def is_here(name: str, at: str) -> bool:
        n = deployer.ledger.newest_release_number(run_id, "cloud")
        return at == when and name.startswith("ledger.") and bool(n) and deployer.release(run_id).step == "reserve"

    return is_here


def dataset_that_serves(deployer: Deployer) -> str:
    (run_id,) = [run_id for run_id, share in deployer.shares().items() if share]
    return run_id.rsplit("-", 1)[0]


# Renamed, deleted, retired -------------------------------------------------------------------------------------


def renamed(deployer: Deployer) -> str:
    """`flowers` was renamed `birds`; clients keep the address. The run of the new name."""
    deployer.forget("flowers")
    return deployer.train(2, dataset="birds")


def test_a_renamed_data_set_takes_its_endpoint_over_after_ten_minutes(deployer: Deployer) -> None:
    old = deployer.live_run()
    birds = renamed(deployer)
    assert "held by flowers since" in deployer.standing(birds).waits_for
    assert "it becomes free at 2026-11-23T" in deployer.standing(birds).waits_for
    for _ in range(8):
        deployer.tick()
    assert deployer.shares() == {old: 100}
    assert deployer.go_through(birds).state is State.LIVE
    assert deployer.shares() == {birds: 100}
    assert (holder(deployer).dataset, holder(deployer).formerly) == ("birds", ("flowers",))


def test_what_the_old_name_left_on_the_endpoint_goes_and_its_record_says_so(deployer: Deployer) -> None:
    deployer.configure("birds", serving={"endpoint": "flowers", "cool_down": "30m"})
    birds = renamed(deployer)
    assert deployer.go_through(birds).state is State.LIVE
    for _ in range(6):
        deployer.tick(1800)
        deployer.vertex.finish_operations()
    assert deployer.shares() == {birds: 100}
    assert "endpoint flowers is held by data set birds since" in deployer.serving("flowers").undeployed_because
    assert read_report(deployer.ledger, "flowers").document.left == ()


def test_the_endpoint_of_a_renamed_data_set_is_not_deleted_while_nothing_is_deployed_there(deployer: Deployer) -> None:
    deployer.go_through(renamed(deployer))
    endpoint = deployer.vertex.endpoints["flowers"]
    deployer.vertex.endpoints["flowers"] = dataclasses.replace(endpoint, deployed=(), traffic={})
    for _ in range(40):
        deployer.tick(3600)
        deployer.vertex.finish_operations()
    assert "flowers" in deployer.vertex.endpoints


def test_a_configuration_that_comes_back_in_time_keeps_the_endpoint(deployer: Deployer) -> None:
    text = deployer.forget("flowers")
    birds = deployer.train(2, dataset="birds")
    for _ in range(5):
        deployer.tick()
    deployer.write_config("flowers", text)
    release = deployer.go_through(birds)
    assert (release.state, holder(deployer).dataset) == (State.FAILED, "flowers")


def test_a_data_set_that_comes_back_too_late_is_told_who_has_its_endpoint(deployer: Deployer) -> None:
    text = deployer.forget("flowers")
    assert deployer.go_through(deployer.train(2, dataset="birds")).state is State.LIVE
    deployer.write_config("flowers", text)
    release = deployer.go_through(deployer.train(3))
    assert release.state is State.FAILED
    assert "endpoint flowers is held by data set birds since" in release.reason


def test_the_endpoint_of_a_data_set_that_serves_elsewhere_passes_on_after_ten_minutes(deployer: Deployer) -> None:
    deployer.configure(serving={"endpoint": "own"})
    still_here = deployer.go_through(deployer.train(2, dataset="birds"))
    assert still_here.state is State.FAILED
    assert "names own, but" in still_here.reason
    assert "send flowers to /redeploy" in still_here.reason
    moved = deployer.bring_out(3)
    birds = deployer.train(4, dataset="birds")
    deployer.tick()
    assert "flowers is sent to /retire" not in deployer.standing(birds).waits_for
    deployer.go_through(birds)
    assert deployer.release(birds).state is State.LIVE
    assert [each.display_name for each in deployer.vertex.endpoints["own"].deployed] == [moved]
    assert [each.display_name for each in deployer.vertex.endpoints["flowers"].deployed] == [birds]


def test_a_holder_with_a_release_under_way_keeps_its_endpoint_until_that_is_through(deployer: Deployer) -> None:
    deployer.configure(serving={"canary": {"steps": [50, 100], "bake": "1h", "answers": 2}})
    flowers = deployer.train(3)
    deployer.go_to(flowers, "bake")
    birds = renamed(deployer)
    for _ in range(20):
        deployer.tick()
    assert f"has {flowers} under way since" in deployer.standing(birds).waits_for
    assert deployer.post("abort", dataset="flowers").status_code == 202
    assert deployer.go_through(birds).state is State.LIVE
    assert deployer.release(flowers).state is State.ROLLED_BACK
    assert deployer.shares() == {birds: 100}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, 7))
def test_an_endpoint_does_not_pass_on_while_a_release_of_the_holder_claims_it_in_that_moment(
    deployer: Deployer, number: int, when: str
) -> None:
    """The instance that takes it over is frozen, and a rollback of the holder, which needs no configuration, begins."""
    older = deployer.train(5, announce=False)
    birds = renamed(deployer)
    for _ in range(9):
        deployer.tick()

    def bring_back() -> None:
        assert deployer.post("redeploy", run_id=older).status_code == 202
        deployer.write_config("flowers", text)
        for _ in range(3):
            deployer.tick(0)
        deployer.forget("flowers")

    text = deployer.config.read("datasets/birds.yaml").data.replace(b"birds", b"flowers")
    freeze = Freeze(deployer, at_reserve(deployer, birds, when), bring_back, number=number)
    deployer.interfere = freeze
    deployer.tick(120)
    assert freeze.happened
    for _ in range(40):
        deployer.tick()
        deployer.vertex.finish_operations()
    ends = [deployer.release(each).state for each in (birds, older)]
    assert State.LIVE in ends, ends
    assert list(deployer.shares().values()) == [100]
    assert dataset_that_serves(deployer) == holder(deployer).dataset


def test_a_data_set_that_was_retired_frees_its_endpoint_at_once(deployer: Deployer) -> None:
    deployer.forget("flowers")
    assert deployer.post("retire", dataset="flowers", confirm=True).status_code == 202
    deployer.settle()
    birds = deployer.train(2, dataset="birds")
    began = deployer.clock()
    assert deployer.go_through(birds).state is State.LIVE
    assert (deployer.clock() - began).total_seconds() < 600


def test_a_claim_that_passes_on_while_its_holder_gives_it_up_stays_with_the_new_holder(deployer: Deployer) -> None:
    def pass_on(name: str) -> None:
        if name == "delete":
            deployer.ledger_store.faults.before = lambda _name: None
            deployer.edit(CLAIM, lambda claim: claim.update(dataset="birds"))

    deployer.ledger_store.faults.before = pass_on
    assert not claims.free(deployer.ledger, "flowers", "flowers")
    assert holder(deployer).dataset == "birds"


# Claims that cannot be read ------------------------------------------------------------------------------------


def test_a_claim_that_cannot_be_read_is_named_and_stops_no_other_data_set(deployer: Deployer) -> None:
    overwrite(deployer.ledger_store, CLAIM, b"{")
    release = deployer.go_through(deployer.train(3))
    assert release.state is State.FAILED
    assert "claims/endpoints/flowers.json cannot be read as a Claim" in release.reason
    deployer.configure("fish")
    assert deployer.go_through(deployer.train(1, dataset="fish")).state is State.LIVE


def test_what_a_newer_version_wrote_into_a_claim_is_kept(deployer: Deployer) -> None:
    deployer.edit(
        CLAIM, lambda claim: claim.update(shared_with=["fish"], unconfigured_since="2026-11-23T12:00:00.000Z")
    )
    deployer.bring_out(2)
    assert holder(deployer).unconfigured_since == ""
    assert holder(deployer).model_dump()["shared_with"] == ["fish"]
