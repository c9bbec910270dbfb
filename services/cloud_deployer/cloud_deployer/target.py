"""What the engine has to know of releases of the cloud model; implements `dualdeploy.release.worker.Target`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from cloud_deployer.cleanup.work import CLEANUP, SWEEP_ALL, next_full_hour
from cloud_deployer.naming import CANDIDATE, model_id_in
from cloud_deployer.release import LINKS, TARGET, CloudRelease, CloudServing, Rollout
from cloud_deployer.route import ROUTES
from cloud_deployer.steps import measure
from cloud_deployer.steps.registry import change_aliases
from cloud_deployer.steps.shares import TrafficMoved
from cloud_deployer.world import World
from dualdeploy.contracts import training
from dualdeploy.contracts.dataset_config import DatasetConfig
from dualdeploy.errors import CannotEverSucceed
from dualdeploy.ledger import Run, State
from dualdeploy.release.route import Back, End, Route, Step, Turn
from dualdeploy.release.worker import WaitedTooLong

log = logging.getLogger(__name__)


class CloudTarget:
    """Releases of the cloud model."""

    target = TARGET
    release_kind = CloudRelease
    serving_kind = CloudServing
    routes: Mapping[str, Route] = ROUTES

    def __init__(self, world: World) -> None:
        self.world = world

    def begin(self, release: CloudRelease, run: Run, config: DatasetConfig) -> CloudRelease:
        """Every release begins on the way forward; `plan` finds out whether the endpoint takes one model only."""
        del config  # it stands in the release, as it was read
        return release.changed(
            route="retire" if release.request.kind == "retire" else "forward",
            snapshot=run.snapshot.digest(),
            trained_because=run.reason,
            result=self.world.models.uri(training.result_name(run.run_id, TARGET)),
        )

    def skipped(self, release: CloudRelease) -> frozenset[str]:
        """A model that goes to everyone at once has nothing to be compared with."""
        rollout = release.rollout
        is_alone = rollout is not None and (not rollout.before or len(rollout.limits.steps) == 1)
        return frozenset({"baseline"}) if is_alone else frozenset()

    def route_back(self, release: CloudRelease) -> str:
        """Before there is a plan, nothing was begun on the endpoint."""
        if release.rollout is None:
            return ""
        return "back in place" if release.rollout.in_place else "back"

    def failed(self, release: CloudRelease, step: Step | None, exc: CannotEverSucceed) -> Turn[CloudRelease]:
        """Whatever it is, the candidate must not keep its traffic; but whoever moved it by hand has the last word."""
        why = str(exc) if isinstance(exc, WaitedTooLong) else f"{type(exc).__name__}: {exc}"
        if release.going_back:
            return End(release, State.FAILED, f"{release.going_back}; {why}")
        if step is not None and step.is_out:
            return End(release, State.LIVE, f"serves; what it replaced is left to the cleanup: {why}")
        if not self.route_back(release) or isinstance(exc, TrafficMoved):
            return End(release, State.FAILED, why)
        # What was never deployed was not rolled back; in place, what served before was taken down for it.
        was_seen = step is None or step.state != State.DEPLOYING or release.plan.in_place is not None
        return Back(release, why, State.ROLLED_BACK if was_seen else State.FAILED)

    def without_document(self, release: CloudRelease, way_back: Mapping[str, Any]) -> CloudRelease:
        """The plan as the claim kept it. What was begun since is not known: it is looked for on the way back."""
        if "rollout" not in way_back:
            return release
        rollout = Rollout.model_validate(way_back["rollout"])
        if rollout.in_place:
            rollout = rollout.changed(in_place=rollout.in_place.changed(leaving=rollout.in_place.former_id))
        return release.changed(rollout=rollout)

    def tidy(self, release: CloudRelease) -> None:
        """Leave the registry as the release left the world: no candidate that is none, and a card that is true."""
        self.world.due.put(f"{CLEANUP}/{release.dataset}")
        # Should the tick of the full hour be lost, the cleanup comes by all the same.
        self.world.due.put(SWEEP_ALL, next_full_hour(self.world.clock()))
        measure.call_off(release, self.world)
        if release.state != State.LIVE and release.model_version and release.request.kind != "retire":
            version = self.world.vertex.find_model_version(model_id_in(release.model), release.model_version)
            if version and CANDIDATE in version.aliases:
                change_aliases(self.world, version, add=[], remove=[CANDIDATE])
        if release.route and release.request.kind != "retire":
            self.world.cards.write(release)

    def described(self, release: CloudRelease) -> tuple[Mapping[str, str], Mapping[str, Any]]:
        """Links and verdict for the announcement."""
        links = {name: value for name in LINKS if (value := str(getattr(release, name)))}
        return links, release.gate or {}
