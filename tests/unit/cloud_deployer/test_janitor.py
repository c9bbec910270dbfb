"""What nothing needs any more is removed by the clock, and nothing else is: not by a bug, a crash or a race either."""

from __future__ import annotations

import dataclasses
import datetime
import functools
from typing import Any

import pytest
from chain import DEPLOYER_SETTINGS, Chain, Interleaving

from cloud_deployer import hygiene
from cloud_deployer.handler import model_id_of
from cloud_deployer.hygiene import Report
from dualdeploy.clock import to_text
from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable
from dualdeploy.ledger import State
from dualdeploy.object_store import ABSENT
from dualdeploy.testing import Failing
from dualdeploy.testing.failing import ProcessDied
from dualdeploy.testing.vertex import PARENT
from dualdeploy.vertex import DATASET_LABEL, DeployedModel, Endpoint, ModelSpec

HOUR = 3600.0
REPORT_ONLY = dataclasses.replace(DEPLOYER_SETTINGS, hygiene="report")
FLOWERS_MODEL = f"{PARENT}/models/{model_id_of('flowers')}"


def release(chain: Chain, edition: int) -> str:
    """A run of its own that goes live; its id."""
    known = set(chain.run_ids())
    chain.upload(edition=edition)
    chain.settle(ticks=25)
    (run_id,) = set(chain.run_ids()) - known
    chain.clock.advance(600)
    return run_id


def report(chain: Chain, dataset: str = "flowers") -> Report:
    return hygiene.read_report(chain.ledger, dataset).document


def pass_time(chain: Chain, *, minutes: int = 75) -> None:
    for _ in range(minutes):
        chain.tick()
        chain.vertex.finish_operations()


def deployed_runs(chain: Chain, endpoint: str = "flowers") -> list[str]:
    return [deployed.display_name for deployed in chain.vertex.endpoints[endpoint].deployed]


def version_runs(chain: Chain) -> list[str]:
    """The first alias of each version of the data set's model, oldest first."""
    return [version.aliases[0] for version in chain.vertex.models[model_id_of("flowers")].versions]


def put_on(chain: Chain, endpoint: str, *deployed: DeployedModel, traffic: dict[str, int] | None = None) -> None:
    there = chain.vertex.endpoints[endpoint]
    changed = dataclasses.replace(there, deployed=(*there.deployed, *deployed))
    chain.vertex.endpoints[endpoint] = dataclasses.replace(changed, traffic=traffic or changed.traffic)


def add_endpoint(chain: Chain, name: str, **labels: str) -> None:
    chain.vertex.endpoints[name] = Endpoint(f"{PARENT}/endpoints/{name}", (), {}, "localhost", labels)


def add_version(chain: Chain, alias: str, *, dataset: str = "flowers") -> None:
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
    chain.vertex.start_upload(spec)
    chain.vertex.finish_operations()


# The cool-down -------------------------------------------------------------------------------------------------


@pytest.fixture
def cooling() -> tuple[Chain, str, str]:
    """Two releases, the second just live: the first is still deployed, without traffic."""
    chain = Chain()
    chain.configure(serving={"canary": {"steps": [50, 100], "bake": 0, "answers": 2}, "cool_down": "30m"})
    first = release(chain, 1)
    chain.upload(edition=2)
    chain.settle(ticks=25)
    (second,) = set(chain.run_ids()) - {first}
    assert chain.branch(second, "cloud").state is State.LIVE
    return chain, first, second


def test_what_was_replaced_stays_for_its_cool_down_and_is_then_taken_down(cooling: tuple[Chain, str, str]) -> None:
    chain, first, second = cooling
    assert deployed_runs(chain) == [first, second]
    pass_time(chain, minutes=27)
    assert deployed_runs(chain) == [first, second]
    assert "until" in report(chain).left[0] or report(chain).looked_at == ""
    pass_time(chain, minutes=6)
    assert deployed_runs(chain) == [second]
    (removed,) = report(chain).removed
    assert removed.run_id == first
    assert removed.reason == f"replaced by {second}, and its cool-down is over"


