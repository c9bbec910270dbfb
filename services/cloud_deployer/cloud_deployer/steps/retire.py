"""Takes a data set down: its deployed models, its endpoints, its versions, and its claims.

What is someone else's stays, and is told.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from cloud_deployer import claims, traffic
from cloud_deployer.naming import model_id_in, model_ids_of
from cloud_deployer.release import TARGET, CloudRelease, CloudServing
from cloud_deployer.world import World
from dualdeploy import clock as clocks
from dualdeploy.errors import RejectedByGoogle
from dualdeploy.google.vertex import DATASET_LABEL, DeployedModel, Endpoint, ModelVersion
from dualdeploy.ledger import State, dataset_of, names
from dualdeploy.release import serving as serve
from dualdeploy.release.route import End, Forward, Stay, Turn

log = logging.getLogger(__name__)


class NothingToTakeOver(RejectedByGoogle):
    """Vertex AI does not undeploy what has all of the traffic while other models stay without any."""


def would_take_down(world: World, dataset: str) -> list[str]:
    """What /retire takes down, in words; empty when nothing of the data set stands."""
    endpoints = _endpoints(world, dataset)
    found = [
        f"deployed model {one.id} of endpoint {endpoint.id} ({one.display_name})"
        for endpoint in endpoints
        for one in _ours(endpoint, dataset)
    ]
    found += [_described(endpoint, dataset) for endpoint in endpoints]
    found += [
        f"model version {each.version} of {model_id}"
        for model_id in model_ids_of(dataset)
        for each in _versions(world, dataset, model_id)
    ]
    return found


def _described(endpoint: Endpoint, dataset: str) -> str:
    strangers = len(endpoint.deployed) - len(_ours(endpoint, dataset))
    return f"endpoint {endpoint.id}" + (f", which stays: {strangers} of its models are not ours" if strangers else "")


def take_down(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Undeploy what is ours, one after the other, what serves as the last."""
    for endpoint in _endpoints(world, release.dataset):
        mine = sorted(_ours(endpoint, release.dataset), key=lambda one: endpoint.traffic.get(one.id, 0))
        if mine:
            return _undeploy(release, world, endpoint, mine[0].id)
    _tell_undeployed(release, world)
    return Forward(release)


