"""A release on an endpoint that takes one model only: what serves goes first, and comes back if the new one fails.

Vertex AI asks for it where a model scales to zero, in both directions: to such a deployment and away from it. No one is
served from `vacate` until the new model (or the former one again) is deployed: minutes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from cloud_deployer import traffic
from cloud_deployer.release import TARGET, CloudRelease, CloudServed, CloudServing, DeploymentPlan
from cloud_deployer.steps.back import end_of
from cloud_deployer.steps.plan import ours
from cloud_deployer.world import NO_OPERATION, World
from dualdeploy import clock as clocks
from dualdeploy.errors import RejectedByGoogle
from dualdeploy.google.vertex import Endpoint
from dualdeploy.ledger import State, names
from dualdeploy.release.operations import OperationFailed
from dualdeploy.release.route import Again, End, Forward, Stay, Turn, Wait

log = logging.getLogger(__name__)

#: How often the former model is deployed again while Vertex AI refuses or fails: it is what users wait for.
REINSTATE_ATTEMPTS = 5

#: How often the candidate is sent away again when it is found where the former model shall stand.
RETURNS = 3


# Forward -------------------------------------------------------------------------------------------------------


def vacate(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Take down what is ours, one after the other, what serves as the last."""
    endpoint = world.endpoint(release.plan.endpoint)
    mine = [one.id for one in ours(endpoint, release) if one.id != release.plan.candidate]
    rest = sorted(mine, key=lambda key: endpoint.traffic.get(key, 0))
    if not rest:
        return Forward(release.with_place(leaving="", leaving_by=""))
    if release.place.leaving != rest[0]:
        # Noted before it begins: who must go back then knows that it may be under way although no name says so.
        noted = release.with_place(leaving=rest[0], leaving_by="")
        return Stay(noted.changed(**NO_OPERATION))
    return _undeploy(release, world, endpoint, rest[0])


def replace(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Deploy the candidate with all of the traffic: there is no one to share it with."""
    rollout = release.plan
    if rollout.candidate in world.endpoint(rollout.endpoint).deployed_ids:
        note = f"deployed as {rollout.candidate}, in place of what served"
        return Forward(release.changed(deployed_model=rollout.candidate), note=note)
    return _deploy(release, world, rollout.deployment)


# Back ----------------------------------------------------------------------------------------------------------


def clear(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Bring an undeployment of the former model to its end, if its instance died before it could say that it began."""
    place = release.place
    endpoint = world.vertex.find_endpoint(release.plan.endpoint)
    is_unknown = bool(place.former_id) and place.leaving == place.former_id and not place.leaving_by
    if endpoint is None or not (release.operation or is_unknown):
        return Forward(release)
    settled = Forward(release.with_place(leaving="", leaving_by=""))
    if place.former_id not in endpoint.deployed_ids:
        return settled
    try:
        return _undeploy(release, world, endpoint, place.former_id)
    except (OperationFailed, RejectedByGoogle) as exc:
        log.warning("%s stays: %s", place.former_id, exc)
        return settled


def reinstate(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Deploy what served before; the candidate was taken down."""
    rollout, place = release.plan, release.place
    endpoint = world.vertex.find_endpoint(rollout.endpoint)
    if endpoint is None:
        return _nothing_serves(release, world, f"endpoint {rollout.endpoint} was deleted")
    there, former = endpoint.deployed_ids, place.former
    if rollout.candidate in there:
        return _send_away(release, world)
    if former is None:
        return End(release, end_of(release), release.going_back)
    if former.id in there:
        return _serves_again(release, world, former)
    if place.former_id in there:
        # Its undeployment never began, or failed.
        return End(release, end_of(release), f"{release.going_back}; nothing was replaced yet")
    return _deploy_again(release, world, former)


def _deploy_again(release: CloudRelease, world: World, former: DeploymentPlan) -> Turn[CloudRelease]:
    """Not at the first refusal is this given up."""
    try:
        return _deploy(release, world, former)
    except (OperationFailed, RejectedByGoogle) as exc:
        log.error("%s cannot be deployed again for now: %s", former.display_name, exc)  # noqa: TRY400
        if release.attempts + 1 >= REINSTATE_ATTEMPTS:
            return _nothing_serves(release, world, f"it could not be deployed again: {exc}")
        again = release.changed(operation="", operation_since="", attempts=release.attempts + 1)
        return Wait(again, f"{former.display_name} to be deployed again: {exc}")


def _send_away(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """It could not be taken down, or its deployment was begun by an instance that died, and is through just now."""
    returns = release.place.returns
    if returns < RETURNS:
        return Again(release.with_place(returns=returns + 1))
    return _nothing_serves(release, world, f"{release.plan.candidate} stands in its place and serves")


def _serves_again(release: CloudRelease, world: World, former: DeploymentPlan) -> Turn[CloudRelease]:
    def again(serving: CloudServing, current: CloudServed) -> CloudServing:
        back = current.changed(deployed_model=former.id, deployment=former)
        return serving.changed(current=back, undeployed_at="", undeployed_because="")

    _tell_serving(release, world, again)
    note = f"{release.going_back}; {former.display_name} was deployed again, as {former.id}"
    return End(release, end_of(release), note)


def _nothing_serves(release: CloudRelease, world: World, why: str) -> Turn[CloudRelease]:
    """The one end that is not clean, so it is said wherever people look."""
    former = release.place.former
    name = former.display_name if former else "what served"
    note = f"{release.going_back}; {name} does not serve: {why}; redeploy to bring it back"

    def down(serving: CloudServing, _: CloudServed) -> CloudServing:
        return serving.changed(undeployed_at=clocks.to_text(world.clock()), undeployed_because=note)

    _tell_serving(release, world, down)
    log.error("%s", note)
    return End(release, State.FAILED, note)


def _tell_serving(
    release: CloudRelease, world: World, change: Callable[[CloudServing, CloudServed], CloudServing]
) -> None:
    """Change the record of what serves, if it is that of the deployment which this release took down."""
    place = release.place

    def decide(serving: CloudServing | None) -> CloudServing | None:
        current = serving.current if serving else None
        known = {place.former_id, place.former.id if place.former else ""} - {""}
        if serving is None or current is None or current.deployed_model not in known:
            return serving
        return change(serving, current)

    world.ledger.update(names.serving(TARGET, release.dataset), CloudServing, decide)


# Inside --------------------------------------------------------------------------------------------------------


def _deploy(release: CloudRelease, world: World, deployment: DeploymentPlan) -> Turn[CloudRelease]:
    endpoint_id = release.plan.endpoint
    return world.operate_on_endpoint(
        release,
        start=lambda: world.vertex.start_deploy(endpoint_id, deployment.to_vertex(), traffic={deployment.id: 100}),
        there=lambda: deployment.id in world.endpoint(endpoint_id).deployed_ids,
        what=f"deploy {deployment.display_name} to {endpoint_id}",
    )


def _undeploy(release: CloudRelease, world: World, endpoint: Endpoint, leaving: str) -> Turn[CloudRelease]:
    # Without a split unless it has a share to give away: no one's is overwritten, and the last may always go.
    rest = traffic.without(endpoint.traffic, leaving) if endpoint.traffic.get(leaving) else {}
    turn = world.operate_on_endpoint(
        release,
        start=lambda: world.begin_undeploy(release, endpoint.id, leaving, traffic=rest),
        there=lambda: leaving not in world.endpoint(endpoint.id).deployed_ids,
        what=f"undeploy {leaving}",
    )
    if isinstance(turn, Stay) and turn.release.operation:
        return Stay(turn.release.with_place(leaving_by=turn.release.operation))
    return turn