def test_a_rollback_within_the_cool_down_deploys_nothing(cooling: tuple[Chain, str, str]) -> None:
    chain, first, second = cooling
    operations = len(chain.vertex.operations)
    chain.handle(chain.post("cloud", "rollback", dataset="flowers"))
    chain.settle()
    assert chain.live("cloud").current.run_id == first
    assert len(chain.vertex.operations) == operations
    endpoint = chain.vertex.endpoints["flowers"]
    assert {one.display_name: endpoint.traffic.get(one.id, 0) for one in endpoint.deployed} == {first: 100, second: 0}
    # The one that was taken back has a cool-down of its own, and no more.
    pass_time(chain, minutes=40)
    assert deployed_runs(chain) == [first]


def test_a_model_that_is_kept_for_a_rollback_outlives_the_cool_down() -> None:
    chain = Chain()
    chain.configure(serving={"keep_previous": 1, "cool_down": "30m"})
    runs = [release(chain, 1), release(chain, 2)]
    pass_time(chain, minutes=90)
    assert deployed_runs(chain) == runs
    assert "serving.keep_previous" in report(chain).left[0]


def test_the_look_at_the_end_of_a_cool_down_costs_no_look_at_every_tick(cooling: tuple[Chain, str, str]) -> None:
    chain, _, _ = cooling
    chain.tick()
    chain.operations.clear()
    chain.tick()
    assert not [name for name in chain.operations if name.startswith("vertex.")]


def test_a_release_that_ends_while_a_sweep_is_under_way_is_not_put_off(cooling: tuple[Chain, str, str]) -> None:
    chain, _, _ = cooling
    read = chain.ledger.read_document(hygiene.DUE_NAME, hygiene.Due)
    hygiene.look_at(chain.ledger, chain.clock())
    before = chain.ledger.read_document(hygiene.DUE_NAME, hygiene.Due).document
    in_an_hour = chain.clock() + datetime.timedelta(hours=1)
    hygiene.put_off(chain.ledger, hygiene.Due(at=to_text(in_an_hour)), read=read)
    assert chain.ledger.read_document(hygiene.DUE_NAME, hygiene.Due).document == before


# A littered project --------------------------------------------------------------------------------------------


def litter() -> tuple[Chain, list[str]]:
    chain, runs = _littered()
    return chain.continued(), runs


@functools.cache
def _littered() -> tuple[Chain, list[str]]:
    """Six releases, and around them everything that people and crashes leave behind."""
    chain = Chain()
    chain.configure(serving={"canary": {"steps": [100], "answers": 1}, "keep_versions": 2})
    # Nothing is tidied before all of it is there.
    chain.janitor = chain.new_janitor(settings=REPORT_ONLY)
    runs = [release(chain, edition) for edition in range(1, 7)]
    # Back to an old one: `live` and `previous` are neither of them the newest.
    chain.handle(chain.post("cloud", "rollback", dataset="flowers", to_run=runs[1]))
    chain.settle()
    chain.handle(chain.post("cloud", "rollback", dataset="flowers", to_run=runs[2]))
    chain.settle()
    assert chain.live("cloud").current.run_id == runs[2]
    assert chain.live("cloud").previous.run_id == runs[1]
    # Deployed by us and forgotten; deployed by somebody else on our endpoint; ours with traffic that somebody gave it.
    put_on(chain, "flowers", DeployedModel("71", FLOWERS_MODEL, "4", runs[3]))
    put_on(chain, "flowers", DeployedModel("72", f"{PARENT}/models/theirs", "1", "their experiment"))
    live_id = chain.live("cloud").current.facts["deployed_model"]
    put_on(chain, "flowers", DeployedModel("73", FLOWERS_MODEL, "5", runs[4]), traffic={live_id: 90, "73": 10})
    # An endpoint of ours that has another name by now, one of a data set that is gone, and three that are not ours.
    add_endpoint(chain, "flowers-old", **{DATASET_LABEL: "flowers"})
    add_endpoint(chain, "birds", **{DATASET_LABEL: "birds"})
    put_on(chain, "birds", DeployedModel("81", f"{PARENT}/models/{model_id_of('birds')}", "1", "birds-0123456789ab"))
    add_endpoint(chain, "fish", **{DATASET_LABEL: "fish"})
    put_on(chain, "fish", DeployedModel("91", f"{PARENT}/models/{model_id_of('fish')}", "1", "fish-0123456789ab"))
    put_on(chain, "fish", traffic={"91": 100})
    add_endpoint(chain, "theirs")
    add_endpoint(chain, "elsewhere", team="marketing")
    # A version that somebody added by hand.
    add_version(chain, "by-hand")
    return chain, runs


