"""The held-out pictures are those that the trainer held out, from the very bytes that it was given."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import google_crc32c
import pytest

from dualdeploy.errors import UnusableResult
from dualdeploy.google.object_store import ABSENT
from dualdeploy.images import tfrecord
from dualdeploy.ledger import Run, Shard, Snapshot
from mobile_publisher import held_out
from support import odd_images
from support.fakes import MemoryObjectStore

CONFIG = {"labels": ["blue", "red"], "data": {"features": {"image": "image", "label": "class"}}}


def picture(name: str) -> bytes:
    """A picture that is told from others by a text in it."""
    return odd_images.png(odd_images.chunk(b"teXt", name.encode()), odd_images.IDAT)


Pairs = Sequence[tuple[bytes, int]]


def shard(pairs: Pairs, *, image: str = "image", label: str = "class") -> bytes:
    out = io.BytesIO()
    tfrecord.write_records(out, [tfrecord.encode_example({image: [i], label: [k]}) for i, k in pairs])
    return out.getvalue()


def run_of(store: MemoryObjectStore, **config: Any) -> Run:
    shards = tuple(
        Shard(name=found.name, generation=found.generation, size=found.size, crc32c=found.crc32c)
        for found in store.list("flowers/")
    )
    return Run(
        run_id="flowers-0123456789ab",
        dataset="flowers",
        created_at="2026-11-23T12:00:00.000Z",
        reason="",
        snapshot=Snapshot(bucket="data", prefix="flowers/", shards=shards),
        config={**CONFIG, **config},
        claim="",
    )


@pytest.fixture
def store() -> MemoryObjectStore:
    return MemoryObjectStore("data")


def read(store: MemoryObjectStore, run: Run | None = None) -> list[tuple[bytes, int]]:
    return list(held_out.examples(run or run_of(store), store))


def test_named_evaluation_shards_are_read_whole_and_the_others_not_at_all(store: MemoryObjectStore) -> None:
    store.put("flowers/train.tfrecord", shard([(picture("a"), 0), (picture("b"), 1)]), expect=ABSENT)
    store.put("flowers/eval.tfrecord", shard([(picture("c"), 0), (picture("d"), 1)]), expect=ABSENT)
    assert read(store) == [(picture("c"), 0), (picture("d"), 1)]


def test_without_named_shards_the_checksum_of_each_picture_decides(store: MemoryObjectStore) -> None:
    pairs = [(picture(f"picture {number}"), number % 2) for number in range(200)]
    store.put("flowers/a.tfrecord", shard(pairs[:100]), expect=ABSENT)
    store.put("flowers/b.tfrecord", shard(pairs[100:]), expect=ABSENT)
    expected = [(image, label) for image, label in pairs if google_crc32c.value(image) % 5 == 0]
    assert read(store) == expected
    assert 20 <= len(expected) <= 60


def test_records_that_the_trainer_skips_are_skipped(store: MemoryObjectStore) -> None:
    out = io.BytesIO()
    examples = [
        {"image": [picture("no label")]},
        {"class": [1]},
        {"image": [picture("label is an unknown text")], "class": [b"violet"]},
        {"image": [7], "class": [1]},
        {"image": [picture("label out of range")], "class": [2]},
        {"image": [picture("negative")], "class": [-1]},
        {"image": [picture("two"), picture("pictures")], "class": [1]},
        {"image": [picture("two labels")], "class": [0, 1, 1]},
        {"image": [b"no picture"], "class": [1]},
        {"image": [picture("cut")[:-1]], "class": [1]},
        {"image": [picture("good")], "class": [1], "extra": [1.5]},
    ]
    tfrecord.write_records(out, [tfrecord.encode_example(example) for example in examples])
    store.put("flowers/eval.tfrecord", out.getvalue(), expect=ABSENT)
    assert read(store) == [(picture("good"), 1)]


def test_the_features_and_labels_are_those_that_the_run_was_trained_with(store: MemoryObjectStore) -> None:
    store.put("flowers/eval.tfrecord", shard([(picture("a"), 2)], image="jpeg", label="kind"), expect=ABSENT)
    features = {"image": "jpeg", "label": "kind"}
    run = run_of(store, labels=["blue", "red", "white"], data={"features": features})
    assert read(store, run) == [(picture("a"), 2)]


def test_damaged_records_are_skipped_as_the_trainer_skips_them(store: MemoryObjectStore) -> None:
    good = shard([(picture("good"), 1)])
    damaged = bytearray(shard([(picture("damaged"), 1)]))
    damaged[14] ^= 0xFF
    no_example = io.BytesIO()
    tfrecord.write_records(no_example, [b"\xff\xff no example"])
    store.put("flowers/eval.tfrecord", bytes(damaged) + no_example.getvalue() + good, expect=ABSENT)
    assert read(store) == [(picture("good"), 1)]


def test_a_shard_whose_framing_is_lost_is_said_to_be_unreadable(store: MemoryObjectStore) -> None:
    store.put("flowers/eval.tfrecord", shard([(picture("good"), 1)]) + b"half a header", expect=ABSENT)
    with pytest.raises(UnusableResult, match="the held-out pictures of flowers-0123456789ab cannot be read"):
        read(store)


def test_a_shard_with_other_bytes_than_the_snapshot_proves_nothing(store: MemoryObjectStore) -> None:
    generation = store.put("flowers/eval.tfrecord", shard([(picture("a"), 0)]), expect=ABSENT)
    run = run_of(store)
    store.put("flowers/eval.tfrecord", shard([(picture("b"), 0)]), expect=generation)
    with pytest.raises(
        UnusableResult, match=r"gs://data/flowers/eval\.tfrecord is no longer what flowers-0123456789ab"
    ):
        read(store, run)


def test_a_deleted_shard_proves_nothing(store: MemoryObjectStore) -> None:
    generation = store.put("flowers/eval.tfrecord", shard([(picture("a"), 0)]), expect=ABSENT)
    run = run_of(store)
    store.delete("flowers/eval.tfrecord", expect=generation)
    with pytest.raises(UnusableResult, match="train again"):
        read(store, run)


def test_the_same_bytes_uploaded_again_are_as_good(store: MemoryObjectStore) -> None:
    data = shard([(picture("a"), 0)])
    generation = store.put("flowers/eval.tfrecord", data, expect=ABSENT)
    run = run_of(store)
    store.delete("flowers/eval.tfrecord", expect=generation)
    store.put("flowers/eval.tfrecord", data, expect=ABSENT)
    store.put("flowers/eval.tfrecord-00000-of-00001", shard([(picture("other"), 0)]), expect=ABSENT)
    assert read(store, run) == [(picture("a"), 0)]


def test_names_of_classes_one_based_indices_and_a_records_own_side_are_read_as_the_trainer_reads_them(
    store: MemoryObjectStore,
) -> None:
    records = [
        {"photo": picture("first"), "kind": 1, "split": "val"},
        {"photo": picture("second"), "kind": "red", "split": "val"},
        {"photo": picture("third"), "kind": 2, "split": "train"},
    ]
    out = io.BytesIO()
    tfrecord.write_records(out, [tfrecord.encode_example(each) for each in records])
    store.put("flowers/all.tfrecord", out.getvalue(), expect=ABSENT)
    run = run_of(store, data={"features": {"image": "photo", "label": "kind"}, "first_label": 1})
    assert read(store, run) == [(picture("first"), 0), (picture("second"), 1)]
    assert list(held_out.training_examples(run, store, about=5)) == [(picture("third"), 1)]


def test_how_the_trainer_held_out_counts_more_than_what_the_names_say_to_this_version(store: MemoryObjectStore) -> None:
    pairs = [(picture(f"{number}"), number % 2) for number in range(40)]
    store.put("flowers/train/a.tfrecord", shard(pairs[:20]), expect=ABSENT)
    store.put("flowers/val/a.tfrecord", shard(pairs[20:]), expect=ABSENT)
    run = run_of(store)
    assert list(held_out.examples(run, store)) == pairs[20:]
    by_checksum = [pair for pair in pairs if google_crc32c.value(pair[0]) % 5 == 0]
    assert list(held_out.examples(run, store, by_hash=True)) == by_checksum
