"""`data.retrain_every` and `data.retrain_schedule`: data sets are retrained on the clock although nothing arrived."""

from __future__ import annotations

import json

import pytest
from chain import WHOLE, Chain, Interleaving

from dualdeploy.clock import from_text
from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable
from dualdeploy.testing import Failing
from dualdeploy.testing.failing import ProcessDied

DAY = 86_400.0


def a_chain(**data: object) -> Chain:
    """A project with one live run."""
    chain = Chain()
    chain.configure(data={"quiet_period": 60, "retrain_every": "7d", **data})
    chain.upload(*WHOLE)
    chain.settle()
    chain.check_one_run_is_live()
    return chain


def launcher_tick(chain: Chain, seconds: float = 0) -> str:
    chain.clock.advance(seconds)
    assert chain.handle(chain.clock_deliveries()[0])
    return chain.outcomes[-1][2]


def test_a_run_that_is_young_enough_is_not_repeated() -> None:
    chain = a_chain(retrain_force=True)
    assert launcher_tick(chain, 6 * DAY) == "nothing waits"
    assert len(chain.run_ids()) == 1


def test_with_force_unchanged_data_is_trained_again_once_in_each_period() -> None:
    chain = a_chain(retrain_force=True)
    (run_id,) = chain.run_ids()
    assert "cloud training" in launcher_tick(chain, 7 * DAY)
    assert sorted(chain.run_ids()) == [run_id, f"{run_id}-r2"]
    chain.settle()
    assert launcher_tick(chain, 6 * DAY) == "nothing waits"
    assert "cloud training" in launcher_tick(chain, DAY)
    assert len(chain.run_ids()) == 3


def test_without_force_unchanged_data_is_not_trained_again_and_not_asked_for_every_minute() -> None:
    chain = a_chain()
    (run_id,) = chain.run_ids()
    assert launcher_tick(chain, 7 * DAY) == f"flowers: nothing new: {run_id} is this very data"
    assert launcher_tick(chain, 60) == "nothing waits"
    assert len(chain.vertex.jobs) == 2


def test_instances_that_find_it_due_at_the_same_time_start_one_run() -> None:
    for seed in range(10):
        chain = a_chain(retrain_force=True)
        chain.clock.advance(7 * DAY)
        Interleaving(seed).run(chain, [chain.clock_deliveries()[0] for _ in range(4)])
        chain.settle()
        assert len(chain.run_ids()) == 2, seed
        assert len(chain.vertex.jobs) == 4, seed


def test_a_data_set_without_a_schedule_or_without_data_is_left_alone() -> None:
    chain = Chain()
    chain.configure("animals", data={"retrain_every": "7d", "retrain_force": True})
    assert launcher_tick(chain, 30 * DAY) == "nothing waits"


def test_a_broken_configuration_does_not_keep_the_others_from_their_schedule() -> None:
    chain = a_chain(retrain_force=True)
    chain.write_config("animals", b"dataset: [")
    assert "cloud training" in launcher_tick(chain, 7 * DAY)


def test_a_schedule_that_cannot_be_read_now_is_read_at_the_next_tick() -> None:
    chain = a_chain(retrain_force=True)
    chain.config.faults.plan("list", Failing(ServiceUnavailable("no answer")))
    assert launcher_tick(chain, 7 * DAY) == "nothing waits"
    assert "cloud training" in launcher_tick(chain, 60)
    assert chain.config.faults.pending() == {}


# A cron expression -----------------------------------------------------------------------------------------------

SERVED = "datasets/flowers/retrained.json"


def a_scheduled_chain(schedule: object = "0 6 * * 1", *, force: bool = True) -> Chain:
    """A project with one live run and a schedule that has been seen. It is Monday, some minutes after noon."""
    chain = Chain()
    chain.configure(data={"quiet_period": 60, "retrain_schedule": schedule, "retrain_force": force})
    chain.upload(*WHOLE)
    chain.settle()
    chain.check_one_run_is_live()
    return chain


def tick_at(chain: Chain, time: str) -> str:
    chain.clock.now = from_text(time)
    return launcher_tick(chain)


def test_a_new_schedule_waits_for_its_next_time_and_is_then_served_once() -> None:
    chain = a_scheduled_chain()
    (run_id,) = chain.run_ids()
    assert tick_at(chain, "2026-11-30T05:59:59Z") == "nothing waits"
    assert "cloud training" in tick_at(chain, "2026-11-30T06:00:00Z")
    assert chain.ledger.read_run(f"{run_id}-r2").reason == (
        "data.retrain_schedule ('0 6 * * 1') was due at 2026-11-30T06:00+00:00"
    )
    for minute in range(1, 30):
        assert "-r3" not in tick_at(chain, f"2026-11-30T06:{minute:02d}:00Z")
    assert len(chain.run_ids()) == 2