def check_is_clean(chain: Chain, runs: list[str]) -> None:
    """Exactly what should be there, by name."""
    endpoints = {name: [one.id for one in found.deployed] for name, found in chain.vertex.endpoints.items()}
    live_id = chain.live("cloud").current.facts["deployed_model"]
    assert endpoints == {"flowers": [live_id, "72", "73"], "fish": ["91"], "theirs": [], "elsewhere": []}
    assert chain.vertex.endpoints["flowers"].traffic == {live_id: 90, "73": 10}
    # runs[4] is deployed, runs[2] live, runs[1] previous; the newest two are runs[4] and runs[5].
    assert version_runs(chain) == [runs[1], runs[2], runs[4], runs[5], "by-hand"]
    versions = chain.vertex.models[model_id_of("flowers")].versions
    assert [version.aliases[0] for version in versions if "default" in version.aliases] == [runs[5]]
    assert report(chain).surplus == ()
    assert report(chain).under_way is None


def test_a_littered_project_ends_with_exactly_what_should_be_there() -> None:
    chain, runs = litter()
    pass_time(chain, minutes=27 * 60)
    check_is_clean(chain, runs)
    removed = [removal.what for removal in report(chain).removed]
    assert sorted(removed) == sorted(
        [
            f"deployed model 71 of endpoint flowers ({runs[3]})",
            f"model version 1 ({runs[0]})",
            f"model version 4 ({runs[3]})",
            "endpoint flowers-old",
        ]
    )
    assert [removal.kind for removal in report(chain, "birds").removed] == ["deployed model", "endpoint"]
    assert all(removal.reason for removal in report(chain).removed)
    left = "\n".join(report(chain).left)
    assert "72 of endpoint flowers (their experiment) is not ours" in left
    assert "has 10 % of the traffic, and is not what is live" in left
    # What was decided on and done is all that was done: nothing was begun twice.
    assert len(removed) == len(set(removed))


def test_a_janitor_that_only_reports_touches_nothing_and_says_what_it_would_do() -> None:
    chain, runs = litter()
    chain.configure(serving={"canary": {"steps": [100], "answers": 1}, "keep_versions": 2, "hygiene": "report"})
    before = (dict(chain.vertex.endpoints), version_runs(chain))
    birds = chain.vertex.endpoints.pop("birds")
    before[0].pop("birds")
    pass_time(chain, minutes=65)
    assert (chain.vertex.endpoints, version_runs(chain)) == before
    assert {removal.run_id for removal in report(chain).surplus if removal.run_id} == {runs[0], runs[3]}
    chain.vertex.endpoints["birds"] = birds
    chain.janitor = chain.new_janitor(settings=REPORT_ONLY)
    pass_time(chain, minutes=27 * 60)
    assert "birds" in chain.vertex.endpoints
    assert {removal.id for removal in report(chain, "birds").surplus} == {"81"}


def test_a_configuration_that_is_taken_away_for_an_hour_costs_nobody_an_endpoint() -> None:
    chain = Chain()
    add_endpoint(chain, "birds", **{DATASET_LABEL: "birds"})
    pass_time(chain, minutes=120)
    assert report(chain, "birds").unconfigured_since
    chain.configure("birds")
    pass_time(chain, minutes=26 * 60)
    assert "birds" in chain.vertex.endpoints
    assert report(chain, "birds").unconfigured_since == ""


