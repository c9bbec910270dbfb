"""Held-out pictures of a run, which neither of its models was trained on: the trainer's golden examples."""

from __future__ import annotations

import collections
import logging
import threading
from collections.abc import Iterator, Sequence

from dualdeploy.contracts import golden, training
from dualdeploy.contracts.golden import Picture
from dualdeploy.errors import CannotEverSucceed, RetryLater
from dualdeploy.google.object_store import ObjectMissing, ObjectStore

log = logging.getLogger(__name__)

#: Shown on a page.
MOST = 18
_RUNS_KEPT = 8


class HeldOut:
    """Remembers those of the runs that were asked about last. Thread-safe."""

    def __init__(self, models: ObjectStore) -> None:
        self._models = models
        self._lock = threading.Lock()
        self._kept: collections.OrderedDict[str, tuple[Picture, ...]] = collections.OrderedDict()

    def of(self, run_id: str) -> tuple[Picture, ...]:
        """At most `MOST`, of all classes by turns; none where they are gone, or cannot be read now."""
        with self._lock:
            kept = self._kept.get(run_id)
        if kept is not None:
            return kept
        try:
            found = self._read(run_id)
        except RetryLater as exc:
            log.warning("held-out pictures of %s cannot be read now: %s", run_id, exc)
            return ()
        with self._lock:
            self._kept[run_id] = found
            while len(self._kept) > _RUNS_KEPT:
                self._kept.popitem(last=False)
        return found

    def _read(self, run_id: str) -> tuple[Picture, ...]:
        try:
            name = training.result_name(run_id, "mobile")
            result = training.parse_result(self._models.read(name).data, source=self._models.uri(name))
            uri = result.artifacts.golden
            data = self._models.read(uri.removeprefix(self._models.uri(""))).data
            return tuple(_by_turns(golden.decode(data, labels=result.labels, source=uri)))[:MOST]
        except (ObjectMissing, CannotEverSucceed) as exc:
            # A page without them still takes a photo of one's own.
            log.warning("there are no held-out pictures of %s: %s", run_id, exc)
            return ()


def _by_turns(pictures: Sequence[Picture]) -> Iterator[Picture]:
    """One of each label, then the second of each, and so on."""
    by_label: dict[str, list[Picture]] = {}
    for each in pictures:
        by_label.setdefault(each.label, []).append(each)
    for turn in range(max(map(len, by_label.values()), default=0)):
        yield from (those[turn] for those in by_label.values() if turn < len(those))
