"""Terraform in one environment's folder, with its state in the project's bucket."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shipping import refusals, taking_over
from shipping.release import Place, optional_product
from shipping.tools import CannotShip, ToolFailed, Tools

#: Read by Terraform by itself, after terraform.tfvars: what is given to a deployment wins.
VARIABLES_FILE = "shipping.auto.tfvars.json"
_PLAN_FILE = "shipping.tfplan"
_IMPORTS_FILE = "shipping.imports.tf"


@dataclasses.dataclass(frozen=True)
class Refusal:
    """One error of an apply; `address` is the resource, or nothing when Terraform itself refused."""

    address: str
    says: str

    def __str__(self) -> str:
        return f"{self.address or 'Terraform'}: {self.says}"


class ApplyFailed(ToolFailed):
    """Terraform made what it could; `refused` is what is left."""

    def __init__(self, failed: ToolFailed, refused: Sequence[Refusal]) -> None:
        super().__init__(failed.command, "\n".join(map(str, refused)))
        self.refused = refused

    @property
    def passes(self) -> str:
        """Waiting is in vain while anything is refused for good that the rest cannot do without."""
        reasons = [refusals.what_passes(each.says) for each in self.refused if not optional_product(each.address)]
        if not all(reasons):
            return ""
        return next((reason for each in self.refused if (reason := refusals.what_passes(each.says))), "")


class Terraform:
    """One environment. Every command gets a new token of whoever is logged in to gcloud: one login is enough."""

    def __init__(self, folder: Path, place: Place, tools: Tools) -> None:
        self._folder = folder
        self._place = place
        self._tools = tools

    def init(self) -> None:
        """Begin to work with the state in the bucket; downloads the provider."""
        self._take_over({})
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

    def has_settings(self) -> bool:
        """Whether somebody wrote settings down here, beside those that we are about to write."""
        files = [*self._folder.glob("terraform.tfvars"), *self._folder.glob("terraform.tfvars.json")]
        files += self._folder.glob("*.auto.tfvars*")
        return any(file.name != VARIABLES_FILE for file in files)

    def set_variables(self, variables: Mapping[str, Any]) -> None:
        (self._folder / VARIABLES_FILE).write_text(json.dumps(variables, indent=2) + "\n", encoding="utf-8")

    def plan(self, *options: str) -> Mapping[str, Any]:
        """Plan, keep the plan for `apply_plan`, and return it. Raises CannotShip for what is not ours to take over."""
        self._ask("plan", "-input=false", f"-out={_PLAN_FILE}", *options)
        planned: Mapping[str, Any] = json.loads(self._ask("show", "-json", _PLAN_FILE))
        taking_over.refuse_what_is_not_ours(planned)
        return planned

    def apply_plan(self, *options: str) -> Sequence[Refusal]:
        """Apply the kept plan, which was made with these options; returns what was refused of optional products.

        What Google is not ready for is planned and applied again. What is there already, because an apply was killed
        before it wrote it down or because `make destroy` left it, is taken over. Raises ToolFailed.
        """
        try:
            self._tools.patiently(lambda: self._apply_and_take_over(options), before_again=lambda: self.plan(*options))
        except ApplyFailed as failed:
            if not all(optional_product(each.address) for each in failed.refused):
                raise
            return failed.refused
        finally:
            self._take_over({})
        return []

    def forget(self, *addresses: str) -> None:
        """Leave these alone from now on: they stay as they are, and are no longer Terraform's."""
        self._act("state", "rm", *addresses)

    def destroy(self) -> None:
        self._act("destroy", "-input=false", "-auto-approve")

    def _apply_and_take_over(self, options: Sequence[str]) -> None:
        """Apply, and again for as long as the refusals name new things to take over. Raises ApplyFailed."""
        taken: dict[str, str] = {}
        while True:
            try:
                self._apply()
            except ApplyFailed as failed:
                there = {each.address for each in failed.refused if taking_over.is_there_already(each.says)}
                new = taking_over.ids(self._plan_file(), there - taken.keys())
                if not new:
                    raise
                for name in new.values():
                    self._tools.say(f"    is there already, and is taken over: {name}")
                taken |= new
                self._take_over(taken)
                self.plan(*options)
            else:
                return

    def _apply(self) -> None:
        """Raises ApplyFailed."""
        try:
            with self._explained():
                self._tools.act_once(
                    *self._command(("apply", "-input=false", "-json", _PLAN_FILE)), environment=self._environment()
                )
        except ToolFailed as failed:
            raise ApplyFailed(failed, _refusals(failed.output)) from failed

    def _plan_file(self) -> Mapping[str, Any]:
        return json.loads(self._ask("show", "-json", _PLAN_FILE))  # type: ignore[no-any-return]

    def _take_over(self, ids: Mapping[str, str]) -> None:
        """Have the next plan take these into the state, by address; nothing for the plans after this."""
        file = self._folder / _IMPORTS_FILE
        if ids:
            file.write_text(taking_over.blocks(ids), encoding="utf-8")
        else:
            file.unlink(missing_ok=True)

    def _ask(self, *arguments: str) -> str:
        with self._explained():
            return self._tools.ask(*self._command(arguments), environment=self._environment())

    def _act(self, *arguments: str) -> None:
        with self._explained():
            self._tools.act(*self._command(arguments), environment=self._environment())

    def _command(self, arguments: Sequence[str]) -> tuple[str, ...]:
        return ("terraform", f"-chdir={self._folder}", *arguments)

    def _environment(self) -> Mapping[str, str]:
        token = self._tools.ask("gcloud", "auth", "print-access-token")
        return {"GOOGLE_OAUTH_ACCESS_TOKEN": token, "TF_CLI_ARGS": "-no-color"}

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except ToolFailed as failed:
            if "Error acquiring the state lock" not in failed.output:
                raise
            # With -json it is a line of JSON, whose ends of lines are two characters.
            lock = re.search(r"ID:\s+([\w-]+)", failed.output)
            raise CannotShip(
                "Someone else is deploying, or a deployment was killed. If no one is:\n"
                f"  terraform -chdir={self._folder} force-unlock {lock[1] if lock else '<ID>'}"
            ) from failed


def _refusals(output: str) -> list[Refusal]:
    """The errors among the lines of `terraform apply -json`, or the whole output when there are none.

    Source: https://developer.hashicorp.com/terraform/internals/machine-readable-ui
    """
    found = []
    for line in output.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        said = entry.get("diagnostic", {}) if isinstance(entry, dict) else {}
        if said.get("severity") == "error":
            text = "\n".join(part for part in (said.get("summary", ""), said.get("detail", "")) if part)
            found.append(Refusal(said.get("address", ""), text))
    return found or [Refusal("", output.strip())]
