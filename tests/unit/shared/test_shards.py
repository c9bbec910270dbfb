"""What an object's name says about it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualdeploy import shards


@pytest.mark.parametrize(
    "name",
    [
        "flowers/train-00003-of-00016.tfrecord",
        "flowers/train.tfrecords",
        "flowers00-230.tfrec",  # the public flowers data set
        "flowers/flowers00-230.tfrec.gz",
        "tf_flowers/3.0.1/tf_flowers-train.tfrecord-00000-of-00002",  # TensorFlow Datasets
        "flowers/TRAIN.TFRECORD",
        "a/b/c/d.tfrecord-00001-of-00002.gz",
    ],
)
def test_tfrecord_names_of_the_wild_are_shards(name: str) -> None:
    assert shards.is_shard(name)


@pytest.mark.parametrize(
    "name",
    [
        "flowers/_SUCCESS",
        "flowers/labels.txt",
        "flowers/train.tfrecord.tmp",
        "flowers/train.tfrecord/part",
        "flowers/tfrecord",
        "flowers/dataset_info.json",
        "train.tfrecord.gz.crc32c",
        "flowers.tfrecord/",
        "",
    ],
)
def test_other_names_are_no_shards(name: str) -> None:
    assert not shards.is_shard(name)


@pytest.mark.parametrize(
    ("name", "marker"),
    [
        ("_SUCCESS", True),
        ("flowers/_SUCCESS", True),
        ("flowers/_SUCCESS.txt", False),
        ("flowers/_success", False),
        ("_SUCCESS/x", False),
    ],
)
def test_only_an_object_called_success_is_the_marker(name: str, marker: bool) -> None:
    assert shards.is_success_marker(name) is marker


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("f/train-00003-of-00016.tfrecord", shards.NumberedShard("f/train-of-00016.tfrecord", 3, 16)),
        ("f/x.tfrecord-00000-of-00002", shards.NumberedShard("f/x.tfrecord-of-00002", 0, 2)),
        ("train-0-of-1.tfrec.gz", shards.NumberedShard("train-of-1.tfrec.gz", 0, 1)),
        (
            "f/batch-1-of-2/train-00000-of-00004.tfrecord",
            shards.NumberedShard("f/batch-1-of-2/train-of-00004.tfrecord", 0, 4),
        ),
        ("f/batch-1-of-2/train.tfrecord", None),
        ("f/train-00002-of-00002.tfrecord", None),
        ("f/train-00000-of-00000.tfrecord", None),
        ("f/train-00000-of-00002.txt", None),
        ("f/flowers00-230.tfrec", None),
    ],
)
def test_a_shard_knows_its_place_in_its_set(name: str, expected: shards.NumberedShard | None) -> None:
    assert shards.numbered(name) == expected


def names_of(stem: str, count: int) -> list[str]:
    return [f"flowers/{stem}-{index:05d}-of-{count:05d}.tfrecord" for index in range(count)]


@settings(deadline=None)  # a loaded machine says nothing of the code
@given(count=st.integers(1, 12), missing=st.sets(st.integers(0, 11)), seed=st.randoms())
def test_whatever_is_missing_is_named_in_any_order_of_arrival(count: int, missing: set[int], seed: object) -> None:
    absent = {index for index in missing if index < count}
    there = [name for index, name in enumerate(names_of("train", count)) if index not in absent]
    seed.shuffle(there)  # type: ignore[attr-defined]  # st.randoms gives a random.Random

    found = shards.missing_from_sets(there)

    expected = {f"flowers/train-of-{count:05d}.tfrecord": sorted(absent)} if absent and there else {}
    assert found == expected


def test_each_set_is_judged_by_itself() -> None:
    names = [*names_of("train", 2), names_of("test", 2)[0]]

    assert shards.missing_from_sets(names) == {"flowers/test-of-00002.tfrecord": [1]}


def test_a_description_names_five_numbers_and_counts_the_rest() -> None:
    text = shards.describe_missing({"b-of-9": [1, 2, 3, 4, 5, 6, 7], "a-of-2": [1]})

    assert text == "a-of-2 lacks 00001; b-of-9 lacks 00001, 00002, 00003, 00004, 00005 and 2 more"


def test_names_alone_prove_completeness_only_with_whole_sets_of_both_kinds() -> None:
    train, test = names_of("train", 2), names_of("test", 1)

    assert shards.is_whole(train + test)
    assert not shards.is_whole(train)
    assert not shards.is_whole(test)
    assert not shards.is_whole(train[:1] + test)
    assert not shards.is_whole([*train, *test, "flowers/more.tfrecord"])
    assert not shards.is_whole([])


def test_a_name_given_twice_counts_once() -> None:
    assert not shards.is_whole([names_of("train", 2)[0]] * 2 + names_of("test", 1))
