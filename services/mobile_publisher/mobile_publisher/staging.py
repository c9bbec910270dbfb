"""How a new version reaches phones share by share, through Remote Config.

    plan ─► canary: share ─► bake ─┬─► share (next one) …
                                   └─► all channels, the pointer, and `settle`: everybody

The plan is fixed before anything is changed, so that a configuration that is changed (or broken) meanwhile cannot
strand phones between two versions. Each step looks before it acts, so repeating it is harmless. The first version of
a name, and one that phones have already, go to everybody at once.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping
from typing import Any

import pydantic

from dualdeploy import clock as clocks
from dualdeploy.clock import Clock
from dualdeploy.dataset_config import StagedRollout
from dualdeploy.errors import CannotEverSucceed
from dualdeploy.ledger import Branch, State
from dualdeploy.release_request import ReleaseRequest
from dualdeploy.remote_config import RemoteConfig
from mobile_publisher.storage_channel import StorageChannel
from mobile_publisher.version_parameter import VersionParameter

log = logging.getLogger(__name__)

#: What is in a branch's facts under this name is its `Rollout`.
FACT = "rollout"

#: Steps in which phones see two versions, and from which a newer run may take over.
SHARING = frozenset({"share", "bake"})


class Rollout(pydantic.BaseModel):
    """One rollout of one release. `old` is the version that everybody has when it begins.

    `before` is what the parameter said by default: empty when phones followed the pointer. `steps` and `bake` (seconds)
    are the configuration's; `index` is the step it is at, since `shifted_at`.
    """

    version: str
    old: str
    before: str
    seed: str
    steps: tuple[int, ...]
    bake: float
    index: int = 0
    shifted_at: str = ""
    passed: tuple[Mapping[str, Any], ...] = ()
    remark: str = ""

    @property
    def share(self) -> int:
        return self.steps[self.index]

    @property
    def held(self) -> int | None:
        """The share of the step before."""
        return self.steps[self.index - 1] if self.index else None


def rollout_of(branch: Branch) -> Rollout | None:
    return Rollout.model_validate(branch.facts[FACT]) if FACT in branch.facts else None


class Staging:
    """The steps of a staged rollout, each from a branch to the branch to record; None while it bakes."""

    def __init__(self, *, remote_config: RemoteConfig, storage: StorageChannel | None, clock: Clock) -> None:
        self._remote_config = remote_config
        self._storage = storage
        self._clock = clock

    def parameter(self, branch: Branch) -> VersionParameter:
        return VersionParameter(self._remote_config, str(branch.facts["name"]))

    def plan(self, branch: Branch, limits: StagedRollout, *, live: str) -> Branch:
        """Fix the shares, and what phones have now, while nothing is changed yet; `live` is the version on record."""
        version = str(branch.facts["published_manifest"]["version"])
        old, remark = self._everybodys(branch, live)
        at_once = old in ("", version) or not ReleaseRequest.of(branch).canary
        rollout = Rollout(
            version=version,
            old=old,
            before=self.parameter(branch).default(),
            # The run's own part of its id: another run draws other installations first.
            seed=branch.run_id.removeprefix(f"{branch.dataset}-"),
            steps=(100,) if at_once else limits.steps,
            bake=limits.bake,
            remark=remark,
        )
        return _with(branch, rollout)

    def _everybodys(self, branch: Branch, live: str) -> tuple[str, str]:
        """The version that phones have, and what is amiss: a pointer that names none is pointed at what is live."""
        name = str(branch.facts["name"])
        latest = self._storage.latest(name) if self._storage else None
        if self._storage is None or latest is None or latest.get("version"):
            return str((latest or {}).get("version", "")), ""
        broken = f"{self._storage.uri(name)} named no version"
        try:
            self._storage.point_back(name, live)
        except CannotEverSucceed as exc:
            log.error("%s, and none that phones have is known: %s", broken, exc)  # noqa: TRY400  # said in full
            return "", f"; {broken}, and none is known: everybody's at once"
        log.error("%s, and was pointed at %s again, which is live", broken, live)
        return live, f"; {broken}, and was pointed at {live} again, which is live"

    def share(self, branch: Branch) -> Branch:
        """Let the next share of installations have the version."""
        rollout = _planned(branch)
        self.parameter(branch).stage(
            old=rollout.old, new=rollout.version, seed=rollout.seed, share=rollout.share, held=rollout.held
        )
        log.info("%s has %d %% of the phones of %s", rollout.version, rollout.share, branch.facts["name"])
        shifted_at = clocks.to_text(self._clock())
        passed = (*rollout.passed, {"share": rollout.share, "at": shifted_at})
        return _with(branch, rollout.model_copy(update={"shifted_at": shifted_at, "passed": passed})).changed(
            step="bake"
        )

    def bake(self, branch: Branch) -> Branch | None:
        """Hold the share; the branch comes back at its next share, or without a step when everybody is next."""
        rollout = _planned(branch)
        since: datetime.datetime = clocks.from_text(rollout.shifted_at)
        if (self._clock() - since).total_seconds() < rollout.bake:
            return None
        following = _with(branch, rollout.model_copy(update={"index": rollout.index + 1}))
        if _planned(following).share < 100:
            return following.changed(step="share")
        # Seen here, before anything is everybody's; `settle` looks again, for what is changed from now on.
        self.parameter(branch).check(old=rollout.old, new=rollout.version, seed=rollout.seed, share=rollout.share)
        return following.changed(step="")

    def settle(self, branch: Branch) -> None:
        """Everybody's version is this one, without a condition; or, without a rollout, what the pointer says."""
        rollout, parameter = rollout_of(branch), self.parameter(branch)
        if rollout:
            parameter.settle(rollout.version, old=rollout.old, seed=rollout.seed, held=rollout.held)
        else:
            parameter.settle("")


def begin(branch: Branch, rollout: Rollout, *, at: datetime.datetime) -> Branch:
    """The branch at the first share of its rollout."""
    shares = ", ".join(map(str, rollout.steps))
    note = f"{rollout.version} goes to {shares} % of the installations, {rollout.bake:g} s apart{rollout.remark}"
    return branch.moved(State.CANARY, at=at, note=note, step="share")


def described(branch: Branch) -> str:
    """For the history: when each share began, and what was amiss before."""
    rollout = rollout_of(branch)
    if rollout is None:
        return ""
    return "".join(f"; {each['share']} % from {each['at']}" for each in rollout.passed) + rollout.remark


def _planned(branch: Branch) -> Rollout:
    return Rollout.model_validate(branch.facts[FACT])


def _with(branch: Branch, rollout: Rollout) -> Branch:
    return branch.with_facts(**{FACT: rollout.model_dump(mode="json")})
