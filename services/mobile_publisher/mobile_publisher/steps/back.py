"""What an abort, a newer run or a failure half-way leads to: phones get back what they had before the release.

Each step looks whether there is anything of this release to take back at all: where another data set has taken the name
over, phones have what that one gave them. What someone else has chosen meanwhile
stays, and what cannot be taken back does not keep the others: the release's last note says both.
"""

from __future__ import annotations

import functools
import logging

from dualdeploy.errors import CannotEverSucceed
from dualdeploy.google.firebase_ml import FirebaseModel
from dualdeploy.ledger import State
from dualdeploy.release.route import End, Forward, Turn
from mobile_publisher.release import FIREBASE_ML, FIREBASE_STORAGE, Before, MobileRelease
from mobile_publisher.steps import firebase_ml, names
from mobile_publisher.storage_channel import named
from mobile_publisher.world import World

log = logging.getLogger(__name__)


class NothingBefore(CannotEverSucceed):
    """There is nothing to go back to."""


def restore_parameter(release: MobileRelease, world: World) -> Turn[MobileRelease]:
    """Let Remote Config say what it said before."""
    before = release.before or Before()
    if not names.is_held(release, world):
        return Forward(release)
    if release.rollout:
        parameter = world.parameter(release)
        stays = parameter.take_back(new=release.version, old=release.rollout.old, before=before.parameter)
        return Forward(_stays(release, f"Remote Config: {stays}") if stays else release)
    if before.parameter:
        # Phones may have been told to follow the pointer.
        stays = world.parameter(release).take_back(new="", old="", before=before.parameter)
        names.note_parameter(release, world, is_used=True)
        return Forward(_stays(release, f"Remote Config: {stays}") if stays else release)
    return Forward(release)


def restore_pointer(release: MobileRelease, world: World) -> Turn[MobileRelease]:
    """Point at the version of before, unless the pointer never named this release's or was moved on by hand."""
    if FIREBASE_STORAGE not in release.channels or not names.is_held(release, world):
        return Forward(release)
    before, storage = release.before or Before(), world.bucket()
    if before.pointer == release.version:
        return Forward(release)
    found = named(storage.latest(release.published_as))
    if not found or found == before.pointer:
        # An instance that was frozen before it moved the pointer must not do so when it goes on.
        storage.touch(release.published_as)
        return Forward(release)
    if found != release.version:
        return Forward(_stays(release, f"{storage.uri(release.published_as)} names {found}, which was chosen by hand"))
    if not before.pointer:
        return Forward(_stays(release, f"{storage.uri(release.published_as)} names {found}: nothing was there before"))
    storage.point(release.published_as, before.pointer, guard=functools.partial(world.check_current, release))
    return Forward(release)


def restore_firebase(release: MobileRelease, world: World) -> Turn[MobileRelease]:
    """Give the Firebase model the file of before, if it holds this release's, or may hold it in a moment."""
    if FIREBASE_ML not in release.channels or not names.is_held(release, world):
        return Forward(release)
    return firebase_ml.once_allowed(release, lambda: _update_back(release, world))


def report(release: MobileRelease, world: World) -> Turn[MobileRelease]:
    """End as it was meant to, and say what stays."""
    ends = State(release.back_ends) if release.back_ends in set(State) else State.ROLLED_BACK
    stays = "".join(f"; not taken back: {each}" for each in release.stays)
    return End(release, ends, release.going_back + stays)


def _update_back(release: MobileRelease, world: World) -> Turn[MobileRelease]:
    before = release.before or Before()
    ours = set(firebase_ml.tags_of(release.run_id, release.dataset, release.file))
    wanted = before.firebase_tags
    # After the first update the model is not ours any more, and yet it has to be seen through.
    if not release.attempts:
        model = world.firebase.find(release.published_as)
        if model and model.locked:
            # Perhaps with a file of ours, which it may name only when the operation is over.
            return firebase_ml.locked(release, model)
        if model is None or not ours <= set(model.tags) or ours == set(wanted):
            return Forward(release)
    if not wanted:
        raise NothingBefore(
            f"{release.published_as} holds this file and held none before: delete it in the Firebase console"
        )
    found = firebase_ml.hold(release, world, file=before.firebase_file, tags=wanted)
    return Forward(release) if isinstance(found, FirebaseModel) else found


def _stays(release: MobileRelease, what: str) -> MobileRelease:
    log.error("%s is not taken back from %s", release.run_id, what)
    return release.changed(stays=(*release.stays, what))
