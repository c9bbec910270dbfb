"""What the janitor remembers in the ledger: when it looks next, and for each data set what it found, does and did.

hygiene/due.json                 when to look again; one read at each tick of the clock
hygiene/datasets/<dataset>.json  what is surplus and why, the one removal under way, the last ones done
"""

from __future__ import annotations

import datetime
from typing import Any, Literal

import pydantic

from dualdeploy import clock as clocks
from dualdeploy.errors import CannotEverSucceed, LedgerContention
from dualdeploy.ledger import Ledger, Versioned
from dualdeploy.object_store import ABSENT

DUE_NAME = "hygiene/due.json"
_REPORTS = "hygiene/datasets/"

#: So many removals are remembered with the data set; all of them are in the log.
REMEMBERED = 50


class _Record(pydantic.BaseModel):
    """Frozen; unknown keys are kept out, so an older instance reads what a newer one wrote."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")


class Due(_Record):
    """When to look next. `after` is the data set that a sweep stopped at for want of time, `then` when to look again
    once it is through."""

    at: str
    after: str = ""
    then: str = ""

    def no_later_than(self, moment: datetime.datetime) -> Due:
        """Also of a sweep that goes on in between: it has perhaps looked already."""
        earliest = {name: min(moment, clocks.from_text(at)) for name in ("at", "then") if (at := getattr(self, name))}
        return self.model_copy(update={name: clocks.to_text(at) for name, at in earliest.items()})


class Removal(_Record):
    """One thing that nothing needs any more, and why. `id` is unique within its kind and endpoint."""

    kind: Literal["deployed model", "model version", "endpoint"]
    id: str
    reason: str
    endpoint: str = ""
    run_id: str = ""
    #: The version that takes over the alias `default`, which Vertex AI never leaves without one.
    heir: str = ""
    operation: str = ""
    since: str = ""
    problem: str = ""

    @property
    def what(self) -> str:
        where = f" of endpoint {self.endpoint}" if self.kind == "deployed model" else ""
        return f"{self.kind} {self.id}{where}" + (f" ({self.run_id})" if self.run_id else "")

    def at(self, moment: datetime.datetime, **changes: str) -> Removal:
        return self.model_copy(update={"since": clocks.to_text(moment), **changes})


class Idle(_Record):
    """An endpoint that nobody has asked since `since`; `price` says what the cost is made of, or what is not known."""

    endpoint: str
    since: str
    usd_per_month: float | None
    price: str


class Report(_Record):
    """One data set. `left`: what is kept although it costs; `failed`: what could not be removed, and is tried again."""

    v: Literal[1] = 1
    dataset: str
    looked_at: str = ""
    unconfigured_since: str = ""
    surplus: tuple[Removal, ...] = ()
    left: tuple[str, ...] = ()
    idle: Idle | None = None
    under_way: Removal | None = None
    removed: tuple[Removal, ...] = ()
    failed: tuple[Removal, ...] = ()

    def changed(self, **changes: object) -> Report:
        return Report.model_validate({**self.model_dump(), **changes})

    def with_removed(self, removal: Removal) -> Report:
        return self.changed(under_way=None, removed=(*self.removed, removal)[-REMEMBERED:])

    def with_failed(self, removal: Removal) -> Report:
        others = [other for other in self.failed if other.what != removal.what]
        return self.changed(under_way=None, failed=(*others, removal)[-REMEMBERED:])


def report_name(dataset: str) -> str:
    return f"{_REPORTS}{dataset}.json"


def reported(ledger: Ledger) -> set[str]:
    """The data sets that have a report."""
    return {name.removeprefix(_REPORTS).removesuffix(".json") for name in ledger.document_names(_REPORTS)}


def read_report(ledger: Ledger, dataset: str) -> Versioned[Report]:
    """The data set's report; an empty one when the janitor never looked at it."""
    found = ledger.read_document(report_name(dataset), Report)
    return found or Versioned(Report(dataset=dataset), ABSENT)


def status(ledger: Ledger, dataset: str) -> dict[str, Any]:
    """For `GET /status`: everything that the janitor found out about the data set; why, if that cannot be read."""
    try:
        report = read_report(ledger, dataset).document
    except CannotEverSucceed as exc:
        # Said rather than failed on: what serves is in another record, and people ask just when something is wrong.
        return {"hygiene": {"unreadable": str(exc)}}
    return {"hygiene": report.model_dump(mode="json", exclude={"v", "dataset"})}


def is_removing(ledger: Ledger, dataset: str) -> bool:
    """Whether something of the data set is just being removed: what is there now may be gone in a moment."""
    return read_report(ledger, dataset).document.under_way is not None


def look_at(ledger: Ledger, moment: datetime.datetime) -> None:
    """Have the janitor look at `moment`, or before. Raises LedgerContention while others say so too.

    Written even when it would have come earlier anyway: a sweep that is under way has perhaps looked already, and must
    not put off the next one.
    """
    due = ledger.read_document(DUE_NAME, Due)
    if due is None:
        return
    ledger.write_document(DUE_NAME, due.document.no_later_than(moment), expect=due.generation)


def put_off(ledger: Ledger, due: Due, *, read: Versioned[Due] | None) -> None:
    """After a sweep: look again as `due` says, unless somebody asked for a look since the sweep began."""
    try:
        ledger.write_document(DUE_NAME, due, expect=read.generation if read else ABSENT)
    except LedgerContention:
        return
