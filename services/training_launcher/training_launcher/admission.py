"""Whether a claimed run may cost anything: its data is validated once, and the verdict is kept beside the run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from dualdeploy import clock as clocks
from dualdeploy.clock import Clock
from dualdeploy.google.object_store import ABSENT, GenerationChanged, ObjectMissing, ObjectStore
from dualdeploy.ledger import Ledger, Run, names
from training_launcher import examination
from training_launcher.examination import StoredShard

__all__ = ["Admission", "StoredShard", "examine", "is_about_the_objects"]

_VERDICT = "validation.json"


@dataclasses.dataclass(frozen=True)
class Admission:
    """The verdict; `reason` is one line that names the first fault, empty when accepted. `found` is all of it."""

    accepted: bool
    reason: str
    found: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def pictures(self) -> int:
        """About how many records there are, on both sides of the split; 0 where the report does not say."""
        estimated, read = self.found.get("records_estimated") or {}, self.found.get("coverage") or {}
        return int(estimated.get("value") or read.get("records") or 0)


@dataclasses.dataclass(frozen=True)
class _NotesOfRun:
    """What the examination keeps, beside the run."""

    ledger: Ledger
    run_id: str

    def read(self, name: str) -> bytes | None:
        try:
            return self.ledger.store.read(names.note(self.run_id, name)).data
        except ObjectMissing:
            return None

    def keep(self, name: str, data: bytes) -> bytes:
        try:
            self.ledger.store.put(names.note(self.run_id, name), data, expect=ABSENT)
        except GenerationChanged:
            return self.ledger.store.read(names.note(self.run_id, name)).data
        return data


def examine(
    run: Run, *, ledger: Ledger, data: ObjectStore, clock: Clock = clocks.utc_now, earlier: Iterable[Run] = ()
) -> Admission:
    """The recorded verdict of a run, or a new one, which is then recorded at `runs/<run_id>/validation.json`.

    `earlier` runs of the data set tell whether the way of holding out has just changed.

    Raises ValidationUnderWay while there is more to read than one request has time for.
    """
    notes = _NotesOfRun(ledger, run.run_id)
    recorded = notes.read(_VERDICT)
    if recorded is None:
        found = examination.examine(run, notes=notes, data=data, clock=clock, earlier=earlier)
        recorded = notes.keep(_VERDICT, found)
    document = json.loads(recorded)
    accepted = document["verdict"] == "accepted"
    return Admission(accepted, "" if accepted else document["reason"], document)


def is_about_the_objects(ledger: Ledger, run_id: str) -> bool:
    """Whether a run was rejected because its objects were away or could not be read: no verdict on their bytes."""
    recorded = _NotesOfRun(ledger, run_id).read(_VERDICT)
    try:
        document = json.loads(recorded) if recorded else {}
    except ValueError:
        return False
    return isinstance(document, dict) and document.get("about") == "objects"
