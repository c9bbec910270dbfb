"""replay: the messages that no service could handle."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from dualdeploy_cli import options
from dualdeploy_cli.exits import Refused
from dualdeploy_cli.output import console, emit, printable, say, short
from dualdeploy_cli.session import Session, pass_session

if TYPE_CHECKING:
    from rich.table import Table

    from dualdeploy_cli.dead_letters import DeadLetter, DeadLetters

_SHOWN_BYTES = 120


@click.command
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="send all of them again")
@click.option("--wait", type=float, default=5.0, show_default=True, metavar="SECONDS", help="for another letter")
@options.project
@options.wide
@options.as_json
@pass_session
def replay(
    session: Session, *, ids: tuple[str, ...], everything: bool, wait: float, project: str, wide: bool, as_json: bool
) -> None:
    """List the dead letters; with their ids, or --all, send them again.

    A letter goes to the topic it came from, so every subscriber of that topic receives it once more. Mend the
    cause first: dualdeploy doctor.

    \b
    Examples:
      dualdeploy replay                        only list
      dualdeploy replay 1234567890123456
      dualdeploy replay --all --project my-project
    """
    from google.api_core.exceptions import NotFound

    from dualdeploy_cli import dead_letters

    project = session.project(project)
    try:
        with dead_letters.open_dead_letters(project, pull_seconds=wait) as letters:
            found = letters.pull()
            chosen = found if everything else [letter for letter in found if letter.id in ids]
            unknown = sorted(set(ids) - {letter.id for letter in found})
            if not as_json:
                _show(found, wide=wide, is_list=not (chosen or unknown))
            outcomes = _send_again(letters, chosen)
    except NotFound as exc:
        raise Refused(f"project {project} has no subscription {dead_letters.SUBSCRIPTION}: {exc.message}") from exc
    outcomes += [{"id": each, "problem": _UNKNOWN} for each in unknown]
    if as_json:
        emit({"letters": [_as_document(each) for each in found], "replayed": outcomes})
    else:
        for each in outcomes:
            became = each.get("problem") or f"sent again to {each['topic']}, to every subscriber of it"
            say(f"{each['id']}: {became}", console())
    if any("problem" in each for each in outcomes):
        raise click.exceptions.Exit(Refused.exit_code)


_UNKNOWN = "there is no dead letter with this id (one that was replayed and failed again has a new one)"


def _send_again(letters: DeadLetters, chosen: Sequence[DeadLetter]) -> list[dict[str, str]]:
    from dualdeploy_cli.dead_letters import NotReplayed

    letters.keep(chosen)
    outcomes = []
    for letter in chosen:
        try:
            outcomes.append({"id": letter.id, "topic": letters.replay(letter)})
        except NotReplayed as exc:
            outcomes.append({"id": letter.id, "problem": f"not replayed: {exc}"})
    return outcomes


def _as_document(letter: DeadLetter) -> dict[str, Any]:
    fields = {**dataclasses.asdict(letter), "at": letter.at.isoformat(), "data": letter.data.decode(errors="replace")}
    return {key: value for key, value in fields.items() if key != "ack_id"}


def _show(letters: Sequence[DeadLetter], *, wide: bool, is_list: bool) -> None:
    from dualdeploy_cli.dead_letters import MOST_LETTERS

    out = console(wide=wide)
    out.print(_table(letters, wide=wide) if letters else "No dead letters.")
    if len(letters) == MOST_LETTERS:
        say(f"these are the first {MOST_LETTERS}, there may be more", out)
    if letters and is_list:
        say("Nothing was changed. Send some again with their ids, or all of them with --all (ALL=1 for make).", out)


def _table(letters: Sequence[DeadLetter], *, wide: bool) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    count = f"{len(letters):,} dead letter{'' if len(letters) == 1 else 's'}"
    table = Table(title=count, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("id", no_wrap=True)
    table.add_column("given up (UTC)", overflow="fold")
    table.add_column("by", overflow="fold")
    table.add_column("tries", justify="right")
    table.add_column("attributes, data", overflow="fold", ratio=1)
    for letter in letters:
        at = f"{letter.at:%Y-%m-%d %H:%M:%S}"
        by = (letter.subscription or letter.origin) if wide else letter.origin
        words = [f"{key}={value}" for key, value in sorted(letter.attributes.items())]
        said = "\n".join([*(words if wide else map(short, words)), _beginning(letter.data)])
        cells = (letter.id, at, by, letter.deliveries, said)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _beginning(data: bytes) -> str:
    beginning = " ".join(data[:_SHOWN_BYTES].decode(errors="replace").split())
    return f"{beginning}… ({len(data):,} bytes)" if len(data) > _SHOWN_BYTES else beginning or "(without data)"
