"""What nothing needs any more is removed, and nothing else is: not by a bug, a crash or a race either."""

from __future__ import annotations

import dataclasses
import functools

import pytest

from cloud_deployer import claims
from cloud_deployer.cleanup.report import Report, read_report
from cloud_deployer.cleanup.work import Cleanup
from cloud_deployer.naming import model_id_of
from dualdeploy.errors import LeaseHeld, RejectedByGoogle, ServiceUnavailable
from dualdeploy.google.object_store import ABSENT
from dualdeploy.google.vertex import DATASET_LABEL, DeployedModel, Endpoint, ModelSpec
from dualdeploy.ledger import State, lease, names
from support.deployer import SETTINGS, Deployer, Freeze, Kill, kill_points, overwrite
from support.fakes import Failing
from support.fakes.failing import ProcessDied
from support.fakes.vertex import PARENT

HOUR = 3600.0
REPORT_ONLY = dataclasses.replace(SETTINGS, cleanup="report")
FLOWERS_MODEL = f"{PARENT}/models/{model_id_of('flowers')}"


def release(deployer: Deployer, edition: int) -> str:
    """A run of its own that goes live; its id."""
    run_id = deployer.train(edition)
    assert deployer.go_through(run_id).state is State.LIVE
    deployer.clock.advance(600)
    return run_id


def report(deployer: Deployer, dataset: str = "flowers") -> Report:
    return read_report(deployer.ledger, dataset).document


def pass_time(deployer: Deployer, *, minutes: int = 75) -> None:
    deployer.pass_time(minutes)


def pass_hours(deployer: Deployer, hours: int) -> None:
    """Half an hour at a time; what is due is due for as long as it takes."""
    deployer.pass_time(60 * hours, seconds=1800)


def deployed_runs(deployer: Deployer, endpoint: str = "flowers") -> list[str]:
    return [deployed.display_name for deployed in deployer.vertex.endpoints[endpoint].deployed]


def version_runs(deployer: Deployer) -> list[str]:
    """The first alias of each version of the data set's model, oldest first."""
    return [version.aliases[0] for version in deployer.vertex.models[model_id_of("flowers")].versions]


def put_on(deployer: Deployer, endpoint: str, *deployed: DeployedModel, traffic: dict[str, int] | None = None) -> None:
    there = deployer.vertex.endpoints[endpoint]
    changed = dataclasses.replace(there, deployed=(*there.deployed, *deployed))
    deployer.vertex.endpoints[endpoint] = dataclasses.replace(changed, traffic=traffic or changed.traffic)


def add_endpoint(deployer: Deployer, name: str, **labels: str) -> None:
    deployer.vertex.endpoints[name] = Endpoint(
        f"{PARENT}/endpoints/{name}", (), {}, "localhost", labels, dedicated=True
    )


def add_version(deployer: Deployer, alias: str, *, dataset: str = "flowers") -> None:
    spec = ModelSpec(
        model_id=model_id_of("flowers"),
        display_name="x",
        artifact_uri="gs://models/x",
        image="image",
        predict_route="/predict",
        health_route="/health",
        port=8080,
        environment={},
        labels={DATASET_LABEL: dataset} if dataset else {},
        aliases=[alias],
    )
    deployer.vertex.start_upload(spec)
    deployer.vertex.finish_operations()


# The cool-down -------------------------------------------------------------------------------------------------


@pytest.fixture
def cooling() -> tuple[Deployer, str, str]:
    """Two releases, the second just live: the first is still deployed, without traffic."""
    deployer = Deployer()
    deployer.configure(serving={"cool_down": "30m"})
    first, second = release(deployer, 1), deployer.train(2)
    assert deployer.go_through(second).state is State.LIVE
    return deployer, first, second


def look(deployer: Deployer, dataset: str = "flowers") -> None:
    """Have the cleanup look at the data set with the next tick."""
    deployer.service.world.due.put(f"cleanup/{dataset}", deployer.clock())
    deployer.tick()


