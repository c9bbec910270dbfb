"""After every upload there is a run, or an entry in the ledger that says why not."""

from __future__ import annotations

import pytest

from dualdeploy.google.object_store import ABSENT
from support.chain import HELD_OUT, NUMBERED, QUIET_SECONDS, WHOLE, Chain, shard_bytes
from support.command_line import invoke, session


@pytest.fixture
def chain() -> Chain:
    return Chain()


def put(chain: Chain, *names: str) -> None:
    """Upload shards under these names below the data set, whatever they look like, and handle each event."""
    for name in names:
        content = b"" if name.endswith("_SUCCESS") else shard_bytes(name)
        generation = chain.data.put(f"flowers/{name}", content, expect=ABSENT)
        assert chain.handle(chain.finalized(f"flowers/{name}", generation=int(generation)))
    chain.drain()


def tick(chain: Chain, seconds: float = 60.0) -> None:
    chain.clock.advance(seconds)
    chain.tick_of("training_launcher")
    chain.drain()


def entries(chain: Chain) -> list[str]:
    return [each.reason for each in chain.ledger.rejections()]


UNKNOWN = {
    "build_image_data.py": ["train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"],
    "spark-tensorflow-connector": ["train.tfrecord/part-r-00000", "train.tfrecord/part-r-00001"],
    "Object Detection API": ["train.record-00000-of-00001", "val.record-00000-of-00001"],
    "other compression": ["train.tfrecord.zz", "train.tfrecord.snappy"],
    "pictures": ["roses/1.jpg", "tulips/2.jpg"],
    "lists": ["train.csv", "labels.txt"],
    "unfinished": ["_temporary/0/part-00000.tfrecord", "beam-temp-train-0af1/x.train.tfrecord"],
    "hidden": ["._train.tfrecord", "__MACOSX/._train.tfrecord", ".DS_Store"],
}


@pytest.mark.parametrize("marker", [[], ["_SUCCESS"]], ids=["quiet period", "marker"])
@pytest.mark.parametrize("names", UNKNOWN.values(), ids=UNKNOWN)
def test_a_batch_without_a_shard_leaves_one_entry_and_no_run(chain: Chain, names: list[str], marker: list[str]) -> None:
    put(chain, *names, *marker)
    for _ in range(3):
        tick(chain)

    assert chain.run_ids() == []
    (said,) = entries(chain)
    assert "data set 'flowers' has no shards under gs://data/flowers/: " in said
    assert names[0] in said
    assert chain.active() == [], "it is said once, not every minute"


def test_an_entry_is_where_people_look(chain: Chain) -> None:
    put(chain, "train-00000-of-00002")
    tick(chain)
    assert chain.handle(chain.finalized("birds/train.tfrecord"))

    code, shown = invoke("runs", given=session(chain.ledger_store))
    assert code == 0
    assert "Refused lately" in shown
    assert "has no shards under gs://data/flowers/" in shown
    (refused,) = chain.http("cloud").get("/status/flowers").json["refused"]
    assert "flowers/train-00000-of-00002" in refused["reason"]


def test_names_that_the_data_set_takes_are_a_batch(chain: Chain) -> None:
    chain.configure(data={"shards": ["train-*", "validation-*"], "quiet_period": 60})
    put(chain, *UNKNOWN["build_image_data.py"])

    (run_id,) = chain.run_ids()
    assert len(chain.ledger.read_run(run_id).snapshot.shards) == 3
    assert entries(chain) == []


def test_a_run_says_what_it_passed_over(chain: Chain) -> None:
    put(chain, "train.tfrecord", "eval.tfrecord", "train-00000-of-00002", "README.md", "_SUCCESS")

    (run_id,) = chain.run_ids()
    run = chain.ledger.read_run(run_id)
    assert [shard.name for shard in run.snapshot.shards] == ["flowers/eval.tfrecord", "flowers/train.tfrecord"]
    assert "1 object is not a shard by its name: flowers/train-00000-of-00002; " in run.reason
    assert entries(chain) == []


