"""A ledger in memory with a clock that moves only when told to; and no connection that leaves this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dualdeploy.ledger import Ledger, Run, Shard, Snapshot, run_id_of
from support.fakes import ManualClock, MemoryObjectStore

#: A few unit tests have a server of their own on loopback; pytest-socket refuses every other address.
THIS_MACHINE = ["127.0.0.0/8", "::1", "localhost"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.allow_hosts(THIS_MACHINE))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> MemoryObjectStore:
    return MemoryObjectStore("ledger", clock=clock)


@pytest.fixture
def ledger(store: MemoryObjectStore, clock: ManualClock) -> Ledger:
    return Ledger(store, clock=clock)


@pytest.fixture
def make_run() -> Callable[..., Run]:
    """`make_run(dataset="flowers", shards=("a",), claim="me")`: a run whose id follows from its shards."""

    def make(dataset: str = "flowers", *, shards: tuple[str, ...] = ("a",), claim: str = "me", **changes: Any) -> Run:
        snapshot = Snapshot(
            bucket="data",
            prefix=f"{dataset}/",
            shards=tuple(
                Shard(name=f"{dataset}/{name}.tfrecord", generation=7, size=10, crc32c="AAAAAA==") for name in shards
            ),
        )
        fields: dict[str, Any] = {
            "run_id": run_id_of(dataset, snapshot.digest()),
            "dataset": dataset,
            "created_at": "2026-11-23T12:00:00.000Z",
            "reason": "every numbered set is whole",
            "snapshot": snapshot,
            "config": {},
            "claim": claim,
        }
        return Run(**{**fields, **changes})

    return make
