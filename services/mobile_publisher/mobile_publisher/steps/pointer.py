"""Channel `firebase-storage`: the files first, then the pointer that phones follow."""

from __future__ import annotations

import functools

from dualdeploy.release.route import Forward, Turn
from mobile_publisher.release import Before, MobileRelease
from mobile_publisher.routings import key_of
from mobile_publisher.steps import names
from mobile_publisher.world import World


def upload(release: MobileRelease, world: World) -> Turn[MobileRelease]:
    """Bring file and manifest to the bucket that phones read; nothing points at them yet."""
    if release.file is None:
        raise RuntimeError(f"{release.name} has no file to upload")
    world.bucket().upload(release.published_as, release.file)
    # The file is this release's from now on, so that phones are told when to ask the cloud before they have it.
    world.due.put(key_of(release.dataset))
    return Forward(release.changed(version=release.file.version))


def point(release: MobileRelease, world: World) -> Turn[MobileRelease]:
    """Move the pointer: from here on phones that follow it fetch the new version."""
    names.require(release, world)
    before = release.before or Before()
    guard = functools.partial(world.check_current, release)
    world.bucket().point(release.published_as, release.version, among=(before.pointer,), guard=guard)
    return Forward(release)