def test_what_was_replaced_stays_for_its_cool_down_and_is_then_taken_down(cooling: tuple[Deployer, str, str]) -> None:
    deployer, first, second = cooling
    assert deployed_runs(deployer) == [first, second]
    pass_time(deployer, minutes=26)
    assert deployed_runs(deployer) == [first, second]
    assert "until" in report(deployer).left[0]
    pass_time(deployer, minutes=7)
    assert deployed_runs(deployer) == [second]
    (removed,) = report(deployer).removed
    assert removed.run_id == first
    assert removed.reason == f"replaced by {second}, and its cool-down is over"


def test_a_rollback_within_the_cool_down_deploys_nothing(cooling: tuple[Deployer, str, str]) -> None:
    deployer, first, second = cooling
    operations = len(deployer.vertex.operations)
    assert deployer.post("rollback", dataset="flowers").json["run_id"] == first
    deployer.settle()
    assert deployer.live_run() == first
    assert len(deployer.vertex.operations) == operations
    assert deployer.shares() == {first: 100, second: 0}
    # The one that was taken back has a cool-down of its own, and no more.
    pass_time(deployer, minutes=40)
    assert deployed_runs(deployer) == [first]


def test_a_model_that_is_kept_for_a_rollback_outlives_the_cool_down() -> None:
    deployer = Deployer()
    deployer.configure(serving={"keep_previous": 1, "cool_down": "30m"})
    runs = [release(deployer, 1), release(deployer, 2)]
    pass_time(deployer, minutes=90)
    assert deployed_runs(deployer) == runs
    assert "serving.keep_previous" in report(deployer).left[0]


def test_the_look_at_the_end_of_a_cool_down_costs_no_look_at_every_tick(cooling: tuple[Deployer, str, str]) -> None:
    deployer, _, _ = cooling
    deployer.tick()
    deployer.tick()
    deployer.operations.clear()
    deployer.tick()
    assert not [name for name in deployer.operations if name.startswith("vertex.")]


def test_every_data_set_is_looked_at_once_an_hour_and_when_a_release_ended() -> None:
    deployer = Deployer()
    deployer.configure("birds")
    deployer.clock.now = deployer.clock.now.replace(minute=0)
    looks = []
    for _ in range(130):
        deployer.tick()
        looked_at = report(deployer, "birds").looked_at
        if looked_at and looked_at not in looks:
            looks.append(looked_at)
    assert len(looks) == 2


# A littered project --------------------------------------------------------------------------------------------


def litter() -> tuple[Deployer, list[str]]:
    deployer, runs = _littered()
    return deployer.continued(), runs


@functools.cache
def _littered() -> tuple[Deployer, list[str]]:
    """Six releases, and around them everything that people and crashes leave behind."""
    # Nothing is tidied before all of it is there.
    deployer = Deployer(REPORT_ONLY)
    deployer.configure(serving={"canary": {"steps": [100], "answers": 1}, "keep_versions": 2})
    runs = [release(deployer, edition) for edition in range(1, 7)]
    # Back to an old one: `live` and `previous` are neither of them the newest.
    for run_id in runs[1:3]:
        assert deployer.post("rollback", dataset="flowers", to_run=run_id).status_code == 202
        deployer.settle()
    assert deployer.live_run() == runs[2]
    assert deployer.serving().previous.run_id == runs[1]
    # Deployed by us and forgotten; deployed by someone else on our endpoint; ours with traffic that someone gave it.
    put_on(deployer, "flowers", DeployedModel("71", FLOWERS_MODEL, "4", runs[3]))
    put_on(deployer, "flowers", DeployedModel("72", f"{PARENT}/models/theirs", "1", "their experiment"))
    live_id = deployer.serving().current.deployed_model
    put_on(deployer, "flowers", DeployedModel("73", FLOWERS_MODEL, "5", runs[4]), traffic={live_id: 90, "73": 10})
    # An endpoint of ours that has another name by now, one of a data set that is gone, and three that are not ours.
    add_endpoint(deployer, "flowers-old", **{DATASET_LABEL: "flowers"})
    add_endpoint(deployer, "birds", **{DATASET_LABEL: "birds"})
    put_on(deployer, "birds", DeployedModel("81", f"{PARENT}/models/{model_id_of('birds')}", "1", "birds-0123456789ab"))
    add_endpoint(deployer, "fish", **{DATASET_LABEL: "fish"})
    put_on(deployer, "fish", DeployedModel("91", f"{PARENT}/models/{model_id_of('fish')}", "1", "fish-0123456789ab"))
    put_on(deployer, "fish", traffic={"91": 100})
    add_endpoint(deployer, "theirs")
    add_endpoint(deployer, "elsewhere", team="marketing")
    # A version that someone added by hand.
    add_version(deployer, "by-hand")
    return deployer, runs


