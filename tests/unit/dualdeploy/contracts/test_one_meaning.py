"""Validation, trainer and publisher hold out the same pictures of the same records, however these are written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from dualdeploy.contracts.split import SplitRule, divide
from dualdeploy.contracts.training import FeatureNames
from dualdeploy.google.object_store import ABSENT
from dualdeploy.images.tfrecord import encode_example, write_records
from dualdeploy.ledger import Run, Shard, Snapshot
from mobile_publisher import held_out
from support import odd_images
from support.fakes import MemoryObjectStore
from trainer.data import examples
from training_launcher.validation import MemoryShard, ValidationLimits, validate

LABELS = ("daisy", "roses")


def picture(number: int) -> bytes:
    return odd_images.png(odd_images.chunk(b"teXt", str(number).encode()), odd_images.IDAT)


def records(first: int, count: int, **more: Any) -> list[bytes]:
    """Usable ones, and three that are not: damaged outside, damaged inside, without a label of ours."""
    made = [{"image": picture(number), "class": number % 2, **more} for number in range(first, first + count)]
    made.insert(3, {"image": picture(0)[:-1], "class": 0, **more})
    made.insert(5, {"image": odd_images.ROTTEN["png, rows missing"], "class": 0, **more})
    made.insert(7, {"image": picture(0), "class": 7, **more})
    return [encode_example(each) for each in made]


def named(first: int, count: int) -> list[bytes]:
    return [encode_example({"image": picture(n), "class": LABELS[n % 2]}) for n in range(first, first + count)]


CASES: dict[str, tuple[dict[str, list[bytes]], Any]] = {
    "checksum": ({"a.tfrecord": records(0, 60), "b.tfrecord": records(60, 40)}, "names"),
    "folders": (
        {"train/a.tfrec": records(0, 30), "val/a.tfrec": records(30, 20), "test/a.tfrec": named(50, 9)},
        "names",
    ),
    "patterns": ({"fold1-a.tfrecord": records(0, 30), "fold2-a.tfrecord": records(30, 20)}, {"eval": "fold2-*"}),
    "checksum asked for": ({"train.tfrecord": records(0, 60), "eval.tfrecord": records(60, 40)}, "hash"),
    "records of their own mind": (
        {"a.tfrecord": [*records(0, 20, split="train"), *records(20, 10, split="val"), *named(30, 30)]},
        "names",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_pictures_are_held_out_by_all(case: str, tmp_path: Path) -> None:
    shards, rule = CASES[case]
    data = {name: shard_of(content) for name, content in shards.items()}
    divided = divide(data, rule=SplitRule.model_validate(rule))

    published = published_pictures(data, rule, by_hash=divided.by_hash)

    trained = trained_pictures(data, divided.train, divided.eval, tmp_path)
    assert trained == [label for _, label in usable(published)]
    verdict = validate(
        [MemoryShard(name, content) for name, content in data.items()],
        labels=LABELS,
        features={"image": "image", "label": "class"},
        split=divided,
        limits=ValidationLimits(max_bad_records=1, full_decode_sample=10_000, max_leaked_images=1),
    )
    evaluation = next(split for split in verdict.splits if split.name == "eval")
    assert evaluation.records == len(usable(published)) > 5


def shard_of(content: list[bytes]) -> bytes:
    stream = io.BytesIO()
    write_records(stream, content)
    return stream.getvalue()


def usable(pairs: list[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
    """Without what only decoding shows, which the publisher meets when it asks the file."""
    return [pair for pair in pairs if pair[0] not in odd_images.ROTTEN.values()]


def published_pictures(data: dict[str, bytes], rule: Any, *, by_hash: bool) -> list[tuple[bytes, int]]:
    store = MemoryObjectStore("data")
    for name, content in data.items():
        store.put(f"flowers/{name}", content, expect=ABSENT)
    shards = tuple(
        Shard(name=each.name, generation=each.generation, size=each.size, crc32c=each.crc32c)
        for name in data
        for each in store.list(f"flowers/{name}")
    )
    run = Run(
        run_id="flowers-0123456789ab", dataset="flowers", created_at="2026-11-23T12:00:00.000Z", reason="", claim="",
        snapshot=Snapshot(bucket="data", prefix="flowers/", shards=shards),
        config={"labels": list(LABELS), "data": {"split": SplitRule.model_validate(rule).model_dump(mode="json")}},
    )  # fmt: skip
    return list(held_out.examples(run, store, by_hash=by_hash))


def trained_pictures(data: dict[str, bytes], train: tuple[str, ...], eval_: tuple[str, ...], folder: Path) -> list[int]:
    """The labels of what the trainer holds out, in order."""
    for name, content in data.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    sides = [[examples.Shard(name, folder / name) for name in names] for names in (train, eval_)]
    loaded = examples.load(
        *sides, labels=LABELS, features=FeatureNames(), image_size=32, max_bad_records=1.0, folder=folder,
        augmentation="none",
    )  # fmt: skip
    return loaded.held_out.labels.tolist()
