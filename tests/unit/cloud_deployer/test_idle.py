"""An endpoint that no one asks is told with its cost, and taken down only where the configuration says so."""

from __future__ import annotations

import functools
import logging

import pytest

from cloud_deployer.cleanup.report import Report, read_report
from cloud_deployer.naming import model_id_of
from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable
from dualdeploy.google.monitoring import Served
from dualdeploy.google.vertex import DeployedModel
from dualdeploy.ledger import State
from support.deployer import Deployer, Kill, kill_points
from support.fakes import Failing

DAY = 24 * 60


def released(deployer: Deployer, edition: int = 1) -> str:
    run_id = deployer.train(edition)
    # Its probes are seen.
    deployer.monitoring.times.append(deployer.clock())
    deployer.go_through(run_id)
    return run_id


def configured(**serving: object) -> Deployer:
    deployer = Deployer()
    deployer.configure(serving={"idle_after": "2h", **serving})
    return deployer


def pass_time(deployer: Deployer, *, minutes: int) -> None:
    """Five minutes at a time: what is due is due for as long as it takes."""
    deployer.pass_time(minutes, seconds=300)


def report(deployer: Deployer) -> Report:
    return read_report(deployer.ledger, "flowers").document


def deployed(deployer: Deployer) -> list[str]:
    return [one.display_name for one in deployer.vertex.endpoints["flowers"].deployed]


def test_an_idle_endpoint_is_told_once_with_its_monthly_cost(caplog: pytest.LogCaptureFixture) -> None:
    deployer = configured(min_replicas=2, max_replicas=2)
    run_id = released(deployer)
    with caplog.at_level(logging.WARNING, "cloud_deployer.cleanup.work"):
        pass_time(deployer, minutes=110)
        assert report(deployer).idle is None
        pass_time(deployer, minutes=250)
    idle = deployer.http().get("/status/flowers").json["cleanup"]["idle"]
    hour = 0.219 * 2 * 730
    assert idle["usd_per_month"] == pytest.approx(hour, rel=0.2)
    assert idle["price"].startswith("2 x n1-standard-4 in us-central1 at ")
    assert [record.message[:24] for record in caplog.records if "is idle" in record.message] == [
        "endpoint flowers is idle"
    ]
    # Since the first look that saw it, not since the last.
    assert idle["since"] < report(deployer).looked_at
    assert deployed(deployer) == [run_id]
    assert deployer.serving().undeployed_at == ""


def test_an_endpoint_that_is_asked_is_not_idle_and_stops_being_it() -> None:
    deployer = configured(idle="undeploy")
    run_id = released(deployer)
    live_id = deployer.serving().current.deployed_model
    deployer.monitoring.seen[live_id] = Served(1, 0)
    pass_time(deployer, minutes=6 * 60)
    assert report(deployer).idle is None
    # Someone asks and gets an error: that is no reason to take it away either.
    deployer.monitoring.seen[live_id] = Served(0, 1)
    pass_time(deployer, minutes=6 * 60)
    assert deployed(deployer) == [run_id]


def test_a_model_that_no_one_asks_is_taken_down_and_the_record_says_so() -> None:
    deployer = configured(idle="undeploy", keep_previous=1)
    runs = [released(deployer, edition) for edition in (1, 2)]
    assert deployed(deployer) == runs
    pass_time(deployer, minutes=5 * 60)
    endpoint = deployer.vertex.endpoints["flowers"]
    assert (endpoint.deployed, endpoint.traffic) == ((), {})
    live = deployer.serving()
    assert live.current.run_id == runs[1]
    assert live.undeployed_at
    assert "it has had no request since" in live.undeployed_because
    assert [removal.run_id for removal in report(deployer).removed] == runs
    # It stays so, and nothing is done to what is not there.
    operations = len(deployer.vertex.operations)
    pass_time(deployer, minutes=DAY)
    assert len(deployer.vertex.operations) == operations
    assert "flowers" in deployer.vertex.endpoints
    assert report(deployer).idle is None


@functools.cache
def _about_to_be_taken_down() -> Deployer:
    """A model that no one asks; the next look takes it down."""
    deployer = configured(idle="undeploy")
    released(deployer)
    while not deployer.vertex.faults.calls["start_undeploy"]:
        before = deployer.continued()
        pass_time(deployer, minutes=5)
    return before


def taken_down(kill: Kill | None = None) -> Deployer:
    deployer = _about_to_be_taken_down().continued()
    if kill:
        deployer.interfere = kill
    pass_time(deployer, minutes=3 * 60)
    return deployer


