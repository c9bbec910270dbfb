"""Runs as people read them: at 80 columns, with names cut to their id unless full ones are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dualdeploy.clock import for_people
from dualdeploy.ledger import State
from dualdeploy.ledger.overview import Runs, RunView, ServingView, TargetView
from dualdeploy_cli.output import link, printable, say, sentence

_COLOURS: Mapping[str, str] = {
    State.LIVE: "green",
    State.FAILED: "red",
    State.REJECTED: "red",
    State.ROLLED_BACK: "yellow",
    State.SUPERSEDED: "dim",
}


def print_runs(views: Sequence[RunView], runs: Runs, dataset: str, out: Console, *, wide: bool = False) -> None:
    """The list of runs, and below it what serves, what costs and stays, what waits, and what was refused."""
    page = _Page(out, wide=wide)
    if not views:
        out.print("No runs yet.")
    for view in views:
        page.listed(view)
    page.serving(runs.serving(dataset))
    page.lines("Costs and stays", runs.stays(dataset))
    page.lines("Waits", [f"data of {name} waits: {why}" for name, why in runs.waiting_data(dataset)])
    refused = runs.refused(dataset)
    page.lines(
        "Refused lately",
        [f"{for_people(each.at)}  {each.dataset or '?'}, {each.kind}: {each.reason}" for each in refused],
    )


def print_run(view: RunView, out: Console, *, wide: bool = False) -> None:
    """One run with its history, its steps and its cost."""
    page = _Page(out, wide=wide)
    page.line(f"{view.run_id}: data set {view.dataset}, {view.shards} shards, begun {for_people(view.created_at)}")
    if view.reason:
        page.line(f"because: {view.reason}")
    if view.refusal:
        page.line(f"budget: {view.refusal}")
    for each in view.targets:
        page.target(each)


class _Page:
    """Where people read, and whether they asked for full names."""

    def __init__(self, out: Console, *, wide: bool) -> None:
        self._out = out
        self._wide = wide

    def line(self, text: str, *, indent: int = 0) -> None:
        self._out.print(Padding(self._sentence(text), (0, 0, 0, indent), expand=False))

    def lines(self, title: str, lines: Sequence[str]) -> None:
        if not lines:
            return
        say(f"\n{title}", self._out)
        for line in lines:
            self.line(line, indent=2)

    def listed(self, view: RunView) -> None:
        """One run in as many lines as it has targets."""
        self.line(f"{view.run_id}  begun {for_people(view.created_at)} UTC")
        table = Table.grid(padding=(0, 2))
        for width in (0, len("mobile"), len("rolled_back"), len("~$0.30")):
            table.add_column(no_wrap=True, min_width=width)
        table.add_column(overflow="fold")
        if not view.targets:
            word = "unreadable" if view.problem else "claimed"
            table.add_row("", "", word, "", self._sentence(view.problem or "its trainings to begin"))
        for each in view.targets:
            state = Text(each.state, style=_COLOURS.get(each.state, "cyan"))
            said = self._sentence(each.waits_for or each.last_note)
            table.add_row("", each.target, state, each.cost, said)
            if self._wide and (page := link(each.job)):
                table.add_row("", "", "", "", Text(page, style="dim"))
        self._out.print(table)

    def serving(self, views: Sequence[ServingView]) -> None:
        if not views:
            return
        say("\nServing", self._out)
        for each in views:
            since = f" since {for_people(each.since)}" if each.since else ""
            self.line(f"{each.dataset}, {each.target}: {each.serves}{since}", indent=2)
            for each_note in each.notes:
                self.line(each_note, indent=4)

    def target(self, view: TargetView) -> None:
        table = Table(title=f"{view.target}: {view.state}", title_justify="left", box=SIMPLE_HEAD, show_header=False)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for key, value in (
            ("waits for", view.waits_for),
            ("step", view.step),
            ("job", view.job),
            ("", link(view.job) if self._wide else ""),
            ("operation", view.operation),
            ("attempt", str(view.attempt or "")),
            ("release", str(view.release or "")),
            ("cost", _costs(view)),
        ):
            if value:
                table.add_row(key, self._sentence(value))
        for step in view.steps:
            here = "►" if step.partition(":")[0] == view.step else ""
            table.add_row(here, Text(printable(step), style="bold" if here else "dim"))
        for each in view.history:
            table.add_row(for_people(each["at"]), self._sentence(f"{each['state']}  {each['note']}".rstrip()))
        self._out.print(table)

    def _sentence(self, text: str) -> Text:
        return sentence(text, wide=self._wide)


def _costs(view: TargetView) -> str:
    amounts = {"estimated": view.estimated_usd, "at most": view.reserved_usd, "was": view.actual_usd}
    return ", ".join(f"{name} ${usd:.2f}" for name, usd in amounts.items() if usd is not None) or "no known price"
