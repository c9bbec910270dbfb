"""`dualdeploy validate`, `dualdeploy demo --data` and the launcher give one verdict for one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dualdeploy.google.object_store import ABSENT
from dualdeploy.images.tfrecord import encode_example
from dualdeploy_demo import source
from support import odd_images
from support.chain import Chain, shard_bytes
from support.command_line import invoke

PICTURE = odd_images.png(odd_images.IDAT)


@pytest.mark.parametrize(
    ("names", "good"),
    [
        (["train.tfrecord", "eval.tfrecord"], True),
        (["a/train.tfrecord", "b/c/eval.tfrecord.gz"], True),
        (["train-00001-of-00002.tfrecord", "train-00002-of-00002.tfrecord", "eval.tfrecord"], True),
        (["train.tfrecord", "eval.tfrecord", "._train.tfrecord", "__MACOSX/train.tfrecord", ".DS_Store"], True),
        (["train.tfrecord", "eval.tfrecord", "README.md", "more-00000-of-00002"], True),
        (["train-00000-of-00002.tfrecord", "eval.tfrecord"], False),
        (["train-00001-of-00003.tfrecord", "train-00002-of-00003.tfrecord", "eval.tfrecord"], False),
        (["train-0-of-2.tfrecord", "train-1-of-2.tfrecord", "train-2-of-2.tfrecord", "eval.tfrecord"], False),
        (["train_00001_of_00010.tfrecord", "eval.tfrecord"], False),
        (["train_1_of_2.tfrecord", "train_2_of_2.tfrecord", "eval.tfrecord"], True),
        (["latest/a.tfrecord", "contest.tfrecord"], True),
        (["validation.tfrecord"], False),
        (["train.tfrecord.part", "eval.tfrecord.part"], False),
        (["train.tfrecord", "val/train.tfrecord"], False),
        (["train-00000-of-00001", "validation-00000-of-00001"], False),
        (["_temporary/0/train.tfrecord", "beam-temp-x/eval.tfrecord"], False),
        (["labels.txt"], False),
    ],
    ids=lambda value: value if isinstance(value, bool) else value[0],
)
def test_one_folder_has_one_verdict(tmp_path: Path, names: list[str], good: bool) -> None:
    chain = Chain()
    for name in names:
        data = b"blue\nred\n" if name == "labels.txt" else shard_bytes(name)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        generation = chain.data.put(f"flowers/{name}", data, expect=ABSENT)
        chain.handle(chain.finalized(f"flowers/{name}", generation=int(generation)))
    for _ in range(4):
        chain.drain()
        chain.tick()
    try:
        source.folder(tmp_path, labels=["blue", "red"])
        demo = True
    except source.UnusableFolder:
        demo = False

    assert (invoke("validate", tmp_path, "--labels", "blue,red")[0] == 0) is good
    assert bool(chain.vertex.jobs) is good
    assert demo is good


def bad(number: int) -> bytes:
    return encode_example({"image": b"\x00\x01", "class": 0, "number": number})


CONTENTS = {
    "sound": (lambda good: good, True),
    "one bad record of 150": (lambda good: [*good, bad(1)], True),
    "three bad records of 152": (lambda good: [*good, *map(bad, range(3))], False),
    "one negative label": (lambda good: [*good, encode_example({"image": PICTURE, "class": -1})], True),
    "one class": (lambda good: good[::2], False),
    "half of them twice": (lambda good: [*good, *good[:70]], True),
    "no example": (lambda good: [*good, b"\xff\xff"], True),
    "sequences": (lambda good: [record + b"\x12\x09\x0a\x07\x0a\x05image" for record in good], True),
    "nothing": (lambda _: [], False),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_one_content_has_one_verdict(tmp_path: Path, record: Any, shard: Any, kind: str) -> None:
    change, accepted = CONTENTS[kind]
    chain = Chain()
    held_out = shard(record(seed) for seed in range(1000, 1020))
    data = shard(change([record(seed) for seed in range(149)]))
    for name, content in (("train.tfrecord", data), ("eval.tfrecord", held_out)):
        (tmp_path / name).write_bytes(content)
        chain.data.put(f"flowers/{name}", content, expect=ABSENT)
    chain.handle(chain.finalized("flowers/train.tfrecord"))
    for _ in range(4):
        chain.drain()
        chain.tick()

    assert (invoke("validate", tmp_path, "--labels", "blue,red")[0] == 0) is accepted
    assert bool(chain.vertex.jobs) is accepted


def test_the_last_folder_alone_is_judged_where_the_configuration_says_so(
    tmp_path: Path, record: Any, shard: Any
) -> None:
    for folder, bytes_of_train in (("v9", b"rotten"), ("v10", shard(record(seed) for seed in range(60)))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.tfrecord").write_bytes(bytes_of_train)
    file = tmp_path / "flowers.yaml"
    for snapshot, accepted in (("latest_folder", True), ("{last: 2}", False), ("all", False)):
        file.write_text(f"{{dataset: flowers, labels: [blue, red], data: {{snapshot: {snapshot}}}}}")
        assert (invoke("validate", tmp_path, "--config", file)[0] == 0) is accepted
    file.write_text("{dataset: flowers, labels: [blue, red], data: {snapshot: latest_folder}}")
    assert list(source.folder(tmp_path, config_file=file).files) == ["v10/train.tfrecord"]


@pytest.mark.parametrize(("tolerated", "accepted"), [("0", False), ("0.1", True)])
def test_what_a_configuration_tolerates_is_tolerated_by_both(
    tmp_path: Path, record: Any, shard: Any, tolerated: str, *, accepted: bool
) -> None:
    (tmp_path / "train.tfrecord").write_bytes(shard([*(record(seed) for seed in range(60)), bad(1)]))
    file = tmp_path / "flowers.yaml"
    targets = ", ".join(f"{target}: {{max_bad_records: {tolerated}}}" for target in ("cloud", "mobile"))
    file.write_text(f"{{dataset: flowers, labels: [blue, red], training: {{{targets}}}}}")
    assert (invoke("validate", tmp_path, "--config", file)[0] == 0) is accepted
    assert source.folder(tmp_path, config_file=file).config["training"]["cloud"]["max_bad_records"] == float(tolerated)
