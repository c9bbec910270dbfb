"""What happens to a run, told as it happens: every new line of both histories, and the epochs of the trainings."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from dualdeploy.contracts.routing import Routing
from dualdeploy.contracts.training import TARGETS
from dualdeploy.errors import DualDeployError
from dualdeploy.ledger import Ledger, Routings, State, names
from dualdeploy.ledger.standing import Standing, standing

POLL_SECONDS = 0.3

#: (who speaks, what is said); the demo prints it with the time.
Tell = Callable[[str, str], None]


class RunDidNotFinish(RuntimeError):
    """The run did not reach its end in the time that it was given."""


def wait_for_run(ledger: Ledger, dataset: str, *, look: Callable[[], None], limit_seconds: float) -> str:
    """The id of the data set's first run, once it is claimed. Raises RunDidNotFinish, with the reason of a refusal.

    `look` is asked each time, and raises when there is nothing to wait for any more.
    """
    deadline = time.monotonic() + limit_seconds
    while time.monotonic() < deadline:
        look()
        if run_ids := ledger.run_ids(dataset):
            return run_ids[0]
        if rejections := ledger.rejections():
            raise RunDidNotFinish(f"the data was refused: {rejections[-1].reason}")
        time.sleep(POLL_SECONDS)
    raise RunDidNotFinish(f"no run was claimed within {limit_seconds:.0f} s; the log of training_launcher says why")


def wait_for_end(
    ledger: Ledger, run_id: str, *, jobs_folder: Path, tell: Tell, look: Callable[[], None], limit_seconds: float
) -> dict[str, Standing]:
    """Follow both targets until they have ended, telling every step, and looking each time. Raises RunDidNotFinish."""
    deadline = time.monotonic() + limit_seconds
    followers = {target: _Follower(ledger, run_id, target, jobs_folder, tell) for target in TARGETS}
    while time.monotonic() < deadline:
        look()
        ended = [follower.look() for follower in followers.values()]
        if all(ended):
            return {target: follower.standing for target, follower in followers.items() if follower.standing}
        time.sleep(POLL_SECONDS)
    states = ", ".join(f"{t} is {f.standing.state if f.standing else 'unknown'}" for t, f in followers.items())
    raise RunDidNotFinish(f"after {limit_seconds:.0f} s: {states}")


def wait_for_routing(ledger: Ledger, dataset: str, run_id: str, *, limit_seconds: float) -> Routing:
    """What phones with the live file are told about asking the cloud run `run_id`. Raises RunDidNotFinish."""
    deadline = time.monotonic() + limit_seconds
    found = None
    while time.monotonic() < deadline:
        found = ledger.find(names.routing(dataset), Routings)
        told = found.document.files[:1] if found and found.document.published else ()
        for routing in told:
            if routing.cloud and (routing.cloud.run_id, routing.phone.run_id) == (run_id, run_id):
                return routing
        time.sleep(POLL_SECONDS)
    why = found.document.problem if found else "the log of mobile_publisher says why"
    raise RunDidNotFinish(f"phones were not told when to ask the cloud within {limit_seconds:.0f} s: {why}")


class _Follower:
    """One target: how much of its history and of its job's log was told."""

    def __init__(self, ledger: Ledger, run_id: str, target: str, jobs_folder: Path, tell: Tell) -> None:
        self.standing: Standing | None = None
        self._ledger = ledger
        self._run_id = run_id
        self._target = target
        self._jobs_folder = jobs_folder
        self._tell = tell
        self._told = 0
        self._log_position = 0
        self._step = ""
        self._waits_for = ""

    def look(self) -> bool:
        """Tell what is new; whether the branch has ended."""
        try:
            now = standing(self._ledger, self._run_id, self._target)
        except DualDeployError:
            # Not there yet, or the bucket is busy: looked at again in a moment.
            return False
        self.standing = now
        # The job's lines first: they were written before the end that they led to was recorded.
        self._tell_epochs(now.job)
        for moment in now.history[self._told :]:
            self._tell(self._target, f"{moment.state:<10} {_shorten(moment.note)}")
        if self._step != now.step and now.step:
            says = next((step.says for step in now.steps if step.name == now.step), now.step)
            self._tell(self._target, f"{'':<10} {says}")
        waits_for = now.waits_for if now.state == State.LAUNCHING else ""
        if waits_for != self._waits_for and waits_for:
            self._tell(self._target, f"{'':<10} waits: {_shorten(waits_for)}")
        self._told, self._step, self._waits_for = len(now.history), now.step, waits_for
        return now.is_over

    def _tell_epochs(self, job: str) -> None:
        log = self._jobs_folder / job.rsplit("/", 1)[-1] / "log"
        if not job or not log.exists():
            return
        with log.open(encoding="utf-8", errors="replace") as stream:
            stream.seek(self._log_position)
            for line in iter(stream.readline, ""):
                if not line.endswith("\n"):
                    break  # half a line: next time
                self._log_position = stream.tell()
                if message := _epoch(line):
                    self._tell(self._target, f"{'':<10} {message}")


def _epoch(line: str) -> str:
    """The message of a log line about an epoch, or nothing."""
    try:
        entry = json.loads(line)
    except ValueError:
        return ""
    return str(entry["message"]) if isinstance(entry, dict) and "epoch" in entry and "message" in entry else ""


def _shorten(note: str) -> str:
    return note if len(note) <= 110 else note[:107] + "…"
