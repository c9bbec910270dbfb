"""A topic that remembers."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from support.fakes.failing import Faults


@dataclasses.dataclass(frozen=True)
class PublishedMessage:
    topic: str
    data: bytes
    attributes: Mapping[str, str]

    def json(self) -> Any:
        return json.loads(self.data)


class FakePublisher:
    """Implements `dualdeploy.google.pubsub.Publisher`; `sent` holds what was accepted."""

    def __init__(self, *, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.sent: list[PublishedMessage] = []
        self._lock = threading.Lock()

    def publish(self, topic: str, data: bytes, attributes: Mapping[str, str]) -> str:
        def accepted() -> str:
            with self._lock:
                self.sent.append(PublishedMessage(topic, data, dict(attributes)))
                return str(len(self.sent))

        return self.faults.run("publish", accepted)

    def publish_all(self, topic: str, messages: Sequence[tuple[bytes, Mapping[str, str]]]) -> None:
        for data, attributes in messages:
            self.publish(topic, data, attributes)
