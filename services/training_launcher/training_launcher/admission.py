"""Whether a claimed run may cost anything: its data is validated once, and the verdict is kept beside the run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator

from dualdeploy import clock as clocks
from dualdeploy.clock import Clock
from dualdeploy.errors import CannotEverSucceed
from dualdeploy.ledger import Ledger, Run
from dualdeploy.object_store import ObjectStore
from training_launcher import examination
from training_launcher.examination import StoredShard

#: Earlier runs of a data set that are looked at to tell whether the way of holding out has just changed.
EARLIER_RUNS = 20

__all__ = ["Admission", "StoredShard", "examine"]


@dataclasses.dataclass(frozen=True)
class Admission:
    """The verdict; `reason` is one line that names the first fault, empty when accepted."""

    accepted: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class _NotesOfRun:
    """What the examination keeps, beside the run."""

    ledger: Ledger
    run_id: str

    def read(self, name: str) -> bytes | None:
        return self.ledger.read_bytes(f"runs/{self.run_id}/{name}")

    def keep(self, name: str, data: bytes) -> bytes:
        return self.ledger.write_once(f"runs/{self.run_id}/{name}", data)


def _earlier(run: Run, ledger: Ledger) -> Iterator[Run]:
    """Some earlier runs of the data set; one that cannot be read tells nothing."""
    for run_id in ledger.run_ids(run.dataset)[:EARLIER_RUNS]:
        if run_id != run.run_id:
            with contextlib.suppress(CannotEverSucceed):
                yield ledger.read_run(run_id)


def examine(run: Run, *, ledger: Ledger, data: ObjectStore, clock: Clock = clocks.utc_now) -> Admission:
    """The recorded verdict of a run, or a new one, which is then recorded at `runs/<run_id>/validation.json`.

    Raises ValidationUnderWay while there is more to read than one request has time for.
    """
    notes = _NotesOfRun(ledger, run.run_id)
    recorded = notes.read("validation.json")
    if recorded is None:
        found = examination.examine(run, notes=notes, data=data, clock=clock, earlier=_earlier(run, ledger))
        recorded = notes.keep("validation.json", found)
    document = json.loads(recorded)
    accepted = document["verdict"] == "accepted"
    return Admission(accepted, "" if accepted else document["reason"])
