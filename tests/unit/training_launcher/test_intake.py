"""What an event costs: an instance remembers what stays true, and nothing that failed."""

from __future__ import annotations

import collections

import pytest

from dualdeploy.errors import ServiceUnavailable
from support.chain import HELD_OUT, NUMBERED, WHOLE, Chain
from support.fakes import Failing


@pytest.fixture
def chain() -> Chain:
    return Chain()


def calls_of(chain: Chain, *names: str) -> collections.Counter[str]:
    """The operations of handling these events, which are uploaded first."""
    deliveries = chain.upload(*names)
    chain.queue.clear()
    chain.operations.clear()
    for delivery in deliveries:
        assert chain.handle(delivery)
    return collections.Counter(chain.operations)


def large_set(count: int) -> list[str]:
    return [f"flowers/train-{index:05d}-of-02000.tfrecord" for index in range(count)]


def test_shards_of_a_large_set_cost_one_configuration_and_one_note_for_each_window(chain: Chain) -> None:
    calls = calls_of(chain, *large_set(50))
    assert calls == {"config.read": 1, "ledger.put": 1}


def test_a_listing_says_which_shards_are_worth_another_one(chain: Chain) -> None:
    names = [f"flowers/train-{index:05d}-of-00010.tfrecord" for index in range(9)]
    calls = calls_of(chain, *names)
    # Uploaded before the first event: the listing saw all but the last, and none of the others can complete the set.
    assert calls["data.list"] == 1
    assert chain.run_ids() == []
    chain.upload(*HELD_OUT)
    calls = calls_of(chain, "flowers/train-00009-of-00010.tfrecord")
    assert calls["data.list"] == 1
    assert len(chain.run_ids()) == 1


def test_a_shard_of_a_claimed_run_costs_nothing_however_often_it_is_announced(chain: Chain) -> None:
    deliveries = chain.upload(*WHOLE)
    chain.drain()
    chain.operations.clear()
    for delivery in deliveries * 3:
        assert chain.handle(delivery)
    assert chain.operations == []
    assert chain.outcomes[-1][1] == "already_done"


def test_a_newer_version_of_a_shard_of_a_claimed_run_is_an_arrival(chain: Chain) -> None:
    chain.upload(*WHOLE)
    chain.drain()
    chain.clock.advance(3600)
    chain.upload(NUMBERED[0], edition=2)
    chain.drain()
    assert "training_launcher/arrivals/flowers" in chain.active()
    chain.settle()
    assert len(chain.run_ids()) == 2


def test_a_configuration_that_could_not_be_read_is_read_again(chain: Chain) -> None:
    chain.config.faults.plan("read", Failing(ServiceUnavailable("no answer")))
    delivery = chain.upload(NUMBERED[0])[0]
    assert not chain.handle(delivery)
    assert chain.handle(delivery)
    assert chain.config.faults.pending() == {}


def test_a_configuration_is_read_again_after_a_few_seconds(chain: Chain) -> None:
    chain.handle(chain.upload("flowers/roses.tfrecord")[0])
    chain.configure(data={"prefix": "flowers/v2/"})
    delivery = chain.upload("flowers/tulips.tfrecord")[0]
    chain.clock.advance(5)
    chain.handle(delivery)
    assert "is not under data.prefix, gs://data/flowers/v2/" in chain.outcomes[-1][2]


def test_a_remembered_configuration_launches_nothing(chain: Chain) -> None:
    chain.handle(chain.upload(NUMBERED[0])[0])
    chain.configure(training={"cloud": {"epochs": 3}})
    deliveries = chain.upload(NUMBERED[1], *HELD_OUT)
    for delivery in deliveries:
        chain.handle(delivery)
    chain.settle()
    (run_id,) = chain.run_ids()
    assert chain.ledger.read_run(run_id).config["training"]["cloud"]["epochs"] == 3


def test_a_note_that_failed_is_written_again(chain: Chain) -> None:
    chain.ledger_store.faults.plan("put", Failing(ServiceUnavailable("no answer")))
    delivery = chain.upload("flowers/roses.tfrecord")[0]
    assert not chain.handle(delivery)
    assert chain.handle(delivery)
    assert "training_launcher/arrivals/flowers" in chain.active()


def test_what_arrives_before_the_next_tick_is_noted_once_and_what_arrives_later_again(chain: Chain) -> None:
    for delivery in chain.upload(*large_set(6)):
        chain.handle(delivery)
        chain.clock.advance(20)
    noted = [name for name in chain.ledger_store.names() if name.startswith("due/training_launcher/")]
    assert len(noted) == 2


def test_the_clock_launches_a_large_set_as_soon_as_it_is_whole_without_a_quiet_period(chain: Chain) -> None:
    chain.configure(data={"quiet_period": "1h"})
    names = [f"flowers/train-{index:05d}-of-01001.tfrecord" for index in range(1001)]
    deliveries = chain.upload(*names, *HELD_OUT)
    chain.queue.clear()
    for delivery in deliveries[:5]:
        chain.handle(delivery)
    chain.operations.clear()
    chain.tick()
    chain.drain()
    (run_id,) = chain.run_ids()
    assert chain.ledger.read_run(run_id).reason == "every numbered set is whole"


def test_the_clock_leaves_a_large_set_alone_that_lacks_a_shard(chain: Chain) -> None:
    chain.configure(data={"quiet_period": "1h"})
    chain.upload(*large_set(1999)[:40], *HELD_OUT)
    chain.drain()
    chain.tick()
    assert chain.run_ids() == []
    assert "training_launcher/arrivals/flowers" in chain.active()


def test_a_launch_that_failed_is_tried_again_by_the_same_event(chain: Chain) -> None:
    delivery = chain.upload(*WHOLE)[-1]
    chain.queue.clear()
    claims: list[int] = []

    def fail_the_claim(number: int, name: str, when: str) -> None:
        # The first put notes the arrival, the second is the claim.
        if name == "ledger.put" and when == "before":
            claims.append(number)
            if len(claims) == 2:
                raise ServiceUnavailable("no answer")

    chain.interfere = fail_the_claim
    assert not chain.handle(delivery)
    assert chain.run_ids() == []
    assert chain.handle(delivery)
    assert len(chain.run_ids()) == 1