def check_is_clean(deployer: Deployer, runs: list[str]) -> None:
    """Exactly what should be there, by name."""
    endpoints = {name: [one.id for one in found.deployed] for name, found in deployer.vertex.endpoints.items()}
    live_id = deployer.serving().current.deployed_model
    assert endpoints == {"flowers": [live_id, "72", "73"], "fish": ["91"], "theirs": [], "elsewhere": []}
    assert deployer.vertex.endpoints["flowers"].traffic == {live_id: 90, "73": 10}
    # runs[4] is deployed, runs[2] live, runs[1] previous; the newest two are runs[4] and runs[5].
    assert version_runs(deployer) == [runs[1], runs[2], runs[4], runs[5], "by-hand"]
    versions = deployer.vertex.models[model_id_of("flowers")].versions
    assert [version.aliases[0] for version in versions if "default" in version.aliases] == [runs[5]]
    assert report(deployer).surplus == ()
    assert report(deployer).under_way is None
    assert deployer.serving().removing == ""


def test_a_littered_project_ends_with_exactly_what_should_be_there() -> None:
    deployer, runs = litter()
    pass_hours(deployer, 30)
    check_is_clean(deployer, runs)
    removed = [removal.what for removal in report(deployer).removed]
    assert sorted(removed) == sorted(
        [
            f"deployed model 71 of endpoint flowers ({runs[3]})",
            f"model version 1 ({runs[0]})",
            f"model version 4 ({runs[3]})",
            "endpoint flowers-old",
        ]
    )
    assert [removal.kind for removal in report(deployer, "birds").removed] == ["deployed model", "endpoint"]
    assert all(removal.reason for removal in report(deployer).removed)
    left = "\n".join(report(deployer).left)
    assert "72 of endpoint flowers (their experiment) is not ours" in left
    assert "has 10 % of the traffic, and is not what is live" in left
    # What was decided on and done is all that was done: nothing was begun twice.
    assert len(removed) == len(set(removed))
    assert deployer.ledger.names("claims/") == ["claims/endpoints/flowers.json"]


def test_a_cleanup_that_only_reports_touches_nothing_and_says_what_it_would_do() -> None:
    deployer, runs = litter()
    deployer.configure(serving={"canary": {"steps": [100], "answers": 1}, "keep_versions": 2, "cleanup": "report"})
    before = (dict(deployer.vertex.endpoints), version_runs(deployer))
    birds = deployer.vertex.endpoints.pop("birds")
    before[0].pop("birds")
    pass_hours(deployer, 2)
    assert (deployer.vertex.endpoints, version_runs(deployer)) == before
    assert {removal.run_id for removal in report(deployer).surplus if removal.run_id} == {runs[0], runs[3]}
    deployer.vertex.endpoints["birds"] = birds
    deployer.service = deployer.another(REPORT_ONLY)
    pass_hours(deployer, 27)
    assert "birds" in deployer.vertex.endpoints
    assert {removal.id for removal in report(deployer, "birds").surplus} == {"81"}


