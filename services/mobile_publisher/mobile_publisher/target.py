"""What the engine has to know of releases for phones: implements `dualdeploy.release.worker.Target`."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping
from typing import Any

import pydantic

from dualdeploy.contracts.dataset_config import DatasetConfig
from dualdeploy.errors import CannotEverSucceed, PermissionSpreads, RejectedByGoogle
from dualdeploy.ledger import Run, State
from dualdeploy.release.route import Back, End, Forward, Route, Stay, Step, Turn
from mobile_publisher.release import FIREBASE_ML, FIREBASE_STORAGE, MobileRelease, MobileServing
from mobile_publisher.route import BACK, FORWARD, PARTS, RETIRE, ROLLBACK, ROUTES
from mobile_publisher.routings import key_of
from mobile_publisher.steps.firebase_ml import SIGNING
from mobile_publisher.steps.rollout import REMOTE_CONFIG
from mobile_publisher.world import TARGET, NoOpenChannel, World

log = logging.getLogger(__name__)

_OF_FIREBASE_ML = frozenset({"register", "publish"})
_OF_FIREBASE_STORAGE = frozenset({"upload", "share", "bake", "point", "settle"})
#: Kinds of waits for a permission: to sign, or for anything else that Google asks one for.
_NOT_ALLOWED = frozenset({SIGNING, PermissionSpreads.__name__})
_OF_SHARES = frozenset({"share", "bake"})


class PhoneTarget:
    target = TARGET
    release_kind = MobileRelease
    serving_kind = MobileServing
    routes: Mapping[str, Route] = ROUTES

    def __init__(self, world: World) -> None:
        self.world = world

    def begin(self, release: MobileRelease, run: Run, config: DatasetConfig) -> MobileRelease:  # noqa: ARG002  # of the protocol
        """Fix name, channels, variant and shares. Raises NoOpenChannel."""
        publishing = config.publishing
        release = release.changed(published_as=publishing.name)
        if release.request.kind == "retire":
            return release.changed(route=RETIRE.name)
        closed = self._closed()
        channels = [each for each in publishing.channels if each not in closed]
        reasons = [closed[each] for each in publishing.channels if each in closed]
        if not channels:
            raise NoOpenChannel("; ".join(reasons))
        for reason in reasons:
            log.warning("%s goes out without one channel: %s", release.run_id, reason)
        rollout = publishing.rollout if FIREBASE_STORAGE in channels else None
        route = ROLLBACK if release.request.kind == "rollback" else FORWARD
        return release.changed(
            route=route.name,
            channels=channels,
            closed_channels=reasons,
            quantization=release.request.quantization or publishing.quantization,
            shares=rollout.steps if rollout else (),
            bake=rollout.bake if rollout else 0.0,
            wish=config.routing.model_dump(),
        )

    def skipped(self, release: MobileRelease) -> frozenset[str]:
        skipped: set[str] = {step for step, part in PARTS.items() if part in release.not_brought_back}
        if FIREBASE_ML not in release.channels:
            skipped |= _OF_FIREBASE_ML
        if FIREBASE_STORAGE not in release.channels:
            skipped |= _OF_FIREBASE_STORAGE
        if not release.shares or (release.rollout and release.rollout.shares == (100,)):
            skipped |= _OF_SHARES
        # Where Remote Config told phones their version before, it must not go on naming that one.
        if not release.shares and not release.parameter:
            skipped.add("settle")
        return frozenset(skipped)

    def route_back(self, release: MobileRelease) -> str:
        """Nothing is to be seen of a release before what phones had is noted."""
        return BACK.name if release.before else ""

    def failed(self, release: MobileRelease, step: Step | None, exc: CannotEverSucceed) -> Turn[MobileRelease]:
        """Phones must not stay between two versions; one channel does not keep the others."""
        part = PARTS.get(step.name, "") if step else ""
        if release.going_back:
            log.error("%s is not taken back from %s: %s", release.run_id, part, exc)
            return Forward(release.changed(stays=(*release.stays, f"{part}: {exc}")))
        is_rollback = release.route == ROLLBACK.name
        if is_rollback and step and (turn := self._without_part(release, step, str(exc))):
            return turn
        if part == "Firebase ML" and not is_rollback and (turn := self._without_firebase_ml(release, exc)):
            return turn
        why = f"{type(exc).__name__}: {exc}"
        if not self.route_back(release):
            return End(release, State.FAILED, why)
        was_shared = release.rollout is not None and bool(release.rollout.passed)
        return Back(release, why, State.ROLLED_BACK if was_shared else State.FAILED)

    def without_document(self, release: MobileRelease, way_back: Mapping[str, Any]) -> MobileRelease:
        try:
            return release.changed(**way_back)
        except pydantic.ValidationError as exc:
            log.error("what %s needs to be taken back cannot be read: %s", release.name, exc)  # noqa: TRY400
            return release

    def tidy(self, release: MobileRelease) -> None:
        """Nothing is left behind that costs; but other files than before may be with phones."""
        self.world.due.put(key_of(release.dataset))

    def described(self, release: MobileRelease) -> tuple[Mapping[str, str], Mapping[str, Any]]:
        links = {"name": release.published_as, "version": release.version, "firebase_model": release.firebase_model}
        if release.file:
            file = release.file
            links |= {"tflite": file.uri, "manifest": file.manifest, "gate_table": file.gate_table}
        if self.world.storage and FIREBASE_STORAGE in release.channels:
            links["pointer"] = self.world.storage.uri(release.published_as)
        return {key: value for key, value in links.items() if value}, release.gate

    # Channels and parts ----------------------------------------------------------------------------------------

    def _closed(self) -> dict[str, str]:
        """The channels that cannot be used, and why."""
        closed: dict[str, str] = {}
        ends = self.world.firebase_ml_ends
        if self.world.clock().date() >= datetime.date.fromisoformat(ends):
            closed[FIREBASE_ML] = (
                f"firebase-ml: Firebase ML hosts no custom models since {ends}; set publishing.channels to"
                " [firebase-storage], see docs/phones.md"
            )
        if self.world.storage is None:
            closed[FIREBASE_STORAGE] = "firebase-storage: FIREBASE_STORAGE_BUCKET is not set"
        return closed

    def _without_part(self, release: MobileRelease, step: Step, why: str) -> Turn[MobileRelease] | None:
        """A rollback goes on without the part that does not go back, as long as another one does."""
        part = PARTS.get(step.name, "")
        if step.name == "plan" and REMOTE_CONFIG not in release.not_brought_back:
            # Most probably the template, which may not be read: the pointer goes back all the same.
            part = REMOTE_CONFIG
        if not part:
            return None
        log.error("%s does not go back on %s: %s", release.run_id, part, why)
        failed = {**release.not_brought_back, part: why}
        taken = {PARTS[each.name] for each in ROLLBACK.steps if each.name in PARTS}
        left = taken - {PARTS[each] for each in self.skipped(release.changed(not_brought_back={})) if each in PARTS}
        if not left - failed.keys():
            return None
        without = release.changed(not_brought_back=failed)
        return Stay(without) if step.name == "plan" else Forward(without)

    def _without_firebase_ml(self, release: MobileRelease, exc: CannotEverSucceed) -> Turn[MobileRelease] | None:
        """What Firebase ML refuses, at once or until the wait for a permission is over, goes out on the other channel.

        A file that it took and could not read is another matter: phones would get the same one.
        """
        left = tuple(channel for channel in release.channels if channel != FIREBASE_ML)
        not_allowed = release.holdup is not None and release.holdup.kind in _NOT_ALLOWED
        if not left or not (not_allowed or isinstance(exc, RejectedByGoogle)):
            return None
        log.error("%s goes out without one channel: %s", release.run_id, exc)
        closed = (*release.closed_channels, f"firebase-ml: {exc}")
        return Forward(release.changed(channels=left, closed_channels=closed))