def test_killed_at_any_of_its_operations_the_cleanup_records_what_it_took_down() -> None:
    undisturbed = taken_down()
    begins = undisturbed.operations.index("vertex.start_undeploy")
    failures = []
    for number, when in kill_points(undisturbed.operations[: begins + 25]):
        deployer = taken_down(Kill(number, when))
        live = deployer.serving()
        known = report(deployer)
        removed = [removal.kind for removal in known.removed]
        if deployed(deployer) or not live.undeployed_at or live.removing or known.under_way or not removed:
            failures.append(f"killed {when} {number} ({undisturbed.operations[number]}): {live.undeployed_at!r}")
    assert failures == []


@pytest.mark.parametrize("how", ["redeploy", "rollback", "release"])
def test_what_was_taken_down_comes_back_with_the_next_release(how: str) -> None:
    deployer = configured(idle="undeploy")
    runs = [released(deployer, edition) for edition in (1, 2)]
    pass_time(deployer, minutes=5 * 60)
    assert deployed(deployer) == []
    address = deployer.vertex.endpoints["flowers"].name
    if how == "release":
        expected = released(deployer, 3)
    else:
        deployer.post(how, dataset="flowers")
        deployer.settle()
        expected = {"redeploy": runs[1], "rollback": runs[0]}[how]
    assert deployer.release(expected).state is State.LIVE
    assert deployed(deployer) == [expected]
    assert list(deployer.vertex.endpoints["flowers"].traffic.values()) == [100]
    assert deployer.vertex.endpoints["flowers"].name == address
    live = deployer.serving()
    assert (live.current.run_id, live.undeployed_at, live.undeployed_because) == (expected, "", "")


def test_what_serves_is_not_taken_down_beside_someone_elses_model() -> None:
    deployer = configured(idle="undeploy")
    run_id = released(deployer)
    endpoint = deployer.vertex.endpoints["flowers"]
    stranger = DeployedModel("72", f"projects/p/locations/l/models/not-{model_id_of('flowers')}", "1", "theirs")
    deployer.vertex.endpoints["flowers"] = type(endpoint)(
        endpoint.name, (*endpoint.deployed, stranger), endpoint.traffic, endpoint.dns, endpoint.labels
    )
    pass_time(deployer, minutes=5 * 60)
    assert deployed(deployer) == [run_id, "theirs"]
    assert "has traffic" in report(deployer).failed[0].problem
    assert deployer.serving().undeployed_at == ""


def test_a_metric_that_is_missing_is_not_a_model_that_is_idle(caplog: pytest.LogCaptureFixture) -> None:
    """A metric or a label of another name: not even the probes of the release were seen."""
    deployer = configured(idle="undeploy")
    run_id = released(deployer)
    deployer.monitoring.times.clear()
    pass_time(deployer, minutes=6 * 60)
    assert deployed(deployer) == [run_id]
    assert report(deployer).idle is None
    assert "whether flowers is idle is not known: Cloud Monitoring has no request of " in caplog.text


@pytest.mark.parametrize("failure", [ServiceUnavailable("503"), RejectedByGoogle("monitoring.viewer is missing")])
def test_without_an_answer_of_cloud_monitoring_nothing_is_idle_and_the_rest_is_tidied(failure: Exception) -> None:
    deployer = configured(idle="undeploy", cool_down="4h")
    runs = [released(deployer, edition) for edition in (1, 2)]
    deployer.monitoring.faults.plan("served", *[Failing(failure)] * 7)
    pass_time(deployer, minutes=6 * 60)
    assert deployer.monitoring.faults.calls["served"] >= 3
    assert deployed(deployer) == [runs[1]]
    assert report(deployer).idle is None


def test_a_price_that_is_not_known_is_said_and_hides_nothing() -> None:
    deployer = configured(machine="c3-highmem-176")
    released(deployer)
    pass_time(deployer, minutes=4 * 60)
    idle = report(deployer).idle
    assert idle.usd_per_month is None
    assert "no serving price of c3-highmem-176" in idle.price


def test_an_idle_endpoint_is_left_alone_where_the_cleanup_only_reports() -> None:
    deployer = configured(idle="undeploy", cleanup="report")
    run_id = released(deployer)
    pass_time(deployer, minutes=5 * 60)
    assert deployed(deployer) == [run_id]
    assert [removal.run_id for removal in report(deployer).surplus] == [run_id]


def test_no_one_looks_where_no_time_is_set() -> None:
    deployer = configured(idle_after=None, idle="undeploy")
    released(deployer)
    pass_time(deployer, minutes=5 * 60)
    assert deployer.monitoring.asked == []
