"""`make runs`, `make run ID=…`: where every run stands, what it costs, and what it waits for.

Reads the ledger and nothing else, so that it works wherever the ledger bucket can be read.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dualdeploy import clock as clocks
from dualdeploy.clock import Clock
from dualdeploy.errors import CannotEverSucceed, DualDeployError, UnknownRun
from dualdeploy.ledger import DataSet, Document, Ledger, Rejected, Serving, State, dataset_of, names
from dualdeploy.ledger.standing import standing
from dualdeploy.object_store import GcsObjectStore, ObjectStore
from dualdeploy.replay import printable
from dualdeploy.spending import Entry, Estimate, read_account, read_estimate
from dualdeploy.training import TARGETS

DONE, NOT_FOUND, USAGE = 0, 1, 2

#: A time in a sentence; they are all UTC.
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|\+00:00)")

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
            told.append(f"{self.dataset}: no one has asked endpoint {self.idle.endpoint} since {self.idle.since}{cost}")
        return told


class Runs:
    """The runs of a ledger bucket, read for people. A document that cannot be read is told, and hides nothing else."""

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
        for updated, run_id in claims[:most]:
            try:
                views.append(self.one(run_id))
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

    def stays(self, dataset: str = "") -> list[str]:
        """What costs and stays, also of data sets that have no configuration any more."""
        told: list[str] = []
        for name in self._ledger.names("cleanup/"):
            if dataset and name != names.cleanup(dataset):
                continue
            try:
                found = self._ledger.find(name, _Cleanup)
            except CannotEverSucceed as exc:
                told.append(str(exc))
                continue
            told += found.document.sentences() if found else []
        return told

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
        _print_all(views, runs, options.dataset, console)
    return DONE


def _print_all(views: Sequence[RunView], runs: Runs, dataset: str, console: Console) -> None:
    if not views:
        console.print("No runs yet.")
    for view in views:
        _print_listed(view, console)
    _print_serving(runs.serving(dataset), console)
    _print_list("Costs and stays", runs.stays(dataset), console)
    waiting = [f"data of {name} waits: {why}" for name, why in runs.waiting_data(dataset)]
    _print_list("Waits", waiting, console)
    refused = runs.refused(dataset)
    lines = [f"{_short(each.at)}  {each.dataset or '?'}, {each.kind}: {each.reason}" for each in refused]
    _print_list("Refused lately", lines, console)


def _print_listed(view: RunView, console: Console) -> None:
    """One run in as many lines as it has targets, readable at 80 columns."""
    _say(console, f"{view.run_id}  begun {_short(view.created_at)} UTC")
    table = Table.grid(padding=(0, 2))
    for width in (0, len("mobile"), len("rolled_back"), len("~$0.30")):
        table.add_column(no_wrap=True, min_width=width)
    table.add_column(overflow="fold")
    if not view.targets:
        table.add_row(
            "", "", "unreadable" if view.problem else "claimed", "", _text(view.problem or "its trainings to begin")
        )
    for each in view.targets:
        state = Text(each.state, style=_COLOURS.get(each.state, "cyan"))
        table.add_row("", each.target, state, each.cost, _text(each.waits_for or each.last_note))
    console.print(table)


def _print_serving(views: Sequence[ServingView], console: Console) -> None:
    if not views:
        return
    _say(console, "\nServing")
    for each in views:
        since = f" since {_short(each.since)}" if each.since else ""
        _say(console, f"  {each.dataset}, {each.target}: {each.serves}{since}")
        for note in each.notes:
            _indented(note, console, spaces=4)


def _print_list(title: str, lines: Sequence[str], console: Console) -> None:
    if not lines:
        return
    _say(console, f"\n{title}")
    for line in lines:
        _indented(line, console)


def _indented(line: str, console: Console, *, spaces: int = 2) -> None:
    console.print(Padding(_text(line), (0, 0, 0, spaces)))


def _print_one(view: RunView, console: Console) -> None:
    console.print(
        Text(f"{view.run_id}: data set {view.dataset}, {view.shards} shards, begun {_short(view.created_at)}")
    )
    if view.reason:
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
                table.add_row(key, _text(value))
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


def _text(sentence: str) -> Text:
    """Printable, with times as people write them."""
    return Text(_TIME.sub(r"\1 \2", printable(sentence)))


def _say(console: Console, sentence: str) -> None:
    console.print(Text(printable(sentence)), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
