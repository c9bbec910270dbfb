"""Newer data calls off the training of older data, once Vertex AI has taken the newer job.

That is done where `on_new_data` is `supersede`; and, whatever it is, to a run that began with a part of the batch, by a
marker or by whole sets (`Run.extends`): a model of half of an upload is of use to no one. A pipeline of AutoML is
called off only where `on_new_data` asks for it: Google bills it all the same.

::

    newer job accepted ──► older launch.json: `called_off` ──► its own look cancels the job ──► ended ──► superseded

The note is written before a job is cancelled, so that whoever sees the cancelled job first knows that this was no
failure. What is trained already is left alone: it waits for its release, and is then replaced.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from dualdeploy.errors import CannotEverSucceed
from dualdeploy.google.automl import is_pipeline
from dualdeploy.ledger import Launch, Ledger, Run, State, Versioned, names
from dualdeploy.ledger.due import Due
from training_launcher.claiming import LAUNCH
from training_launcher.data_sets import DataSets

log = logging.getLogger(__name__)


class Superseding:
    """Calls off older trainings of the same data set, target by target."""

    def __init__(self, *, ledger: Ledger, due: Due, data_sets: DataSets) -> None:
        self._ledger = ledger
        self._due = due
        self._data_sets = data_sets

    def call_off_older(self, run: Run, target: str) -> None:
        """Have every older training of this target end that makes way for `run`: Vertex AI has taken its job."""
        if not (run.extends or _supersedes(run)):
            return
        for other in self._others(run):
            if _takes_place_of(other, run):
                self._call_off(other, target, by=run)

    def newer_that_trains(self, run: Run, target: str) -> Run | None:
        """A newer run that wants this one's place and whose job Vertex AI has taken."""
        for other in self._others(run):
            if not _takes_place_of(run, other):
                continue
            found = self._find(other, target)
            if found and found.document.state in (State.TRAINING, State.TRAINED):
                return other
        return None

    def note(self, launch: Versioned[Launch], *, by: Run) -> Versioned[Launch]:
        """Write down that `by` takes the place of this training. Raises LedgerContention."""
        document = launch.document
        reason = f"newer data arrived while it was {document.state}: superseded by {by.run_id}"
        if is_pipeline(document.job):
            reason += "; AutoML bills the node hours that it has used"
        name = names.launch(document.run_id, document.target)
        return self._ledger.write(name, document.changed(called_off=reason), expect=launch.generation)

    def _call_off(self, run: Run, target: str, *, by: Run) -> None:
        found = self._find(run, target)
        if found is None or found.document.is_over:
            return
        if is_pipeline(found.document.job) and not _supersedes(by):
            log.info("%s/%s trains to its end: AutoML bills a pipeline that is cancelled", run.run_id, target)
            return
        if not found.document.called_off:
            self.note(found, by=by)
            log.info("%s/%s is called off for %s", run.run_id, target, by.run_id)
        # Again in any case: whoever wrote it may have died before this.
        self._due.put(f"{LAUNCH}/{run.run_id}")

    def _others(self, run: Run) -> Iterator[Run]:
        """The other unfinished runs of the data set."""
        for run_id in self._data_sets.read(run.dataset).unfinished:
            if run_id == run.run_id:
                continue
            try:
                found = self._ledger.find(names.run(run_id), Run)
            except CannotEverSucceed as exc:
                # A document that nobody can read must not stand in the way of every later run.
                log.warning("%s is ignored: %s", run_id, exc)
                continue
            if found:
                yield found.document

    def _find(self, run: Run, target: str) -> Versioned[Launch] | None:
        with contextlib.suppress(CannotEverSucceed):
            return self._ledger.find(names.launch(run.run_id, target), Launch)
        return None


def _takes_place_of(older: Run, newer: Run) -> bool:
    return _age(older) < _age(newer) and (_supersedes(newer) or newer.extends == older.run_id)


def _supersedes(run: Run) -> bool:
    return bool(run.config.get("data", {}).get("on_new_data") == "supersede")


def _age(run: Run) -> tuple[str, str]:
    """Sorts runs by the time of their claims; of two in the same millisecond, everybody sees the same order."""
    return run.created_at, run.run_id
