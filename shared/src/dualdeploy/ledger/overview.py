"""Where every run stands, what it costs, and what it waits for: read for people.

Reads the ledger and nothing else, so that it works wherever the ledger bucket can be read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

from dualdeploy import clock as clocks
from dualdeploy.clock import Clock, for_people
from dualdeploy.contracts.training import TARGETS
from dualdeploy.errors import CannotEverSucceed, UnknownRun
from dualdeploy.google.object_store import ObjectStore
from dualdeploy.ledger import DataSet, Document, Ledger, Rejected, Routings, Serving, dataset_of, names
from dualdeploy.ledger.spending import Account, Entry, Estimate, read_account, read_estimate
from dualdeploy.ledger.standing import standing

#: So many runs are looked at, newest first.
SHOWN_RUNS = 20


@dataclasses.dataclass(frozen=True)
class TargetView:
    """One target of a run as people want to see it. Costs are US dollars, None where no price is known.

    `steps` are those of its release, in order; `step` is where that is.
    """

    target: str
    state: str
    since: str
    step: str
    steps: tuple[str, ...]
    waits_for: str
    job: str
    operation: str
    attempt: int
    release: int
    estimated_usd: float | None
    reserved_usd: float | None
    actual_usd: float | None
    last_note: str
    history: tuple[Mapping[str, str], ...]

    @property
    def cost(self) -> str:
        """What it cost, else what it may cost: `$0.42`, `~$0.50`."""
        if self.actual_usd is not None:
            return f"${self.actual_usd:.2f}"
        return "?" if self.estimated_usd is None else f"~${self.estimated_usd:.2f}"


@dataclasses.dataclass(frozen=True)
class RunView:
    """One run with its targets; `refusal` is what the budget said, if it said no, `problem` why it cannot be read."""

    run_id: str
    dataset: str
    created_at: str
    reason: str
    shards: int
    refusal: str
    targets: tuple[TargetView, ...]
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class ServingView:
    """What one target of a data set gives to users, and what people should know of it."""

    dataset: str
    target: str
    serves: str
    since: str
    notes: tuple[str, ...]


class _Idle(Document):
    endpoint: str = ""
    since: str = ""
    usd_per_month: float | None = None


class _Cleanup(Document):
    """What people should know of the document of cloud_deployer's cleanup: `left` says what stays although it costs."""

    dataset: str
    left: tuple[str, ...] = ()
    idle: _Idle | None = None

    def sentences(self) -> list[str]:
        told = [f"{self.dataset}: {each}" for each in self.left]
        if self.idle:
            cost = "" if self.idle.usd_per_month is None else f", about ${self.idle.usd_per_month:.2f} a month"
            told.append(
                f"{self.dataset}: endpoint {self.idle.endpoint} has had no request since {self.idle.since}{cost}"
            )
        return told


