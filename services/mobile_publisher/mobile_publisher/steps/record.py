"""The last step: from here on the records say that phones have this release."""

from __future__ import annotations

from dualdeploy import clock as clocks
from dualdeploy.ledger import State
from dualdeploy.release import serving as serve
from dualdeploy.release.route import End, Turn
from mobile_publisher.release import FIREBASE_ML, FIREBASE_STORAGE, MobileRelease, MobileServed, MobileServing
from mobile_publisher.steps import rollout
from mobile_publisher.steps.firebase_ml import tags_of
from mobile_publisher.version_parameter import key_of
from mobile_publisher.world import World

_CHANNEL_NAMES = {FIREBASE_ML: "Firebase ML", FIREBASE_STORAGE: "Cloud Storage for Firebase"}


def record(release: MobileRelease, world: World) -> Turn[MobileRelease]:
    """Record what phones have now, and what they had before."""
    if release.file is None:
        raise RuntimeError(f"{release.name} has no file to record")
    served = MobileServed(
        run_id=release.run_id,
        run_created_at=release.run_created_at,
        release=release.n,
        since=clocks.to_text(world.clock()),
        file=release.file,
        published_as=release.published_as,
        # Without the channel the version is told by what an earlier release left there.
        remote_config=key_of(release.published_as) if release.parameter else "",
        wish=release.wish,
        closed_channels=release.closed_channels,
    )
    if FIREBASE_ML in release.channels:
        tags = tags_of(release.run_id, release.dataset, release.file)
        served = served.changed(firebase_model=release.firebase_model, firebase_tags=tags)
    if FIREBASE_STORAGE in release.channels:
        served = served.changed(version=release.version, pointer=world.bucket().uri(release.published_as))
    serve.record_live(world.ledger, MobileServing, release, served)
    return End(release, State.LIVE, _note(release))


def _note(release: MobileRelease) -> str:
    channels = " and ".join(_CHANNEL_NAMES.get(channel, channel) for channel in release.channels)
    note = f"published as {release.published_as} on {channels}{rollout.described(release)}"
    note += "".join(f"; without {reason}" for reason in release.closed_channels)
    return note + "".join(f"; not brought back on {part}: {why}" for part, why in release.not_brought_back.items())
