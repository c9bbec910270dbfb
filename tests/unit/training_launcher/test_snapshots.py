"""Which folders make a snapshot: versions are compared as people read them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualdeploy.contracts.dataset_config import parse_snapshot
from dualdeploy.contracts.shards import natural_order
from dualdeploy.ledger import State
from support.chain import Chain
from training_launcher.snapshots import list_one_page


def spans(*numbers: int) -> list[str]:
    return [f"flowers/span-{number}/{kind}-00000-of-00001.tfrecord" for number in numbers for kind in ("train", "eval")]


def trained_on(chain: Chain) -> list[str]:
    (run_id,) = chain.run_ids()
    return sorted({shard.name.split("/")[1] for shard in chain.ledger.read_run(run_id).snapshot.shards})


def retrained(snapshot: object, *names: str) -> list[str]:
    chain = Chain()
    chain.configure(data={"snapshot": snapshot})
    chain.upload(*names)
    assert chain.handle(chain.retrain())
    assert chain.rejected == []
    return trained_on(chain)


def test_the_latest_folder_is_the_one_with_the_highest_number_and_not_the_last_in_the_alphabet() -> None:
    assert retrained("latest_folder", *spans(1, 9, 10)) == ["span-10"]


def test_the_latest_folder_is_the_newest_and_not_the_oldest_version() -> None:
    assert retrained("latest_folder", *spans(2, 3)) == ["span-3"]


def test_the_last_two_folders_cross_from_nine_to_ten() -> None:
    assert retrained({"last": 2}, *spans(1, 8, 9, 10)) == ["span-10", "span-9"]


def test_fewer_folders_than_asked_for_are_all_taken() -> None:
    assert retrained("last: 5", *spans(1, 2)) == ["span-1", "span-2"]


def test_a_folder_inside_a_version_belongs_to_that_version() -> None:
    names = ["flowers/span-2/train/a-00000-of-00001.tfrecord", "flowers/span-2/eval/eval-00000-of-00001.tfrecord"]
    assert retrained("latest_folder", *spans(1), *names) == ["span-2"]


def test_shards_beside_the_folders_are_no_version_unless_there_are_no_folders() -> None:
    beside = ["flowers/train-00000-of-00001.tfrecord", "flowers/eval-00000-of-00001.tfrecord"]
    assert retrained("latest_folder", *spans(1), *beside) == ["span-1"]
    chain = Chain()
    chain.configure(data={"snapshot": "latest_folder"})
    chain.upload(*beside)
    chain.settle()
    chain.check_one_run_is_live()


def test_an_incomplete_new_version_waits_and_does_not_train_the_old_one_again() -> None:
    chain = Chain()
    chain.configure(data={"snapshot": "latest_folder", "quiet_period": 60})
    chain.upload(*spans(9))
    chain.settle()
    chain.clock.advance(3600)
    chain.upload("flowers/span-10/train-00000-of-00002.tfrecord")
    chain.drain()
    assert len(chain.run_ids()) == 1
    chain.upload("flowers/span-10/train-00001-of-00002.tfrecord", "flowers/span-10/eval-00000-of-00001.tfrecord")
    chain.settle()
    newest = max(chain.run_ids(), key=lambda run_id: chain.ledger.read_run(run_id).created_at)
    assert len(chain.run_ids()) == 2
    assert {shard.name.split("/")[1] for shard in chain.ledger.read_run(newest).snapshot.shards} == {"span-10"}
    assert chain.standing(newest, "mobile").state is State.LIVE


@pytest.mark.parametrize(
    "versions",
    [
        ["span-1", "span-2", "span-9", "span-10", "span-11", "span-100"],
        ["v1.2", "v1.9", "v1.10", "v2.0"],
        ["2026-2-28", "2026-2-30", "2026-11-1"],
        ["2025-12-31", "2026-01-01", "2026-01-02"],
        ["batch", "batch2", "batch10"],
        ["9", "10", "a"],
    ],
)
def test_versions_compare_naturally(versions: list[str]) -> None:
    shuffled = versions[:]
    random.Random(0).shuffle(shuffled)
    assert sorted(shuffled, key=natural_order) == versions


@given(st.lists(st.text(), max_size=6))
def test_any_names_can_be_compared(names: list[str]) -> None:
    assert sorted(names, key=natural_order) == sorted(sorted(names), key=natural_order)


@given(st.integers(0, 10**30), st.integers(0, 10**30))
def test_numbers_in_names_compare_as_numbers(one: int, other: int) -> None:
    assert (natural_order(f"span-{one}") < natural_order(f"span-{other}")) == (one < other)


@pytest.mark.parametrize(
    "text", ["latest", {"last": 0}, {"last": 1000}, {"last": True}, {"first": 1}, "last: 0", 3, None]
)
def test_other_rules_are_refused_with_those_that_exist(text: object) -> None:
    with pytest.raises(ValueError, match="must be all, latest_folder or"):
        parse_snapshot(text)


def test_a_data_set_larger_than_a_page_is_not_listed_any_further() -> None:
    chain = Chain()
    chain.upload(*[f"flowers/train-{index:05d}-of-00004.tfrecord" for index in range(4)])
    config = chain.service("training_launcher").launcher._intake.config_of("flowers")
    arguments = {"bucket": "data", "clock": chain.clock}
    assert list_one_page(chain.data, config, page_size=3, **arguments) is None
    listing = list_one_page(chain.data, config, page_size=4, **arguments)
    assert listing is not None
    assert len(listing.names) == 4
