"""The one rule of the split: which shards and pictures are held out, by names as people give them."""

from __future__ import annotations

import google_crc32c
import numpy as np
import pydantic
import pytest

from dualdeploy.contracts import split
from dualdeploy.contracts.split import SplitRule, divide

PREFIX = "flowers/"


def divided(*names: str, **rule: object) -> split.Split:
    return divide([PREFIX + name for name in names], prefix=PREFIX, rule=SplitRule.model_validate(rule))


def held_out(*names: str, **rule: object) -> set[str]:
    return {name.removeprefix(PREFIX) for name in divided(*names, **rule).eval}


@pytest.mark.parametrize("word", [
    "val", "valid", "validation", "VALIDATION", "eval", "evaluation", "dev", "test", "tests", "testing", "holdout",
    "hold-out", "held_out", "valSet", "testset", "test_data", "split=test", "subset=validation", "val2017", "test1",
    "testA", "TESTset", "Test_Images", "minival", "images_val", "flowers-test",
])  # fmt: skip
def test_a_folder_with_a_word_of_the_split_is_held_out(word: str) -> None:
    found = divided("train/a-0.tfrec", f"{word}/a-0.tfrec")
    assert found.eval == (f"{PREFIX}{word}/a-0.tfrec",)
    assert found.faults == found.doubts == ()
    assert f"folder {word}/" in found.describe()


@pytest.mark.parametrize("name", [
    "eval-00000-of-00002.tfrecord", "VALIDATION-00000-of-00001.tfrecords", "flowers_test.tfrec.gz", "test2.tfrecord",
    "my-valid-set.tfrecord", "v1.test.tfrecord", "3.0.1/tf_flowers-test.tfrecord-00000-of-00001", "val", "dev-part-r-0",
    "imagenet_val_resized.tfrecord", "test-of-flowers.tfrecord", "valSet-1.tfrecord",
])  # fmt: skip
def test_a_name_with_a_word_of_the_split_is_held_out(name: str) -> None:
    assert held_out("train-0.tfrecord", name) == {name}


@pytest.mark.parametrize("name", [
    "train-00000-of-00002.tfrecord", "latest.tfrecord", "contest-entries.tfrecord", "evaluate.tfrecord",
    "retrieval.tfrecord", "validity.tfrecord", "intervals.tfrecord", "flowers00-230.tfrec", "device-3.tfrecord",
    "cross-validation-fold3-train.tfrecord", "train-val-split-train.tfrecord", "crash-test-dummies-train.tfrecord",
    "crossValidation-fold1-0.tfrecord", "train_test_split-0.tfrecord", "détest-1.tfrecord",
    "train_no_minival-0.tfrecord", "all_but_test-1.tfrecord", "train2014_minus_val.tfrecord", "without-dev/a.tfrecord",
    "trainval-0.tfrecord", "training/a.tfrecord", "train2017/val_de_loire.tfrecord",
])  # fmt: skip
def test_other_words_and_the_training_side_are_trained_on(name: str) -> None:
    assert held_out(name, "eval-0.tfrecord") == {"eval-0.tfrecord"}


def test_a_folder_that_all_shards_lie_in_tells_none_from_another() -> None:
    assert held_out("dev/train-0.tfrecord", "dev/val-0.tfrecord") == {"dev/val-0.tfrecord"}
    assert divide(["test/a-0.tfrecord", "test/a-1.tfrecord"], prefix="test/").by_hash


def test_a_folder_that_is_a_split_counts_more_than_a_word_in_a_name() -> None:
    names = ("train/train_station-0.tfrecord", "val/train_station-0.tfrecord", "train/crash-test-0.tfrecord")
    assert held_out(*names) == {"val/train_station-0.tfrecord"}


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["val/train.tfrecord", "train/bus.tfrecord", "val/bus.tfrecord"], "val/train.tfrecord says both"),
        (["train-val-0.tfrecord", "test-0.tfrecord"], "train-val-0.tfrecord says both"),
        (["train_and_eval.tfrecord", "more.tfrecord"], "train_and_eval.tfrecord says both"),
        (["val/a.tfrecord", "val/b.tfrecord"], "all 2 shards are held out"),
        (["flowers-test-0.tfrecord"], "all 1 shards are held out"),
    ],
)
def test_what_is_unclear_is_a_fault_that_says_what_to_write(names: list[str], says: str) -> None:
    [fault] = divided(*names).faults
    assert says in fault.message
    assert "data.split" in fault.remedy


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["tst-0.tfrecord", "trn-0.tfrecord"], "'tst' in tst-0.tfrecord"),
        (["devel/0.tfrecord", "more/0.tfrecord"], "'devel' in devel/0.tfrecord"),
        (["x_tr.tfrecord", "x_te.tfrecord"], "'tr' in x_tr.tfrecord"),
        (["crash-test-dummies-0.tfrecord", "crash-test-dummies-1.tfrecord"], "'test' in crash-test-dummies-0"),
        (["Training/a.tfrecord", "Validierung/a.tfrecord"], "'validierung' in Validierung/a.tfrecord"),
        (["обучение/a.tfrecord", "тест/a.tfrecord"], "'обучение' in"),
        (["train-0.tfrecord", "predict-0.tfrecord"], "'predict' in predict-0.tfrecord"),
    ],
)
def test_what_looks_like_a_split_and_is_none_is_said(names: list[str], says: str) -> None:
    found = divided(*names)
    assert found.by_hash
    assert says in found.doubts[0].message


