"""What a changed configuration leads to (`config/<dataset>`), and what is looked after each hour (`sweep/all`)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from dualdeploy.contracts import dataset_config
from dualdeploy.contracts.dataset_config import DATASET_NAME
from dualdeploy.errors import CannotEverSucceed, InvalidDatasetConfig
from dualdeploy.google import config_bucket
from dualdeploy.google.object_store import ObjectStore
from dualdeploy.http.ticks import Next
from dualdeploy.ledger.due import Due
from training_launcher import modules
from training_launcher.arrivals import ARRIVALS
from training_launcher.data_sets import DataSets
from training_launcher.schedules import SCHEDULE

log = logging.getLogger(__name__)

#: The kinds of due work.
CONFIG, SWEEP = "config", "sweep"

#: The key of the hourly sweep.
SWEEP_ALL = f"{SWEEP}/all"

_FOLDER = dataset_config.object_name("x").removesuffix("x.yaml")

Record = Callable[[str, CannotEverSucceed], None]


class Configurations:
    """Looks at a configuration at once when it was changed, and not only when data arrives; implements `ticks.Work`."""

    def __init__(self, *, config: ObjectStore, due: Due, data_sets: DataSets, record: Record) -> None:
        self._config = config
        self._due = due
        self._data_sets = data_sets
        self._record = record

    def advance(self, what: str) -> Next:
        """`what` is a data set."""
        try:
            modules.pinned(config_bucket.read(self._config, what), self._config)
        except InvalidDatasetConfig as exc:
            # Stands in `make runs`, before anything depends on it. People break a file every day: no alert, each hour.
            log.warning("%s: %s", what, exc)
            self._record(what, exc)
            return Next(f"is not valid: {exc}")
        self._due.put(f"{SCHEDULE}/{what}")
        if self._data_sets.read(what).waits:
            self._due.put(f"{ARRIVALS}/{what}")
        return Next("is valid")

    def give_up(self, what: str, why: str) -> None:
        self._record(what, CannotEverSucceed(f"the configuration of {what} is not looked at: {why}"))


class Sweep:
    """Each hour: every data set that is configured has its schedule and its waiting arrivals looked at.

    Events bring both sooner; this is for those that were lost. Implements `ticks.Work`.
    """

    def __init__(self, *, config: ObjectStore, due: Due, record: Record) -> None:
        self._config = config
        self._due = due
        self._record = record

    def advance(self, what: str) -> Next:  # noqa: ARG002  # there is one sweep
        datasets = [name for name in map(dataset_of, self._names()) if name]
        for dataset in datasets:
            self._due.put(f"{CONFIG}/{dataset}")
        return Next(f"{len(datasets)} data sets are configured")

    def give_up(self, what: str, why: str) -> None:
        self._record("", CannotEverSucceed(f"the sweep of {what} data sets waits for the next hour: {why}"))

    def _names(self) -> list[str]:
        return [summary.name for summary in self._config.list(_FOLDER)]


def dataset_of(name: str) -> str:
    """The data set that an object of the configuration bucket configures; empty for any other object."""
    dataset = name.removeprefix(_FOLDER).removesuffix(".yaml")
    is_one = DATASET_NAME.fullmatch(dataset) is not None and dataset_config.object_name(dataset) == name
    return dataset if is_one else ""
