"""What a person can set off, each with what it does, what users notice and how long it takes."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from typing import Any, get_args

from dualdeploy.contracts.quantization import Quantization


@dataclasses.dataclass(frozen=True)
class Action:
    """One command of docs/http.md. `does`, `users` and `lasts` are sentences; `fields` is what it may send besides the
    data set and the reason.
    """

    name: str
    title: str
    does: str
    users: str
    lasts: str
    fields: tuple[str, ...] = ()


ACTIONS: Mapping[str, Action] = {
    each.name: each
    for each in (
        Action(
            "redeploy",
            "Redeploy",
            "Releases a trained run again, without training anything.",
            "They get that run's model step by step, as far as it proves itself; if not, they keep what they have.",
            "Cloud: minutes for the machine, and the canary. Phones: minutes, and the steps of the rollout.",
            ("run_id", "force", "everybody", "quantization"),
        ),
        Action(
            "rollback",
            "Roll back",
            "Releases again what served before, past the gate and in one step. Newer runs are held from then on.",
            "They get the previous model within minutes; phones, the next time that they look.",
            "A minute or two where the previous model is still deployed, else as long as a deployment.",
            ("to_run",),
        ),
        Action(
            "abort",
            "Abort",
            "Stops the release that is under way and leaves everything as it was.",
            "Those who already have the new model get the old one back; all others notice nothing.",
            "Minutes: what Vertex AI has begun has to end first.",
        ),
        Action(
            "hold",
            "Hold",
            "Keeps newly trained runs away from users. Training goes on, and what serves goes on serving.",
            "Nothing.",
            "At once, until someone ends it.",
        ),
        Action(
            "resume",
            "Resume",
            "Ends the hold: the newest run that waits is released.",
            "They get the newest run, if one waits, step by step.",
            "At once; what waits begins within a minute.",
        ),
    )
}

QUANTIZATIONS = ("", *get_args(Quantization))


def body(action: str, target: str, dataset: str, form: Mapping[str, str]) -> dict[str, Any]:
    """What the service is sent for a form as a browser fills it in."""
    said: dict[str, Any] = {}
    fields = ACTIONS[action].fields
    run_id = form.get("run_id", "").strip() if "run_id" in fields else ""
    if run_id:
        said["run_id"] = run_id
    else:
        said["dataset"] = dataset
    if "to_run" in fields and (to_run := form.get("to_run", "").strip()):
        said["to_run"] = to_run
    if "force" in fields and form.get("force"):
        said["force"] = True
    if "everybody" in fields and form.get("everybody"):
        said["canary"] = False
    if "quantization" in fields and target == "mobile" and (kind := form.get("quantization", "")) in QUANTIZATIONS[1:]:
        said["quantization"] = kind
    said["reason"] = form.get("reason", "").strip()[:500]
    return said


def curl(address: str, action: str, said: Mapping[str, Any]) -> str:
    """The same by hand, as the account that gcloud is signed in with."""
    signed_in = '"Authorization: Bearer $(gcloud auth print-identity-token)"'
    return (
        f"curl --fail-with-body -X POST {shlex.quote(f'{address}/{action}')} \\\n"
        f"  -H {signed_in} -H content-type:application/json \\\n"
        f"  -d {shlex.quote(json.dumps(said, ensure_ascii=False))}"
    )