def test_a_broken_configuration_stops_the_janitor_for_its_data_set_alone() -> None:
    chain, _ = litter()
    chain.write_config("flowers", b"dataset: [")
    before = deployed_runs(chain)
    pass_time(chain, minutes=65)
    assert deployed_runs(chain) == before
    assert chain.vertex.endpoints["birds"].deployed == ()


# Releases and the janitor --------------------------------------------------------------------------------------


def test_nothing_is_removed_while_a_release_is_under_way() -> None:
    chain, runs = litter()
    del chain.vertex.endpoints["birds"]
    chain.handle(chain.redeploy("cloud", run_id=runs[2]))
    before = deployed_runs(chain)
    for _ in range(130):
        # The release waits for its gate all the time.
        chain.clock.advance(60)
        chain.janitor.on_clock()
    assert deployed_runs(chain) == before
    assert not [name for name in chain.vertex.operations if not chain.vertex.operations[name].done]


def test_a_release_waits_until_a_removal_is_through(cooling: tuple[Chain, str, str]) -> None:
    chain, first, _ = cooling
    chain.clock.advance(31 * 60)
    chain.janitor.on_clock()
    assert report(chain).under_way.run_id == first
    chain.handle(chain.post("cloud", "rollback", dataset="flowers"))
    for _ in range(3):
        chain.tick()
    # Planned now, it would count on a model that is gone in a moment.
    assert chain.branch(first, "cloud").step == "upload"
    assert "rollout" not in chain.branch(first, "cloud").facts
    chain.settle()
    endpoint = chain.vertex.endpoints["flowers"]
    assert chain.live("cloud").current.run_id == first
    assert [one.display_name for one in endpoint.deployed if endpoint.traffic.get(one.id)] == [first]


def test_a_release_of_a_version_that_is_just_being_deleted_waits_and_uploads_it_anew() -> None:
    chain = Chain()
    chain.configure(serving={"keep_versions": 1, "canary": {"bake": 0, "answers": 1}})
    runs = [release(chain, edition) for edition in (1, 2, 3)]
    chain.clock.advance(HOUR)
    chain.janitor.on_clock()
    chain.janitor.on_clock()
    under_way = report(chain).under_way
    assert under_way is not None
    assert (under_way.kind, under_way.run_id) == ("model version", runs[0])
    assert chain.http("cloud").post("/redeploy", json={"run_id": runs[0], "force": True}).status_code == 202
    chain.tick()
    chain.settle(ticks=25)
    assert chain.branch(runs[0], "cloud").state is State.LIVE, chain.branch(runs[0], "cloud").reason
    assert deployed_runs(chain) == [runs[0]]


def test_a_release_to_an_endpoint_that_is_just_being_deleted_waits_and_makes_it_anew() -> None:
    chain = Chain()
    release(chain, 1)
    add_endpoint(chain, "flowers-2", **{DATASET_LABEL: "flowers"})
    chain.clock.advance(HOUR)
    chain.janitor.on_clock()
    under_way = report(chain).under_way
    assert under_way is not None
    assert (under_way.kind, under_way.id) == ("endpoint", "flowers-2")
    chain.configure(serving={"endpoint": "flowers-2", "canary": {"bake": 0, "answers": 1}})
    chain.upload(edition=2)
    for _ in range(6):
        chain.drain()
        for job in chain.unfinished_jobs():
            chain.train(job)
        chain.tick()
        for name, operation in list(chain.vertex.operations.items()):
            if operation.subject != "flowers-2":
                chain.vertex._finish(name)
    chain.settle(ticks=25)
    (second,) = {deployed.display_name for deployed in chain.vertex.endpoints["flowers-2"].deployed}
    assert chain.branch(second, "cloud").state is State.LIVE, chain.branch(second, "cloud").reason


