"""Durable records."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_cloud.vertex.records import Records


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    records = Records(tmp_path / "state" / "records.sqlite")
    yield records
    records.close()


def test_a_record_is_there_for_another_process_as_soon_as_it_is_put(records: Records, tmp_path: Path) -> None:
    records.put("jobs", "a", {"state": "RUNNING"})
    other = Records(tmp_path / "state" / "records.sqlite")
    assert other.get("jobs", "a") == {"state": "RUNNING"}
    assert other.get("models", "a") is None
    other.close()


def test_replacing_a_record_keeps_its_place(records: Records) -> None:
    records.put("jobs", "a", {"value": 1})
    records.put("jobs", "b", {"value": 2})
    records.put("jobs", "a", {"value": 3})
    assert [record["value"] for _, record in records.all("jobs")] == [3, 2]


def test_a_transaction_that_fails_changes_nothing(records: Records) -> None:
    records.put("jobs", "a", {"value": 1})

    def fail_within() -> None:
        with records.transaction():
            records.put("jobs", "a", {"value": 2})
            with records.transaction():
                records.remove("jobs", "a")
            raise LookupError

    with pytest.raises(LookupError):
        fail_within()
    assert records.get("jobs", "a") == {"value": 1}


def test_what_was_read_is_a_copy(records: Records) -> None:
    records.put("jobs", "a", {"value": 1})
    read = records.get("jobs", "a")
    assert read is not None
    read["value"] = 2
    assert records.get("jobs", "a") == {"value": 1}


def test_concurrent_transactions_do_not_lose_an_update(records: Records) -> None:
    records.put("counters", "a", {"value": 0})

    def increment() -> None:
        for _ in range(25):
            with records.transaction():
                record = records.get("counters", "a") or {}
                records.put("counters", "a", {"value": record["value"] + 1})

    threads = [threading.Thread(target=increment) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert records.get("counters", "a") == {"value": 100}
