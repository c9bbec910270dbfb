"""The publishing name: what only one data set can hold, claimed before anything is published under it.

    free ─► held ─┬─► the holder's configuration names another one, or /retire: free for the next that asks
                  └─► the holder has no configuration: noted by who asks, free ten minutes later

A configuration may be replaced by deleting it and creating it anew, hence the ten minutes.
"""

from __future__ import annotations

import datetime
import logging

from dualdeploy import clock as clocks
from dualdeploy.errors import CannotEverSucceed, InvalidDatasetConfig, UnknownDataset
from dualdeploy.google import config_bucket
from dualdeploy.ledger import UnreadableDocument
from dualdeploy.ledger.names import name_claim
from dualdeploy.release.route import Forward, Turn, Wait
from mobile_publisher.release import MobileRelease, NameClaim
from mobile_publisher.world import World

log = logging.getLogger(__name__)

#: For how long a holder must have been without a configuration before another data set may have its name.
UNCONFIGURED_SECONDS = 600.0


class NameTaken(CannotEverSucceed):
    """Another data set holds the name: phones would get now its model, now this one's."""


def take(release: MobileRelease, world: World) -> Turn[MobileRelease]:
    """Claim the name by compare-and-swap, so that of two data sets only one publishes under it."""
    refused, waits = "", ""

    def decide(present: NameClaim | None) -> NameClaim:
        nonlocal refused, waits
        refused, waits = "", ""
        now = clocks.to_text(world.clock())
        if present is None:
            return NameClaim(dataset=release.dataset, since=now)
        if present.dataset == release.dataset:
            return present.changed(unconfigured_since="")
        if present.dataset:
            configured_as = _configured_name(world, present.dataset)
            if configured_as in (release.published_as, _UNREADABLE):
                refused = present.dataset
                return present.changed(unconfigured_since="")
            if configured_as == "" and not _is_given_up(world, present):
                waits = present.dataset
                return present.changed(unconfigured_since=present.unconfigured_since or now)
            log.warning("%s takes the name %s, which %s held", release.dataset, release.published_as, present.dataset)
        formerly = (*present.formerly, present.dataset) if present.dataset else present.formerly
        return present.changed(dataset=release.dataset, since=now, unconfigured_since="", formerly=formerly)

    claim = world.ledger.update(name_claim(release.published_as), NameClaim, decide)
    if claim is None or refused:
        raise _taken(release, claim)
    if waits:
        since = clocks.from_text(claim.unconfigured_since)
        what = f"the name {release.published_as!r}, which is held by {waits}, a data set without a configuration"
        return Wait(release, what, at=since + datetime.timedelta(seconds=UNCONFIGURED_SECONDS))
    return Forward(release.changed(parameter=claim.parameter))


def require(release: MobileRelease, world: World) -> None:
    """Raise NameTaken if another data set has taken the name since: what is not ours is not touched."""
    if not is_held(release, world):
        found = world.ledger.find(name_claim(release.published_as), NameClaim)
        raise _taken(release, found.document if found else None)


def is_held(release: MobileRelease, world: World) -> bool:
    """Whether no other data set has taken the name that was claimed.

    A claim that was taken away by hand, or cannot be read any more, was not taken by one: it holds up no way back.
    """
    try:
        found = world.ledger.find(name_claim(release.published_as), NameClaim)
    except UnreadableDocument:
        return True
    return found is None or found.document.dataset == release.dataset


def note_parameter(release: MobileRelease, world: World, *, is_used: bool) -> None:
    """Remember whether Remote Config tells phones their version under this name: the next that publishes must know."""

    def decide(present: NameClaim | None) -> NameClaim | None:
        if present is None:
            return NameClaim(dataset=release.dataset, since=clocks.to_text(world.clock()), parameter=is_used)
        if present.dataset != release.dataset:
            raise _taken(release, present)
        return present.changed(parameter=is_used)

    world.ledger.update(name_claim(release.published_as), NameClaim, decide)


def free(name: str, dataset: str, world: World) -> None:
    """Let another data set take the name."""

    def decide(present: NameClaim | None) -> NameClaim | None:
        if present is None or present.dataset != dataset:
            return present
        formerly = (*present.formerly, dataset)
        return present.changed(
            dataset="", since=clocks.to_text(world.clock()), unconfigured_since="", formerly=formerly
        )

    world.ledger.update(name_claim(name), NameClaim, decide)


def held_by(dataset: str, names: set[str], world: World) -> list[str]:
    """Those of the names that the data set holds."""
    claims = {name: world.ledger.find(name_claim(name), NameClaim) for name in sorted(names) if name}
    return [name for name, found in claims.items() if found and found.document.dataset == dataset]


#: A configuration that someone is about to mend: what it names is as good as before.
_UNREADABLE = "?"


def _configured_name(world: World, dataset: str) -> str:
    """Under which name a data set publishes by its configuration; empty when it has none."""
    try:
        return config_bucket.read(world.config, dataset).publishing.name
    except UnknownDataset:
        return ""
    except InvalidDatasetConfig:
        return _UNREADABLE


def _is_given_up(world: World, claim: NameClaim) -> bool:
    if not claim.unconfigured_since:
        return False
    age = world.clock() - clocks.from_text(claim.unconfigured_since)
    return age.total_seconds() >= UNCONFIGURED_SECONDS


def _taken(release: MobileRelease, claim: NameClaim | None) -> NameTaken:
    holder = f"{claim.dataset or 'no data set'} since {claim.since}" if claim else "no data set any more"
    return NameTaken(
        f"publishing.name {release.published_as!r} of {release.dataset} is held by {holder}: give one of the two"
        " another name, or free it by /retire of the data set that holds it, then redeploy"
    )