def test_times_are_those_of_the_time_zone_also_when_its_clocks_are_changed() -> None:
    chain = a_scheduled_chain({"cron": "30 2 * * *", "time_zone": "Europe/Berlin"}, force=False)
    assert "nothing new" in tick_at(chain, "2027-03-27T01:30:00Z")
    # In the night to 28 March there is no half past two in Berlin: due when the hour is skipped, at three.
    assert tick_at(chain, "2027-03-28T00:59:00Z") == "nothing waits"
    assert "nothing new" in tick_at(chain, "2027-03-28T01:00:00Z")
    assert tick_at(chain, "2027-03-28T01:30:00Z") == "nothing waits"
    assert "nothing new" in tick_at(chain, "2027-03-29T00:30:00Z")
    # In the night to 31 October there are two of them: due once.
    assert "nothing new" in tick_at(chain, "2027-10-31T00:30:00Z")
    assert tick_at(chain, "2027-10-31T01:30:00Z") == "nothing waits"


def test_times_that_were_missed_are_made_up_for_once() -> None:
    chain = a_scheduled_chain()
    assert "cloud training" in tick_at(chain, "2026-12-30T12:00:00Z")
    assert len(chain.run_ids()) == 2
    assert json.loads(chain.ledger_store.read(SERVED).data)["slot"].startswith("2026-12-28T06:00:00")
    chain.settle()
    assert tick_at(chain, "2027-01-03T00:00:00Z") == "nothing waits"
    assert "cloud training" in tick_at(chain, "2027-01-04T06:00:00Z")
    assert len(chain.run_ids()) == 3


def test_without_force_unchanged_data_launches_nothing_at_its_time() -> None:
    chain = a_scheduled_chain(force=False)
    (run_id,) = chain.run_ids()
    assert tick_at(chain, "2026-11-30T06:00:00Z") == f"flowers: nothing new: {run_id} is this very data"
    assert tick_at(chain, "2026-11-30T06:01:00Z") == "nothing waits"
    assert len(chain.vertex.jobs) == 2


def test_another_schedule_does_not_make_up_for_what_it_would_have_asked_for() -> None:
    chain = a_scheduled_chain("0 6 1 * *")
    chain.configure(data={"quiet_period": 60, "retrain_schedule": "0 6 * * *", "retrain_force": True})
    assert tick_at(chain, "2026-11-25T12:00:00Z") == "nothing waits"
    assert "cloud training" in tick_at(chain, "2026-11-26T06:00:00Z")


def test_instances_at_the_same_time_serve_one_time_once() -> None:
    for seed in range(10):
        chain = a_scheduled_chain()
        chain.clock.now = from_text("2026-11-30T06:00:00Z")
        chain.launcher = chain._new_launcher()
        Interleaving(seed).run(chain, [chain.clock_deliveries()[0] for _ in range(3)])
        chain.settle()
        assert len(chain.run_ids()) == 2, seed
        assert len(chain.vertex.jobs) == 4, seed


def test_whoever_dies_while_serving_a_time_leaves_it_to_be_served_once() -> None:
    chain = a_scheduled_chain()
    chain.clock.now = from_text("2026-11-30T06:00:00Z")
    calm = chain.continued()
    first = len(calm.operations)
    assert calm.handle(calm.clock_deliveries()[0])
    for fatal in range(len(calm.operations) - first):
        disturbed = chain.continued()

        def die(number: int, _name: str, when: str, fatal: int = fatal) -> None:
            if number == fatal and when == "after":
                raise ProcessDied

        disturbed.interfere = die
        disturbed.handle(disturbed.clock_deliveries()[0])
        disturbed.interfere = lambda _number, _name, _when: None
        disturbed.settle()
        assert len(disturbed.run_ids()) == 2, fatal
        assert len(disturbed.vertex.jobs) == 4, fatal


def test_a_record_that_nobody_can_read_stops_this_schedule_only() -> None:
    chain = a_scheduled_chain()
    chain.configure("animals", data={"prefix": "animals/", "retrain_every": "7d"})
    chain.ledger_store.put(SERVED, b"[]", expect=chain.ledger_store.read(SERVED).generation)
    assert tick_at(chain, "2026-11-30T06:00:00Z") == "nothing waits"


@pytest.mark.parametrize(("hour", "due"), [("06", True), ("07", False)])
def test_a_schedule_is_looked_at_again_at_its_time_and_not_at_every_tick(hour: str, due: bool) -> None:
    chain = a_scheduled_chain("0 6 * * *", force=False)
    tick_at(chain, "2026-11-25T06:00:00Z")
    tick_at(chain, "2026-11-26T05:59:00Z")
    before = chain.ledger_store.faults.calls["read"]
    tick_at(chain, f"2026-11-26T{hour}:00:00Z" if due else "2026-11-26T05:59:30Z")
    assert (chain.ledger_store.faults.calls["read"] > before) is due


def test_a_right_that_is_missing_stops_the_schedules_and_no_tick() -> None:
    chain = Chain()
    chain.upload()
    chain.config.faults.plan("list", *[Failing(RejectedByGoogle("storage.objects.list is missing"))] * 50)
    chain.settle()
    chain.check_one_run_is_live()
    assert chain.rejected == []
