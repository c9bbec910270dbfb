"""What a run may cost: estimated before anything is spent, bounded by its timeouts, settled by what it did cost."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualdeploy.clock import from_text
from dualdeploy.contracts.dataset_config import DatasetConfig
from dualdeploy.contracts.prices import AcceleratorPrice, MachinePrice, PriceTable
from dualdeploy.contracts.training import TARGETS
from dualdeploy.errors import RejectedByGoogle
from dualdeploy.ledger import Launch, Ledger, Run, Snapshot, State, spending
from dualdeploy.ledger.spending import Estimate, OverBudget
from support.chain import WHOLE, Chain
from support.fakes import Failing, ManualClock, MemoryObjectStore
from training_launcher import budget

NOW = from_text("2026-11-30T23:59:59Z")
MONTH = "2026-11"


def prices(machine: float = 1.0, accelerator: float = 0.5) -> PriceTable:
    """A table of one machine and one accelerator."""
    said = {"use": "training", "region": "us-central1", "as_of": "2026-11-01", "source": "a test"}
    return PriceTable(
        v=1,
        what="",
        page="",
        as_of="2026-11-01",
        spot="",
        machines=(MachinePrice(machine="n1-standard-8", usd_per_hour=machine, **said),),
        accelerators=(AcceleratorPrice(accelerator="NVIDIA_TESLA_T4", usd_per_hour=accelerator, **said),),
    )


def run_with(run_id: str = "flowers-0123456789ab", **sections: object) -> Run:
    config = DatasetConfig.model_validate({"dataset": "flowers", "labels": ["a", "b"], **sections})
    return Run(
        run_id=run_id,
        dataset="flowers",
        created_at="2026-11-30T00:00:00Z",
        reason="",
        snapshot=Snapshot(bucket="data", prefix="flowers/", shards=()),
        config=config.model_dump(mode="json"),
        claim="",
    )


def estimate(*, region: str = "us-central1", **sections: object) -> Estimate:
    return budget.estimate(run_with(**sections), region=region, prices=prices(), now=NOW)


# Estimates -----------------------------------------------------------------------------------------------------


def test_without_limits_a_run_is_estimated_by_its_timeouts_and_never_refused() -> None:
    found = estimate()
    assert found.month == MONTH
    assert found.most_usd == 6.0  # two jobs, two hours, 1.50 USD
    assert [each.estimated_usd for each in found.targets.values()] == [3.0, 3.0]
    assert found.refusal == ""


def test_several_workers_cost_so_many_times_as_much_and_a_stated_price_is_that_of_all() -> None:
    found = estimate(
        training={"cloud": {"replicas": 3}, "mobile": {"replicas": 3}}, budget={"mobile": {"usd_per_hour": 1}}
    )
    assert {name: each.usd_per_hour for name, each in found.targets.items()} == {"cloud": 4.5, "mobile": 1.0}
    assert found.targets["cloud"].price.startswith("3 workers, each n1-standard-8 in us-central1 at 1 USD")


def test_of_several_ways_to_get_machines_the_dearest_is_reserved_and_an_unknown_price_may_be_it() -> None:
    two = {"accelerator": {"type": "NVIDIA_TESLA_T4", "count": 2}}
    cloud = {"capacity": [{"strategy": "spot"}, {"strategy": "standard", **two}, {}], "replicas": 2}
    found = estimate(training={"cloud": cloud}).targets["cloud"]
    assert found.by_entry == (3.0, 4.0, 3.0)
    assert (found.usd_per_hour, found.most_usd) == (4.0, 8.0)
    l4 = {"machine": "g2-standard-8", "accelerator": {"type": "NVIDIA_L4"}}
    unknown = estimate(training={"cloud": {"capacity": [{}, l4]}}).targets["cloud"]
    assert (unknown.by_entry, unknown.most_usd) == ((1.5, None), None)
    assert "g2-standard-8" in unknown.price


def test_a_run_that_is_expected_to_cost_too_much_is_refused_with_the_sums_and_the_remedies() -> None:
    found = estimate(budget={"max_usd_per_run": 5})
    assert "expected to cost 6.00 USD" in found.refusal
    assert "budget.max_usd_per_run is 5.00" in found.refusal
    assert "training.<target>.timeout" in found.refusal


def test_a_limit_between_what_is_expected_and_what_is_possible_shortens_the_timeouts() -> None:
    found = estimate(budget={"max_usd_per_run": 4.5, "cloud": {"expected": "1h"}, "mobile": {"expected": "1h"}})
    assert found.refusal == ""
    assert [each.timeout_seconds for each in found.targets.values()] == [5400.0, 5400.0]
    assert found.most_usd == 4.5


def test_a_limit_with_an_unknown_price_refuses_the_run_unless_a_warning_will_do() -> None:
    refused = estimate(region="europe-west4", budget={"max_usd_per_run": 5})
    assert "no training price of n1-standard-8 in europe-west4 is known" in refused.refusal
    assert "budget.unknown_price" in refused.refusal
    warned = estimate(region="europe-west4", budget={"max_usd_per_run": 5, "unknown_price": "warn"})
    assert (warned.refusal, warned.is_priced) == ("", False)
    assert estimate(region="europe-west4").refusal == ""


def test_the_owner_can_state_a_price_that_the_table_lacks() -> None:
    stated = {"usd_per_hour": 2.0}
    found = estimate(region="europe-west4", budget={"max_usd_per_run": 100, "cloud": stated, "mobile": stated})
    assert found.most_usd == 8.0
    assert found.targets["cloud"].price == "budget.cloud.usd_per_hour"


@given(
    limit=st.floats(0.01, 50),
    timeouts=st.tuples(st.integers(60, 90_000), st.integers(60, 90_000)),
    expected=st.tuples(st.integers(1, 90_000), st.integers(1, 90_000)),
)
def test_no_run_that_is_let_through_can_cost_more_than_its_limit(
    limit: float, timeouts: tuple[int, int], expected: tuple[int, int]
) -> None:
    found = estimate(
        budget={
            "max_usd_per_run": limit,
            "cloud": {"expected": expected[0]},
            "mobile": {"expected": expected[1]},
        },
        training={"cloud": {"timeout": timeouts[0]}, "mobile": {"timeout": timeouts[1]}},
    )
    if not found.refusal:
        assert found.most_usd <= limit * (1 + 1e-9)
        for each, configured in zip(found.targets.values(), timeouts, strict=True):
            assert 1 <= each.timeout_seconds <= configured
            assert each.expected_seconds <= each.timeout_seconds


# The month's account -------------------------------------------------------------------------------------------


def an_estimate(number: int, most: float = 6.0) -> Estimate:
    run = run_with(f"flowers-{number:012x}")
    return budget.estimate(run, region="us-central1", prices=prices(machine=most / 4, accelerator=0.000001), now=NOW)


def a_ledger() -> Ledger:
    return Ledger(MemoryObjectStore("ledger"), clock=ManualClock())


def test_a_month_takes_runs_until_its_limit_and_tells_the_next_one_the_sums() -> None:
    ledger = a_ledger()
    spending.reserve(ledger, an_estimate(1), limit_usd=10)
    with pytest.raises(OverBudget, match=r"may cost 6.00 USD, and 6.00 USD of this month's 10.00") as refused:
        spending.reserve(ledger, an_estimate(2), limit_usd=10)
    assert "spend/2026-11/flowers.json" in str(refused.value)
    assert len(spending.read_account(ledger, "flowers", MONTH).jobs) == 2


def test_a_reservation_is_made_once_and_stands_even_if_the_limit_sinks() -> None:
    ledger = a_ledger()
    spending.reserve(ledger, an_estimate(1), limit_usd=10)
    spending.reserve(ledger, an_estimate(1), limit_usd=1)
    assert spending.read_account(ledger, "flowers", MONTH).total_usd() == pytest.approx(6.0, abs=0.01)


def test_what_a_job_did_cost_takes_the_place_of_its_reservation_and_makes_room() -> None:
    ledger = a_ledger()
    spending.record_estimate(ledger, an_estimate(1))
    spending.reserve(ledger, an_estimate(1), limit_usd=10)
    for target in TARGETS:
        for _ in range(2):
            spending.settle(ledger, "flowers-000000000001", target, seconds=360, usd=0.15)
    account = spending.read_account(ledger, "flowers", MONTH)
    assert account.total_usd() == pytest.approx(0.3, abs=0.001)
    entry = account.jobs["flowers-000000000001/cloud"]
    assert (entry.seconds, entry.estimated_usd) == (360, pytest.approx(3.0, abs=0.001))
    spending.reserve(ledger, an_estimate(2), limit_usd=10)


def test_of_many_launches_at_the_same_time_only_those_that_fit_are_let_through() -> None:
    ledger = a_ledger()
    admitted: list[int] = []

    def launch(number: int) -> None:
        try:
            spending.reserve(ledger, an_estimate(number), limit_usd=20)
        except OverBudget:
            return
        admitted.append(number)

    threads = [threading.Thread(target=launch, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 3
    assert spending.read_account(ledger, "flowers", MONTH).total_usd() <= 20


def test_an_account_that_cannot_be_read_does_not_keep_a_training_from_its_end() -> None:
    chain = Chain()
    chain.upload()
    chain.drain()
    (name,) = [name for name in chain.ledger_store.names() if name.startswith("spend/")]
    chain.ledger_store.put(name, b"{", expect=chain.ledger_store.read(name).generation)
    chain.settle()
    chain.check_one_run_is_live()


# In the chain --------------------------------------------------------------------------------------------------


def launches(chain: Chain) -> list[Launch]:
    (run_id,) = chain.run_ids()
    return [chain.ledger.read_launch(run_id, target).document for target in TARGETS]


def account(chain: Chain) -> spending.Account:
    return spending.read_account(chain.ledger, "flowers", chain.clock().strftime("%Y-%m"))


def test_a_run_over_its_limit_is_rejected_before_any_job_and_reserves_nothing() -> None:
    chain = Chain()
    chain.configure(budget={"max_usd_per_run": 1})
    chain.upload(*WHOLE)
    chain.settle()
    assert chain.vertex.jobs == {}
    for branch in launches(chain):
        assert branch.state is State.REJECTED
        assert "budget.max_usd_per_run is 1.00" in branch.reason
    assert account(chain).jobs == {}
    assert chain.active() == []


def test_the_second_run_of_a_month_is_rejected_when_the_first_has_used_the_limit() -> None:
    chain = Chain()
    chain.configure(budget={"max_usd_per_month": 5})
    chain.upload(*WHOLE)
    chain.drain()
    chain.clock.advance(3600)
    chain.upload(*WHOLE, edition=2)
    for _ in range(3):
        chain.drain()
        chain.tick()
    older, newer = sorted(chain.run_ids(), key=lambda run_id: chain.ledger.read_run(run_id).created_at)
    assert chain.standing(older, "cloud").state is State.TRAINING
    assert chain.standing(newer, "cloud").state is State.REJECTED
    assert "budget.max_usd_per_month" not in chain.standing(newer, "cloud").reason
    assert "raise the limit" in chain.standing(newer, "cloud").reason
    assert len(chain.vertex.jobs) == 2


def test_a_limit_becomes_the_hard_timeout_of_the_jobs() -> None:
    chain = Chain()
    chain.configure(budget={"max_usd_per_run": 2.0, "cloud": {"expected": "30m"}, "mobile": {"expected": "30m"}})
    chain.upload(*WHOLE)
    chain.drain()
    (run_id,) = chain.run_ids()
    recorded = spending.read_estimate(chain.ledger, run_id)
    assert recorded is not None
    assert recorded.most_usd <= 2.0
    for target in TARGETS:
        spec = chain.vertex.job_specs[chain.jobs_of(run_id, target)[0]]
        assert spec.timeout == recorded.targets[target].timeout_seconds
        assert 1800 <= spec.timeout < 7200


def test_after_a_run_its_estimate_stands_beside_what_it_did_cost() -> None:
    chain = Chain()
    chain.upload(*WHOLE)
    chain.drain()
    for name, job in chain.vertex.jobs.items():
        chain.vertex.jobs[name] = type(job)(**{**vars(job), "started": job.created})
    chain.settle()
    for launch in launches(chain):
        ended = chain.ledger.find_ended(launch.run_id, launch.target, 1)
        assert ended
        assert launch.estimated_usd
        assert ended.document.cost_usd == pytest.approx(
            launch.estimated_usd / 2 * ended.document.seconds / 3600, abs=1e-4
        )
        entry = account(chain).jobs[f"{launch.run_id}/{launch.target}"]
        assert entry.actual_usd == ended.document.cost_usd
        assert entry.estimated_usd == pytest.approx(launch.estimated_usd, abs=1e-4)


def test_a_job_that_could_not_be_created_gives_its_reservation_back() -> None:
    chain = Chain()
    chain.upload(*WHOLE)
    chain.vertex.faults.plan("create_custom_job", Failing(RejectedByGoogle("no such machine")))
    chain.drain()
    (run_id,) = chain.run_ids()
    jobs = account(chain).jobs
    assert jobs[f"{run_id}/cloud"].actual_usd == 0
    assert jobs[f"{run_id}/mobile"].actual_usd is None
