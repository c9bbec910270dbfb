"""What an object's name says about it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualdeploy.contracts import shards
from dualdeploy.contracts.shards import Kind, ShardNames


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
        "d.tfrecord_1_of_2",
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
def test_other_names_are_not_shards(name: str) -> None:
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
    assert (ShardNames().kind(name) is Kind.MARKER) is marker


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
        ("f/train-00002-of-00002.tfrecord", shards.NumberedShard("f/train-of-00002.tfrecord", 2, 2)),
        ("f/train-00003-of-00002.tfrecord", None),
        ("f/train-00000-of-00002", shards.NumberedShard("f/train-of-00002", 0, 2)),
        ("f/train-00000-of-00000.tfrecord", None),
        ("f/train_00001_of_00010.tfrecord", shards.NumberedShard("f/train_of_00010.tfrecord", 1, 10)),
        ("shard-1-of-5.tfrecords", shards.NumberedShard("shard-of-5.tfrecords", 1, 5)),
        ("train.1of5.tfrecord", shards.NumberedShard("train.of5.tfrecord", 1, 5)),
        ("train 1 of 5.tfrecord", shards.NumberedShard("train of 5.tfrecord", 1, 5)),
        ("fold_1of2-00000-of-00004.tfrecord", shards.NumberedShard("fold_1of2-of-00004.tfrecord", 0, 4)),
        ("t-00000001-of-00000100.tfrec", shards.NumberedShard("t-of-00000100.tfrec", 1, 100)),
        ("t-00000-of-1000000.tfrecord", None),
        ("t-00001-of-00002-4b6f0a1c9d2e7f53.tfrecord", shards.NumberedShard("t-of-00002.tfrecord", 1, 2)),
        (
            "t-00001-of-00002-5b1e2f6c-1111-2222-3333-444455556666.tfrecord.gz",
            shards.NumberedShard("t-of-00002.tfrecord.gz", 1, 2),
        ),
        ("t-00001-of-00002-20261128.tfrecord", shards.NumberedShard("t-of-00002-20261128.tfrecord", 1, 2)),
        ("t-00001-of-00002-feedback.tfrecord", shards.NumberedShard("t-of-00002-feedback.tfrecord", 1, 2)),
        ("t-00001-of-00002-v2.tfrecord", shards.NumberedShard("t-of-00002-v2.tfrecord", 1, 2)),
        ("v1-of-2.tfrecord", None),
        ("train-1_of-2.tfrecord", None),
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


@pytest.mark.parametrize(
    ("count", "there", "fault"),
    [
        (3, {0, 1, 2}, ""),
        (3, {1, 2, 3}, ""),
        (1, {0}, ""),
        (1, {1}, ""),
        (3, {1, 2}, "lacks 00000 (or 00003, if counted from 1): upload"),
        (3, {2, 3}, "lacks 00001: upload"),
        (3, {0, 2}, "lacks 00001: upload"),
        (3, {0, 1, 2, 3}, "has both 00000 and 00003, so two numberings are mixed: remove the shards of one"),
        (3, {0, 3}, "has both 00000 and 00003"),
        (9, {0, 8}, "lacks 00001, 00002, 00003, 00004, 00005 and 2 more: upload what is missing, or remove the rest"),
    ],
)
@pytest.mark.parametrize("pattern", ["f/t-{:05d}-of-{:05d}.tfrecord", "t.tfrecord-{}-of-{}", "t-{:06d}-of-{:06d}"])
def test_a_set_may_be_counted_from_0_or_from_1(pattern: str, count: int, there: set[int], fault: str) -> None:
    names = [pattern.format(index, count) for index in there]

    assert fault in shards.why_incomplete(names)
    assert bool(shards.why_incomplete(names)) == bool(fault)


def test_the_faults_of_all_sets_are_told_together() -> None:
    text = shards.why_incomplete(["b-00000-of-00002.tfrecord", "a-00001-of-00002.tfrec", "c-1-of-1.tfrecord"])

    assert text.startswith("the data is not complete: a-of-00002.tfrec lacks 00000 (or 00002, if counted from 1): ")
    assert "; b-of-00002.tfrecord lacks 00001: " in text


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("train.tfrecord", Kind.SHARD),
        ("a/train-00000-of-00001.tfrec.gz", Kind.SHARD),
        ("_SUCCESS", Kind.MARKER),
        ("a/b/_SUCCESS", Kind.MARKER),
        *((name, Kind.HIDDEN) for name in (
            "_temporary/0/_temporary/attempt_202611280101_0002_m_000000_3/part-00000-c000.tfrecord",
            "_temporary/0/_SUCCESS",
            ".spark-staging-0f1e/part-00000.tfrecord",
            "beam-temp-train-0af1c2d4/6f2c.train.tfrecord",
            ".temp-beam-2026-11-28/train.tfrecord",
            "temp-beam-flowers-1/train.tfrecord",
            "3.0.1.incompleteA1B2C3/flowers-train.tfrecord-00000-of-00001",
            "incomplete.A1B2C3_3.0.1/flowers-train.tfrecord-00000-of-00001",
            "._train.tfrecord",
            "__MACOSX/._train.tfrecord",
            ".ipynb_checkpoints/train.tfrecord",
            ".DS_Store",
            "_committed_123",
            "_metadata",
        )),
        *((name, Kind.COMPANION) for name in (
            "README", "README.md", "labels.txt", "dataset_info.json", "a/features.json", "train.csv", "list.jsonl",
            "train.tfrecord.crc32c", "label_map.pbtxt", "flowers/", "flowers_$folder$",
        )),
        *((name, Kind.UNKNOWN) for name in (
            "train-00000-of-00002", "train.tfrecord/part-r-00000", "train.record-00000-of-00001", "train.tfr",
            "train.tfrecord.zz", "train.tfrecord.snappy", "train.tfrecord.tmp", "roses/1.jpg", "train.parquet",
        )),
    ],
)  # fmt: skip
def test_what_an_object_is_follows_from_its_name(name: str, kind: Kind) -> None:
    assert ShardNames().kind(name) is kind
    assert ShardNames("flowers/").kind(f"flowers/{name}") is kind


@pytest.mark.parametrize(
    ("patterns", "takes", "leaves"),
    [
        (["train-*"], ["train-00000-of-00002", "a/train-x"], ["x-train-1", "a/b/test-1", "train.tfrecord"]),
        (["train-*", "val-*"], ["train-0", "val-0"], ["test-0", "trainval"]),
        (["part-r-?????"], ["train.tfrecord/part-r-00000"], ["part-r-000000"]),
        (["train/*"], ["train/part-r-00000", "train/a/b"], ["test/part-r-0", "a/train/x"]),
        (["*.tfrecord.zz"], ["train.tfrecord.zz"], ["train.tfrecord"]),
        (["*"], ["anything", "README.md"], ["_SUCCESS", "_temporary/0/part-00000", "._x", "beam-temp-x/part"]),
        ([], ["train.tfrecord"], ["train-00000-of-00002"]),
    ],
)
def test_a_data_set_says_which_other_names_are_shards(patterns: list[str], takes: list[str], leaves: list[str]) -> None:
    rule = ShardNames("flowers/", tuple(patterns))

    assert [name for name in takes if rule.kind(f"flowers/{name}") is not Kind.SHARD] == []
    assert [name for name in leaves if rule.kind(f"flowers/{name}") is Kind.SHARD] == []


def test_a_prefix_may_lie_in_a_folder_that_looks_hidden() -> None:
    assert ShardNames("flowers/_clean/").kind("flowers/_clean/train.tfrecord") is Kind.SHARD


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["train-00000-of-00001"], "data.shards: 'train-*'"),
        (["a.jpg", "b/c.PNG"], "`make shards` turns a folder of them into shards"),
        (["train.tfrecord.zz", "train.tfrecord.snappy"], "only gzip is read"),
        (["_temporary/0/part-0"], "only hidden or unfinished objects are there: _temporary/0/part-0"),
        (["labels.txt", "folder/"], "only labels.txt is there"),
        (["a/_SUCCESS"], "only a/_SUCCESS is there, without the shards that it speaks for"),
        (["a", "b", "c", "d", "e"], "5 objects are not shards by their names: a, b, c and 2 more"),
        ([], "nothing is there"),
    ],
)
def test_what_is_passed_over_is_named_with_what_to_do(names: list[str], says: str) -> None:
    assert says in shards.pass_over(names, ShardNames()).why_no_shards()


def test_a_pattern_that_takes_nothing_is_named() -> None:
    said = shards.pass_over(["a.tfrecord"], ShardNames(patterns=("train-*", "val-*"))).why_no_shards()
    assert "data.shards takes train-*, val-* below data.prefix and nothing else" in said


def test_names_alone_prove_completeness_only_with_whole_sets_of_both_kinds() -> None:
    train, test = names_of("train", 2), names_of("test", 1)

    assert shards.is_whole(train + test)
    assert not shards.is_whole(train)
    assert not shards.is_whole(test)
    assert not shards.is_whole(train[:1] + test)
    assert not shards.is_whole([*train, *test, "flowers/more.tfrecord"])
    assert not shards.is_whole([])
    assert not shards.is_whole([*train, *test, "flowers/train-00002-of-00002.tfrecord"]), "two numberings"


def test_a_name_given_twice_counts_once() -> None:
    assert not shards.is_whole([names_of("train", 2)[0]] * 2 + names_of("test", 1))
