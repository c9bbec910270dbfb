"""An endpoint that nobody asks is told with its cost, and taken down only where the configuration says so."""

from __future__ import annotations

import logging

import pytest
from chain import Chain

from cloud_deployer import hygiene
from cloud_deployer.hygiene import Report
from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable
from dualdeploy.ledger import State
from dualdeploy.monitoring import Served
from dualdeploy.testing import Failing

DAY = 24 * 60


def released(chain: Chain, edition: int = 1) -> str:
    known = set(chain.run_ids())
    chain.upload(edition=edition)
    chain.settle(ticks=25)
    (run_id,) = set(chain.run_ids()) - known
    return run_id


def configured(**serving: object) -> Chain:
    chain = Chain()
    chain.configure(serving={"canary": {"steps": [50, 100], "bake": 0, "answers": 2}, "idle_after": "2h", **serving})
    return chain


def pass_time(chain: Chain, *, minutes: int) -> None:
    for _ in range(minutes):
        chain.tick()
        chain.vertex.finish_operations()


def report(chain: Chain) -> Report:
    return hygiene.read_report(chain.ledger, "flowers").document


def deployed(chain: Chain) -> list[str]:
    return [one.display_name for one in chain.vertex.endpoints["flowers"].deployed]


def test_an_idle_endpoint_is_told_once_with_its_monthly_cost(caplog: pytest.LogCaptureFixture) -> None:
    chain = configured(min_replicas=2, max_replicas=2)
    run_id = released(chain)
    with caplog.at_level(logging.WARNING, "cloud_deployer.janitor"):
        pass_time(chain, minutes=110)
        assert report(chain).idle is None
        pass_time(chain, minutes=250)
    idle = chain.http("cloud").get("/status/flowers").json["hygiene"]["idle"]
    hour = 0.219 * 2 * 730
    assert idle["usd_per_month"] == pytest.approx(hour, rel=0.2)
    assert idle["price"].startswith("2 x n1-standard-4 in us-central1 at ")
    assert [record.message[:24] for record in caplog.records if "is idle" in record.message] == [
        "endpoint flowers is idle"
    ]
    # Since the first look that saw it, not since the last.
    assert idle["since"] < report(chain).looked_at
    assert deployed(chain) == [run_id]
    assert chain.live("cloud").undeployed_at == ""


def test_an_endpoint_that_is_asked_is_not_idle_and_stops_being_it() -> None:
    chain = configured(idle="undeploy")
    run_id = released(chain)
    live_id = chain.live("cloud").current.facts["deployed_model"]
    chain.monitoring.seen[live_id] = Served(1, 0)
    pass_time(chain, minutes=6 * 60)
    assert report(chain).idle is None
    # Somebody asks and gets an error: that is no reason to take it away either.
    chain.monitoring.seen[live_id] = Served(0, 1)
    pass_time(chain, minutes=6 * 60)
    assert deployed(chain) == [run_id]


def test_a_model_that_nobody_asks_is_taken_down_and_the_record_says_so() -> None:
    chain = configured(idle="undeploy", keep_previous=1)
    runs = [released(chain, edition) for edition in (1, 2)]
    assert deployed(chain) == runs
    pass_time(chain, minutes=5 * 60)
    endpoint = chain.vertex.endpoints["flowers"]
    assert (endpoint.deployed, endpoint.traffic) == ((), {})
    live = chain.live("cloud")
    assert live.current.run_id == runs[1]
    assert live.undeployed_at
    assert "nobody has asked it since" in live.undeployed_because
    assert [removal.run_id for removal in report(chain).removed] == runs
    # It stays so, and nothing is done to what is not there.
    operations = len(chain.vertex.operations)
    pass_time(chain, minutes=DAY)
    assert len(chain.vertex.operations) == operations
    assert "flowers" in chain.vertex.endpoints
    assert report(chain).idle is None


@pytest.mark.parametrize("how", ["redeploy", "rollback", "release"])
def test_what_was_taken_down_comes_back_with_the_next_release(how: str) -> None:
    chain = configured(idle="undeploy")
    runs = [released(chain, edition) for edition in (1, 2)]
    pass_time(chain, minutes=5 * 60)
    assert deployed(chain) == []
    address = chain.vertex.endpoints["flowers"].name
    if how == "release":
        expected = released(chain, 3)
    else:
        chain.handle(chain.post("cloud", how, dataset="flowers"))
        chain.settle()
        expected = {"redeploy": runs[1], "rollback": runs[0]}[how]
    assert chain.branch(expected, "cloud").state is State.LIVE
    assert deployed(chain) == [expected]
    assert list(chain.vertex.endpoints["flowers"].traffic.values()) == [100]
    assert chain.vertex.endpoints["flowers"].name == address
    live = chain.live("cloud")
    assert (live.current.run_id, live.undeployed_at, live.undeployed_because) == (expected, "", "")


def test_what_serves_is_not_taken_down_beside_somebody_elses_model() -> None:
    from cloud_deployer.handler import model_id_of  # only this test wants a stranger
    from dualdeploy.vertex import DeployedModel

    chain = configured(idle="undeploy")
    run_id = released(chain)
    endpoint = chain.vertex.endpoints["flowers"]
    stranger = DeployedModel("72", f"projects/p/locations/l/models/not-{model_id_of('flowers')}", "1", "theirs")
    chain.vertex.endpoints["flowers"] = type(endpoint)(
        endpoint.name, (*endpoint.deployed, stranger), endpoint.traffic, endpoint.dns, endpoint.labels
    )
    pass_time(chain, minutes=5 * 60)
    assert deployed(chain) == [run_id, "theirs"]
    assert "has traffic" in report(chain).failed[0].problem
    assert chain.live("cloud").undeployed_at == ""


@pytest.mark.parametrize("failure", [ServiceUnavailable("503"), RejectedByGoogle("monitoring.viewer is missing")])
def test_without_an_answer_of_cloud_monitoring_nothing_is_idle_and_the_rest_is_tidied(failure: Exception) -> None:
    chain = configured(idle="undeploy", cool_down="4h")
    runs = [released(chain, edition) for edition in (1, 2)]
    chain.monitoring.faults.plan("served", *[Failing(failure)] * 7)
    pass_time(chain, minutes=6 * 60)
    assert chain.monitoring.faults.calls["served"] >= 3
    assert deployed(chain) == [runs[1]]
    assert report(chain).idle is None


def test_a_price_that_is_not_known_is_said_and_hides_nothing() -> None:
    chain = configured(machine="c3-highmem-176")
    released(chain)
    pass_time(chain, minutes=4 * 60)
    idle = report(chain).idle
    assert idle.usd_per_month is None
    assert "no serving price of c3-highmem-176" in idle.price


def test_an_idle_endpoint_is_left_alone_where_the_janitor_only_reports() -> None:
    chain = configured(idle="undeploy", hygiene="report")
    run_id = released(chain)
    pass_time(chain, minutes=5 * 60)
    assert deployed(chain) == [run_id]
    assert [removal.run_id for removal in report(chain).surplus] == [run_id]


def test_nobody_looks_where_no_time_is_set() -> None:
    chain = configured(idle_after=None, idle="undeploy")
    released(chain)
    pass_time(chain, minutes=5 * 60)
    assert chain.monitoring.asked == []
