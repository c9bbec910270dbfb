"""The sinks of a project: entries that their filters let through go to their topics."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from local_cloud.cloud_logging.filters import compile_filter
from local_cloud.iam import Refused

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Sink:
    """A sink as it stands now, which need not be how the topology has it."""

    name: str
    topic: str
    filter: str
    is_disabled: bool = False


class LogSinks:
    """Named as on Google Cloud. `publish(topic, data, attributes)` takes a short topic name.

    Source of what is published: https://cloud.google.com/logging/docs/export/pubsub
    """

    def __init__(self, sinks: Iterable[Sink], *, publish: Callable[[str, bytes, Mapping[str, str]], object]) -> None:
        self._lock = threading.Lock()
        self._publish = publish
        self._sinks = {sink.name: sink for sink in sinks}

    def find(self, name: str) -> Sink | None:
        with self._lock:
            return self._sinks.get(name)

    def put(self, sink: Sink) -> None:
        """Make it, or change it to this. Raises ApiError for a filter that cannot be read."""
        compile_filter(sink.filter)
        with self._lock:
            self._sinks[sink.name] = sink

    def delete(self, name: str) -> None:
        with self._lock:
            self._sinks.pop(name, None)

    def route(self, entry: Mapping[str, Any]) -> None:
        """Publish an entry wherever it is wanted."""
        attributes = {"logging.googleapis.com/timestamp": str(entry.get("timestamp", ""))}
        with self._lock:
            sinks = list(self._sinks.values())
        for sink in sinks:
            if not sink.is_disabled and compile_filter(sink.filter)(entry):
                try:
                    self._publish(sink.topic, json.dumps(entry).encode(), attributes)
                except Refused as refused:
                    # Google writes to the owners of the project, and the entry is lost.
                    _LOG.warning("sink %s lost an entry: %s", sink.name, refused)