def test_a_configuration_that_is_taken_away_for_an_hour_costs_no_one_an_endpoint() -> None:
    deployer = Deployer()
    add_endpoint(deployer, "birds", **{DATASET_LABEL: "birds"})
    look(deployer, "birds")
    assert report(deployer, "birds").unconfigured_since
    deployer.configure("birds")
    pass_hours(deployer, 26)
    look(deployer, "birds")
    assert "birds" in deployer.vertex.endpoints
    assert report(deployer, "birds").unconfigured_since == ""


def test_a_broken_configuration_stops_the_cleanup_for_its_data_set_alone(caplog: pytest.LogCaptureFixture) -> None:
    deployer, _ = litter()
    deployer.write_config("flowers", b"dataset: [")
    before = deployed_runs(deployer)
    pass_hours(deployer, 3)
    assert deployed_runs(deployer) == before
    assert deployer.vertex.endpoints["birds"].deployed == ()
    # People break a file every day: that is not an error of ours.
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# Releases and the cleanup --------------------------------------------------------------------------------------


def test_nothing_is_removed_while_a_release_is_under_way() -> None:
    deployer, runs = litter()
    del deployer.vertex.endpoints["birds"]
    # The release waits for its deployment all the time.
    assert deployer.post("redeploy", dataset="flowers").status_code == 202
    deployer.go_to(runs[2], "deploy", begun=True)
    before = deployed_runs(deployer)
    began = set(deployer.vertex.operations)
    for _ in range(50):
        look(deployer)
    assert deployed_runs(deployer) == before
    assert set(deployer.vertex.operations) == began


def removing(deployer: Deployer) -> str:
    return deployer.serving().removing


def test_a_release_waits_until_a_removal_is_through(cooling: tuple[Deployer, str, str]) -> None:
    deployer, first, _ = cooling
    deployer.clock.advance(31 * 60)
    look(deployer)
    assert first in removing(deployer)
    assert deployer.post("rollback", dataset="flowers").status_code == 202
    for _ in range(3):
        deployer.tick()
    # Planned now, it would count on a model that is gone in a moment.
    assert deployer.release(first).step == "claim"
    assert "the cleanup, which removes deployed model" in deployer.standing(first).waits_for
    assert deployer.go_through(first, n=2).state is State.LIVE
    assert deployer.live_run() == first
    assert deployer.shares()[first] == 100


def test_a_release_of_a_version_that_is_just_being_deleted_waits_and_uploads_it_anew() -> None:
    deployer = Deployer(REPORT_ONLY)
    deployer.configure(serving={"keep_versions": 1, "canary": {"bake": 0, "answers": 1}})
    runs = [release(deployer, edition) for edition in (1, 2, 3)]
    deployer.service = deployer.another()
    look(deployer)
    assert removing(deployer) == f"model version 1 ({runs[0]})"
    assert deployer.post("redeploy", run_id=runs[0], force=True).status_code == 202
    ended = deployer.go_through(runs[0], n=2)
    assert ended.state is State.LIVE, ended.reason
    assert deployed_runs(deployer) == [runs[0]]


def test_a_release_to_an_endpoint_that_is_just_being_deleted_waits_and_makes_it_anew() -> None:
    deployer = Deployer()
    release(deployer, 1)
    add_endpoint(deployer, "flowers-2", **{DATASET_LABEL: "flowers"})
    look(deployer)
    assert removing(deployer) == "endpoint flowers-2"
    deployer.configure(serving={"endpoint": "flowers-2", "canary": {"bake": 0, "answers": 1}})
    second = deployer.train(2)
    deployer.tick()
    assert deployer.release(second).step == "claim"
    assert deployer.go_through(second).state is State.LIVE
    assert deployed_runs(deployer, "flowers-2") == [second]


