"""Runs are claimed by existing, and everything else in the ledger changes by compare-and-swap."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualdeploy.errors import CannotEverSucceed, LedgerContention, ServiceUnavailable, UnknownRun
from dualdeploy.ledger import (
    Branch,
    Ledger,
    Live,
    Rejected,
    Release,
    Run,
    Shard,
    Snapshot,
    State,
    dataset_of,
    run_id_of,
)
from dualdeploy.object_store import ABSENT
from dualdeploy.testing import Failing, ManualClock, MemoryObjectStore
from dualdeploy.testing.failing import ProcessDied

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
    with pytest.raises(UnknownRun, match="cloud branch of run 'flowers-0123456789ab'"):
        ledger.read_branch("flowers-0123456789ab", "cloud")
    assert not ledger.run_exists("flowers-0123456789ab")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"v": 2}', b"\xff"])
def test_an_unreadable_record_is_told_with_its_place(data: bytes, ledger: Ledger, store: MemoryObjectStore) -> None:
    store.put("runs/flowers-0123456789ab/run.json", data, expect=ABSENT)

    with pytest.raises(CannotEverSucceed, match=r"gs://ledger/runs/flowers-0123456789ab/run\.json is not a Run"):
        ledger.read_run("flowers-0123456789ab")


def test_a_record_of_a_newer_writer_can_be_read(ledger: Ledger, store: MemoryObjectStore, make_run: MakeRun) -> None:
    run = make_run()
    newer = {**run.model_dump(mode="json"), "carbon": 3}
    store.put(f"runs/{run.run_id}/run.json", json.dumps(newer).encode(), expect=ABSENT)

    assert ledger.read_run(run.run_id) == run


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
    run_id = run_id_of(dataset, Snapshot(bucket="b", prefix="p", shards=()), repeat=repeat)

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
    snapshot = Snapshot(bucket="b", prefix="p", shards=())

    assert [run_id_of("f", snapshot, repeat=number)[15:] for number in (1, 2, 3)] == ["", "r2", "r3"]


def test_runs_of_a_data_set_are_not_those_of_one_whose_name_begins_alike(ledger: Ledger, make_run: MakeRun) -> None:
    runs = [make_run("flowers"), make_run("flowers-2"), make_run("flowers", shards=("b",))]
    for run in runs:
        ledger.claim(run)
        ledger.open_branches(run)

    assert ledger.run_ids("flowers") == sorted([runs[0].run_id, runs[2].run_id])
    assert ledger.run_ids("flowers-2") == [runs[1].run_id]
    assert ledger.run_ids("flow") == []


# Branches on the ledger ----------------------------------------------------------------------------------------------


def test_opening_marks_both_branches_active_and_repeating_it_changes_nothing(
    ledger: Ledger, store: MemoryObjectStore, make_run: MakeRun, clock: ManualClock
) -> None:
    run = make_run()
    ledger.open_branches(run)
    before = {name: store.read(name) for name in store.names()}

    clock.advance(60)
    ledger.open_branches(run)

    assert {name: store.read(name) for name in store.names()} == before
    for target in ("cloud", "mobile"):
        branch = ledger.read_branch(run.run_id, target).document
        assert (branch.state, branch.target, branch.dataset) == (State.PENDING, target, "flowers")
        assert [moment.state for moment in branch.history] == [State.PENDING]
        assert ledger.active(target) == [run.run_id]


@pytest.mark.parametrize("deaths_before", range(1, 7))
def test_opening_can_be_repeated_after_a_death_before_any_call(
    deaths_before: int, ledger: Ledger, store: MemoryObjectStore, make_run: MakeRun
) -> None:
    run = make_run()
    calls = iter(range(1, 100))

    def die(_name: str) -> None:
        if next(calls) == deaths_before:
            raise ProcessDied

    store.faults.before = die
    with pytest.raises(ProcessDied):
        ledger.open_branches(run)
    for target in ("cloud", "mobile"):  # never a branch that the clock does not look at
        if f"runs/{run.run_id}/{target}.json" in store.names():
            assert ledger.active(target) == [run.run_id]

    ledger.open_branches(run)

    for target in ("cloud", "mobile"):
        assert ledger.active(target) == [run.run_id]
        assert ledger.read_branch(run.run_id, target).document.state is State.PENDING


def test_opening_again_does_not_wake_a_branch_that_has_ended(
    ledger: Ledger, make_run: MakeRun, clock: ManualClock
) -> None:
    run = make_run()
    ledger.open_branches(run)
    branch, generation = (found := ledger.read_branch(run.run_id, "cloud")).document, found.generation
    ledger.write_branch(branch.moved(State.FAILED, at=clock()), expect=generation)
    ledger.unmark_active(run.run_id, "cloud")

    ledger.open_branches(run)

    assert ledger.active("cloud") == []
    assert ledger.active("mobile") == [run.run_id]


def test_a_branch_is_written_at_the_generation_it_was_read_at_and_no_other(
    ledger: Ledger, make_run: MakeRun, clock: ManualClock
) -> None:
    run = make_run()
    ledger.open_branches(run)
    read = ledger.read_branch(run.run_id, "cloud")
    mine = read.document.moved(State.LAUNCHING, at=clock(), note="mine")
    theirs = read.document.moved(State.FAILED, at=clock(), note="theirs")

    written = ledger.write_branch(theirs, expect=read.generation)
    with pytest.raises(LedgerContention, match=f"{run.run_id}/cloud.json"):
        ledger.write_branch(mine, expect=read.generation)

    assert ledger.read_branch(run.run_id, "cloud") == written


def test_marking_and_unmarking_can_be_repeated(ledger: Ledger) -> None:
    run_id = "flowers-0123456789ab"
    for _ in range(2):
        ledger.mark_active(run_id, "cloud")
    assert ledger.active("cloud") == [run_id]
    for _ in range(2):
        ledger.unmark_active(run_id, "cloud")
    assert ledger.active("cloud") == []


@pytest.mark.parametrize("name", ["README.txt", "", "flowers-0123456789ab/", "old/flowers-0123456789ab"])
def test_a_marker_that_is_named_after_no_run_is_named_once_and_holds_nothing_back(
    name: str, ledger: Ledger, store: MemoryObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.mark_active("flowers-ba9876543210", "cloud")
    store.put(f"active/cloud/{name}", b"", expect=ABSENT)
    for _ in range(3):
        assert ledger.active("cloud") == ["flowers-ba9876543210"]
    assert caplog.messages == [f"gs://ledger/active/cloud/{name} is named after no run, and is passed over: delete it"]


# What serves, what was refused --------------------------------------------------------------------------------------


def test_what_serves_is_replaced_only_at_the_generation_it_was_read_at(ledger: Ledger) -> None:
    def live(run_id: str) -> Live:
        return Live(dataset="f", target="cloud", current=Release(run_id=run_id, run_created_at="x", since="y"))

    assert ledger.read_live("f", "cloud") is None
    ledger.write_live(live("one"), expect=ABSENT)
    with pytest.raises(LedgerContention):
        ledger.write_live(live("two"), expect=ABSENT)
    found = ledger.read_live("f", "cloud")
    assert found is not None
    ledger.write_live(live("two"), expect=found.generation)
    with pytest.raises(LedgerContention):
        ledger.write_live(live("three"), expect=found.generation)

    replaced = ledger.read_live("f", "cloud")
    assert replaced is not None
    assert replaced.document.current.run_id == "two"
    assert ledger.read_live("f", "mobile") is None


def test_an_object_written_once_keeps_its_first_content(ledger: Ledger) -> None:
    assert ledger.read_bytes("runs/r/spec.json") is None
    assert ledger.write_once("runs/r/spec.json", b"first") == b"first"
    assert ledger.write_once("runs/r/spec.json", b"second") == b"first"
    assert ledger.read_bytes("runs/r/spec.json") == b"first"


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
    operation: str, ledger: Ledger, store: MemoryObjectStore, make_run: MakeRun
) -> None:
    run = make_run()
    ledger.claim(run)
    ledger.open_branches(run)
    calls: dict[str, Callable[[], object]] = {
        "read": lambda: ledger.read_branch(run.run_id, "cloud"),
        "put": lambda: ledger.note_arrival("flowers"),
        "list": lambda: ledger.active("cloud"),
        "delete": lambda: ledger.unmark_active(run.run_id, "cloud"),
    }
    store.faults.plan(operation, Failing(ServiceUnavailable("no answer")))

    with pytest.raises(ServiceUnavailable):
        calls[operation]()
    calls[operation]()
    assert store.faults.pending() == {}


def test_records_are_written_for_people_to_read(ledger: Ledger, store: MemoryObjectStore, make_run: MakeRun) -> None:
    run = make_run(reason="größere Blüten")
    ledger.claim(run)

    text = store.read(f"runs/{run.run_id}/run.json").data.decode()
    assert "größere Blüten" in text
    assert text.count("\n") > 10
    assert list(json.loads(text)) == sorted(json.loads(text))


def test_the_branches_of_a_run_are_two_objects(ledger: Ledger, store: MemoryObjectStore, make_run: MakeRun) -> None:
    run = make_run()
    ledger.claim(run)
    ledger.open_branches(run)

    folder = [name for name in store.names() if name.startswith("runs/")]
    assert folder == [f"runs/{run.run_id}/{part}.json" for part in ("cloud", "mobile", "run")]
    assert Branch.model_validate_json(store.read(folder[0]).data).target == "cloud"
