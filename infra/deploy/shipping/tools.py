"""The one place that starts gcloud and terraform."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from shipping import refusals

Result = TypeVar("Result")

_MISSING = re.compile(r"not[ _]found|\b404\b|does not exist", flags=re.IGNORECASE)

#: With the pause of a minute this is longer than any grant, API or agent was ever seen to take.
#: Source: https://docs.cloud.google.com/iam/docs/access-change-propagation ("7 minutes or more")
_TRIES = 11


class CannotShip(Exception):
    """Nothing goes on from here; the message says what is wrong and which command mends it."""


class ToolFailed(CannotShip):
    """A command failed; `output` is what it said."""

    def __init__(self, command: tuple[str, ...], output: str) -> None:
        lines = [shlex.join(command), output.strip()[-4000:]]
        if does := refusals.remedy(output):
            lines.append(f"What to do: {does}")
        super().__init__("\n".join(lines))
        self.command = command
        self.output = output

    @property
    def passes(self) -> str:
        """Why it is worth asking again later; nothing when it is not."""
        return refusals.what_passes(self.output)


class Tools:
    """Asks at any time; acts unless this is a rehearsal, and prints each command that acts.

    What Google refuses only for now is asked again every `pause_seconds`.
    """

    def __init__(
        self, *, rehearsal: bool = False, pause_seconds: float = 60, say: Callable[[str], None] = print
    ) -> None:
        self.rehearsal = rehearsal
        self.say = say
        self._pause_seconds = pause_seconds

    def look(self, *command: str) -> str:
        """The output of a command that changes nothing, asked once: for what is to be told, not waited for."""
        return self._run(command, None)

    def ask(self, *command: str, environment: Mapping[str, str] | None = None) -> str:
        """The output of a command that changes nothing. Raises ToolFailed."""
        return self.patiently(lambda: self._run(command, environment))

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
        self.patiently(lambda: self.act_once(*command, environment=environment))

    def act_once(self, *command: str, environment: Mapping[str, str] | None = None) -> None:
        """The same for a command that has to be prepared anew before it is repeated."""
        self.say(f"    $ {shlex.join(command)}")
        if not self.rehearsal:
            self._run(command, environment)

    def patiently(self, attempt: Callable[[], Result], *, before_again: Callable[[], object] = bool) -> Result:
        """What `attempt` returns; it is made again while Google says that this passes. Raises ToolFailed."""
        for tries in range(1, _TRIES):
            try:
                return attempt()
            except ToolFailed as failed:
                if not failed.passes:
                    raise
                self.say(f"    Google is not ready yet: {failed.passes}")
                self.say(f"    asked again in {self._pause_seconds:.0f} s, {tries} of {_TRIES - 1}")
            time.sleep(self._pause_seconds)
            before_again()
        return attempt()

    def _run(self, command: tuple[str, ...], environment: Mapping[str, str] | None) -> str:
        done = _start(command, environment)
        if done.returncode != 0:
            raise ToolFailed(command, done.stdout + done.stderr)
        return done.stdout.strip()


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
