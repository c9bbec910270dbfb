"""`dualdeploy validate`, `dualdeploy demo --data` and the launcher give one verdict for one folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from chain import Chain, shard_bytes
from command_line import invoke

from dualdeploy.object_store import ABSENT
from local_cloud.demo import source


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