def test_traffic_that_someone_gives_a_model_meanwhile_keeps_it(cooling: tuple[Deployer, str, str]) -> None:
    deployer, first, second = cooling
    deployer.clock.advance(31 * 60)

    def give_traffic(_number: int, name: str, when: str) -> None:
        if (name, when) == ("vertex.start_undeploy", "before"):
            deployer.set_traffic({first: 50, second: 50})

    deployer.interfere = give_traffic
    look(deployer)
    assert deployed_runs(deployer) == [first, second]
    assert "has traffic" in report(deployer).failed[0].problem
    assert removing(deployer) == ""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("which", [1, 2, 3])
def test_a_release_that_begins_between_any_two_writes_of_a_removal_and_the_removal_do_not_meet(
    cooling: tuple[Deployer, str, str], which: int, when: str
) -> None:
    """The instance that tidies is frozen there, for longer than its lease, and goes on."""
    deployer, first, _ = cooling
    deployer.clock.advance(31 * 60)

    def writes(name: str, at: str) -> bool:
        return (name, at, deployer.work_of) == ("ledger.put", when, "cleanup/flowers")

    def bring_back() -> None:
        deployer.clock.advance(200)
        deployer.post("rollback", dataset="flowers")
        for _ in range(12):
            deployer.tick()
            deployer.vertex.finish_operations()

    # The first write takes the marker, the second the lease.
    deployer.interfere = Freeze(deployer, writes, bring_back, number=which + 2)
    look(deployer)
    assert deployer.interfere.happened
    deployer.pass_time(20)
    assert deployer.live_run() == first
    assert deployer.shares()[first] == 100
    assert deployer.serving().undeployed_at == ""


@pytest.mark.parametrize("number", range(3, 7))
def test_an_instance_that_was_frozen_while_it_tidied_does_not_undo_what_is_told_since(
    cooling: tuple[Deployer, str, str], number: int
) -> None:
    deployer, first, _ = cooling
    deployer.clock.advance(31 * 60)

    def writes(name: str, at: str) -> bool:
        return (name, at, deployer.work_of) == ("ledger.put", "before", "cleanup/flowers")

    def remove() -> None:
        deployer.clock.advance(200)
        for _ in range(3):
            look(deployer)
            deployer.vertex.finish_operations()
        assert [removal.run_id for removal in report(deployer).removed] == [first]

    # The first write takes the marker, the second the lease.
    deployer.interfere = Freeze(deployer, writes, remove, number=number)
    look(deployer)
    assert deployer.interfere.happened
    assert [removal.run_id for removal in report(deployer).removed] == [first]


def test_an_endpoint_that_is_being_deleted_passes_to_no_other_data_set_however_often_it_is_looked_at() -> None:
    deployer = _moved().continued()
    look(deployer)
    assert removing(deployer) == "endpoint flowers"
    for _ in range(3):
        deployer.tick()
        claim = claims.holder_of(deployer.ledger, "flowers")
        assert claim is not None
        assert claim.document.deleting_since


# What can go wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["undeploy", "delete_version", "delete_endpoint"])
def test_an_operation_that_fails_is_told_and_tried_again_an_hour_later(kind: str) -> None:
    deployer, runs = litter()
    deployer.vertex.fail_operation(kind, "internal error")
    for _ in range(4):
        pass_hours(deployer, 1)
        everywhere = [*report(deployer).failed, *report(deployer, "birds").failed]
        if everywhere:
            break
    assert ["internal error" in removal.problem for removal in everywhere] == [True]
    pass_hours(deployer, 32)
    check_is_clean(deployer, runs)


def test_what_google_refuses_forever_does_not_keep_the_rest() -> None:
    deployer, runs = litter()
    refusals = [Failing(RejectedByGoogle("it is deployed in another region"))] * 40
    deployer.vertex.faults.plan("start_delete_version", *refusals)
    pass_hours(deployer, 6)
    assert deployed_runs(deployer) == [runs[2], "their experiment", runs[4]]
    assert "flowers-old" not in deployer.vertex.endpoints
    assert {removal.run_id for removal in report(deployer).failed} == {runs[0], runs[3]}


