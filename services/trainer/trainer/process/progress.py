"""What people see while a model is trained: a bar in a terminal, one log line for each epoch everywhere else."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from dualdeploy import logs

log = logging.getLogger("trainer")


class Reporter(Protocol):
    """Is told how far training has come."""

    def expect(self, steps: int) -> None:
        """So many steps will be taken in all."""

    def advance(self) -> None:
        """One step was taken."""

    def finish(self) -> None:
        """No more steps will be taken, however many were expected."""


class Quiet:
    """Not a terminal: the log lines say it all."""

    def expect(self, steps: int) -> None:
        """Nothing to draw."""

    def advance(self) -> None:
        """Nothing to draw."""

    def finish(self) -> None:
        """Nothing to draw."""


class Bar:
    """A terminal: steps as they are taken."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("loading", total=None)

    def expect(self, steps: int) -> None:
        self._progress.update(self._task, description="compiling", total=steps)

    def advance(self) -> None:
        self._progress.update(self._task, description="training", advance=1)

    def finish(self) -> None:
        taken = self._progress.tasks[self._task].completed
        self._progress.update(self._task, description="exporting", total=taken)


def drawn(console: Console) -> Progress:
    """An empty bar, which goes away with the block."""
    columns = (TextColumn("{task.description:>10}"), BarColumn(), _Steps(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


class _Steps(MofNCompleteColumn):
    """Steps taken of those to take, once that is known."""

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else super().render(task)


@contextlib.contextmanager
def reporting() -> Iterator[Reporter]:
    """Configure the log for this process and show progress, in a terminal, for the length of the block."""
    if not sys.stdout.isatty():
        _configure_logs()
        yield Quiet()
        return
    try:
        with drawn(Console()) as progress:
            # Only now: inside the block rich has replaced stdout, and lifts log lines above the bar.
            _configure_logs()
            yield Bar(progress)
    finally:
        _configure_logs()


def _configure_logs() -> None:
    logs.configure()
    if sys.stdout.isatty():
        # The messages say all that a person wants; the fields beside them are for queries.
        for handler in logging.getLogger().handlers:
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    # TensorFlow logs every input name of every saved function at INFO: ten kilobytes for each export.
    for name in ("absl", "tensorflow"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextlib.contextmanager
def native_banners_held_back() -> Iterator[None]:
    """Keep what C++ prints on file descriptor 2 inside the block from being seen, unless the block fails.

    Importing TensorFlow prints two banners before any log level of its own applies, in the middle of the bar; and
    Vertex AI files every line of stderr as an error.
    """
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(original, held.read())
            raise
        finally:
            os.dup2(original, 2)
            os.close(original)
