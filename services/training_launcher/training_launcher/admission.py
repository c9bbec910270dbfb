"""Whether a claimed run may cost anything: its data is validated once, and the verdict is kept beside the run."""

from __future__ import annotations

import dataclasses
import json

from dualdeploy import clock as clocks
from dualdeploy.clock import Clock
from dualdeploy.ledger import Ledger, Run
from dualdeploy.object_store import ObjectStore
from training_launcher import examination
from training_launcher.examination import StoredShard

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


def examine(run: Run, *, ledger: Ledger, data: ObjectStore, clock: Clock = clocks.utc_now) -> Admission:
    """The recorded verdict of a run, or a new one, which is then recorded at `runs/<run_id>/validation.json`.

    Raises ValidationUnderWay while there is more to read than one request has time for.
    """
    notes = _NotesOfRun(ledger, run.run_id)
    recorded = notes.read("validation.json")
    if recorded is None:
        recorded = notes.keep("validation.json", examination.examine(run, notes=notes, data=data, clock=clock))
    document = json.loads(recorded)
    accepted = document["verdict"] == "accepted"
    return Admission(accepted, "" if accepted else document["reason"])
