"""`data.retrain_every`: which data sets have gone too long without a run, judged on the clock.

A duration and not a cron expression: what people mean is "no older than a week", which needs no second schedule
beside the clock, no time zone, and no library. Whoever wants a certain hour lets Cloud Scheduler publish to
`retrain-requested`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator

from dualdeploy import dataset_config
from dualdeploy.clock import Clock
from dualdeploy.dataset_config import DatasetConfig
from dualdeploy.errors import CannotEverSucceed
from dualdeploy.ledger import Ledger
from dualdeploy.object_store import ObjectStore

log = logging.getLogger(__name__)

_FOLDER = dataset_config.object_name("x").removesuffix("x.yaml")


@dataclasses.dataclass(frozen=True)
class Due:
    """A data set to be retrained. `token` is the same for whoever judges at the same time: one of them claims a run."""

    dataset: str
    every: float
    force: bool
    token: str


class RetrainSchedule:
    """Remembers when it has to look again: a tick costs one listing of the configurations."""

    def __init__(self, *, config: ObjectStore, ledger: Ledger, clock: Clock) -> None:
        self._config = config
        self._ledger = ledger
        self._clock = clock
        self._read: dict[str, tuple[int, DatasetConfig | None]] = {}
        self._look_again: dict[str, float] = {}

    def due(self) -> Iterator[Due]:
        """The data sets whose newest run is older than they allow; a data set without any run has no data yet."""
        now = self._clock().timestamp()
        for config in self._scheduled():
            every = config.data.retrain_every
            if every is None or now < self._look_again.get(config.dataset, 0.0):
                continue
            newest = self._ledger.newest_run(config.dataset)
            if newest is None:
                continue
            run_id, claimed = newest
            due_at = claimed.timestamp() + every
            if now >= due_at:
                yield Due(config.dataset, every, config.data.retrain_force, f"after:{run_id}")
            else:
                # Not longer than an hour: the configuration may ask for it sooner, another instance may have trained.
                self._look_again[config.dataset] = min(due_at, now + 3600)

    def served(self, due: Due) -> None:
        """Unchanged data without force launches nothing: ask again after as long, not every minute."""
        self._look_again[due.dataset] = self._clock().timestamp() + due.every

    def _scheduled(self) -> Iterator[DatasetConfig]:
        """The configurations that ask for it; each is read when its generation is new to this instance."""
        for summary in self._config.list(_FOLDER):
            dataset = summary.name.removeprefix(_FOLDER).removesuffix(".yaml")
            if dataset_config.object_name(dataset) != summary.name:
                continue
            known = self._read.get(dataset)
            if known is None or known[0] != summary.generation:
                known = (summary.generation, self._read_config(dataset))
                self._read[dataset] = known
                self._look_again.pop(dataset, None)
            if known[1] and known[1].data.retrain_every is not None:
                yield known[1]

    def _read_config(self, dataset: str) -> DatasetConfig | None:
        try:
            return dataset_config.read(self._config, dataset)
        except CannotEverSucceed as exc:
            # Whoever sends data is told so; a schedule that nobody can read schedules nothing.
            log.warning("%s is not scheduled: %s", dataset, exc)
            return None
