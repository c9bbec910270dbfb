"""Whether the pictures of a run are held out in another way than before is said before anything is spent."""

from __future__ import annotations

import json

from dualdeploy.google.object_store import ABSENT
from dualdeploy.ledger import Ledger, Run, Shard, Snapshot, run_id_of
from support.chain import LABELS, shard_bytes
from support.fakes import MemoryObjectStore
from training_launcher.admission import examine
from training_launcher.data_sets import DataSets
from training_launcher.run_split import split_of_run


def run_of(*names: str) -> Run:
    shards = tuple(Shard(name=f"flowers/{name}", generation=1, size=1, crc32c="") for name in names)
    snapshot = Snapshot(bucket="data", prefix="flowers/", shards=shards)
    return Run(
        run_id="flowers-0123456789ab", dataset="flowers", created_at="2026-11-23T12:00:00.000Z", reason="",
        snapshot=snapshot, config={}, claim="",
    )  # fmt: skip


def test_the_first_shard_that_is_held_out_is_said_to_let_go_what_the_checksum_held_out() -> None:
    before, now = run_of("a.tfrecord", "b.tfrecord"), run_of("a.tfrecord", "b.tfrecord", "eval.tfrecord")
    [doubt] = split_of_run(now, earlier=[before]).doubts
    assert "until now one picture in 5 was held out by its checksum" in doubt.message
    assert "flowers/eval.tfrecord" in doubt.message
    assert split_of_run(before, earlier=[before]).doubts == ()
    assert split_of_run(now, earlier=[before, now]).doubts == ()
    assert split_of_run(now).doubts == ()


def test_the_verdict_of_the_run_says_so() -> None:
    data, ledger_store = MemoryObjectStore("data"), MemoryObjectStore("ledger")
    ledger = Ledger(ledger_store)
    data_sets = DataSets(ledger)
    for name in ("flowers/a.tfrecord", "flowers/eval.tfrecord"):
        data.put(name, shard_bytes(name), expect=ABSENT)
    shards = tuple(Shard(name=f.name, generation=f.generation, size=f.size, crc32c=f.crc32c) for f in data.list(""))
    config = {"dataset": "flowers", "labels": list(LABELS), "data": {"prefix": "flowers/"}}
    runs = []
    for snapshot in (Snapshot(bucket="data", prefix="flowers/", shards=part) for part in (shards[:1], shards)):
        run = run_of().model_copy(
            update={"run_id": run_id_of("flowers", snapshot.digest()), "snapshot": snapshot, "config": config}
        )
        ledger.claim(run)
        data_sets.begun(run)
        runs.append(run)
    assert examine(runs[1], ledger=ledger, data=data, earlier=data_sets.earlier(runs[1])).accepted
    [found] = json.loads(ledger_store.read(f"runs/{runs[1].run_id}/validation.json").data)["findings"]
    assert (found["severity"], found["code"]) == ("warning", "split_not_recognised")
    assert "until now one picture in 5" in found["message"]
