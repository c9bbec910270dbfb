"""`data.retrain_every` and `data.retrain_schedule`: data sets are retrained on the clock although nothing arrived."""

from __future__ import annotations

import json

import pytest

from dualdeploy.clock import from_text
from dualdeploy.errors import PermissionSpreads, ServiceUnavailable
from dualdeploy.outcome import done
from support.chain import WHOLE, Chain, Delivery, Interleaving
from support.fakes import Failing
from support.fakes.failing import ProcessDied

DAY = 86_400.0


def at_once(chain: Chain, seed: int) -> None:
    """Three instances look at the schedule at the same time; each has markers of its own."""
    looks = []
    for number in range(3):
        service = chain.compose("training_launcher")
        schedules = service.ticks._works["schedule"]
        looks.append(
            Delivery(f"training_launcher/{number}", lambda look=schedules: done(look.advance("flowers").message))
        )
    Interleaving(seed).run(chain, looks)


def a_chain(**data: object) -> Chain:
    """A project with one live run."""
    chain = Chain()
    chain.configure(data={"quiet_period": 60, "retrain_every": "7d", **data})
    chain.upload(*WHOLE)
    chain.settle()
    chain.check_one_run_is_live()
    see_configuration(chain)
    return chain


def see_configuration(chain: Chain, dataset: str = "flowers") -> None:
    """What the event of a configuration leads to."""
    assert chain.handle(chain.finalized(f"datasets/{dataset}.yaml", bucket="config"))
    chain.tick_of("training_launcher")


def launcher_tick(chain: Chain, seconds: float = 0) -> str:
    """What was retrained, or not, at this time; empty when nothing was due."""
    chain.clock.advance(seconds)
    said = chain.tick_of("training_launcher")
    chain.drain()
    return "; ".join(each for each in said if "retrain" in each or "nothing new" in each)


def test_a_run_that_is_young_enough_is_not_repeated() -> None:
    chain = a_chain(retrain_force=True)
    assert launcher_tick(chain, 6 * DAY) == ""
    assert len(chain.run_ids()) == 1


def test_with_force_unchanged_data_is_trained_again_once_in_each_period() -> None:
    chain = a_chain(retrain_force=True)
    (run_id,) = chain.run_ids()
    assert "claimed" in launcher_tick(chain, 7 * DAY)
    assert sorted(chain.run_ids()) == [run_id, f"{run_id}-r2"]
    chain.settle()
    assert launcher_tick(chain, 6 * DAY) == ""
    assert "claimed" in launcher_tick(chain, DAY)
    assert len(chain.run_ids()) == 3


def test_without_force_unchanged_data_is_not_trained_again_and_not_asked_for_every_minute() -> None:
    chain = a_chain()
    (run_id,) = chain.run_ids()
    assert f"nothing new: {run_id} has exactly this data" in launcher_tick(chain, 7 * DAY)
    assert launcher_tick(chain, 60) == ""
    assert len(chain.vertex.jobs) == 2


def test_instances_that_find_it_due_at_the_same_time_start_one_run() -> None:
    for seed in range(10):
        chain = a_chain(retrain_force=True)
        chain.clock.advance(7 * DAY)
        at_once(chain, seed)
        chain.settle()
        assert len(chain.run_ids()) == 2, seed
        assert len(chain.vertex.jobs) == 4, seed


def test_a_data_set_without_a_schedule_or_without_data_is_left_alone() -> None:
    chain = Chain()
    chain.configure("animals", data={"retrain_every": "7d", "retrain_force": True})
    assert launcher_tick(chain, 30 * DAY) == ""


def test_a_broken_configuration_does_not_keep_the_others_from_their_schedule() -> None:
    chain = a_chain(retrain_force=True)
    chain.write_config("animals", b"dataset: [")
    see_configuration(chain, "animals")
    assert "claimed" in launcher_tick(chain, 7 * DAY)


@pytest.mark.parametrize(
    "refusal", [ServiceUnavailable("no answer"), PermissionSpreads("storage.objects.get is missing")]
)
def test_a_configuration_that_cannot_be_read_now_is_read_at_the_next_tick(refusal: Exception) -> None:
    chain = a_chain(retrain_force=True)
    chain.config.faults.plan("read", Failing(refusal))
    assert launcher_tick(chain, 7 * DAY) == ""
    assert "claimed" in launcher_tick(chain, 60)
    assert chain.config.faults.pending() == {}


def test_a_schedule_whose_event_was_lost_is_seen_within_the_hour() -> None:
    chain = Chain()
    chain.upload(*WHOLE)
    chain.settle()
    chain.configure(data={"quiet_period": 60, "retrain_schedule": "30 * * * *", "retrain_force": True})
    for _ in range(130):
        chain.tick()
        chain.drain()
    assert len(chain.run_ids()) >= 2


# A cron expression -----------------------------------------------------------------------------------------------

SERVED = "data/flowers.json"


def a_scheduled_chain(schedule: object = "0 6 * * 1", *, force: bool = True) -> Chain:
    """A project with one live run and a schedule that has been seen. It is Monday, some minutes after noon."""
    chain = Chain()
    chain.configure(data={"quiet_period": 60, "retrain_schedule": schedule, "retrain_force": force})
    chain.upload(*WHOLE)
    chain.settle()
    chain.check_one_run_is_live()
    see_configuration(chain)
    return chain


