"""`make runs`, `make run ID=…`: where every run stands, what it costs, and what it waits for.

Reads the ledger and nothing else, so that it works wherever the ledger bucket can be read.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dualdeploy import clock as clocks
from dualdeploy.clock import Clock
from dualdeploy.errors import CannotEverSucceed, DualDeployError, UnknownRun
from dualdeploy.ledger import DataSet, Ledger, Rejected, Serving, State, dataset_of
from dualdeploy.ledger.standing import standing
from dualdeploy.object_store import GcsObjectStore, ObjectStore
from dualdeploy.replay import printable
from dualdeploy.spending import Entry, Estimate, read_account, read_estimate
from dualdeploy.training import TARGETS

DONE, NOT_FOUND, USAGE = 0, 1, 2
_SHOWN_RUNS = 20
_COLOURS: Mapping[str, str] = {
    State.LIVE: "green",
    State.FAILED: "red",
    State.REJECTED: "red",
    State.ROLLED_BACK: "yellow",
    State.SUPERSEDED: "dim",
}


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
    """One run with its targets; `refusal` is what the budget said, if it said no."""

    run_id: str
    dataset: str
    created_at: str
    reason: str
    shards: int
    refusal: str
    targets: tuple[TargetView, ...]


@dataclasses.dataclass(frozen=True)
class ServingView:
    """What one target of a data set gives to users, and what people should know of it."""

    dataset: str
    target: str
    serves: str
    since: str
    notes: tuple[str, ...]


class Runs:
    """The runs of a ledger bucket, read for people."""

    def __init__(self, store: ObjectStore, *, clock: Clock = clocks.utc_now) -> None:
        self._store = store
        self._ledger = Ledger(store, clock=clock)
        self._clock = clock

    def newest(self, *, dataset: str = "", most: int = _SHOWN_RUNS) -> list[RunView]:
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
        views = []
        for _, run_id in claims[:most]:
            with contextlib.suppress(UnknownRun):
                views.append(self.one(run_id))
        return views

    def refused(self, dataset: str = "") -> list[Rejected]:
        """What came to no run in the last days, newest first; of one data set if named."""
        return self._ledger.refused_lately(dataset)

    def one(self, run_id: str) -> RunView:
        """Raises UnknownRun."""
        run = self._ledger.read_run(run_id)
        estimate = read_estimate(self._ledger, run_id)
        month = estimate.month if estimate else run.created_at[:7]
        jobs = read_account(self._ledger, run.dataset, month).jobs
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
                views.append(_serving(found.document))
        return views

    def waiting_data(self, dataset: str = "") -> list[tuple[str, str]]:
        """Data sets with data that nobody could look at yet, and why."""
        found = []
        for name in self._ledger.names("data/"):
            with contextlib.suppress(CannotEverSucceed):
                data = self._ledger.find(name, DataSet)
                if data and data.document.waits and dataset in ("", data.document.dataset):
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


def _serving(found: Serving) -> ServingView:
    notes = []
    if found.undeployed_at:
        notes.append(f"undeployed at {_short(found.undeployed_at)}: {found.undeployed_because}")
    if found.retired_at:
        notes.append(f"retired at {_short(found.retired_at)}")
    if found.hold:
        by = f" by {found.hold.by}" if found.hold.by else ""
        reason = f": {found.hold.reason}" if found.hold.reason else ""
        notes.append(f"on hold{by} since {_short(found.hold.at)}{reason}; /resume ends it")
    if found.under_way:
        notes.append(f"{found.under_way.name} is under way since {_short(found.under_way.since)}")
    notes += [f"{each.name} waits since {_short(each.since)}" for each in found.waiting]
    if found.removing:
        notes.append(f"the cleanup removes {found.removing}")
    current = found.current
    return ServingView(
        dataset=found.dataset,
        target=found.target,
        serves=current.run_id if current else "nothing",
        since=current.since if current else "",
        notes=tuple(notes),
    )


# What people see -----------------------------------------------------------------------------------------------


def main(
    arguments: Sequence[str] | None = None, *, console: Console | None = None, store: ObjectStore | None = None
) -> int:
    """Print runs. Returns 0, 1 (no such run) or 2 (usage, the ledger cannot be read)."""
    console = console or Console()
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as exc:  # argparse has printed help (0) or what is wrong (2)
        return int(exc.code or 0)
    bucket = os.environ.get("LEDGER_BUCKET", "") if not options.project else f"{options.project}-ledger"
    if store is None and not bucket:
        _say(console, "which ledger? Give --project (PROJECT=… for make), or set LEDGER_BUCKET")
        return USAGE
    try:
        return _print(Runs(store or GcsObjectStore(bucket)), options, console)
    except UnknownRun as exc:
        _say(console, f"{exc}; `make runs` lists those that there are")
        return NOT_FOUND
    except DualDeployError as exc:
        _say(console, f"the ledger {bucket} cannot be read: {exc}")
        return USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="runs", description="Runs, their states, costs, and what they wait for.")
    parser.add_argument("id", nargs="?", default="", metavar="ID", help="one run, with its history")
    parser.add_argument("--dataset", default="", help="only runs of this data set")
    parser.add_argument("--most", type=int, default=_SHOWN_RUNS, help=f"how many, newest first ({_SHOWN_RUNS})")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--project", default="", help="its ledger is <project>-ledger; default: LEDGER_BUCKET")
    return parser


def _print(runs: Runs, options: argparse.Namespace, console: Console) -> int:
    views = [runs.one(options.id)] if options.id else runs.newest(dataset=options.dataset, most=options.most)
    if options.json:
        documents = [dataclasses.asdict(view) for view in views]
        console.out(json.dumps(documents[0] if options.id else documents, indent=1), highlight=False)
    elif options.id:
        _print_one(views[0], console)
    else:
        console.print(_table(views) if views else "No runs yet.")
        _print_serving(runs.serving(options.dataset), console)
        for dataset, why in runs.waiting_data(options.dataset):
            _say(console, f"data of {dataset} waits: {why}")
        _print_refused(runs.refused(options.dataset), console)
    return DONE


def _print_serving(views: Sequence[ServingView], console: Console) -> None:
    if not views:
        return
    table = Table(title="Serving", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("data set", "target", "run", "since (UTC)", "notes"):
        table.add_column(heading, overflow="fold", no_wrap=heading != "notes")
    for each in views:
        notes = "; ".join(each.notes)
        table.add_row(each.dataset, each.target, each.serves, _short(each.since), Text(printable(notes)))
    console.print(table)


def _print_refused(refused: Sequence[Rejected], console: Console) -> None:
    """What arrived and came to no run."""
    if not refused:
        return
    table = Table(title="Refused lately", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("at (UTC)", "data set", "what", "why"):
        table.add_column(heading, overflow="fold", no_wrap=heading != "why")
    for each in refused:
        table.add_row(_short(each.at), Text(printable(each.dataset)), Text(each.kind), Text(printable(each.reason)))
    console.print(table)


def _table(views: Sequence[RunView]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for heading in ("run", "begun (UTC)", "target", "state", "cost", "waits for, or how it ended"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("run", "target", "state", "cost"))
    for view in views:
        begun = _short(view.created_at)
        if not view.targets:
            table.add_row(view.run_id, begun, "", "claimed", "", "its trainings to begin")
        for number, each in enumerate(view.targets):
            first = number == 0
            table.add_row(
                Text(view.run_id if first else ""),
                Text(begun if first else ""),
                each.target,
                Text(each.state, style=_COLOURS.get(each.state, "cyan")),
                each.cost,
                Text(printable(each.waits_for or each.last_note)),
            )
    return table


def _print_one(view: RunView, console: Console) -> None:
    console.print(
        Text(f"{view.run_id}: data set {view.dataset}, {view.shards} shards, begun {_short(view.created_at)}")
    )
    _say(console, f"because: {view.reason}")
    if view.refusal:
        _say(console, f"budget: {view.refusal}")
    for each in view.targets:
        table = Table(title=f"{each.target}: {each.state}", title_justify="left", box=SIMPLE_HEAD, show_header=False)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for key, value in (
            ("waits for", each.waits_for),
            ("step", each.step),
            ("job", each.job),
            ("operation", each.operation),
            ("attempt", str(each.attempt or "")),
            ("release", str(each.release or "")),
            ("cost", _costs(each)),
        ):
            if value:
                table.add_row(key, Text(printable(value)))
        for step in each.steps:
            here = "►" if step.partition(":")[0] == each.step else ""
            table.add_row(here, Text(printable(step), style="bold" if here else "dim"))
        for moment in each.history:
            table.add_row(_short(moment["at"]), Text(printable(f"{moment['state']}  {moment['note']}".rstrip())))
        console.print(table)


def _costs(view: TargetView) -> str:
    amounts = {"estimated": view.estimated_usd, "at most": view.reserved_usd, "was": view.actual_usd}
    return ", ".join(f"{name} ${usd:.2f}" for name, usd in amounts.items() if usd is not None) or "no known price"


def _short(at: str) -> str:
    return at[:19].replace("T", " ")


def _say(console: Console, sentence: str) -> None:
    console.print(Text(printable(sentence)), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
