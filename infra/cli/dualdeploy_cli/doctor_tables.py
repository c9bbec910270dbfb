"""What the doctor found, as people read it: where along the chain, then each thing with what mends it."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from doctor.chain import Chain
from doctor.findings import Finding, Place, State
from dualdeploy_cli.output import printable, say, sentence

_STYLES: Mapping[State, str] = {
    State.OK: "green",
    State.WARNING: "yellow",
    State.BROKEN: "bold red",
    State.UNSEEN: "magenta",
}
#: The worst last.
_SEVERITY = [State.OK, State.WARNING, State.UNSEEN, State.BROKEN]
_TITLES: Mapping[Place, str] = {Place.FIREBASE: "Firebase ML", Place.HINT: "end of training", Place.RUN: "runs"}


def print_findings(findings: Sequence[Finding], chain: Chain, out: Console, *, everything: bool, wide: bool) -> None:
    """A line for each place of the chain, then what is not in order; with `everything`, also what is."""
    table = Table(title=f"{chain.project} in {chain.region}, along the chain", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("place", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("checks", overflow="fold")
    for place in Place:
        there = [each for each in findings if each.place is place]
        if there:
            worst = max((each.state for each in there), key=_SEVERITY.index)
            table.add_row(_title(place), Text(worst, style=_STYLES[worst]), _counted(there, wide=wide))
    out.print(table)
    for finding in findings:
        if everything or finding.state is not State.OK:
            _tell(finding, out, wide=wide)
    say(_summary(findings), out)


def _title(place: Place) -> str:
    return _TITLES.get(place, str(place))


def _counted(findings: Sequence[Finding], *, wide: bool) -> Text:
    """How many of each state, the bad ones by name."""
    parts = []
    if fine := [each for each in findings if each.state is State.OK]:
        parts.append(f"{len(fine)} in order")
    for state in reversed(_SEVERITY[1:]):
        if names := [each.about for each in findings if each.state is state]:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{state}: {', '.join(names[:3])}{more}")
    return sentence("; ".join(parts), wide=wide)


def _tell(finding: Finding, out: Console, *, wide: bool) -> None:
    """The remedy on a line that only the terminal breaks, and with full names, so that it can be copied."""
    head = sentence(f"{_title(finding.place)}: {finding.about}", wide=wide)
    head.stylize("bold")
    out.print(Text.assemble((finding.state, _STYLES[finding.state]), "  ", head))
    out.print(Padding(sentence(finding.says, wide=wide), (0, 0, 0, 2)))
    if finding.remedy:
        out.print(Text(f"  → {printable(finding.remedy)}", style="cyan"), soft_wrap=True)
    out.print()


def _summary(findings: Sequence[Finding]) -> str:
    count = collections.Counter(each.state for each in findings)
    if not set(count) - {State.OK}:
        return f"All {count[State.OK]} checks passed."
    parts = [
        f"{count[State.BROKEN]} broken",
        f"{count[State.WARNING]} warnings",
        f"{count[State.UNSEEN]} unknown",
        f"{count[State.OK]} in order",
    ]
    return ", ".join(part for part in parts if not part.startswith("0 ")) + "."