def delete_endpoints(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Delete what is empty; an endpoint on which someone else's model stands is theirs from now on."""
    for endpoint in _endpoints(world, release.dataset):
        if not endpoint.deployed:
            return _delete_endpoint(release, world, endpoint.id)
        log.warning("endpoint %s stays: not all of its models are ours", endpoint.id)
    return Forward(release)


def _delete_endpoint(release: CloudRelease, world: World, endpoint_id: str) -> Turn[CloudRelease]:
    return world.operate_on(
        release,
        endpoint_id,
        start=lambda: world.vertex.start_delete_endpoint(endpoint_id),
        there=lambda: world.vertex.find_endpoint(endpoint_id) is None,
        what=f"delete endpoint {endpoint_id}",
    )


def delete_versions(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Delete each model when all of its versions are ours, else our versions one after the other."""
    for model_id in model_ids_of(release.dataset):
        if mine := _versions(world, release.dataset, model_id):
            return _delete_versions_of(release, world, model_id, mine)
    return Forward(release)


def _delete_versions_of(
    release: CloudRelease, world: World, model_id: str, mine: Sequence[ModelVersion]
) -> Turn[CloudRelease]:
    everything = world.vertex.find_model_versions(model_id)
    strangers = [each for each in everything if each not in mine]
    if not strangers:
        return world.operate_on(
            release,
            model_id,
            start=lambda: world.vertex.start_delete_model(model_id),
            there=lambda: not world.vertex.find_model_versions(model_id),
            what=f"delete model {model_id}",
        )
    return _delete_version(release, world, mine[0], heir=strangers[-1])


def free(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Record that nothing serves, and free the claims: another data set may have the endpoints at once."""

    def decide(serving: CloudServing | None) -> CloudServing | None:
        if serving is None:
            return None
        return serving.changed(current=None, previous=None, retired_at=clocks.to_text(world.clock()))

    for endpoint_id in claims.held_by(world.ledger, release.dataset):
        if not claims.free(world.ledger, endpoint_id, release.dataset):
            return Stay(release.changed(attempts=release.attempts + 1))
    serving = world.serving(release.dataset)
    if serving.current:
        current = serving.current
        serve.mark_replaced(world.ledger, current.run_id, current.release, release, note=release.request.describe())
    world.ledger.update(names.serving(TARGET, release.dataset), CloudServing, decide)
    return End(
        release, State.ROLLED_BACK, f"{release.request.describe()}: nothing of {release.dataset} stands any more"
    )


# Inside --------------------------------------------------------------------------------------------------------


def _endpoints(world: World, dataset: str) -> Sequence[Endpoint]:
    """Those that the data set holds, and those with its label that no other data set holds."""
    held = {
        endpoint_id: world.vertex.find_endpoint(endpoint_id) for endpoint_id in claims.held_by(world.ledger, dataset)
    }
    for endpoint in world.vertex.find_endpoints(DATASET_LABEL, dataset):
        if claims.holder_of(world.ledger, endpoint.id) is None:
            held[endpoint.id] = endpoint
    return [endpoint for endpoint in held.values() if endpoint]


def _ours(endpoint: Endpoint, dataset: str) -> list[DeployedModel]:
    return [
        one
        for one in endpoint.deployed
        if dataset_of(one.display_name) == dataset and model_id_in(one.model) in model_ids_of(dataset)
    ]


def _versions(world: World, dataset: str, model_id: str) -> list[ModelVersion]:
    """Made by us, or by AutoML for us, of runs of the data set."""
    return [
        version
        for version in world.vertex.find_model_versions(model_id)
        if version.labels.get(DATASET_LABEL) == dataset
        and any(dataset_of(alias) == dataset for alias in version.aliases)
    ]


def _tell_undeployed(release: CloudRelease, world: World) -> None:
    def decide(serving: CloudServing | None) -> CloudServing | None:
        if serving is None or serving.current is None or serving.undeployed_at:
            return serving
        at = clocks.to_text(world.clock())
        return serving.changed(undeployed_at=at, undeployed_because=release.request.describe())

    world.ledger.update(names.serving(TARGET, release.dataset), CloudServing, decide)


def _undeploy(release: CloudRelease, world: World, endpoint: Endpoint, leaving: str) -> Turn[CloudRelease]:
    share = endpoint.traffic.get(leaving)
    rest = traffic.without(endpoint.traffic, leaving) if share else {}
    if share and not rest and len(endpoint.deployed) > 1:
        others = ", ".join(sorted(endpoint.deployed_ids - {leaving}))
        raise NothingToTakeOver(
            f"endpoint {endpoint.id} has other models ({others}) and none of them has traffic: undeploy them, or give"
            " them traffic, and send /retire again"
        )
    return world.operate_on(
        release,
        leaving,
        start=lambda: world.begin_undeploy(release, endpoint.id, leaving, traffic=rest),
        there=lambda: leaving not in world.endpoint(endpoint.id).deployed_ids,
        what=f"undeploy {leaving}",
    )


def _delete_version(
    release: CloudRelease, world: World, version: ModelVersion, *, heir: ModelVersion
) -> Turn[CloudRelease]:
    if "default" in version.aliases:
        # Vertex AI never leaves a model without it.
        world.vertex.change_aliases(heir, add=["default"])
    return world.operate_on(
        release,
        version.versioned_name,
        start=lambda: world.vertex.start_delete_version(version),
        there=lambda: world.vertex.find_model_version(model_id_in(version.name), version.version) is None,
        what=f"delete {version.versioned_name}",
    )