class Runs:
    """The runs of a ledger bucket, read for people. A document that cannot be read is told, and hides nothing else."""

    def __init__(self, store: ObjectStore, *, clock: Clock = clocks.utc_now) -> None:
        self._store = store
        self._ledger = Ledger(store, clock=clock)
        self._clock = clock

    def newest(self, *, dataset: str = "", most: int = SHOWN_RUNS) -> list[RunView]:
        """The runs that were claimed last, newest first; of one data set if named."""
        claims = sorted(
            (
                (summary.updated, parts[1])
                for summary in self._store.list(f"runs/{dataset}-" if dataset else "runs/")
                if len(parts := summary.name.split("/")) == 3 and parts[2] == "run.json"
                if not dataset or dataset_of(parts[1]) == dataset
            ),
            reverse=True,
        )
        # Most of these runs are of one data set and month, and share an account.
        account = functools.cache(self._account)
        views = []
        for updated, run_id in claims[:most]:
            try:
                views.append(self._view(run_id, account))
            except UnknownRun:
                continue  # taken away meanwhile
            except CannotEverSucceed as exc:
                at = clocks.to_text(updated)
                unreadable = RunView(run_id, dataset_of(run_id), at, "", 0, refusal="", targets=(), problem=str(exc))
                views.append(unreadable)
        return views

    def refused(self, dataset: str = "") -> list[Rejected]:
        """What came to no run in the last days, newest first; of one data set if named."""
        return self._ledger.refused_lately(dataset)

    def one(self, run_id: str) -> RunView:
        """Raises UnknownRun."""
        return self._view(run_id, self._account)

    def _account(self, dataset: str, month: str) -> Account:
        return read_account(self._ledger, dataset, month)

    def _view(self, run_id: str, account: Callable[[str, str], Account]) -> RunView:
        run = self._ledger.read_run(run_id)
        estimate = read_estimate(self._ledger, run_id)
        month = estimate.month if estimate else run.created_at[:7]
        jobs = account(run.dataset, month).jobs
        return RunView(
            run_id=run_id,
            dataset=run.dataset,
            created_at=run.created_at,
            reason=run.reason,
            shards=len(run.snapshot.shards),
            refusal=estimate.refusal if estimate else "",
            targets=tuple(self._targets(run_id, estimate, jobs)),
        )

    def serving(self, dataset: str = "") -> list[ServingView]:
        """What serves for each data set and target; of one data set if named."""
        views = []
        for name in self._ledger.names("serving/"):
            _, target, file = name.split("/", 2)
            if dataset and file != f"{dataset}.json":
                continue
            try:
                found = self._ledger.find(name, Serving)
            except CannotEverSucceed as exc:
                views.append(ServingView(file.removesuffix(".json"), target, "?", "", (str(exc),)))
                continue
            if found:
                told = self._routing(found.document.dataset) if target == "mobile" else []
                views.append(_serving(found.document, told))
        return views

    def _routing(self, dataset: str) -> list[str]:
        """When the phones that have the live file ask the cloud, and why."""
        try:
            found = self._ledger.find(names.routing(dataset), Routings)
        except CannotEverSucceed as exc:
            return [str(exc)]
        if found is None:
            return []
        told = [f"routing, given up: {found.document.problem}"] if found.document.problem else []
        return told + [f"routing ({each.mode}): {each.note}" for each in found.document.files[:1]]

    def stays(self, dataset: str = "") -> list[str]:
        """What costs and stays, also of data sets that have no configuration any more."""
        told: list[str] = []
        for name in [names.cleanup(dataset)] if dataset else self._ledger.names("cleanup/"):
            try:
                found = self._ledger.find(name, _Cleanup)
            except CannotEverSucceed as exc:
                told.append(str(exc))
                continue
            told += found.document.sentences() if found else []
        return told

    def waiting_data(self, dataset: str = "") -> list[tuple[str, str]]:
        """Data sets with data that could not be looked at yet, and why."""
        found = []
        for name in [names.data(dataset)] if dataset else self._ledger.names("data/"):
            with contextlib.suppress(CannotEverSucceed):
                data = self._ledger.find(name, DataSet)
                if data and data.document.waits:
                    found.append((data.document.dataset, data.document.waits))
        return found

    def _targets(self, run_id: str, estimate: Estimate | None, jobs: Mapping[str, Entry]) -> list[TargetView]:
        views = []
        for target in TARGETS:
            try:
                found = standing(self._ledger, run_id, target)
            except UnknownRun:
                continue  # claimed, and its trainings begin in a moment
            entry = jobs.get(f"{run_id}/{target}")
            expected = estimate.targets.get(target) if estimate else None
            views.append(
                TargetView(
                    target=target,
                    state=str(found.state),
                    since=found.since,
                    step=found.step,
                    steps=tuple(f"{step.name}: {step.says}" for step in found.steps),
                    waits_for=found.waits_for,
                    job=found.job,
                    operation=found.operation,
                    attempt=found.attempt,
                    release=found.release,
                    estimated_usd=expected.estimated_usd if expected else None,
                    reserved_usd=entry.reserved_usd if entry else None,
                    actual_usd=entry.actual_usd if entry else None,
                    last_note=found.history[-1].note if found.history else "",
                    history=tuple(
                        {"at": each.at, "state": str(each.state), "note": each.note} for each in found.history
                    ),
                )
            )
        return views


def _serving(found: Serving, told: Sequence[str]) -> ServingView:
    notes = []
    if found.undeployed_at:
        notes.append(f"undeployed at {for_people(found.undeployed_at)}: {found.undeployed_because}")
    if found.retired_at:
        notes.append(f"retired at {for_people(found.retired_at)}")
    if found.hold:
        by = f" by {found.hold.by}" if found.hold.by else ""
        reason = f": {found.hold.reason}" if found.hold.reason else ""
        notes.append(f"on hold{by} since {for_people(found.hold.at)}{reason}; /resume ends it")
    if found.under_way:
        notes.append(f"{found.under_way.name} is under way since {for_people(found.under_way.since)}")
    notes += [f"{each.name} waits since {for_people(each.since)}" for each in found.waiting]
    if found.removing:
        notes.append(f"the cleanup removes {found.removing}")
    current = found.current
    return ServingView(
        dataset=found.dataset,
        target=found.target,
        serves=current.run_id if current else "nothing",
        since=current.since if current else "",
        notes=(*notes, *told),
    )
