"""Which data sets are to be retrained although nothing arrived, judged on the clock.

| key                     | due                                                                                  |
|-------------------------|--------------------------------------------------------------------------------------|
| `data.retrain_schedule` | once at each time of a cron expression; of several that were missed, once            |
| `data.retrain_every`    | when the newest run is older than that                                               |

Which time of a schedule was served last is recorded in the ledger; a data set that is seen with a schedule for the
first time, or with another one, waits for its next time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import zoneinfo
from collections.abc import Iterator
from typing import Literal

import pydantic

from dualdeploy import clock as clocks
from dualdeploy import cron, dataset_config
from dualdeploy.clock import Clock
from dualdeploy.dataset_config import DatasetConfig, RetrainSchedule
from dualdeploy.errors import CannotEverSucceed, LedgerContention
from dualdeploy.ledger import Ledger, Versioned
from dualdeploy.object_store import ABSENT, ObjectStore

log = logging.getLogger(__name__)

_FOLDER = dataset_config.object_name("x").removesuffix("x.yaml")

#: The longest time without a look: a configuration may have changed, another instance may have trained.
_LONGEST_SECONDS = 3600.0


class Served(pydantic.BaseModel):
    """The last time of a schedule that led to a retraining, and the schedule that it was a time of."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")

    v: Literal[1] = 1
    cron: str
    time_zone: str
    slot: str


@dataclasses.dataclass(frozen=True)
class Due:
    """A data set to be retrained. `token` is the same for whoever judges at the same time: one of them claims a run.

    `slot` is the time of the schedule that asks for it, empty for the age of the newest run.
    """

    dataset: str
    force: bool
    token: str
    reason: str
    slot: str = ""


class Retraining:
    """Remembers when it has to look again: a tick costs one listing of the configurations."""

    def __init__(self, *, config: ObjectStore, ledger: Ledger, clock: Clock) -> None:
        self._config = config
        self._ledger = ledger
        self._clock = clock
        self._read: dict[str, tuple[int, DatasetConfig | None]] = {}
        self._look_again: dict[tuple[str, str], float] = {}

    def due(self) -> Iterator[Due]:
        """The data sets that are to be retrained now."""
        for config in self._configured():
            try:
                yield from self._by_schedule(config)
            except CannotEverSucceed:
                # A record that nobody can read must not stop the clock for every other data set.
                log.exception("%s is not retrained by its schedule", config.dataset)
            yield from self._by_age(config)

    def served(self, due: Due) -> None:
        """Nothing is asked for twice: record that this time of a schedule was served, or wait as long once more.

        Raises LedgerContention when another instance was faster; then there is nothing left to do.
        """
        known = self._read.get(due.dataset)
        config = known[1] if known else None
        if config is None:
            return
        if due.slot and config.data.retrain_schedule:
            found = self._recorded(due.dataset)
            self._record(due.dataset, config.data.retrain_schedule, due.slot, found)
        elif config.data.retrain_every:
            # Unchanged data without force launches nothing: not again every minute.
            self._look_again[due.dataset, "age"] = self._now() + config.data.retrain_every

    # By age ----------------------------------------------------------------------------------------------------

    def _by_age(self, config: DatasetConfig) -> Iterator[Due]:
        """A data set without any run has no data yet."""
        every, now = config.data.retrain_every, self._now()
        if every is None or now < self._look_again.get((config.dataset, "age"), 0.0):
            return
        newest = self._ledger.newest_run(config.dataset)
        if newest is None:
            return
        run_id, claimed = newest
        due_at = claimed.timestamp() + every
        if now >= due_at:
            reason = f"the newest run is older than data.retrain_every ({every:g} s)"
            yield Due(config.dataset, config.data.retrain_force, f"after:{run_id}", reason)
        else:
            self._look_again[config.dataset, "age"] = min(due_at, now + _LONGEST_SECONDS)

    # By schedule -----------------------------------------------------------------------------------------------

    def _by_schedule(self, config: DatasetConfig) -> Iterator[Due]:
        schedule, now = config.data.retrain_schedule, self._now()
        if schedule is None or now < self._look_again.get((config.dataset, "schedule"), 0.0):
            return
        last, following = cron.slots_around(schedule.cron, schedule.time_zone, self._clock())
        slot = clocks.to_text(last)
        found = self._recorded(config.dataset)
        if found is None or (found.document.cron, found.document.time_zone) != (schedule.cron, schedule.time_zone):
            # What was due before anybody asked for it is not made up for.
            with contextlib.suppress(LedgerContention):
                self._record(config.dataset, schedule, slot, found)
        elif found.document.slot < slot:
            local = last.astimezone(zoneinfo.ZoneInfo(schedule.time_zone)).isoformat(timespec="minutes")
            reason = f"data.retrain_schedule ({schedule.cron!r}) was due at {local}"
            yield Due(config.dataset, config.data.retrain_force, f"schedule:{slot}", reason, slot)
            return
        self._look_again[config.dataset, "schedule"] = min(following.timestamp(), now + _LONGEST_SECONDS)

    def _recorded(self, dataset: str) -> Versioned[Served] | None:
        return self._ledger.read_document(_served_name(dataset), Served)

    def _record(self, dataset: str, schedule: RetrainSchedule, slot: str, found: Versioned[Served] | None) -> None:
        served = Served(cron=schedule.cron, time_zone=schedule.time_zone, slot=slot)
        expect = found.generation if found else ABSENT
        self._ledger.write_document(_served_name(dataset), served, expect=expect)

    # Configurations --------------------------------------------------------------------------------------------

    def _configured(self) -> Iterator[DatasetConfig]:
        """The configurations that ask for it; each is read when its generation is new to this instance."""
        for summary in self._config.list(_FOLDER):
            dataset = summary.name.removeprefix(_FOLDER).removesuffix(".yaml")
            if dataset_config.object_name(dataset) != summary.name:
                continue
            known = self._read.get(dataset)
            if known is None or known[0] != summary.generation:
                known = (summary.generation, self._read_config(dataset))
                self._read[dataset] = known
                self._look_again = {key: at for key, at in self._look_again.items() if key[0] != dataset}
            data = known[1].data if known[1] else None
            if known[1] and data and (data.retrain_every is not None or data.retrain_schedule is not None):
                yield known[1]

    def _read_config(self, dataset: str) -> DatasetConfig | None:
        try:
            return dataset_config.read(self._config, dataset)
        except CannotEverSucceed as exc:
            # Whoever sends data is told so; a schedule that nobody can read schedules nothing.
            log.warning("%s is not retrained by the clock: %s", dataset, exc)
            return None

    def _now(self) -> float:
        return self._clock().timestamp()


def _served_name(dataset: str) -> str:
    return f"datasets/{dataset}/retrained.json"
