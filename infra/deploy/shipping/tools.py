"""The one place that starts gcloud and terraform."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping

_MISSING = re.compile(r"not[ _]found|\b404\b|does not exist", flags=re.IGNORECASE)


class CannotShip(Exception):
    """Nothing goes on from here; the message says what is wrong and which command mends it."""


class ToolFailed(CannotShip):
    """A command failed; `output` is what it said."""

    def __init__(self, command: tuple[str, ...], output: str) -> None:
        super().__init__(f"{shlex.join(command)}\n{output.strip()[-4000:]}")
        self.command = command
        self.output = output


class Tools:
    """Asks at any time; acts unless this is a rehearsal, and prints each command that acts."""

    def __init__(self, *, rehearsal: bool = False, say: Callable[[str], None] = print) -> None:
        self.rehearsal = rehearsal
        self.say = say

    def ask(self, *command: str, environment: Mapping[str, str] | None = None) -> str:
        """The output of a command that changes nothing. Raises ToolFailed."""
        done = _start(command, environment)
        if done.returncode != 0:
            raise ToolFailed(command, done.stderr or done.stdout)
        return done.stdout.strip()

    def find(self, *command: str) -> str | None:
        """Like `ask` for one thing that need not be there: None when it is not. Raises ToolFailed for anything else."""
        try:
            return self.ask(*command)
        except ToolFailed as failed:
            if _MISSING.search(failed.output):
                return None
            raise

    def act(self, *command: str, environment: Mapping[str, str] | None = None) -> None:
        """Change something. Raises ToolFailed, with what the command said."""
        self.say(f"    $ {shlex.join(command)}")
        if self.rehearsal:
            return
        done = _start(command, environment)
        if done.returncode != 0:
            raise ToolFailed(command, done.stdout + done.stderr)


def _start(command: tuple[str, ...], environment: Mapping[str, str] | None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            # A question on a terminal that nobody looks at would wait for ever.
            stdin=subprocess.DEVNULL,
            env={**os.environ, "CLOUDSDK_CORE_DISABLE_PROMPTS": "1", "TF_IN_AUTOMATION": "1", **(environment or {})},
        )
    except FileNotFoundError as missing:
        raise CannotShip(_INSTALL.get(command[0], f"{command[0]} is not installed")) from missing


_INSTALL = {
    "gcloud": "gcloud is not installed: https://docs.cloud.google.com/sdk/docs/install",
    "terraform": "terraform is not installed (1.9 or newer): https://developer.hashicorp.com/terraform/install",
}
