"""The way back: what served before gets its traffic again, then the candidate goes.

It needs nothing but the plan in the release, and looks at the endpoint before each act.
"""

from __future__ import annotations

import logging

from cloud_deployer import traffic
from cloud_deployer.release import CloudRelease
from cloud_deployer.steps.shares import complete
from cloud_deployer.world import World
from dualdeploy.errors import RejectedByGoogle
from dualdeploy.ledger import State
from dualdeploy.release.operations import OperationFailed
from dualdeploy.release.route import End, Forward, Turn, Wait

log = logging.getLogger(__name__)

#: How often, once a minute, the old split is asked for before the candidate is taken down without it.
RESTORE_ATTEMPTS = 3


def restore(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """The split as it was before; first, what this release began on the endpoint must be through."""
    rollout = release.plan
    if running := _running(release, world):
        return Wait(release, running)
    endpoint = world.vertex.find_endpoint(rollout.endpoint)
    there = endpoint.deployed_ids if endpoint else set()
    if endpoint is None or rollout.candidate not in there:
        return Forward(release)
    before = rollout.split_without
    # Whoever split the traffic by hand so that the candidate has none has done our work.
    if before and endpoint.traffic.get(rollout.candidate, 0) and before.keys() <= there:
        try:
            world.vertex.set_traffic(endpoint, complete(endpoint, before))
        except RejectedByGoogle as exc:
            log.error("%s keeps its traffic for now: %s", rollout.candidate, exc)  # noqa: TRY400
            if release.attempts + 1 < RESTORE_ATTEMPTS:
                return Wait(release.changed(attempts=release.attempts + 1), f"the old split to be taken: {exc}")
            # Taking it down moves its traffic too.
            return Forward(release)
        log.info("traffic of %s is as it was before", rollout.endpoint)
    return Forward(release)


def withdraw(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Take the candidate down. It must not keep the release from its end: the cleanup finds what stays."""
    rollout = release.plan
    endpoint = world.vertex.find_endpoint(rollout.endpoint)
    if endpoint is None or rollout.candidate not in endpoint.deployed_ids:
        return _withdrawn(release)
    share = endpoint.traffic.get(rollout.candidate, 0)
    rest = traffic.without(endpoint.traffic, rollout.candidate) if share else {}
    try:
        turn = world.operate(
            release,
            start=lambda: world.begin_undeploy(release, rollout.endpoint, rollout.candidate, traffic=rest),
            there=lambda: rollout.candidate not in world.endpoint(rollout.endpoint).deployed_ids,
            what=f"undeploy {rollout.candidate}",
        )
    except (OperationFailed, RejectedByGoogle) as exc:
        return _stays(release, share if rest else 0, str(exc))
    if isinstance(turn, Wait) and turn.release.failing_since and not share and not rollout.in_place:
        # The cleanup tries it again each hour; newer runs need not wait for that.
        return _stays(release, 0, turn.what)
    return turn


def _stays(release: CloudRelease, share: int, why: str) -> Turn[CloudRelease]:
    """The candidate could not be taken down; with a share of the traffic only people can help."""
    rollout = release.plan
    problem = f"; {rollout.candidate} could not be taken down: {why}"
    if not share:
        return _withdrawn(release.changed(going_back=release.going_back + problem))
    stays = f"it still has {share} % of {rollout.endpoint}: move them away by hand"
    return End(release, State.FAILED, f"{release.going_back}{problem}; {stays}")


def _withdrawn(release: CloudRelease) -> Turn[CloudRelease]:
    if release.plan.in_place:
        return Forward(release)
    return End(release, end_of(release), release.going_back)


def end_of(release: CloudRelease) -> State:
    """The state in which its way back ends."""
    return State(release.back_ends) if release.back_ends in set(State) else State.ROLLED_BACK


def _running(release: CloudRelease, world: World) -> str:
    """The operation that is under way on the endpoint, as far as this release knows; empty when there is none."""
    begun = release.plan.begun
    if not begun or world.seconds_since(release.plan.begun_at) > world.settings.operation_limit_seconds:
        return ""
    looked = world.look(begun)
    return f"{begun} to end" if looked is not None and not looked.done else ""
