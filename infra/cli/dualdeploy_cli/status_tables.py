"""What both services say of data sets, as people read it at 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.padding import Padding

from dualdeploy.clock import for_people
from dualdeploy_cli.output import link, printable, say, sentence

if TYPE_CHECKING:
    from rich.console import Console

    from dualdeploy_cli.services import Answer

#: What people look for in what serves; the services add more, which --json has.
_NAMED = ("endpoint", "deployed_model", "model", "version", "published_as", "pointer", "firebase_model", "accuracy")


def print_status(answers: Sequence[tuple[str, Answer]], out: Console, *, wide: bool) -> None:
    """`answers`: data set and what one service says of it, in the order in which they are shown."""
    shown = ""
    for dataset, answer in answers:
        if dataset != shown:
            say(dataset, out)
            shown = dataset
        target = str(answer.body.get("target") or answer.target or answer.url)
        lines = list(_lines(answer.body, wide=wide)) if answer.is_good else [_problem(answer)]
        out.print(Padding(sentence(f"{target}: {lines[0]}", wide=wide), (0, 0, 0, 2), expand=False))
        for line in lines[1:]:
            out.print(Padding(sentence(line, wide=wide), (0, 0, 0, 4), expand=False))


def _problem(answer: Answer) -> str:
    return printable(str(answer.body.get("error", f"answers {answer.status}")))


def _lines(body: Mapping[str, Any], *, wide: bool) -> Iterator[str]:
    live = body.get("live") or {}
    current = live.get("current") or {}
    if current:
        yield f"serves {current['run_id']} since {for_people(current['since'])}"
        named = [f"{key} {current[key]}" for key in _NAMED if current.get(key) not in ("", None)]
        if named:
            yield ", ".join(named)
        if wide:
            yield from filter(None, (link(str(current.get(key, ""))) for key in _NAMED))
    else:
        yield "serves nothing"
    if previous := live.get("previous"):
        taken = f" (taken back: {previous['taken_back']})" if previous.get("taken_back") else ""
        yield f"before: {previous['run_id']}{taken}"
    if live.get("undeployed_at"):
        yield f"undeployed at {for_people(live['undeployed_at'])}: {live.get('undeployed_because', '')}"
    if live.get("retired_at"):
        yield f"retired at {for_people(live['retired_at'])}"
    for number, each in enumerate(body.get("under_way") or ()):
        yield _unfinished("waits" if number else "under way", each)
    if hold := body.get("hold"):
        by = f" by {hold['by']}" if hold.get("by") else ""
        reason = f": {hold['reason']}" if hold.get("reason") else ""
        yield f"on hold{by} since {for_people(hold['at'])}{reason}; dualdeploy resume {body['dataset']} ends it"
    for each in body.get("refused") or ():
        yield f"refused at {for_people(each['at'])}, {each['kind']}: {each['reason']}"


def _unfinished(word: str, standing: Mapping[str, Any]) -> str:
    step = f", step {standing['step']}" if standing.get("step") else ""
    waits = standing.get("waits_for") or standing.get("reason") or ""
    return f"{word}: {standing['run_id']}, {standing.get('state', '?')}{step}{f': {waits}' if waits else ''}"