def test_an_unknown_object_beside_data_that_was_trained_leaves_an_entry(chain: Chain) -> None:
    put(chain, "train.tfrecord", "eval.tfrecord", "_SUCCESS")
    put(chain, "train-00000-of-00002", "more.tfr")
    tick(chain)
    tick(chain)

    (run_id,) = chain.run_ids()
    (said,) = entries(chain)
    assert f"nothing new for {run_id}: 2 objects are not shards by their names" in said


def test_a_companion_beside_data_that_was_trained_does_not_matter(chain: Chain) -> None:
    put(chain, "train.tfrecord", "eval.tfrecord", "_SUCCESS", "README.md", "dataset_info.json")
    tick(chain)

    assert len(chain.run_ids()) == 1
    assert entries(chain) == []


def test_a_writer_at_work_keeps_a_batch_from_being_complete(chain: Chain) -> None:
    put(chain, "train.tfrecord", "_temporary/0/a")
    tick(chain, 50)
    put(chain, "eval.tfrecord", "_temporary/0/b")
    tick(chain, 50)
    put(chain, "_temporary/0/c")
    tick(chain, 50)
    assert chain.run_ids() == [], "the last task of the job is 50 seconds old"

    tick(chain, 60)
    (run_id,) = chain.run_ids()
    assert len(chain.ledger.read_run(run_id).snapshot.shards) == 2


@pytest.mark.parametrize("order", [[1, 2, 3], [3, 1, 2], [1, 3, 2], [2, 3, 1]])
def test_a_set_that_is_counted_from_1_is_whole_with_its_last_shard(chain: Chain, order: list[int]) -> None:
    put(chain, "eval-00001-of-00001.tfrecord", *(f"train-0000{number}-of-00003.tfrecord" for number in order))

    (run_id,) = chain.run_ids()
    assert len(chain.ledger.read_run(run_id).snapshot.shards) == 4


def test_hidden_folders_are_never_the_newest(chain: Chain) -> None:
    chain.configure(data={"snapshot": "latest_folder", "quiet_period": 60})
    put(chain, "v1/train.tfrecord", "v1/eval.tfrecord", "z.incompleteA1B2/train.tfrecord", "_z/train.tfrecord")
    tick(chain)

    (run_id,) = chain.run_ids()
    names = {shard.name for shard in chain.ledger.read_run(run_id).snapshot.shards}
    assert names == {"flowers/v1/train.tfrecord", "flowers/v1/eval.tfrecord"}


def test_a_folder_that_is_not_the_latest_leaves_an_entry(chain: Chain) -> None:
    chain.configure(data={"snapshot": "latest_folder", "quiet_period": 60})
    put(chain, "v1/train.tfrecord", "v2/train.tfrecord", "v2/eval.tfrecord", "_SUCCESS")
    assert entries(chain) == [], "older folders are what the configuration is about"
    tick(chain)
    put(chain, "v1/eval.tfrecord")
    tick(chain)
    tick(chain)

    (run_id,) = chain.run_ids()
    (said,) = entries(chain)
    assert f"nothing new for {run_id}: flowers/v1/eval.tfrecord came into a folder that data.snapshot (latest" in said


def test_data_of_no_data_set_is_said_once_a_day_whatever_it_is_called(chain: Chain) -> None:
    for name in ("birds/train-00000-of-00002", "birds/train-00001-of-00002", "birds/README.md"):
        assert chain.handle(chain.finalized(name))

    (said,) = entries(chain)
    assert "gs://config/datasets/birds.yaml" in said


def test_a_marker_before_its_shards_is_not_a_refusal(chain: Chain) -> None:
    put(chain, "_SUCCESS")
    tick(chain, QUIET_SECONDS - 10)
    assert entries(chain) == []

    put(chain, *(name.removeprefix("flowers/") for name in (*NUMBERED, *HELD_OUT)))
    (run_id,) = chain.run_ids()
    assert len(chain.ledger.read_run(run_id).snapshot.shards) == len(WHOLE)


def test_a_marker_that_no_shard_follows_leaves_an_entry(chain: Chain) -> None:
    put(chain, "v2/_SUCCESS")
    for _ in range(3):
        tick(chain)

    (said,) = entries(chain)
    assert "only flowers/v2/_SUCCESS is there, without the shards that it speaks for" in said
    assert chain.active() == []