def test_beside_invalid_records_valid_may_be_no_split() -> None:
    [doubt] = divided("valid/a.tfrecord", "invalid/a.tfrecord").doubts
    assert "'invalid' in invalid/a.tfrecord" in doubt.message


def test_folders_that_name_no_split_are_told_in_the_report() -> None:
    found = divided("2026-11-01/0.tfrecord", "2026-11-02/0.tfrecord", "2026-11-02/1.tfrecord")
    assert found.doubts == ()
    assert found.describe() == (
        "No shard is held out (2 in folder 2026-11-02/, which names no split; "
        "1 in folder 2026-11-01/, which names no split)"
    )


def test_a_thousand_shards_are_held_out_for_one_reason() -> None:
    names = [f"{part}-{number:05d}-of-01000.tfrecord" for part in ("train", "val") for number in range(1000)]
    assert divided(*names).describe() == (
        "Held out: 1000 of 2000 shards (1000 by val-*-of-*.tfrecord). Trained on: 1000 (1000 by train-*-of-*.tfrecord)"
    )


def test_patterns_replace_the_names() -> None:
    names = ("fold1/train-0.tfrecord", "fold2/deep/train-0.tfrecord", "fold2/holdout.tfrecord")
    assert held_out(*names, eval="fold2/*") == {"fold2/deep/train-0.tfrecord", "fold2/holdout.tfrecord"}
    assert held_out(*names, eval=["train-*", "nothing"]) == {"fold1/train-0.tfrecord", "fold2/deep/train-0.tfrecord"}
    assert divided(*names, eval="fold3/*").faults[0].message.startswith("no shard matches data.split.eval (fold3/*)")
    assert "data.split.eval 'fold2/*'" in divided(*names, eval="fold2/*").describe()


def test_the_checksum_alone_can_be_asked_for() -> None:
    found = divide(["train-0", "val-0"], rule=SplitRule.model_validate("hash"))
    assert found.by_hash
    assert found.train == ("train-0", "val-0")


@pytest.mark.parametrize("wrong", ["folders", {"eval": [""]}, {"by": "hash", "eval": "x"}, {"evall": "x"}, 3])
def test_a_rule_that_is_none_is_refused(wrong: object) -> None:
    with pytest.raises(pydantic.ValidationError):
        SplitRule.model_validate(wrong)


def test_a_rule_survives_the_run_document() -> None:
    rule = SplitRule.model_validate({"eval": "val/*"})
    assert split.rule_of({"data": {"split": rule.model_dump(mode="json")}}) == rule
    assert split.rule_of({}) == split.BY_NAMES


def test_one_picture_in_five_is_held_out_by_its_bytes_alone() -> None:
    pictures = [str(number).encode() for number in range(1000)]
    chosen = [split.is_held_out(picture) for picture in pictures]
    assert chosen == [google_crc32c.value(picture) % 5 == 0 for picture in pictures]
    checksums = np.array([google_crc32c.value(picture) for picture in pictures], np.uint32)
    assert split.held_out_by_checksum(checksums).tolist() == chosen
    assert 150 < sum(chosen) < 250


@pytest.mark.parametrize(
    ("word", "side"),
    [("train", "train"), ("TEST", "eval"), ("validation_set", "eval"), ("fold 3", None), ("", None), ("a/test", None)],
)
def test_a_records_own_word_names_a_side_or_none(word: str, side: str | None) -> None:
    assert split.side_of_word(word) == side
