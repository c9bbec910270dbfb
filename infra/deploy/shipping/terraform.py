"""Terraform in one environment's folder, with its state in the project's bucket."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shipping.release import Place
from shipping.tools import CannotShip, ToolFailed, Tools

#: Read by Terraform by itself, after terraform.tfvars: what is given to a deployment wins.
VARIABLES_FILE = "shipping.auto.tfvars.json"
_PLAN_FILE = "shipping.tfplan"

#: What passes by itself: Google makes some of its own accounts when they are first needed, and tells of it late.
#: Source: https://docs.cloud.google.com/eventarc/docs/troubleshooting
_PASSES = re.compile(
    r"Permission denied while using the Eventarc Service Agent|Service account .* does not exist|"
    r"has not been used in project .* before or it is disabled|rateLimitExceeded"
)
_TRIES = 6


class Terraform:
    """One environment. Every command gets a new token of whoever is logged in to gcloud: one login is enough."""

    def __init__(self, folder: Path, place: Place, tools: Tools, *, pause_seconds: float = 60) -> None:
        self._folder = folder
        self._place = place
        self._tools = tools
        self._pause_seconds = pause_seconds

    def init(self) -> None:
        """Begin to work with the state in the bucket; downloads the provider."""
        self._ask("init", "-input=false", "-reconfigure", f"-backend-config=bucket={self._place.state_bucket}")

    def configuration(self) -> Mapping[str, Any]:
        """What the last deployment left as its configuration; empty before the first."""
        outputs = json.loads(self._ask("output", "-json"))
        return outputs.get("configuration", {}).get("value", {})  # type: ignore[no-any-return]

    def addresses(self) -> Sequence[str]:
        """Everything that is in the state."""
        try:
            return self._ask("state", "list").splitlines()
        except ToolFailed as failed:
            if "No state file was found" in failed.output:
                return []
            raise

    def set_variables(self, variables: Mapping[str, Any]) -> None:
        (self._folder / VARIABLES_FILE).write_text(json.dumps(variables, indent=2) + "\n", encoding="utf-8")

    def plan(self, *options: str) -> Mapping[str, Any]:
        """Plan, keep the plan for `apply_plan`, and return it."""
        self._ask("plan", "-input=false", f"-out={_PLAN_FILE}", *options)
        return json.loads(self._ask("show", "-json", _PLAN_FILE))  # type: ignore[no-any-return]

    def apply_plan(self, *options: str) -> None:
        """Apply the kept plan; what Google is not ready for yet is planned and tried again after a pause."""
        for tries in range(1, _TRIES + 1):
            try:
                self._act("apply", "-input=false", _PLAN_FILE)
            except CannotShip as failed:
                if tries == _TRIES or not _PASSES.search(str(failed)):
                    raise
                self._tools.say(f"    Google is not ready yet; once more in {self._pause_seconds:.0f} s")
                time.sleep(self._pause_seconds)
                self.plan(*options)
            else:
                return

    def apply(self, *options: str) -> None:
        self._act("apply", "-input=false", "-auto-approve", *options)

    def adopt(self, address: str, name: str) -> None:
        """Take what is there already into the state."""
        self._act("import", "-input=false", address, name)

    def forget(self, *addresses: str) -> None:
        """Leave these alone from now on: they stay as they are, and are no longer Terraform's."""
        self._act("state", "rm", *addresses)

    def destroy(self) -> None:
        self._act("destroy", "-input=false", "-auto-approve")

    def _ask(self, *arguments: str) -> str:
        with self._explained():
            return self._tools.ask(*self._command(arguments), environment=self._token())

    def _act(self, *arguments: str) -> None:
        with self._explained():
            self._tools.act(*self._command(arguments), environment=self._token())

    def _command(self, arguments: Sequence[str]) -> tuple[str, ...]:
        return ("terraform", f"-chdir={self._folder}", *arguments)

    def _token(self) -> Mapping[str, str]:
        return {"GOOGLE_OAUTH_ACCESS_TOKEN": self._tools.ask("gcloud", "auth", "print-access-token")}

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except ToolFailed as failed:
            if "Error acquiring the state lock" not in failed.output:
                raise
            lock = re.search(r"ID:\s+(\S+)", failed.output)
            raise CannotShip(
                "Somebody else is deploying, or a deployment was killed. If nobody is:\n"
                f"  terraform -chdir={self._folder} force-unlock {lock[1] if lock else '<ID>'}"
            ) from failed
