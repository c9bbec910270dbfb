"""A run is validated over as many requests as it takes, and a shard that cannot be read ends with a reason."""

from __future__ import annotations

import json
import re
from typing import BinaryIO

import pytest

from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable
from dualdeploy.google.object_store import ABSENT, Generation
from dualdeploy.ledger import Run, Shard, Snapshot
from dualdeploy.ledger.due import Due
from support.chain import Chain, shard_bytes
from support.fakes import Failing, ManualClock, MemoryObjectStore
from training_launcher import examination
from training_launcher.examination import ShardUnreadable, ValidationUnderWay, examine

SECONDS_OF_AN_ANSWER = 0.5


class SlowStore(MemoryObjectStore):
    """Each opening takes its time."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__("data", clock=clock)
        self.clock = clock
        self.opened: list[str] = []
        self.broken: dict[str, Exception] = {}

    def open(self, name: str, *, generation: Generation, length: int | None = None) -> BinaryIO:
        self.clock.advance(SECONDS_OF_AN_ANSWER)
        self.opened.append(name)
        if name in self.broken:
            raise self.broken[name]
        return super().open(name, generation=generation, length=length)


class MemoryNotes:
    """Documents that are written once."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}

    def read(self, name: str) -> bytes | None:
        return self.documents.get(name)

    def keep(self, name: str, data: bytes) -> bytes:
        return self.documents.setdefault(name, data)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> SlowStore:
    return SlowStore(clock)


def run_of(store: MemoryObjectStore, count: int, *, crc32c: str | None = None) -> Run:
    names = [f"flowers/train-{number:05d}-of-{count:05d}.tfrecord" for number in range(count)]
    for name in (*names, "flowers/eval.tfrecord"):
        store.put(name, shard_bytes(name), expect=ABSENT)
    shards = tuple(
        Shard(
            name=each.name, generation=each.generation, size=each.size, crc32c=each.crc32c if crc32c is None else crc32c
        )
        for each in store.list("flowers/")
    )
    return Run(
        run_id="flowers-0123456789ab",
        dataset="flowers",
        created_at="2026-11-28T00:00:00.000Z",
        reason="test",
        snapshot=Snapshot(bucket="data", prefix="flowers/", shards=shards),
        config={"dataset": "flowers", "labels": ["blue", "red"]},
        claim="test",
    )


def verdict(document: bytes) -> tuple[str, str]:
    found = json.loads(document)
    return found["verdict"], found["reason"]


def test_what_one_request_has_no_time_for_the_next_goes_on_with(store: SlowStore, clock: ManualClock) -> None:
    run, notes = run_of(store, 150), MemoryNotes()
    for _ in range(2):
        began = clock()
        with pytest.raises(ValidationUnderWay, match=r"of 151 shards of flowers-0123456789ab are validated"):
            examine(run, notes=notes, data=store, clock=clock)
        assert (clock() - began).total_seconds() < 60
        clock.advance(60)
    document = examine(run, notes=notes, data=store, clock=clock)

    assert verdict(document) == ("accepted", "accepted: 604 records in 151 shards")
    # Those that were opened ahead when time was over are opened again, no other.
    assert len(store.opened) <= 151 + 2 * 24
    assert sorted(notes.documents) == ["validation-step-1.json", "validation-step-2.json"]


def test_a_process_that_dies_on_the_way_costs_only_what_it_read(store: SlowStore, clock: ManualClock) -> None:
    run, notes = run_of(store, 150), MemoryNotes()
    with pytest.raises(ValidationUnderWay):
        examine(run, notes=notes, data=store, clock=clock)
    step = dict(notes.documents)
    store.faults.plan("open", *[Failing(KeyboardInterrupt())])
    with pytest.raises(KeyboardInterrupt):
        examine(run, notes=notes, data=store, clock=clock)
    assert notes.documents == step
    clock.advance(60)
    with pytest.raises(ValidationUnderWay):
        examine(run, notes=notes, data=store, clock=clock)
    assert verdict(examine(run, notes=notes, data=store, clock=clock))[0] == "accepted"


@pytest.mark.parametrize(
    "error",
    [
        RejectedByGoogle("400 The target object is encrypted by a customer-supplied encryption key."),
        ServiceUnavailable("503 Backend Error"),
        ConnectionResetError("the peer went away"),
    ],
    ids=["refused", "unavailable", "cut"],
)
def test_a_shard_that_stays_unreadable_ends_with_the_reason(
    store: SlowStore, clock: ManualClock, error: Exception
) -> None:
    run, notes = run_of(store, 30), MemoryNotes()
    store.broken = {"flowers/train-00020-of-00030.tfrecord": error}
    began = clock()
    while (clock() - began).total_seconds() < examination.UNREADABLE_SECONDS - 60:
        with pytest.raises(ShardUnreadable, match=re.escape(str(error))):
            examine(run, notes=notes, data=store, clock=clock)
        clock.advance(60)
    clock.advance(60)

    word, reason = verdict(examine(run, notes=notes, data=store, clock=clock))
    assert word == "rejected"
    assert reason.startswith("a shard could not be read from 2026-")
    assert str(error) in reason
    assert store.opened.count("flowers/train-00000-of-00030.tfrecord") == 1, "what was read is kept"


def test_a_shard_that_is_unreadable_for_a_moment_costs_one_tick(store: SlowStore, clock: ManualClock) -> None:
    run, notes = run_of(store, 3), MemoryNotes()
    store.faults.plan("open", Failing(ServiceUnavailable("503")))
    with pytest.raises(ShardUnreadable):
        examine(run, notes=notes, data=store, clock=clock)
    clock.advance(60)

    assert verdict(examine(run, notes=notes, data=store, clock=clock))[0] == "accepted"


def test_a_shard_under_its_owners_key_is_refused_by_name_before_it_is_read(
    store: SlowStore, clock: ManualClock
) -> None:
    run = run_of(store, 5, crc32c="")

    word, reason = verdict(examine(run, notes=MemoryNotes(), data=store, clock=clock))
    assert word == "rejected"
    assert reason.startswith("flowers/eval.tfrecord, flowers/train-00000-of-00005.tfrecord, ")
    assert "and 3 more: encrypted with a key that only its owner has" in reason
    assert store.opened == []


def test_the_whole_chain_validates_in_several_ticks() -> None:
    chain = Chain()
    chain.upload(*(f"flowers/train-{number:05d}-of-00200.tfrecord" for number in range(200)), "flowers/eval.tfrecord")
    chain.queue.clear()
    Due("training_launcher", chain.ledger).put("arrivals/flowers")

    def opening_takes_time(_number: int, name: str, when: str) -> None:
        if when == "before" and name == "data.open":
            chain.clock.advance(SECONDS_OF_AN_ANSWER)

    chain.interfere = opening_takes_time
    ticks = 0
    while not chain.vertex.jobs:
        ticks += 1
        assert ticks < 10
        chain.clock.advance(60)
        chain.tick_of("training_launcher")
        chain.drain()
    assert 3 <= ticks <= 6
    assert len(chain.vertex.jobs) == 2