def test_a_permission_that_is_missing_stops_the_tidying_and_no_release() -> None:
    deployer = Deployer()
    refusal = Failing(RejectedByGoogle("aiplatform.endpoints.list is missing"))
    deployer.vertex.faults.plan("find_endpoints", *[refusal] * 50)
    release(deployer, 1)
    pass_hours(deployer, 2)
    assert deployer.vertex.faults.calls["find_endpoints"] > 1


def test_an_operation_that_never_ends_is_given_up() -> None:
    deployer, _ = litter()
    deployer.vertex.endpoints.pop("birds")
    for _ in range(200):
        deployer.tick()
    assert "still under way after" in report(deployer).failed[0].problem
    assert removing(deployer) in ("", report(deployer).under_way.what)


def tidied(kill: Kill | None = None) -> tuple[Deployer, list[str]]:
    """A littered project after some busy minutes, in which the process may die, and a day."""
    deployer, runs = litter()
    deployer.operations.clear()
    if kill:
        deployer.interfere = kill
    look(deployer)
    for seconds in [60.0] * 14 + [HOUR] * 30 + [60.0] * 6:
        deployer.vertex.finish_operations()
        deployer.tick(seconds)
    return deployer, runs


def test_killed_at_any_of_its_operations_the_cleanup_ends_with_the_same_project() -> None:
    deployer, runs = tidied()
    check_is_clean(deployer, runs)
    begun = [number for number, name in enumerate(deployer.operations) if name.startswith("vertex.start_")]
    failures = []
    # One removal, from the first look to the last; the others go the same way.
    for number, when in kill_points(deployer.operations[: begun[0] + 20]):
        kill = Kill(number, when)
        killed, runs = tidied(kill)
        try:
            assert kill.happened
            check_is_clean(killed, runs)
        except AssertionError as exc:
            failures.append(f"killed {when} {number} ({killed.operations[number]}): {exc}")
    assert failures == []


def ended_elsewhere(kill: Kill | None = None) -> Deployer:
    """A data set that serves on another endpoint since just now; the cleanup takes the first one away.

    `kill` counts from the first operation of the cleanup.
    """
    deployer = _moved().continued()
    deployer.operations.clear()
    if kill:
        deployer.interfere = kill
    look(deployer)
    for seconds in [60.0] * 10 + [HOUR / 2] * 8:
        deployer.vertex.finish_operations()
        deployer.tick(seconds)
    return deployer


@functools.cache
def _moved() -> Deployer:
    deployer = Deployer(REPORT_ONLY)
    release(deployer, 1)
    deployer.configure(serving={"endpoint": "elsewhere"})
    release(deployer, 2)
    # What has traffic stays until people take it down.
    there = deployer.vertex.endpoints["flowers"]
    deployer.vertex.endpoints["flowers"] = dataclasses.replace(there, deployed=(), traffic={})
    return deployer


def test_killed_at_any_of_its_operations_the_cleanup_takes_an_endpoint_away_with_its_claim() -> None:
    undisturbed = ended_elsewhere()
    begins = undisturbed.operations.index("vertex.start_delete_endpoint")
    failures = []
    for number, when in kill_points(undisturbed.operations[: begins + 25]):
        deployer = ended_elsewhere(Kill(number, when))
        what = [removal.kind for removal in report(deployer).removed]
        stands = (list(deployer.vertex.endpoints), list(deployer.ledger.names("claims/endpoints/")))
        if stands != (["elsewhere"], ["claims/endpoints/elsewhere.json"]) or report(deployer).under_way:
            failures.append(f"killed {when} {number} ({undisturbed.operations[number]}): {what}, {stands}")
        if deployer.serving().removing:
            failures.append(f"killed {when} {number} ({undisturbed.operations[number]}): claimed for ever")
    assert failures == []


def test_of_two_looks_at_one_data_set_at_the_same_time_the_second_waits(cooling: tuple[Deployer, str, str]) -> None:
    deployer, _, _ = cooling
    work = Cleanup(deployer.service.world)
    with lease(deployer.ledger, "cleanup/flowers", seconds=90), pytest.raises(LeaseHeld):
        work.advance("flowers")


