"""How a version reaches phones share by share, through Remote Config.

The plan is fixed before anything is changed: what phones had is what they get back. The first version of a name, one
that phones have already, a rollback and a redeploy without canary go to everybody at once.
"""

from __future__ import annotations

import datetime
import functools
import logging

from dualdeploy import clock as clocks
from dualdeploy.errors import CannotEverSucceed
from dualdeploy.ledger import ByHand
from dualdeploy.release import serving as serve
from dualdeploy.release.route import Again, Forward, Stay, Turn, Wait
from mobile_publisher.release import FIREBASE_STORAGE, Before, MobileRelease, MobileServing, Rollout
from mobile_publisher.steps import names
from mobile_publisher.storage_channel import named
from mobile_publisher.world import World

log = logging.getLogger(__name__)

#: The parts that phones see, as a rollback names those that it could not bring back.
REMOTE_CONFIG = "Remote Config"


def plan(release: MobileRelease, world: World) -> Turn[MobileRelease]:
    """Look what phones have now, and fix the shares, while nothing is changed yet."""
    if release.before is None:
        return Stay(_looked(release, world))
    if release.rollout and REMOTE_CONFIG not in release.not_brought_back:
        names.note_parameter(release, world, is_used=True)
        release = release.changed(parameter=True)
    # From the next step on phones may see something of this release.
    kept = release.model_dump(mode="json", include=WAY_BACK)
    serve.note_way_back(world.ledger, MobileServing, release, **kept)
    rollout = release.rollout
    if rollout is None or rollout.shares == (100,):
        return Forward(release)
    shares = ", ".join(map(str, rollout.shares))
    note = f"{release.version} goes to {shares} % of the installations, {rollout.bake:g} s apart"
    return Forward(release, note + release.remark)


#: What taking a release back needs to know of it, kept in its claim in case that its document becomes unreadable.
WAY_BACK = {"published_as", "channels", "file", "version", "parameter", "before", "rollout"}


def share(release: MobileRelease, world: World) -> Turn[MobileRelease]:
    """Let the next share of installations have the version."""
    names.require(release, world)
    rollout, before = planned(release)
    world.parameter(release).stage(
        old=rollout.old,
        new=release.version,
        seed=rollout.seed,
        share=rollout.share,
        held=rollout.held,
        before=before.parameter,
    )
    log.info("%s has %d %% of the phones of %s", release.version, rollout.share, release.published_as)
    shifted_at = clocks.to_text(world.clock())
    passed = (*rollout.passed, {"share": rollout.share, "at": shifted_at})
    return Forward(release.changed(rollout=rollout.changed(shifted_at=shifted_at, passed=passed)))


def bake(release: MobileRelease, world: World) -> Turn[MobileRelease]:
    """Hold the share for its time; before everybody's turn, look whether all stands as it was left."""
    rollout, before = planned(release)
    until = clocks.from_text(rollout.shifted_at) + datetime.timedelta(seconds=rollout.bake)
    if world.clock() < until:
        what = f"{rollout.share} % of the installations to have {release.version} for {rollout.bake:g} s"
        return Wait(release, what, at=until)
    following = rollout.changed(index=rollout.index + 1)
    if following.share < 100:
        return Again(release.changed(rollout=following))
    names.require(release, world)
    # Seen here, before anything is everybody's; `point` and `settle` look again, for what is changed from now on.
    world.parameter(release).check(old=rollout.old, new=release.version, seed=rollout.seed, share=rollout.share)
    world.bucket().check(release.published_as, among=(before.pointer, release.version))
    return Forward(release.changed(rollout=following))


def settle(release: MobileRelease, world: World) -> Turn[MobileRelease]:
    """Let Remote Config give everybody this version; without a rollout, what the pointer says."""
    names.require(release, world)
    parameter, before = world.parameter(release), release.before or Before()
    if release.rollout is None:
        parameter.settle("", before=before.parameter)
        names.note_parameter(release, world, is_used=False)
        return Forward(release.changed(parameter=False))
    rollout = release.rollout
    if rollout.held is None:
        parameter.settle(release.version, before=before.parameter)
    else:
        parameter.end_rollout(new=release.version, old=rollout.old, seed=rollout.seed, held=rollout.held)
    return Forward(release)


def planned(release: MobileRelease) -> tuple[Rollout, Before]:
    if release.rollout is None or release.before is None:
        raise RuntimeError(f"{release.name} has no plan")
    return release.rollout, release.before


def described(release: MobileRelease) -> str:
    """For the history: when each share began, and what was amiss before."""
    passed = release.rollout.passed if release.rollout else ()
    return "".join(f"; {each['share']} % from {each['at']}" for each in passed) + release.remark


# What phones have ----------------------------------------------------------------------------------------------


def _looked(release: MobileRelease, world: World) -> MobileRelease:
    """The release with its plan, what phones had before it, and what of that is not as recorded."""
    serving = world.serving(release.dataset)
    served = serving.current
    before = Before()
    if served:
        before = Before(firebase_file=served.file.uri, firebase_tags=served.firebase_tags)
    if FIREBASE_STORAGE not in release.channels:
        return release.changed(before=before)
    default = ""
    if (release.shares or release.parameter) and REMOTE_CONFIG not in release.not_brought_back:
        default = world.parameter(release).default()
    recorded = served.version if served and served.published_as == release.published_as else ""
    pointer, remark = _pointed(release, world, default or recorded)
    before = before.changed(pointer=pointer, parameter=default)
    if by_hand := _by_hand(release, before, serving, recorded):
        remark += f"; {by_hand.why}"
    return release.changed(before=before, rollout=_rollout(release, before), by_hand=by_hand, remark=remark)


def _by_hand(release: MobileRelease, before: Before, serving: MobileServing, recorded: str) -> ByHand | None:
    """A rollback must not go to what the team has taken away itself, but to what it gave phones instead."""
    current, previous = serving.current, serving.previous
    if current is None or not recorded or before.version in ("", recorded):
        return None
    is_previous = previous is not None and previous.published_as == release.published_as
    instead = previous.name if is_previous and previous and previous.version == before.version else ""
    why = f"phones were given {before.version} by hand instead of {recorded} before {release.run_id} went out"
    return ByHand(why=why, taken=current.name, instead=instead)


def _pointed(release: MobileRelease, world: World, live: str) -> tuple[str, str]:
    """The version that the pointer names; one that names none by accident is pointed at what is live."""
    storage, name = world.bucket(), release.published_as
    latest = storage.latest(name)
    if latest is None or named(latest):
        return named(latest), ""
    broken = f"{storage.uri(name)} named no version"
    if not live:
        return "", f"; {broken}, and none is known: to everyone at once"
    try:
        storage.point(name, live, guard=functools.partial(world.check_current, release))
    except CannotEverSucceed as exc:
        log.error("%s, and none that phones have is known: %s", broken, exc)  # noqa: TRY400  # said in full
        return "", f"; {broken}, and none is known: to everyone at once"
    log.error("%s, and was pointed at %s again, which is live", broken, live)
    return live, f"; {broken}, and was pointed at {live} again, which is live"


def _rollout(release: MobileRelease, before: Before) -> Rollout | None:
    if not release.shares:
        return None
    old = before.version
    at_once = old in ("", release.version) or not release.request.canary
    return Rollout(
        old=old,
        # The run's own part of its id.
        seed=release.run_id.removeprefix(f"{release.dataset}-"),
        shares=(100,) if at_once else release.shares,
        bake=release.bake,
    )
