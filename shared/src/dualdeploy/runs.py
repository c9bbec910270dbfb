"""`make runs`, `make run ID=…`: where every run stands, what it costs, and what it waits for.

Reads the ledger and nothing else, so that it works wherever the ledger bucket can be read.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
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
from dualdeploy.ledger import Branch, Lease, Ledger, Rejected, State, dataset_of
from dualdeploy.object_store import GcsObjectStore, ObjectStore
from dualdeploy.replay import printable
from dualdeploy.spending import Entry, Estimate, read_account, read_estimate
from dualdeploy.training import TARGETS

DONE, NOT_FOUND, USAGE = 0, 1, 2
_SHOWN_RUNS = 20
_COLOURS: Mapping[State, str] = {
    State.LIVE: "green",
    State.FAILED: "red",
    State.REJECTED: "red",
    State.ROLLED_BACK: "yellow",
    State.SUPERSEDED: "dim",
}


@dataclasses.dataclass(frozen=True)
class BranchView:
    """One branch as people want to see it. Costs are US dollars, None where no price is known."""

    target: str
    state: str
    since: str
    step: str
    waits_for: str
    job: str
    operation: str
    attempts: int
    release: int
    estimated_usd: float | None
    reserved_usd: float | None
    actual_usd: float | None
    last_note: str
    history: tuple[Mapping[str, str], ...]

    @property
    def cost(self) -> str:
        """What it cost, else what it may cost: `0.42 $`, `~ 0.50 $`."""
        if self.actual_usd is not None:
            return f"{self.actual_usd:.2f} $"
        return "?" if self.estimated_usd is None else f"~ {self.estimated_usd:.2f} $"


@dataclasses.dataclass(frozen=True)
class RunView:
    """One run with its two branches; `refusal` is what the budget said, if it said no."""

    run_id: str
    dataset: str
    created_at: str
    reason: str
    shards: int
    refusal: str
    branches: tuple[BranchView, ...]


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
            branches=tuple(self._branches(run_id, estimate, jobs)),
        )

    def _branches(self, run_id: str, estimate: Estimate | None, jobs: Mapping[str, Entry]) -> list[BranchView]:
        views = []
        for target in TARGETS:
            try:
                branch = self._ledger.read_branch(run_id, target).document
            except UnknownRun:
                continue  # claimed, and its branches are opened in a moment
            entry = jobs.get(f"{run_id}/{target}")
            expected = estimate.targets.get(target) if estimate else None
            views.append(
                BranchView(
                    target=target,
                    state=str(branch.state),
                    since=branch.since,
                    step=branch.step,
                    waits_for=self.waits_for(branch),
                    job=branch.job,
                    operation=branch.operation,
                    attempts=branch.attempts,
                    release=branch.release,
                    estimated_usd=expected.estimated_usd if expected else None,
                    reserved_usd=entry.reserved_usd if entry else None,
                    actual_usd=entry.actual_usd if entry else None,
                    last_note=branch.history[-1].note if branch.history else "",
                    history=tuple(
                        {"at": each.at, "state": str(each.state), "note": each.note} for each in branch.history
                    ),
                )
            )
        return views

    def waits_for(self, branch: Branch) -> str:
        """What has to happen before the branch goes on; empty when it is at an end."""
        if branch.is_final:
            return ""
        reasons = (
            self._capacity(branch),
            self._holder(branch),
            f"operation {branch.operation}, since {branch.operation_since}" if branch.operation else "",
            f"training job {branch.job}" if branch.state is State.TRAINING else "",
            _bake(branch),
            self._rival(branch),
        )
        return next(filter(None, reasons), "the next tick of the clock")

    def _capacity(self, branch: Branch) -> str:
        if not branch.retry_at:
            return ""
        return f"quota or capacity of Vertex AI, since {branch.waiting_since}; asked again at {branch.retry_at}"

    def _holder(self, branch: Branch) -> str:
        launching = branch.state in (State.PENDING, State.LAUNCHING)
        name = f"launch/{branch.run_id}" if launching else f"{branch.dataset}/{branch.target}"
        found = self._ledger.read_document(f"locks/{name}.json", Lease)
        if found is None or clocks.from_text(found.document.until) <= self._clock():
            return ""
        return f"the instance at work on it, until {found.document.until} at the latest"

    def _rival(self, branch: Branch) -> str:
        if branch.state is not State.TRAINED:
            return ""
        for run_id in self._ledger.active(branch.target):
            if run_id == branch.run_id or dataset_of(run_id) != branch.dataset:
                continue
            with contextlib.suppress(CannotEverSucceed):
                other = self._ledger.read_branch(run_id, branch.target).document
                if other.state in (State.GATING, State.DEPLOYING, State.CANARY):
                    return f"{run_id}, which is at work on the same data set"
        return ""


def _bake(branch: Branch) -> str:
    rollout = branch.facts.get("rollout")
    if branch.step != "bake" or not isinstance(rollout, Mapping):
        return ""
    try:
        since = clocks.from_text(str(rollout["shifted_at"]))
        bake = datetime.timedelta(seconds=float(rollout["limits"]["bake"]))
    except (KeyError, TypeError, ValueError):
        return ""
    return f"its share of the traffic to prove itself, until {clocks.to_text(since + bake)}"


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
        _print_refused(runs.refused(options.dataset), console)
    return DONE


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
        if not view.branches:
            table.add_row(view.run_id, begun, "", "claimed", "", "its branches to be opened")
        for number, branch in enumerate(view.branches):
            first = number == 0
            table.add_row(
                Text(view.run_id if first else ""),
                Text(begun if first else ""),
                branch.target,
                Text(branch.state, style=_COLOURS.get(State(branch.state), "cyan")),
                branch.cost,
                Text(printable(branch.waits_for or branch.last_note)),
            )
    return table


def _print_one(view: RunView, console: Console) -> None:
    console.print(
        Text(f"{view.run_id}: data set {view.dataset}, {view.shards} shards, begun {_short(view.created_at)}")
    )
    _say(console, f"because: {view.reason}")
    if view.refusal:
        _say(console, f"budget: {view.refusal}")
    for branch in view.branches:
        table = Table(
            title=f"{branch.target}: {branch.state}", title_justify="left", box=SIMPLE_HEAD, show_header=False
        )
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for key, value in (
            ("waits for", branch.waits_for),
            ("step", branch.step),
            ("job", branch.job),
            ("operation", branch.operation),
            ("attempts", str(branch.attempts or "")),
            ("release", str(branch.release)),
            ("cost", _costs(branch)),
        ):
            if value:
                table.add_row(key, Text(printable(value)))
        for moment in branch.history:
            table.add_row(_short(moment["at"]), Text(printable(f"{moment['state']}  {moment['note']}".rstrip())))
        console.print(table)


def _costs(branch: BranchView) -> str:
    amounts = {"estimated": branch.estimated_usd, "at most": branch.reserved_usd, "was": branch.actual_usd}
    return ", ".join(f"{name} {usd:.2f} $" for name, usd in amounts.items() if usd is not None) or "no known price"


def _short(at: str) -> str:
    return at[:19].replace("T", " ")


def _say(console: Console, sentence: str) -> None:
    console.print(Text(printable(sentence)), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
