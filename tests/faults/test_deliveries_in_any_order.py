"""Pub/Sub and Eventarc deliver at least once, late and in any order, and to several instances at the same time."""

from __future__ import annotations

import random
import threading

import pytest

from dualdeploy.ledger import State
from support.chain import NUMBERED, SERVICES, WHOLE, Chain, Delivery, Interleaving


def multiplied(deliveries: list[Delivery], chance: random.Random) -> list[Delivery]:
    """Every delivery one to three times, in any order."""
    copies = [delivery for delivery in deliveries for _ in range(chance.randint(1, 3))]
    chance.shuffle(copies)
    return copies


def live_through(chain: Chain, seed: int, *, steps: int = 60) -> None:
    """One thing after the other, drawn from a seed: a delivery (perhaps again), a tick, a job or an operation ends."""
    chance = random.Random(seed)
    chain.queue = multiplied(chain.queue, chance)
    for _ in range(steps):
        move = chance.random()
        jobs = chain.unfinished_jobs()
        if move < 0.55 and chain.queue:
            delivery = chain.queue.pop(chance.randrange(len(chain.queue)))
            if not chain.handle(delivery) or chance.random() < 0.3:
                chain.queue.append(delivery)
        elif move < 0.7 and jobs:
            chain.train(chance.choice(jobs), hints=chance.random() < 0.8)
        elif move < 0.8:
            chain.vertex.finish_operations()
        else:
            chain.clock.advance(chance.choice([1, 20, 60]))
            chain.tick_of(chance.choice(SERVICES))
    chain.settle()


@pytest.mark.parametrize("block", range(2))
def test_events_in_any_number_and_order_lead_to_one_run_that_is_live(block: int) -> None:
    for seed in range(block * 30, block * 30 + 30):
        chain = Chain(looks_locked=seed % 3)
        chain.upload()
        live_through(chain, seed)
        chain.check_one_run_is_live()


def settle_at_once(chain: Chain, interleaving: Interleaving, *, ticks: int = 15) -> None:
    """As `Chain.settle`, but everything that is delivered at a time is handled at the same time."""
    for _ in range(ticks):
        for job in chain.unfinished_jobs():
            chain.train(job)
        waiting, chain.queue = chain.queue * 2, []
        chain.clock.advance(60)
        chain.queue += interleaving.run(chain, waiting + chain.tick_deliveries())
        chain.vertex.finish_operations()
        if chain.is_quiet():
            return


@pytest.mark.parametrize("block", range(2))
def test_instances_that_handle_the_same_events_at_the_same_time_launch_once(block: int) -> None:
    for seed in range(block * 15, block * 15 + 15):
        chain = Chain()
        chain.upload()
        settle_at_once(chain, Interleaving(seed))
        chain.check_one_run_is_live()


def test_two_hundred_threads_that_see_the_same_upload_claim_one_run() -> None:
    chain = Chain()
    deliveries = (chain.upload() * 67)[:200]
    chain.queue = []
    threads = [threading.Thread(target=chain.handle, args=(delivery,)) for delivery in deliveries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chain.settle()
    chain.check_one_run_is_live()


@pytest.mark.parametrize("when", ["while it is launched", "while it trains", "when it is live"])
def test_the_same_bytes_uploaded_again_launch_nothing(when: str) -> None:
    chain = Chain()
    chain.upload()
    if when == "while it trains":
        chain.drain()
    if when == "when it is live":
        chain.settle()
    chain.upload()
    chain.settle()
    chain.upload()
    chain.settle()
    chain.check_one_run_is_live()


def test_the_same_bytes_uploaded_again_between_the_claim_and_the_validation_do_not_reject_the_run() -> None:
    chain = Chain()
    chain.upload()

    def upload_again_before_the_first_shard_is_read(number: int, name: str, when: str) -> None:
        if name == "data.open":
            chain.interfere = lambda _number, _name, _when: None
            deliveries = chain.queue
            chain.upload()
            chain.queue = deliveries

    chain.interfere = upload_again_before_the_first_shard_is_read
    chain.settle()
    chain.check_one_run_is_live()


def test_replacing_a_known_set_shard_by_shard_pays_for_one_run_and_not_for_each_mixture() -> None:
    chain = Chain()
    chain.upload()
    chain.settle()
    chain.clock.advance(3600)
    for name in WHOLE:
        chain.upload(name, edition=2)
        chain.drain()
        chain.clock.advance(5)
    chain.settle()
    assert len(chain.run_ids()) == 2
    assert len(chain.vertex.jobs) == 4
    newest = max(chain.run_ids(), key=lambda run_id: chain.ledger.read_run(run_id).created_at)
    chain.check_is_live(newest)
    chain.check_is_tidy()


def test_a_shard_that_arrives_while_its_batch_is_launched_becomes_a_run_of_its_own() -> None:
    chain = Chain()
    chain.upload("flowers/roses.tfrecord", "flowers/eval-roses.tfrecord")
    late: list[Delivery] = []

    def a_late_shard(number: int, name: str, when: str) -> None:
        # The listing is over, the arrival is not yet forgotten.
        if name == "data.open" and not late:
            late.extend(chain.upload("flowers/tulips.tfrecord"))
            for delivery in late:
                delivery.handle()
            chain.queue.clear()

    chain.interfere = a_late_shard
    chain.drain()
    chain.clock.advance(200)
    chain.settle(ticks=25)
    assert late
    assert [len(chain.ledger.read_run(run_id).snapshot.shards) for run_id in chain.run_ids()].count(3) == 1
    assert {chain.standing(run_id, "cloud").state for run_id in chain.run_ids()} == {State.LIVE, State.SUPERSEDED}
    chain.check_is_tidy()


def test_a_marker_that_overtakes_its_shards_is_recorded_and_the_clock_launches_when_they_are_there() -> None:
    chain = Chain()
    chain.upload(NUMBERED[0], "flowers/_SUCCESS")
    chain.drain()
    assert [str(exc) for _, exc in chain.rejected] == [
        (
            "the data is not complete: flowers/train-of-00002.tfrecord lacks 00001:"
            " upload what is missing, or remove the rest of the set"
        )
    ]
    chain.rejected.clear()
    chain.upload(NUMBERED[1])
    chain.settle()
    chain.check_one_run_is_live()