def test_traffic_that_somebody_gives_a_model_meanwhile_keeps_it(cooling: tuple[Chain, str, str]) -> None:
    chain, first, second = cooling
    chain.clock.advance(31 * 60)
    old, new = (one.id for one in chain.vertex.endpoints["flowers"].deployed)

    def give_traffic(_: Any) -> None:
        put_on(chain, "flowers", traffic={old: 50, new: 50})

    chain.vertex.faults.before = lambda name: give_traffic(name) if name == "start_undeploy" else None
    chain.janitor.on_clock()
    assert deployed_runs(chain) == [first, second]
    assert "has traffic" in report(chain).failed[0].problem


# What can go wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["undeploy", "delete_version", "delete_endpoint"])
def test_an_operation_that_fails_is_told_and_tried_again_an_hour_later(kind: str) -> None:
    chain, runs = litter()
    chain.vertex.fail_operation(kind, "internal error")
    pass_time(chain, minutes=60)
    everywhere = [*report(chain).failed, *report(chain, "birds").failed]
    assert [removal.problem for removal in everywhere] == ["internal error"] or kind == "delete_endpoint"
    pass_time(chain, minutes=28 * 60)
    check_is_clean(chain, runs)


def test_what_google_refuses_for_ever_does_not_keep_the_rest() -> None:
    chain, runs = litter()
    refusals = [Failing(RejectedByGoogle("it is deployed in another region"))] * 40
    chain.vertex.faults.plan("start_delete_version", *refusals)
    pass_time(chain, minutes=120)
    assert deployed_runs(chain) == [runs[2], "their experiment", runs[4]]
    assert "flowers-old" not in chain.vertex.endpoints
    assert {removal.run_id for removal in report(chain).failed} == {runs[0], runs[3]}


@pytest.fixture
def slow() -> tuple[Chain, list[str]]:
    """Ten data sets at a Vertex AI that takes four seconds for each of them."""
    chain = Chain()
    names = sorted(["flowers", *(f"animals-{number}" for number in range(9))])
    for name in names:
        chain.configure(name)

    def take_long(name: str) -> None:
        if name == "find_model_versions":
            chain.clock.advance(4)

    chain.vertex.faults.before = take_long
    return chain, names


def looked_at(chain: Chain, names: list[str]) -> list[str]:
    return [name for name in names if report(chain, name).looked_at]


def test_a_sweep_that_takes_long_goes_on_at_the_next_tick_where_it_stopped(slow: tuple[Chain, list[str]]) -> None:
    chain, names = slow
    for ticks, looked in [(1, 3), (2, 6), (3, 9), (4, 10)]:
        began = chain.clock()
        chain.janitor.on_clock()
        assert (chain.clock() - began).total_seconds() <= 12
        assert looked_at(chain, names) == names[:looked], ticks
    assert chain.janitor.on_clock().message == "nothing to tidy yet"


def test_a_look_that_is_due_before_the_sweep_is_through_is_not_forgotten(slow: tuple[Chain, list[str]]) -> None:
    chain, _ = slow
    chain.janitor.on_clock()
    soon = chain.clock() + datetime.timedelta(minutes=5)
    hygiene.look_at(chain.ledger, soon)
    for _ in range(3):
        chain.janitor.on_clock()
    due = chain.ledger.read_document(hygiene.DUE_NAME, hygiene.Due).document
    assert due == hygiene.Due(at=to_text(soon))


def test_a_right_that_is_missing_stops_the_tidying_and_no_tick() -> None:
    chain = Chain()
    chain.vertex.faults.plan(
        "find_endpoints", *[Failing(RejectedByGoogle("aiplatform.endpoints.list is missing"))] * 50
    )
    run_id = release(chain, 1)
    assert chain.branch(run_id, "cloud").state is State.LIVE
    assert chain.rejected == []


def test_an_operation_that_never_ends_is_given_up() -> None:
    chain, _ = litter()
    chain.vertex.endpoints.pop("birds")
    for _ in range(125):
        chain.tick()
    assert "still under way after" in report(chain).failed[0].problem


