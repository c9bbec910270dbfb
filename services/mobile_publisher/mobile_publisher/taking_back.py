"""What an abort, a newer run or a failure in the middle of a rollout leads to: phones get back what is live.

    take back: Remote Config ─► pointer ─► Firebase ML ─► rolled_back (superseded)

Each step looks whether there is anything of this release to take back at all. What cannot be taken back does not keep
the others: the branch's last note says what stays, and why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from dualdeploy.clock import Clock
from dualdeploy.errors import CannotEverSucceed
from dualdeploy.ledger import Branch, Ledger, State
from mobile_publisher.firebase_channel import FirebaseChannel, tags_of
from mobile_publisher.staging import Staging, rollout_of
from mobile_publisher.storage_channel import StorageChannel

log = logging.getLogger(__name__)

FACT = "taking_back"


class NothingBefore(CannotEverSucceed):
    """There is nothing to go back to."""


def take_back(branch: Branch, why: str, *, ends: State = State.ROLLED_BACK) -> Branch:
    """Send the branch on its way back; it ends as `ends` with the reason `why`."""
    log.warning("%s goes back: %s", branch.run_id, why)
    facts = {FACT: {"why": why, "ends": str(ends), "stays": []}}
    return branch.with_facts(**facts).at_step("restore")


class TakingBack:
    """The steps of the way back, each from a branch to the branch to record; None while Firebase ML is at work."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        staging: Staging,
        storage: StorageChannel | None,
        firebase: FirebaseChannel,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._staging = staging
        self._storage = storage
        self._firebase = firebase
        self._clock = clock
        self.steps: Mapping[str, Callable[[Branch], Branch | None]] = {
            "restore": self._restore_remote_config,
            "restore pointer": self._restore_pointer,
            "restore firebase-ml": self._restore_firebase,
        }

    def _restore_remote_config(self, branch: Branch) -> Branch:
        rollout = rollout_of(branch)
        if rollout:
            try:
                self._staging.parameter(branch).take_back(new=rollout.version, old=rollout.old, before=rollout.before)
            except CannotEverSucceed as exc:
                branch = _stays(branch, f"Remote Config: {exc}")
        return branch.at_step("restore pointer")

    def _restore_pointer(self, branch: Branch) -> Branch:
        ours = branch.facts.get("published_manifest", {}).get("version")
        following = branch.at_step("restore firebase-ml")
        if not ours:
            return following
        if self._storage is None:
            return _stays(following, "the pointer: FIREBASE_STORAGE_BUCKET is not set any more")
        name, live = str(branch.facts["name"]), self._live(branch)
        latest = self._storage.latest(name)
        if not latest or latest.get("version") != ours or live.get("version") == ours:
            return following
        rollout = rollout_of(branch)
        # What is live may have been published before there was a pointer, which somebody else set then.
        before = live.get("version") or (rollout.old if rollout else "")
        if not before:
            return _stays(following, f"{self._storage.uri(name)} names {ours}: nothing was there before")
        try:
            self._storage.point_back(name, str(before))
        except CannotEverSucceed as exc:
            return _stays(following, f"{self._storage.uri(name)}: {exc}")
        return following

    def _restore_firebase(self, branch: Branch) -> Branch | None:
        if "firebase-ml" not in branch.facts.get("channels", ()):
            return self._end(branch)
        try:
            return self._firebase.once_allowed(branch, lambda: self._update_back(branch))
        except CannotEverSucceed as exc:
            return self._end(_stays(branch, f"Firebase ML: {exc}"))

    def _update_back(self, branch: Branch) -> Branch | None:
        name, live = str(branch.facts["name"]), self._live(branch)
        ours = set(tags_of(branch.dataset, branch.run_id, branch.facts))
        wanted = tags_of(branch.dataset, str(live["run_id"]), live) if "firebase_model" in live else []
        # After the first update the model is not ours any more, and yet it has to be seen through.
        if not branch.attempts:
            model = self._firebase.find(name)
            if model and model.locked:
                # Perhaps with a file of ours, which it may name only when the operation is over.
                return self._firebase.wait(branch, model)
            if model is None or not ours <= set(model.tags) or ours == set(wanted):
                return self._end(branch)
        if not wanted:
            raise NothingBefore(f"{name} holds this file and held none before: delete it in the Firebase console")
        model, following = self._firebase.hold(branch, name, uri=str(live["tflite"]), tags=wanted)
        return self._end(branch) if model else following

    def _live(self, branch: Branch) -> Mapping[str, Any]:
        """The facts of what is live: the release that phones are to have."""
        found = self._ledger.read_live(branch.dataset, branch.target)
        return {**found.document.current.facts, "run_id": found.document.current.run_id} if found else {}

    def _end(self, branch: Branch) -> Branch:
        taken = branch.facts[FACT]
        note = taken["why"] + "".join(f"; not taken back: {each}" for each in taken["stays"])
        return branch.moved(State(taken["ends"]), at=self._clock(), note=note)


def _stays(branch: Branch, what: str) -> Branch:
    log.error("%s is not taken back from %s", branch.run_id, what)
    taken = branch.facts[FACT]
    return branch.with_facts(**{FACT: {**taken, "stays": [*taken["stays"], what]}})