@pytest.mark.parametrize(
    "call",
    ["find_endpoints", "find_endpoint", "find_model_versions", "find_model_version", "start_undeploy", "operation"],
)
def test_a_call_that_is_not_answered_is_made_again(call: str) -> None:
    deployer, runs = litter()
    deployer.vertex.faults.plan(call, Failing(ServiceUnavailable("503")), Failing(ServiceUnavailable("503")))
    pass_hours(deployer, 32)
    check_is_clean(deployer, runs)


# What people are told ------------------------------------------------------------------------------------------


def test_the_status_of_a_data_set_tells_what_was_removed_and_why() -> None:
    deployer, runs = litter()
    look(deployer)
    pass_time(deployer, minutes=30)
    told = deployer.http().get("/status/flowers").json["cleanup"]
    assert told["under_way"] is None
    assert {removal["run_id"] for removal in told["removed"]} == {runs[0], runs[3], ""}
    assert all(removal["reason"] and removal["since"] for removal in told["removed"])


def test_a_report_that_cannot_be_read_is_told_and_stops_no_release() -> None:
    deployer = Deployer()
    run_id = release(deployer, 1)
    pass_time(deployer, minutes=2)
    overwrite(deployer.ledger_store, names.cleanup("flowers"), b"{not JSON")
    deployer.edit(names.serving("cloud", "flowers"), lambda serving: serving.update(removing="model version 1"))
    second = deployer.train(2)
    look(deployer)
    assert deployer.go_through(second).state is State.LIVE
    response = deployer.http().get("/status/flowers")
    assert response.status_code == 200
    assert response.json["live"]["previous"]["run_id"] == run_id
    assert "cleanup/flowers.json cannot be read as a Report" in response.json["cleanup"]["unreadable"]


def test_what_a_newer_version_reports_is_kept_and_stops_no_release() -> None:
    deployer = Deployer()
    release(deployer, 1)
    newer = {"kind": "bigquery table", "id": "1", "reason": "old", "rows": 7}
    pass_time(deployer, minutes=2)
    deployer.edit(names.cleanup("flowers"), lambda report: report.update(removed=[newer], tables=3, under_way=newer))
    deployer.edit(names.serving("cloud", "flowers"), lambda serving: serving.update(removing="bigquery table 1"))
    second = deployer.train(2)
    look(deployer)
    assert deployer.go_through(second).state is State.LIVE
    look(deployer)
    told = deployer.http().get("/status/flowers").json["cleanup"]
    assert told["removed"][0]["rows"] == 7
    assert told["tables"] == 3


# A data set without a configuration ----------------------------------------------------------------------------


def test_what_serves_without_a_configuration_is_told_with_its_cost_for_as_long_as_it_costs() -> None:
    deployer = Deployer()
    run_id = release(deployer, 1)
    deployer.forget()
    for _ in range(40):
        deployer.tick(24 * HOUR)
        deployer.vertex.finish_operations()
        look(deployer)
        (told,) = report(deployer).left
        assert f"({run_id}) serves 100 % and costs " in told
        assert "USD a month, but flowers has had no configuration since 2026-11-" in told
    assert deployer.shares() == {run_id: 100}
    assert deployer.http().get("/status/flowers").json["cleanup"]["unconfigured_since"]


@pytest.mark.parametrize(("hours", "is_kept"), [(1, True), (23, True), (26, False)])
def test_a_configuration_that_is_replaced_by_deleting_it_first_does_not_cost_the_way_back(
    cooling: tuple[Deployer, str, str], hours: int, is_kept: bool
) -> None:
    deployer, first, second = cooling
    text = deployer.forget()
    look(deployer)
    for _ in range(hours * 2):
        deployer.tick(1800)
        deployer.vertex.finish_operations()
    assert deployed_runs(deployer) == ([first, second] if is_kept else [second])
    deployer.write_config("flowers", text)


