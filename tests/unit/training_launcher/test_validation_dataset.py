"""What the validator says about the data set as a whole, and how much of it it reads."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import google_crc32c
import pytest

from training_launcher.validation import MemoryShard, ShardReadIncomplete, ValidationLimits, validate

FEATURES = {"image": "image", "label": "class"}


def codes(verdict) -> dict[str, str]:
    return {finding.code: finding.severity for finding in verdict.findings}


def test_a_class_without_training_examples_is_an_error(check, record, shard, good_eval) -> None:
    verdict = check({"train-0": shard([record(seed, label=0) for seed in range(4)]), "eval-0": good_eval})
    assert codes(verdict) == {"class_missing": "error"}
    assert verdict.reason() == "no training example of roses (1)"


def test_records_of_one_class_are_an_error_without_labels_too(record, shard) -> None:
    data = MemoryShard("train-0", shard(record(seed, label=0) for seed in range(20)))
    verdict = validate([data], labels=None, features=FEATURES)
    assert codes(verdict) == {"one_class": "error"}
    assert verdict.reason() == "every record is of one class (class 0)"


def test_a_class_that_is_not_held_out_is_a_warning(check, record, shard) -> None:
    held_out = shard([record(seed, label=0) for seed in range(100, 103)])
    verdict = check({"train-0": shard(map(record, range(4))), "eval-0": held_out})
    assert verdict.accepted
    assert codes(verdict) == {"class_missing_in_eval": "warning"}


def test_imbalance_is_a_warning_with_figures(check, record, shard, good_eval) -> None:
    records = [record(0, label=1), *(record(seed, label=0) for seed in range(1, 13))]
    verdict = check({"train-0": shard(records), "eval-0": good_eval})
    assert verdict.accepted
    assert verdict.findings[0].message == (
        "daisy has 12 training examples, roses only 1: 12.0 to 1 (more than 10 to 1)"
    )
    relaxed = ValidationLimits(max_class_imbalance=12)
    assert check({"train-0": shard(records), "eval-0": good_eval}, limits=relaxed).findings == ()


def test_an_image_that_is_both_trained_on_and_held_out_is_an_error_with_both_places(check, record, shard) -> None:
    verdict = check(
        {
            "train-0": shard(map(record, range(5))),
            "train-1": shard(map(record, range(5, 9))),
            "eval-0": shard([record(20), record(7), record(21)]),
        }
    )
    assert not verdict.accepted
    assert verdict.reason() == "eval-0, record 1: the same image as train-1 record 2"


def test_few_leaked_images_are_a_warning(check, record, shard) -> None:
    shards = {"train-0": shard(map(record, range(5))), "eval-0": shard([record(4), *map(record, range(20, 120))])}
    assert codes(check(shards)) == {"leaked_into_training": "warning"}
    assert codes(check(shards, limits=ValidationLimits(max_leaked_images=0))) == {"leaked_into_training": "error"}


def test_copies_within_a_split_are_counted_with_an_example(check, record, shard, good_eval) -> None:
    verdict = check({"train-0": shard(map(record, [0, 1, 2, 1, 1])), "eval-0": good_eval})
    assert verdict.accepted
    [finding] = verdict.findings
    assert finding.code == "duplicates_in_train"
    assert finding.message == (
        "2 of 5 images in train are exact copies of others, such as train-0 record 3 of train-0 record 1"
    )
    assert [split.duplicates for split in verdict.splits] == [2, 0]


def test_copies_with_different_labels_name_both(check, record, image, shard, good_eval) -> None:
    records = [record(0), record(1), record(1, label=0)]
    verdict = check({"train-0": shard(records), "eval-0": good_eval})
    assert codes(verdict) == {"conflicting_labels": "warning", "duplicates_in_train": "warning"}
    assert verdict.findings[0].sentence() == (
        "train-0, record 2: the same image as train-0 record 1, but labelled daisy here and roses there"
    )


def test_copies_are_placed_right_behind_unusable_records(check, record, shard, good_eval) -> None:
    records = [record(0), b"\xff", record(1), record(5, label=9), record(0, label=1)]
    verdict = check({"train-0": shard(records), "eval-0": good_eval}, limits=ValidationLimits(max_bad_records=1))
    [conflict] = [finding for finding in verdict.findings if finding.code == "conflicting_labels"]
    assert (conflict.record, conflict.message[:32]) == (4, "the same image as train-0 record")


def test_without_held_out_shards_the_trainers_hash_split_is_assumed(check, record, image, shard) -> None:
    verdict = check({"a": shard(map(record, range(40)))})
    held_out = sum(google_crc32c.value(image(seed)) % 5 == 0 for seed in range(40))
    assert 0 < held_out < 40
    assert [split.records for split in verdict.splits] == [40 - held_out, held_out]
    assert verdict.accepted
    assert f"({held_out} of 40)" in verdict.notes[0]
    assert verdict.shards[0].split == "hash"


def test_labels_are_inferred_when_none_are_given(check, record, shard) -> None:
    verdict = check({"a": shard([record(seed, label=seed % 3) for seed in range(60)])}, labels=None)
    assert verdict.accepted
    assert "3 classes are inferred" in verdict.notes[0]
    assert [entry.label for entry in verdict.classes] == ["class 0", "class 1", "class 2"]
    assert sum(count for entry in verdict.classes for count in entry.records.values()) == 60


def test_nothing_usable_is_rejected(check, record, shard) -> None:
    assert not check({}).accepted
    assert check({}).reason() == "there is no usable training example"
    assert not check({"train-0": b""}).accepted
    only_held_out = check({"eval-0": shard(map(record, range(4)))})
    assert codes(only_held_out)["no_training_examples"] == "error"
    bad_eval = check({"train-0": shard(map(record, range(4))), "eval-0": b""})
    assert codes(bad_eval)["no_evaluation_examples"] == "error"


def test_a_sample_is_shared_by_all_shards_and_says_what_it_left_out(check, record, shard) -> None:
    shards = {name: shard(map(record, range(start, start + 50))) for name, start in (("a", 0), ("b", 100), ("c", 200))}
    total = sum(map(len, shards.values()))
    limit = total // 3
    # Smaller than any real share, so that the test stays small: one shard is chosen.
    verdict = check(shards, limits=ValidationLimits(max_bytes=limit // 10))
    (read,) = [entry for entry in verdict.shards if entry.bytes_read]
    assert verdict.coverage.bytes_read == limit // 10
    assert verdict.coverage.shards_sampled == 3
    assert 0 < verdict.coverage.records < 50
    assert verdict.coverage.bad_records == 0
    assert not read.whole
    assert verdict.coverage.fraction == pytest.approx(1 / 30, rel=0.01)
    assert any(note.startswith("Sampled: ") for note in verdict.notes)


def test_a_class_that_a_sample_did_not_meet_is_only_a_warning(check, record, shard, good_eval) -> None:
    records = [record(seed, label=seed // 20) for seed in range(40)]
    shards = {"train-0": shard(records), "eval-0": good_eval}
    verdict = check(shards, limits=ValidationLimits(max_bytes=len(shards["train-0"]) // 3))
    assert "class_missing" not in codes(verdict)


def test_the_decoded_sample_is_spread_over_all_shards(check, record, shard) -> None:
    shards = {f"s{number}": shard(map(record, range(number * 50, number * 50 + 50))) for number in range(4)}
    verdict = check(shards, limits=ValidationLimits(full_decode_sample=8))
    assert 4 <= verdict.coverage.images_decoded <= 9


def test_images_beyond_the_comparison_limit_are_counted_in_a_note(check, record, shard, good_eval) -> None:
    shards = {"train-0": shard(map(record, [*range(10), 9])), "eval-0": good_eval}
    verdict = check(shards, limits=ValidationLimits(max_compared_images=10))
    assert verdict.finding_counts == {}
    assert verdict.notes[1:] == ("Duplicates were looked for among the first 10 of 17 images.",)


class CutShard(MemoryShard):
    """Listed with more bytes than the connection delivers."""

    @property
    def size(self) -> int:
        return len(self.data) + 100


class BrokenStream(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise ConnectionResetError("the peer went away")


class BrokenShard(MemoryShard):
    def open(self, length: int) -> io.BytesIO:
        return BrokenStream()


def test_a_cut_connection_is_not_a_verdict_on_the_data(record, shard) -> None:
    cut = CutShard("a", shard(map(record, range(3))))
    with pytest.raises(ShardReadIncomplete, match="a is listed with"):
        validate([cut], labels=("daisy", "roses"), features=FEATURES)
    with pytest.raises(ConnectionResetError):
        validate([BrokenShard("a", b"123")], labels=("daisy", "roses"), features=FEATURES)


def test_a_shard_that_grew_is_not_a_verdict_on_the_data(record, shard) -> None:
    class Grown(MemoryShard):
        @property
        def size(self) -> int:
            return len(self.data) - 1

    with pytest.raises(ShardReadIncomplete, match="more than that"):
        validate([Grown("a", shard(map(record, range(3))))], labels=None, features=FEATURES)


def test_names_that_cannot_be_meant_are_refused(shard, record) -> None:
    source = MemoryShard("a", shard([record(0)]))
    with pytest.raises(ValueError, match="not there: b"):
        validate([source], labels=None, features=FEATURES, eval_shards=["b"])
    with pytest.raises(ValueError, match="same name"):
        validate([source, source], labels=None, features=FEATURES)


def test_progress_tells_every_byte_read(check, record, shard, good_eval) -> None:
    seen: list[int] = []
    verdict = check({"train-0": shard(map(record, range(9))), "eval-0": good_eval}, progress=seen.append)
    assert sum(seen) == verdict.coverage.bytes_read == verdict.coverage.bytes_total


def test_the_document_says_everything_and_names_its_version(check, record, shard, good_eval) -> None:
    verdict = check({"train-0": shard([*map(record, range(4)), record(4, label=7)]), "eval-0": good_eval})
    document = json.loads(verdict.to_json())
    assert (document["v"], document["verdict"], document["reason"]) == (1, "rejected", verdict.reason())
    assert document["findings"][0]["shard"] == "train-0"
    assert document["finding_counts"] == {"label_out_of_range": 1}
    assert document["coverage"]["records"] == 11
    assert document["splits"][0]["image_bytes"]["maximum"] >= document["splits"][0]["image_bytes"]["median"]
    assert document["classes"][1]["records"] == {"train": 2, "eval": 3}
    assert document["shards"][0]["bad_records"] == 1


def test_validation_imports_neither_tensorflow_nor_a_google_client() -> None:
    code = (
        "import sys, training_launcher.validation\n"
        "print([name for name in sys.modules if name.split('.')[0] in {'tensorflow', 'keras', 'requests'}"
        " or name.startswith('google.cloud.')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