class Kill:
    """The process dies at one operation, once; without a number it never does."""

    def __init__(self, number: int | None = None, when: str = "") -> None:
        self._at = (number, when)
        self.happened = False

    def __call__(self, number: int, _name: str, when: str) -> None:
        if (number, when) == self._at and not self.happened:
            self.happened = True
            raise ProcessDied


def tidied(kill: Kill) -> tuple[Chain, list[str]]:
    """A littered project after twenty busy minutes, in which the process may die, and a day."""
    chain, runs = litter()
    chain.interfere = kill
    waits = [60.0] * 20 + [HOUR] * 26 + [60.0] * 3
    for seconds in waits:
        chain.clock.advance(seconds)
        chain.handle(chain.clock_deliveries()[2])
        chain.vertex.finish_operations()
    return chain, runs


def test_killed_at_any_of_its_operations_the_janitor_ends_with_the_same_project() -> None:
    chain, runs = tidied(Kill())
    check_is_clean(chain, runs)
    begun = [number for number, name in enumerate(chain.operations) if name.startswith("vertex.start_")]
    # Up to the removal before the last, which waits for a day; what is only read need not be killed twice.
    points = [(number, "before") for number in range(begun[-2] + 12)]
    points += [(number, "after") for number, _ in points if not _only_reads(chain.operations[number])]
    failures = []
    for number, when in points:
        kill = Kill(number, when)
        killed, runs = tidied(kill)
        try:
            assert kill.happened
            check_is_clean(killed, runs)
        except AssertionError as exc:
            failures.append(f"killed {when} {number} ({killed.operations[number]}): {exc}")
    assert failures == []


def _only_reads(operation: str) -> bool:
    return operation.endswith((".read", ".list", ".operation")) or ".find_" in operation


@pytest.mark.parametrize(
    "call",
    ["find_endpoints", "find_endpoint", "find_model_versions", "find_model_version", "start_undeploy", "operation"],
)
def test_a_call_that_is_not_answered_is_made_again_at_the_next_tick(call: str) -> None:
    chain, runs = litter()
    chain.vertex.faults.plan(call, Failing(ServiceUnavailable("503")), Failing(ServiceUnavailable("503")))
    pass_time(chain, minutes=27 * 60)
    check_is_clean(chain, runs)


def test_two_janitors_at_once_remove_each_thing_once() -> None:
    for seed in range(12):
        chain, runs = litter()
        other = chain.new_janitor()
        first = chain.clock_deliveries()[2]
        second = dataclasses.replace(first, handle=other.on_clock)
        interleaving = Interleaving(seed)
        for _ in range(20):
            chain.clock.advance(60)
            interleaving.run(chain, [first, second, first])
            chain.vertex.finish_operations()
        pass_time(chain, minutes=26 * 60)
        check_is_clean(chain, runs)
        removed = [removal.what for removal in report(chain).removed]
        assert len(removed) == len(set(removed)) == 4


def test_the_status_of_a_data_set_tells_what_was_removed_and_why() -> None:
    chain, runs = litter()
    pass_time(chain, minutes=30)
    told = chain.http("cloud").get("/status/flowers").json["hygiene"]
    assert told["under_way"] is None
    assert {removal["run_id"] for removal in told["removed"]} == {runs[0], runs[3], ""}
    assert all(removal["reason"] and removal["since"] for removal in told["removed"])
    assert "hygiene" not in chain.http("mobile").get("/status/flowers").json


def test_the_status_tells_what_serves_when_the_report_cannot_be_read() -> None:
    chain = Chain()
    run_id = release(chain, 1)
    chain.ledger_store.put(hygiene.report_name("flowers"), b"{not JSON", expect=ABSENT)
    response = chain.http("cloud").get("/status/flowers")
    assert response.status_code == 200
    assert response.json["live"]["current"]["run_id"] == run_id
    assert "hygiene/datasets/flowers.json is not a Report" in response.json["hygiene"]["unreadable"]
