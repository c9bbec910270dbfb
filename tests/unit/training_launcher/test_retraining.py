"""`data.retrain_every`: a data set whose newest run is too old is retrained on the clock."""

from __future__ import annotations

from chain import WHOLE, Chain, Interleaving

from dualdeploy.errors import ServiceUnavailable
from dualdeploy.testing import Failing

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
