"""When a data set is retrained although nothing arrived; the kind of due work `schedule/<dataset>`.

| key                     | due                                                                                  |
|-------------------------|--------------------------------------------------------------------------------------|
| `data.retrain_schedule` | once at each time of a cron expression; of several that were missed, once            |
| `data.retrain_every`    | when the newest run is older than that                                               |

Which time of a schedule was served last is in the document of the data set; a data set that is seen with a schedule for
the first time, or with another one, waits for its next time.
"""

from __future__ import annotations

import datetime
import logging
import zoneinfo
from collections.abc import Callable

from dualdeploy import clock as clocks
from dualdeploy.contracts import cron
from dualdeploy.contracts.dataset_config import DatasetConfig
from dualdeploy.errors import CannotEverSucceed, InvalidDatasetConfig, UnknownDataset
from dualdeploy.google import config_bucket
from dualdeploy.google.object_store import ObjectStore
from dualdeploy.http.ticks import Next
from dualdeploy.ledger import DataSet, Ledger
from training_launcher.data_sets import DataSets

log = logging.getLogger(__name__)

#: The kind of due work.
SCHEDULE = "schedule"

#: Retrains a data set: its name, whether although the data is the same, the reason, what tells this time from others.
Retrain = Callable[[str, bool, str, str], str]


class Schedules:
    """Looks at one data set at the time when it may have to be retrained; implements `ticks.Work`."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        config: ObjectStore,
        data_sets: DataSets,
        retrain: Retrain,
        record: Callable[[str, CannotEverSucceed], None],
    ) -> None:
        self._ledger = ledger
        self._config = config
        self._data_sets = data_sets
        self._retrain = retrain
        self._record = record

    def advance(self, what: str) -> Next:
        """`what` is a data set."""
        try:
            config = config_bucket.read(self._config, what)
        except (UnknownDataset, InvalidDatasetConfig) as exc:
            # Whoever sends data is told so; the next configuration brings the schedule back.
            return Next(f"is not retrained by its schedule: {exc}")
        said, times = [], []
        for look in (self._by_schedule, self._by_age):
            message, at = look(config)
            said += [message] if message else []
            times += [at] if at else []
        return Next("; ".join(said) or "is not due", min(times) if times else None)

    def give_up(self, what: str, why: str) -> None:
        self._record(what, CannotEverSucceed(f"{what} is not retrained by its schedule until its next look: {why}"))

    # By schedule -----------------------------------------------------------------------------------------------

    def _by_schedule(self, config: DatasetConfig) -> tuple[str, datetime.datetime | None]:
        schedule = config.data.retrain_schedule
        if schedule is None:
            return "", None
        last, following = cron.slots_around(schedule.cron, schedule.time_zone, self._ledger.clock())
        slot, known = clocks.to_text(last), self._data_sets.read(config.dataset)
        message = ""
        # What was due before anybody asked for it is not made up for.
        if (known.cron, known.time_zone) == (schedule.cron, schedule.time_zone) and known.slot < slot:
            local = last.astimezone(zoneinfo.ZoneInfo(schedule.time_zone)).isoformat(timespec="minutes")
            reason = f"data.retrain_schedule ({schedule.cron!r}) was due at {local}"
            message = self._retrained(config, reason, f"schedule:{config.dataset}:{slot}")
        if (known.cron, known.time_zone, known.slot) != (schedule.cron, schedule.time_zone, slot):
            self._data_sets.change(
                config.dataset,
                lambda found: found.changed(cron=schedule.cron, time_zone=schedule.time_zone, slot=slot),
            )
        return message, following

    # By age ----------------------------------------------------------------------------------------------------

    def _by_age(self, config: DatasetConfig) -> tuple[str, datetime.datetime | None]:
        """A data set without any run has no data yet."""
        every, known = config.data.retrain_every, self._data_sets.read(config.dataset)
        if every is None or not known.newest:
            return "", None
        now, message = self._ledger.clock(), ""
        if now >= _due_at(known, every):
            reason = f"the newest run is older than data.retrain_every ({every:g} s)"
            message = self._retrained(config, reason, f"after:{known.newest}:{known.asked_at}")
            # Unchanged data without force launches nothing: not again every minute.
            at = clocks.to_text(now)
            self._data_sets.change(config.dataset, lambda found: found.changed(asked_at=at))
            known = self._data_sets.read(config.dataset)
        return message, max(_due_at(known, every), now)

    def _retrained(self, config: DatasetConfig, reason: str, token: str) -> str:
        try:
            return self._retrain(config.dataset, config.data.retrain_force, reason, token)
        except CannotEverSucceed as exc:
            self._record(config.dataset, exc)
            return str(exc)


def _due_at(known: DataSet, every: float) -> datetime.datetime:
    since = max(known.newest_at, known.asked_at)
    return clocks.from_text(since) + datetime.timedelta(seconds=every)
