"""How the program speaks: sentences and tables that fit 80 columns, short names, and JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

#: A time in a sentence; they are all UTC.
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|\+00:00)")
#: A full resource name in a sentence, by its last id.
_RESOURCE = re.compile(r"projects/[\w.:-]+/(?:[A-Za-z]+/[^\s/,;:()'\"]+/)*[A-Za-z]+/([\w.@~+%-]*[\w@])")
#: Vertex AI's pages by the kind of a resource: https://console.cloud.google.com/vertex-ai
_PAGES = {
    "customJobs": "training/{id}",
    "endpoints": "online-prediction/locations/{region}/endpoints/{id}",
    "models": "models/locations/{region}/models/{id}",
    "trainingPipelines": "training/training-pipelines/{id}",
}
_REGIONAL = re.compile(r"projects/(?P<project>[^/]+)/locations/(?P<region>[^/]+)/(?P<kind>\w+)/(?P<id>[^/@\s]+)\S*")

#: Columns of a line where full names are asked for: nothing is broken that someone copies.
_WIDE = 1000


def console(*, wide: bool = False) -> Console:
    """Where people read. Not a terminal: 80 columns, unless COLUMNS says otherwise."""
    from rich.console import Console

    return Console(width=_WIDE if wide else None, highlight=False)


def note_console() -> Console:
    """Standard error: progress, and what people read beside JSON."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def emit(value: Any) -> None:
    """JSON on standard output, and nothing else there. Dataclasses become objects."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)


def note(sentence: str) -> None:
    """To standard error: what people should know beside what was asked for."""
    click.echo(printable(sentence), err=True)


def printable(text: str) -> str:
    """Nothing that was written by others may steer a terminal."""
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)


def short(text: str) -> str:
    """The text with each full resource name cut to its last id."""
    return _RESOURCE.sub(r"\1", text)


def link(name: str) -> str:
    """The page of a resource or an object in Google's console; empty where there is not one."""
    if name.startswith("gs://"):
        return f"https://console.cloud.google.com/storage/browser/{name.removeprefix('gs://')}"
    match = _REGIONAL.fullmatch(name)
    if not match or match["kind"] not in _PAGES:
        return ""
    page = _PAGES[match["kind"]].format(**match.groupdict())
    region = "" if "/locations/" in page else f"locations/{match['region']}/"
    return f"https://console.cloud.google.com/vertex-ai/{region}{page}?project={match['project']}"


def sentence(text: str, *, wide: bool = False) -> Text:
    """Printable, with times as people write them, and short names unless `wide`."""
    from rich.text import Text

    return Text(_TIME.sub(r"\1 \2", printable(text if wide else short(text))))


def say(text: str, out: Console) -> None:
    """One sentence that only the terminal breaks, so that what it quotes can be copied."""
    from rich.text import Text

    out.print(Text(printable(text)), soft_wrap=True)
