"""What is remembered of each data set between events: its newest run, its unfinished runs, its schedule."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from dualdeploy.errors import CannotEverSucceed
from dualdeploy.ledger import DataSet, Ledger, Run, UnreadableDocument, names

log = logging.getLogger(__name__)

#: So many runs are remembered, to tell whether the way of holding out has just changed.
RECENT_RUNS = 5


class DataSets:
    """The documents `data/<dataset>.json`. One that cannot be read counts as new, and is left to people."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def read(self, dataset: str) -> DataSet:
        """As it is; an empty one for a data set that is new."""
        try:
            found = self._ledger.find(names.data(dataset), DataSet)
        except UnreadableDocument as exc:
            log.warning("%s", exc)
            found = None
        return found.document if found else DataSet(dataset=dataset)

    def change(self, dataset: str, change: Callable[[DataSet], DataSet]) -> None:
        """By compare-and-swap. Raises LedgerContention."""
        try:
            self._ledger.update(names.data(dataset), DataSet, lambda found: change(found or DataSet(dataset=dataset)))
        except UnreadableDocument as exc:
            log.warning("%s: what was to be remembered of %s is lost", exc, dataset)

    def begun(self, run: Run) -> None:
        """Remember a claimed run until its trainings are over."""

        def noted(found: DataSet) -> DataSet:
            unfinished = tuple(sorted({*found.unfinished, run.run_id}))
            if (run.created_at, run.run_id) < (found.newest_at, found.newest):
                return found.changed(unfinished=unfinished)
            recent = (run.run_id, *(each for each in found.recent if each != run.run_id))[:RECENT_RUNS]
            return found.changed(unfinished=unfinished, newest=run.run_id, newest_at=run.created_at, recent=recent)

        self.change(run.dataset, noted)

    def earlier(self, run: Run) -> Iterator[Run]:
        """The runs of the data set that were claimed last, without this one; what cannot be read tells nothing."""
        for run_id in self.read(run.dataset).recent:
            if run_id != run.run_id:
                with contextlib.suppress(CannotEverSucceed):
                    yield self._ledger.read_run(run_id)

    def over(self, run: Run) -> None:
        """Both trainings of the run are over."""
        self.change(
            run.dataset,
            lambda found: found.changed(unfinished=tuple(each for each in found.unfinished if each != run.run_id)),
        )
