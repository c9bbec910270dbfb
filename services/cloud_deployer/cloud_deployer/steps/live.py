"""The end of the way: what serves is recorded, told, and what it replaced is taken down."""

from __future__ import annotations

import logging

from cloud_deployer.naming import CANDIDATE, LIVE, PREVIOUS, model_id_in, model_ids_of
from cloud_deployer.release import TARGET, CloudRelease, CloudServed, CloudServing
from cloud_deployer.steps.registry import change_aliases
from cloud_deployer.world import NO_OPERATION, World
from dualdeploy import clock as clocks
from dualdeploy.errors import CannotEverSucceed, RejectedByGoogle
from dualdeploy.google.vertex import Endpoint
from dualdeploy.ledger import State, dataset_of
from dualdeploy.release import serving as serve
from dualdeploy.release.operations import OperationFailed
from dualdeploy.release.route import End, Forward, Stay, Turn, Wait

log = logging.getLogger(__name__)


def record(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Make this release what serves."""
    rollout = release.plan
    served = CloudServed(
        run_id=release.run_id,
        run_created_at=release.run_created_at,
        release=release.n,
        since=clocks.to_text(world.clock()),
        model=release.model,
        model_version=release.model_version,
        endpoint=release.endpoint,
        endpoint_dns=release.endpoint_dns,
        deployed_model=release.deployed_model,
        accuracy=release.accuracy,
        deployment=rollout.deployment,
        takes_content=release.takes_content,
    )
    serve.record_live(world.ledger, CloudServing, release, served)
    return Forward(release)


def tell(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Say in the Model Registry, and in the card of what was replaced, what the record of what serves says."""
    try:
        _tell(release, world)
    except CannotEverSucceed as exc:
        # The release is out: whatever people then see elsewhere, calling it failed would be a lie.
        log.error("%s is live, but its aliases or model card were not updated: %s", release.run_id, exc)  # noqa: TRY400
    return Forward(release)


def _tell(release: CloudRelease, world: World) -> None:
    serving = world.serving(release.dataset)
    for model_id in model_ids_of(release.dataset):
        for alias, served in ((LIVE, serving.current), (PREVIOUS, serving.previous)):
            _give_alias(world, model_id, alias, served if served and model_id_in(served.model) == model_id else None)
    if previous := serving.previous:
        replaced = world.ledger.find_release(CloudRelease, previous.run_id, TARGET, previous.release)
        if replaced:
            world.cards.write(replaced.document)


def _give_alias(world: World, model_id: str, alias: str, served: CloudServed | None) -> None:
    """To the version that served, or, of the model that none of these versions is of, to no version."""
    version = world.vertex.find_model_version(model_id, served.run_id if served else alias)
    if version is None:
        return
    if served is None:
        change_aliases(world, version, add=[], remove=[alias])
    elif alias not in version.aliases or CANDIDATE in version.aliases:
        change_aliases(world, version, add=[alias], remove=[CANDIDATE])


def undeploy(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Take down what was replaced before, one after the other; it has no traffic any more. Only what is ours.

    What was replaced just now stays for its cool-down, or for good; then it is the cleanup's.
    """
    rollout = release.plan
    endpoint = world.endpoint(rollout.endpoint)
    replaced = _replaced(release, world, endpoint)
    if not replaced:
        return End(release, State.LIVE, f"serves all traffic of {rollout.endpoint}")
    going = release.undeploying if release.operation and release.undeploying in replaced else replaced[0]
    try:
        turn = world.operate_on(
            release,
            going,
            # Without a split: refused should it have got traffic since, and no one's split is overwritten.
            start=lambda: world.begin_undeploy(release, rollout.endpoint, going, traffic={}),
            there=lambda: going not in world.endpoint(rollout.endpoint).deployed_ids,
            what=f"undeploy {going}",
        )
    except (OperationFailed, RejectedByGoogle) as exc:
        if going not in world.endpoint(rollout.endpoint).deployed_ids:
            return Stay(release.changed(**NO_OPERATION))
        return _left_to_cleanup(release, going, str(exc))
    if isinstance(turn, Wait) and turn.release.failing_since:
        # The cleanup tries it again each hour; newer runs need not wait for that.
        return _left_to_cleanup(release, going, turn.what)
    return turn


def _left_to_cleanup(release: CloudRelease, going: str, why: str) -> Turn[CloudRelease]:
    """The release is out: whatever is wrong with what it replaced, calling it failed would be a lie."""
    log.error("%s stays deployed without traffic, and costs: %s", going, why)
    note = f"serves all traffic of {release.plan.endpoint}; {going} could not be taken down: {why}"
    return End(release, State.LIVE, note)


def _replaced(release: CloudRelease, world: World, endpoint: Endpoint) -> list[str]:
    """What the data set, or one that held the endpoint before, has there and does not keep."""
    rollout = release.plan
    keep = {rollout.candidate, _kept_warm(release, world)}
    holders = {release.dataset, *rollout.formerly}
    return [one.id for one in endpoint.deployed if one.id not in keep and dataset_of(one.display_name) in holders]


def _kept_warm(release: CloudRelease, world: World) -> str:
    previous = world.serving(release.dataset).previous
    if previous is None or not (release.plan.keep_previous or release.plan.cool_down):
        return ""
    return previous.deployed_model
