"""Runs are claimed by existing, and everything else in the ledger changes by compare-and-swap only."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualdeploy.errors import LedgerContention, ServiceUnavailable, UnknownRun
from dualdeploy.google.object_store import ABSENT
from dualdeploy.ledger import (
    Document,
    Ledger,
    Rejected,
    Run,
    Shard,
    Snapshot,
    UnreadableDocument,
    dataset_of,
    run_id_of,
)
from support.fakes import Failing, ManualClock, MemoryObjectStore

MakeRun = Callable[..., Run]

DATASETS = st.from_regex(r"[a-z][a-z0-9-]{0,38}", fullmatch=True)


# Claiming ----------------------------------------------------------------------------------------------------------


def test_the_first_claim_creates_the_run_and_the_second_finds_it(ledger: Ledger, make_run: MakeRun) -> None:
    mine, theirs = make_run(claim="mine"), make_run(claim="theirs")

    assert ledger.claim(mine) == (mine, True)
    assert ledger.claim(theirs) == (mine, False)
    assert ledger.read_run(mine.run_id) == mine


def test_of_many_concurrent_claims_one_proceeds(ledger: Ledger, make_run: MakeRun) -> None:
    claims: list[tuple[Run, bool]] = []
    barrier = threading.Barrier(16)

    def claim(number: int) -> None:
        barrier.wait()
        claims.append(ledger.claim(make_run(claim=str(number))))

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    winners = [run for run, created in claims if created]
    assert len(claims) == 16
    assert len(winners) == 1
    assert all(run == winners[0] for run, _ in claims)


def test_a_claim_whose_answer_was_lost_is_still_known_as_ones_own(
    ledger: Ledger, store: MemoryObjectStore, make_run: MakeRun
) -> None:
    store.faults.plan("put", Failing(ServiceUnavailable("lost"), after=True))
    run = make_run(claim="message-17")

    with pytest.raises(ServiceUnavailable):
        ledger.claim(run)

    assert ledger.claim(run) == (run, True)
    assert ledger.claim(make_run(claim="message-18"))[1] is False


def test_an_unknown_run_is_told_by_name(ledger: Ledger) -> None:
    with pytest.raises(UnknownRun, match="flowers-0123456789ab"):
        ledger.read_run("flowers-0123456789ab")
    with pytest.raises(UnknownRun, match="cloud training of run 'flowers-0123456789ab'"):
        ledger.read_launch("flowers-0123456789ab", "cloud")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"v": 2}', b"\xff"])
def test_an_unreadable_record_is_told_with_its_place(data: bytes, ledger: Ledger, store: MemoryObjectStore) -> None:
    store.put("runs/flowers-0123456789ab/run.json", data, expect=ABSENT)

    with pytest.raises(UnreadableDocument, match=r"gs://ledger/runs/flowers-0123456789ab/run\.json cannot be read"):
        ledger.read_run("flowers-0123456789ab")


def test_a_record_of_a_newer_writer_can_be_read(ledger: Ledger, store: MemoryObjectStore, make_run: MakeRun) -> None:
    run = make_run()
    newer = {**run.model_dump(mode="json"), "carbon": 3}
    store.put(f"runs/{run.run_id}/run.json", json.dumps(newer).encode(), expect=ABSENT)

    assert ledger.read_run(run.run_id).model_dump(mode="json") == newer


# Run ids -----------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_known_by_names_sizes_and_checksums_alone() -> None:
    shard = Shard(name="flowers/a.tfrecord", generation=1, size=10, crc32c="AAAAAA==")
    other = Shard(name="flowers/b.tfrecord", generation=2, size=10, crc32c="AAAAAA==")

    def digest(*shards: Shard) -> str:
        return Snapshot(bucket="data", prefix="flowers/", shards=shards).digest()

    same_bytes_again = shard.model_copy(update={"generation": 99})
    assert digest(shard, other) == digest(other, shard) == digest(same_bytes_again, other)
    changes: list[dict[str, object]] = [{"name": "flowers/c.tfrecord"}, {"size": 11}, {"crc32c": "AAAAAQ=="}]
    digests = {digest(shard.model_copy(update=change), other) for change in changes}
    assert len(digests | {digest(shard, other), digest(shard)}) == 5


@settings(deadline=None)  # a loaded machine says nothing of the code
@given(dataset=DATASETS, repeat=st.integers(1, 12))
def test_a_run_id_tells_its_data_set(dataset: str, repeat: int) -> None:
    run_id = run_id_of(dataset, "0123456789abcdef", repeat=repeat)

    assert dataset_of(run_id) == dataset
    assert len(run_id) <= 63  # a Vertex AI label value


@pytest.mark.parametrize(
    ("run_id", "dataset"),
    [
        ("flowers-0123456789ab", "flowers"),
        ("flowers-0123456789ab-r2", "flowers"),
        ("flowers-0123456789ab-r12", "flowers"),
        ("wild-flowers-2-0123456789ab", "wild-flowers-2"),
        ("flowers-r2-0123456789ab", "flowers-r2"),
        ("flowers-r2-0123456789ab-r2", "flowers-r2"),
        ("flowers-0123456789ab-0123456789ab", "flowers-0123456789ab"),
        ("flowers", ""),
        ("flowers-r2", ""),
        ("flowers-0123456789", ""),
        ("flowers-0123456789ag", ""),
        ("flowers-0123456789AB", ""),
        ("flowers-0123456789ab-r", ""),
        ("flowers-0123456789ab-x2", ""),
        ("-0123456789ab", ""),
        ("", ""),
        ("a/../flowers-0123456789ab", ""),
    ],
)
def test_the_data_set_of_a_run_id(run_id: str, dataset: str) -> None:
    assert dataset_of(run_id) == dataset


def test_the_first_run_of_a_snapshot_has_no_suffix_and_repetitions_count_from_two() -> None:
    ids = [run_id_of("f", "0123456789abcdef", repeat=number) for number in (1, 2, 3)]
    assert ids == ["f-0123456789ab", "f-0123456789ab-r2", "f-0123456789ab-r3"]


def test_runs_of_a_data_set_are_not_those_of_one_whose_name_begins_alike(ledger: Ledger, make_run: MakeRun) -> None:
    runs = [make_run("flowers"), make_run("flowers-2"), make_run("flowers", shards=("b",))]
    for run in runs:
        ledger.claim(run)

    assert ledger.run_ids("flowers") == sorted([runs[0].run_id, runs[2].run_id])
    assert ledger.run_ids("flowers-2") == [runs[1].run_id]
    assert ledger.run_ids("flow") == []


# Any document ------------------------------------------------------------------------------------------------------


class Counter(Document):
    count: int = 0


def test_a_document_is_written_at_the_generation_it_was_read_at_and_no_other(ledger: Ledger) -> None:
    read, created = ledger.create("counter.json", Counter())
    assert created
    written = ledger.write("counter.json", Counter(count=1), expect=read.generation)
    with pytest.raises(LedgerContention, match=r"counter\.json"):
        ledger.write("counter.json", Counter(count=2), expect=read.generation)
    assert ledger.find("counter.json", Counter) == written
    assert ledger.create("counter.json", Counter(count=3)) == (written, False)


def test_of_concurrent_updates_none_is_lost(ledger: Ledger) -> None:
    def count() -> None:
        for _ in range(5):
            ledger.update("counter.json", Counter, lambda present: Counter(count=(present or Counter()).count + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ledger.update("counter.json", Counter, lambda present: present) == Counter(count=20)


def test_an_update_that_changes_nothing_writes_nothing(ledger: Ledger, store: MemoryObjectStore) -> None:
    ledger.create("counter.json", Counter())
    writes = store.faults.calls["put"]
    ledger.update("counter.json", Counter, lambda present: present)
    ledger.update("counter.json", Counter, lambda _: None)
    assert store.faults.calls["put"] == writes


def test_an_update_that_is_always_overtaken_comes_to_an_end(ledger: Ledger, store: MemoryObjectStore) -> None:
    numbers = itertools.count()

    def overtaken(present: Counter | None) -> Counter:
        found = ledger.find("counter.json", Counter)
        other = Counter(count=1000 + next(numbers))
        store.put("counter.json", other.model_dump_json().encode(), expect=found.generation if found else ABSENT)
        return Counter(count=1)

    with pytest.raises(LedgerContention):
        ledger.update("counter.json", Counter, overtaken)


def test_what_a_newer_version_wrote_survives_being_written_by_this_one(
    ledger: Ledger, store: MemoryObjectStore
) -> None:
    newer = {"count": 1, "unit": "images", "history": [{"at": "x", "who": "jo"}]}
    store.put("counter.json", json.dumps(newer).encode(), expect=ABSENT)

    ledger.update("counter.json", Counter, lambda present: present.changed(count=2) if present else None)

    assert json.loads(store.read("counter.json").data) == {**newer, "count": 2}


# What serves, what was refused --------------------------------------------------------------------------------------


def test_a_rejection_is_kept_once_for_each_event_service_and_kind(
    ledger: Ledger, store: MemoryObjectStore, clock: ManualClock
) -> None:
    def reject(service: str, kind: str, event_id: str, reason: str = "x") -> str:
        at = clock().isoformat()
        rejected = Rejected(at=at, service=service, kind=kind, reason=reason)
        return ledger.record_rejected(rejected, event_id=event_id)

    first = reject("s", "k", "1", "first")
    clock.advance(30)
    assert reject("s", "k", "1", "again") == first
    others = {reject("s", "k", "2"), reject("s", "other", "1"), reject("other", "k", "1"), reject("sk", "", "1")}

    assert len(others - {first}) == 4
    assert first.startswith("rejected/2026-11-23/")
    assert json.loads(store.read(first).data)["reason"] == "first"


@pytest.mark.parametrize("operation", ["read", "put", "list", "delete"])
def test_a_bucket_that_does_not_answer_is_a_reason_to_retry_later(
    operation: str, ledger: Ledger, store: MemoryObjectStore
) -> None:
    found, _ = ledger.create("counter.json", Counter())
    calls: dict[str, Callable[[], object]] = {
        "read": lambda: ledger.find("counter.json", Counter),
        "put": lambda: ledger.create("other.json", Counter()),
        "list": lambda: ledger.names("counter"),
        "delete": lambda: ledger.remove("counter.json", expect=found.generation),
    }
    store.faults.plan(operation, Failing(ServiceUnavailable("no answer")))

    with pytest.raises(ServiceUnavailable):
        calls[operation]()
    calls[operation]()
    assert store.faults.pending() == {}


def test_a_refusal_that_cannot_be_read_hides_no_other(ledger: Ledger, store: MemoryObjectStore) -> None:
    at = "2026-11-23T12:00:00.000Z"
    rejected = Rejected(at=at, service="s", kind="k", reason="x", event={"dataset": "flowers"})
    ledger.record_rejected(rejected, event_id="1")
    store.put("rejected/2026-11-23/broken.json", b"{", expect=ABSENT)
    assert ledger.rejections() == [rejected]
    assert ledger.refused_lately("flowers") == [rejected]
    assert ledger.refused_lately("birds") == []


def test_records_are_written_for_people_to_read(ledger: Ledger, store: MemoryObjectStore, make_run: MakeRun) -> None:
    run = make_run(reason="größere Blüten")
    ledger.claim(run)

    text = store.read(f"runs/{run.run_id}/run.json").data.decode()
    assert "größere Blüten" in text
    assert text.count("\n") > 10