def tick_at(chain: Chain, time: str) -> str:
    chain.clock.now = from_text(time)
    return launcher_tick(chain)


def test_a_new_schedule_waits_for_its_next_time_and_is_then_served_once() -> None:
    chain = a_scheduled_chain()
    (run_id,) = chain.run_ids()
    assert tick_at(chain, "2026-11-30T05:59:59Z") == ""
    assert "claimed" in tick_at(chain, "2026-11-30T06:00:00Z")
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
    assert tick_at(chain, "2027-03-28T00:59:00Z") == ""
    assert "nothing new" in tick_at(chain, "2027-03-28T01:00:00Z")
    assert tick_at(chain, "2027-03-28T01:30:00Z") == ""
    assert "nothing new" in tick_at(chain, "2027-03-29T00:30:00Z")
    # In the night to 31 October there are two of them: due once.
    assert "nothing new" in tick_at(chain, "2027-10-31T00:30:00Z")
    assert tick_at(chain, "2027-10-31T01:30:00Z") == ""


def test_times_that_were_missed_are_made_up_for_once() -> None:
    chain = a_scheduled_chain()
    assert "claimed" in tick_at(chain, "2026-12-30T12:00:00Z")
    assert len(chain.run_ids()) == 2
    assert json.loads(chain.ledger_store.read(SERVED).data)["slot"].startswith("2026-12-28T06:00:00")
    chain.settle()
    assert tick_at(chain, "2027-01-03T00:00:00Z") == ""
    assert "claimed" in tick_at(chain, "2027-01-04T06:00:00Z")
    assert len(chain.run_ids()) == 3


def test_without_force_unchanged_data_launches_nothing_at_its_time() -> None:
    chain = a_scheduled_chain(force=False)
    (run_id,) = chain.run_ids()
    assert f"nothing new: {run_id} has exactly this data" in tick_at(chain, "2026-11-30T06:00:00Z")
    assert tick_at(chain, "2026-11-30T06:01:00Z") == ""
    assert len(chain.vertex.jobs) == 2


def test_another_schedule_does_not_make_up_for_what_it_would_have_asked_for() -> None:
    chain = a_scheduled_chain("0 6 1 * *")
    chain.configure(data={"quiet_period": 60, "retrain_schedule": "0 6 * * *", "retrain_force": True})
    see_configuration(chain)
    assert tick_at(chain, "2026-11-24T05:59:00Z") == ""
    assert "claimed" in tick_at(chain, "2026-11-24T06:00:00Z")


def test_instances_at_the_same_time_serve_one_time_once() -> None:
    for seed in range(10):
        chain = a_scheduled_chain()
        chain.clock.now = from_text("2026-11-30T06:00:00Z")
        at_once(chain, seed)
        chain.settle()
        assert len(chain.run_ids()) == 2, seed
        assert len(chain.vertex.jobs) == 4, seed


def test_an_instance_that_dies_while_serving_a_time_leaves_it_to_be_served_once() -> None:
    chain = a_scheduled_chain()
    chain.clock.now = from_text("2026-11-30T06:00:00Z")
    calm = chain.continued()
    first = len(calm.operations)
    calm.tick_of("training_launcher")
    assert len(calm.run_ids()) == 2
    for fatal in range(len(calm.operations) - first):
        disturbed = chain.continued()

        def die(number: int, _name: str, when: str, fatal: int = fatal) -> None:
            if number == fatal and when == "after":
                raise ProcessDied

        disturbed.interfere = die
        disturbed.tick_of("training_launcher")
        disturbed.interfere = lambda _number, _name, _when: None
        for _ in range(4):
            disturbed.tick()
        disturbed.settle()
        assert len(disturbed.run_ids()) == 2, fatal
        assert len(disturbed.vertex.jobs) == 4, fatal


def test_a_document_that_cannot_be_read_stops_this_schedule_only() -> None:
    chain = a_scheduled_chain()
    chain.ledger_store.put(SERVED, b"[]", expect=chain.ledger_store.read(SERVED).generation)
    assert tick_at(chain, "2026-11-30T06:00:00Z") == ""
    chain.configure("animals", data={"quiet_period": 60})
    chain.upload("animals/train-00000-of-00001.tfrecord", "animals/eval-00000-of-00001.tfrecord")
    chain.drain()
    assert len(chain.run_ids("animals")) == 1


def test_what_is_not_due_costs_nothing() -> None:
    chain = a_scheduled_chain("0 6 * * *", force=False)
    tick_at(chain, "2026-11-25T06:00:00Z")
    for minute in range(4):
        tick_at(chain, f"2026-11-26T05:{minute:02d}:00Z")
    before = chain.ledger_store.faults.calls["read"], chain.config.faults.calls["read"]
    for minute in range(4, 60):
        tick_at(chain, f"2026-11-26T05:{minute:02d}:00Z")
    assert (chain.ledger_store.faults.calls["read"], chain.config.faults.calls["read"]) == before