# What another data set may want --------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["names it", "cannot be read"])
def test_an_endpoint_is_not_deleted_while_another_configuration_may_name_it(what: str) -> None:
    deployer = Deployer()
    add_endpoint(deployer, "birds", **{DATASET_LABEL: "birds"})
    deployer.configure("finches", serving={"endpoint": "birds"})
    if what == "cannot be read":
        deployer.write_config("finches", b"dataset: [")
    look(deployer, "birds")
    pass_hours(deployer, 30)
    assert "birds" in deployer.vertex.endpoints


def test_an_endpoint_that_another_data_set_holds_is_left_alone_whatever_its_label_says() -> None:
    deployer = Deployer()
    add_endpoint(deployer, "birds", **{DATASET_LABEL: "birds"})
    claim = b'{"v": 1, "dataset": "finches", "since": "2026-11-23T12:00:00.000Z"}'
    deployer.ledger_store.put(names.endpoint_claim("birds"), claim, expect=ABSENT)
    look(deployer, "birds")
    pass_hours(deployer, 30)
    assert "birds" in deployer.vertex.endpoints
    assert report(deployer, "birds").surplus == ()


def test_an_endpoint_that_was_taken_over_and_left_again_is_not_forgotten() -> None:
    """Its label names another data set, and its holder has served elsewhere for two releases."""
    deployer = Deployer()
    release(deployer, 1)
    deployer.configure("blooms", serving={"endpoint": "flowers"})
    deployer.forget()
    for edition, endpoint in ((2, "flowers"), (3, "blooms"), (4, "blooms")):
        deployer.configure("blooms", serving={"endpoint": endpoint})
        assert deployer.go_through(deployer.train(edition, dataset="blooms")).state is State.LIVE
        deployer.clock.advance(600)
        look(deployer, "blooms")
    # As long as anyone may use the old address, only people know that it can go.
    assert any("of endpoint flowers" in line and "not what is live" in line for line in report(deployer, "blooms").left)
    empty = dataclasses.replace(deployer.vertex.endpoints["flowers"], deployed=(), traffic={})
    deployer.vertex.endpoints["flowers"] = empty
    pass_hours(deployer, 4)
    assert list(deployer.vertex.endpoints) == ["blooms"]
    assert deployer.ledger.names("claims/endpoints/") == ["claims/endpoints/blooms.json"]


def test_a_look_at_one_data_set_costs_the_same_however_many_others_there_are() -> None:
    costs = []
    for others in (0, 30):
        deployer = Deployer()
        release(deployer, 1)
        for number in range(others):
            add_endpoint(deployer, f"animals-{number}", **{DATASET_LABEL: f"animals-{number}"})
            claim = f'{{"dataset": "animals-{number}", "since": "2026-11-23T12:00:00.000Z"}}'.encode()
            deployer.ledger_store.put(names.endpoint_claim(f"animals-{number}"), claim, expect=ABSENT)
        look(deployer)
        deployer.operations.clear()
        look(deployer)
        costs.append(len(deployer.operations))
    assert costs[0] == costs[1]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_deletion_that_is_given_up_does_not_keep_an_endpoint_for_ever(when: str) -> None:
    deployer = Deployer()
    release(deployer, 1)
    add_endpoint(deployer, "flowers-2", **{DATASET_LABEL: "flowers"})

    def dies(_number: int, name: str, at: str) -> None:
        if (name, at) == ("vertex.start_delete_endpoint", when):
            raise ProcessDied

    deployer.interfere = dies
    if when == "after":
        deployer.vertex.fail_operation("delete_endpoint", "internal error")
    look(deployer)
    deployer.interfere = lambda *_: None
    overwrite(deployer.ledger_store, names.cleanup("flowers"), b"{")
    deployer.configure(serving={"endpoint": "flowers-2", "canary": {"bake": 0, "answers": 1}})
    second = deployer.train(2)
    for _ in range(3):
        pass_hours(deployer, 1)
    assert deployer.go_through(second).state is State.LIVE
