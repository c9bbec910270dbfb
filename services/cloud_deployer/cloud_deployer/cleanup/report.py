"""What the cleanup remembers of each data set: what it found, does and did (`cleanup/<dataset>.json`)."""

from __future__ import annotations

import datetime
from typing import Any

from dualdeploy import clock as clocks
from dualdeploy.errors import CannotEverSucceed
from dualdeploy.google.object_store import ABSENT
from dualdeploy.ledger import Document, Ledger, Versioned, names

#: So many removals are remembered with the data set; all of them are in the log.
REMEMBERED = 50

DEPLOYED_MODEL, MODEL_VERSION, ENDPOINT = "deployed model", "model version", "endpoint"


class Removal(Document):
    """One thing that nothing needs any more, and why. `id` is unique within its kind and endpoint.

    `heir` is the version that takes over the alias `default`, which Vertex AI never leaves without one; `model` is the
    id of the model that a version belongs to, empty for the data set's own.
    """

    kind: str
    id: str
    reason: str = ""
    endpoint: str = ""
    run_id: str = ""
    heir: str = ""
    model: str = ""
    operation: str = ""
    since: str = ""
    problem: str = ""

    @property
    def what(self) -> str:
        where = f" of endpoint {self.endpoint}" if self.kind == DEPLOYED_MODEL else ""
        where += f" of {self.model}" if self.model else ""
        return f"{self.kind} {self.id}{where}" + (f" ({self.run_id})" if self.run_id else "")

    def at(self, moment: datetime.datetime, **changes: str) -> Removal:
        return self.changed(since=clocks.to_text(moment), **changes)


class Idle(Document):
    """An endpoint that no one has asked since `since`; `price` says what the cost is made of, or what is not known."""

    endpoint: str
    since: str
    usd_per_month: float | None = None
    price: str = ""


class Report(Document):
    """One data set. `holds`: the endpoints that it was last seen to hold; `left`: what is kept although it costs;
    `failed`: what could not be removed, and is tried again."""

    v: int = 1
    dataset: str
    looked_at: str = ""
    unconfigured_since: str = ""
    holds: tuple[str, ...] = ()
    surplus: tuple[Removal, ...] = ()
    left: tuple[str, ...] = ()
    idle: Idle | None = None
    under_way: Removal | None = None
    removed: tuple[Removal, ...] = ()
    failed: tuple[Removal, ...] = ()

    def with_removed(self, removal: Removal) -> Report:
        rest = tuple(other for other in self.surplus if other.what != removal.what)
        return self.changed(under_way=None, surplus=rest, removed=(*self.removed, removal)[-REMEMBERED:])

    def with_failed(self, removal: Removal) -> Report:
        others = [other for other in self.failed if other.what != removal.what]
        return self.changed(under_way=None, failed=tuple([*others, removal][-REMEMBERED:]))


def read_report(ledger: Ledger, dataset: str) -> Versioned[Report]:
    """The data set's report; an empty one when it was never looked at. Raises UnreadableDocument."""
    found = ledger.find(names.cleanup(dataset), Report)
    return found or Versioned(Report(dataset=dataset), ABSENT)


def status(ledger: Ledger, dataset: str) -> dict[str, Any]:
    """For `GET /status`: everything that the cleanup found out about the data set; why, if that cannot be read."""
    try:
        report = read_report(ledger, dataset).document
    except CannotEverSucceed as exc:
        # Said rather than failed on: what serves is in another record, and people ask just when something is wrong.
        return {"cleanup": {"unreadable": str(exc)}}
    return {"cleanup": report.model_dump(mode="json", exclude={"v", "dataset"})}
