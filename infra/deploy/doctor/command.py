"""The command line of the doctor, and what people see."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from doctor import checks
from doctor.chain import Chain
from doctor.examination import Look, examine
from doctor.findings import Finding, Place, State
from doctor.reads import CouldNotLook, Google, NotSignedIn, NotThere
from dualdeploy.clock import Clock, utc_now
from dualdeploy.replay import printable

REPOSITORY = Path(__file__).resolve().parents[3]
NOTHING_BROKEN, BROKEN, USAGE, NOT_ALL_SEEN = 0, 1, 2, 3

_STYLES: Mapping[State, str] = {
    State.OK: "green",
    State.WARNING: "yellow",
    State.BROKEN: "bold red",
    State.UNSEEN: "magenta",
}
#: The worst last.
_SEVERITY = [State.OK, State.WARNING, State.UNSEEN, State.BROKEN]
_TITLES: Mapping[Place, str] = {Place.FIREBASE: "Firebase ML", Place.HINT: "end of training", Place.RUN: "runs"}


def main(
    arguments: Sequence[str] | None = None,
    *,
    console: Console | None = None,
    environ: Mapping[str, str] = os.environ,
    clock: Clock = utc_now,
) -> int:
    """Look, and print. Returns 0 (nothing is broken), 1 (something is), 2 (usage), 3 (not everything could be seen)."""
    console = console or Console()
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as exc:  # argparse has printed help (0) or what is wrong (2)
        return int(exc.code or 0)
    project = options.project or environ.get("GOOGLE_CLOUD_PROJECT", "")
    if not project:
        _say(console, "which project? PROJECT=my-project, or make up and then make doctor")
        return USAGE
    google = Google(project, environ=environ, patience=options.patience)
    try:
        google.sign_in()
        region = options.region or environ.get("GOOGLE_CLOUD_REGION", "") or _deployed_region(google)
    except NotSignedIn as exc:
        _say(console, f"Nobody is signed in to Google Cloud: {exc}")
        return USAGE
    except (NotThere, CouldNotLook) as exc:
        _say(console, f"Which region? REGION=us-central1. It could not be told from the data bucket: {exc}")
        return USAGE
    chain = Chain.load(REPOSITORY / "infra" / "topology.json", project=project, region=region)
    bindings = json.loads((REPOSITORY / "infra" / "bindings.json").read_text(encoding="utf-8"))
    look = Look(chain, google, clock(), bindings)
    findings = examine(checks.of(look), limit_seconds=options.limit)
    if options.json:
        console.out(json.dumps([dataclasses.asdict(each) for each in findings], indent=1), highlight=False)
    else:
        _show(findings, chain, console, everything=options.all)
        if environ.get("LOCAL_CLOUD_ADDRESS"):
            _say(
                console, "This is the local cloud: the commands are for Google Cloud; here make down and make up mend."
            )
    return _exit_code(findings)


def _deployed_region(google: Google) -> str:
    """Everything is where the data bucket is."""
    bucket = google.get("storage", f"/storage/v1/b/{google.project}-data", needs="storage.buckets.get")
    return str(bucket["location"]).lower()


def _exit_code(findings: Sequence[Finding]) -> int:
    states = {each.state for each in findings}
    if State.BROKEN in states:
        return BROKEN
    return NOT_ALL_SEEN if State.UNSEEN in states else NOTHING_BROKEN


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="doctor", description="Say which part of the chain is broken, and how to mend it. Nothing is changed."
    )
    parser.add_argument("--project", default="", help="default: GOOGLE_CLOUD_PROJECT")
    parser.add_argument("--region", default="", help="default: GOOGLE_CLOUD_REGION, else where the data bucket is")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--all", action="store_true", help="list also, one by one, what is in order")
    parser.add_argument("--patience", type=float, default=10.0, help="seconds that one call may take (10)")
    parser.add_argument("--limit", type=float, default=90.0, help="seconds for everything (90)")
    return parser


# What people see -----------------------------------------------------------------------------------------------


def _show(findings: Sequence[Finding], chain: Chain, console: Console, *, everything: bool) -> None:
    """Where along the chain something is wrong, then each of those things with what mends it."""
    table = Table(title=f"{chain.project} in {chain.region}, along the chain", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("place", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("of what was looked at", overflow="fold")
    for place in Place:
        there = [each for each in findings if each.place is place]
        if there:
            worst = max((each.state for each in there), key=_SEVERITY.index)
            table.add_row(_title(place), Text(worst, style=_STYLES[worst]), _counted(there))
    console.print(table)
    for finding in findings:
        if everything or finding.state is not State.OK:
            _tell(finding, console)
    _say(console, _summary(findings))


def _title(place: Place) -> str:
    return _TITLES.get(place, str(place))


def _counted(findings: Sequence[Finding]) -> Text:
    """How many of each state, the bad ones by name."""
    parts = []
    if fine := [each for each in findings if each.state is State.OK]:
        parts.append(f"{len(fine)} in order")
    for state in reversed(_SEVERITY[1:]):
        if names := [each.about for each in findings if each.state is state]:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{state}: {', '.join(names[:3])}{more}")
    return Text(printable("; ".join(parts)))


def _tell(finding: Finding, console: Console) -> None:
    """The remedy on a line that only the terminal breaks, so that it can be copied."""
    head = Text(printable(f"{_title(finding.place)}: {finding.about}"), style="bold")
    console.print(Text.assemble((finding.state, _STYLES[finding.state]), "  ", head))
    console.print(Padding(Text(printable(finding.says)), (0, 0, 0, 2)))
    if finding.remedy:
        console.print(Text(f"  → {printable(finding.remedy)}", style="cyan"), soft_wrap=True)
    console.print()


def _summary(findings: Sequence[Finding]) -> str:
    count = collections.Counter(each.state for each in findings)
    if not set(count) - {State.OK}:
        return f"All {count[State.OK]} things that were looked at are in order."
    parts = [
        f"{count[State.BROKEN]} broken",
        f"{count[State.WARNING]} to be aware of",
        f"{count[State.UNSEEN]} that nobody could look at",
        f"{count[State.OK]} in order",
    ]
    return ", ".join(part for part in parts if not part.startswith("0 ")) + "."


def _say(console: Console, sentence: str) -> None:
    console.print(Text(printable(sentence)), soft_wrap=True)
