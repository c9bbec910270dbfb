"""A project as Google would tell of it, for what the local cloud cannot have: written down, not asked."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from google.pubsub_v1 import Subscription

from doctor.chain import Chain
from doctor.examination import Look
from doctor.reads import NotThere

REPOSITORY = Path(__file__).resolve().parents[3]
PROJECT, REGION = "my-project", "us-central1"


@dataclasses.dataclass
class WrittenGoogle:
    """`documents` by path, `subscriptions` by full name, `metrics` by metric and subscription."""

    documents: dict[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    subscriptions: dict[str, Subscription] = dataclasses.field(default_factory=dict)
    metrics: dict[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)

    def get(self, _api: str, path: str, **_: Any) -> Mapping[str, Any]:
        if path not in self.documents:
            raise NotThere(f"{path} does not exist")
        return self.documents[path]

    def pages(self, _api: str, path: str, key: str, **_: Any) -> Iterator[Mapping[str, Any]]:
        yield from self.documents.get(path, {}).get(key, [])

    def subscription(self, name: str) -> Subscription:
        if name not in self.subscriptions:
            raise NotThere(f"{name} does not exist")
        return self.subscriptions[name]

    def series(self, metric: str, **_: Any) -> Mapping[str, int]:
        return self.metrics.get(metric.rsplit("/", 1)[-1], {})


@pytest.fixture
def google() -> WrittenGoogle:
    return WrittenGoogle()


@pytest.fixture
def look(google: WrittenGoogle) -> Look:
    chain = Chain.load(REPOSITORY / "infra" / "topology.json", project=PROJECT, region=REGION)
    bindings = json.loads((REPOSITORY / "infra" / "bindings.json").read_text(encoding="utf-8"))
    now = datetime.datetime(2026, 11, 26, 12, tzinfo=datetime.UTC)
    return Look(chain, google, now, bindings)  # type: ignore[arg-type]  # it quacks for the checks
