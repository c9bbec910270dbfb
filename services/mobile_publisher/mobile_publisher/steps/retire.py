"""Retiring a data set: its name is free for another one, and phones keep what they have.

Files, pointer and Firebase model stay: apps in the field go on loading them, and no one but their team knows when the
last one is gone. Remote Config is left to the pointer, so that the next holder of the name finds one place that says
what phones have.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from dualdeploy.ledger import State
from dualdeploy.ledger.names import name_claim
from dualdeploy.release import serving as serve
from dualdeploy.release.route import End, Forward, Turn
from mobile_publisher.release import MobileRelease, MobileServing, NameClaim
from mobile_publisher.steps import names
from mobile_publisher.storage_channel import named
from mobile_publisher.version_parameter import VersionParameter, key_of
from mobile_publisher.world import World


def follow_pointer(release: MobileRelease, world: World) -> Turn[MobileRelease]:
    """Let phones follow the pointer again, where Remote Config names the very version that it names."""
    stays = []
    for name in _names(release.dataset, release.published_as, world):
        found = world.ledger.find(name_claim(name), NameClaim)
        if found is None or not found.document.parameter or world.storage is None:
            continue
        parameter = VersionParameter(world.remote_config, name, guard=functools.partial(world.check_current, release))
        default, pointer = parameter.default(), named(world.storage.latest(name))
        if default not in ("", pointer):
            stays.append(f"Remote Config's {parameter.key} goes on naming {default}, which was chosen by hand")
            continue
        parameter.settle("", before=default)
        names.note_parameter(release.changed(published_as=name), world, is_used=False)
    return Forward(release.changed(stays=tuple(stays)))


def free_names(release: MobileRelease, world: World) -> Turn[MobileRelease]:
    """Let other data sets publish under the names that this one held."""
    for name in _names(release.dataset, release.published_as, world):
        names.free(name, release.dataset, world)
    return Forward(release)


def record(release: MobileRelease, world: World) -> Turn[MobileRelease]:
    """Record that the data set is retired; it may come back with a release of its own."""
    serve.record_retired(world.ledger, MobileServing, release)
    note = f"{release.request.describe()}; phones keep what they have"
    return End(release, State.ROLLED_BACK, "; ".join((note, *release.stays)))


def preview(dataset: str, world: World) -> Sequence[str]:
    """What /retire does and what it leaves, for people who have not confirmed it yet."""
    told = []
    for name in _names(dataset, "", world):
        told.append(f"the name {name!r} becomes free: another data set may publish under it")
        found = world.ledger.find(name_claim(name), NameClaim)
        if found and found.document.parameter:
            told.append(f"Remote Config's {key_of(name)} lets apps follow latest.json, which names the same version")
        if world.storage and (version := named(world.storage.latest(name))):
            told.append(f"stays: {world.storage.uri(name)}, which names {version}, and its files: apps load them")
        if world.serving(dataset).current and (model := world.firebase.find(name)):
            told.append(f"stays: Firebase ML model {model.display_name} ({model.id}): apps load it")
    return told or [f"nothing: {dataset} holds no publishing name"]


def _names(dataset: str, configured: str, world: World) -> list[str]:
    """The names that the data set holds: of what it serves, of what served before, and of its configuration."""
    serving = world.serving(dataset)
    known = {served.published_as for served in (serving.current, serving.previous) if served}
    return names.held_by(dataset, {*known, configured}, world)
