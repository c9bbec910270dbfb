"""The endpoint that a model goes to: held for its data set before anything is done to it, then found or created."""

from __future__ import annotations

from cloud_deployer import claims, deployments
from cloud_deployer.release import CloudRelease
from cloud_deployer.world import World, config_of
from dualdeploy.google.vertex import DATASET_LABEL
from dualdeploy.release.route import Forward, Turn, Wait

#: A dedicated endpoint answers at its own name only, and may be there before the name is.
NAME_LIMIT_SECONDS = 1800.0


def reserve(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Claim the endpoint for the data set. Raises EndpointTaken, and OtherKindOfEndpoint for what AutoML trained."""
    serving = config_of(release).serving
    if release.managed:
        deployments.check_managed(serving)
    endpoint_id = serving.endpoint
    waits_for = claims.claim_endpoint(world.ledger, world.config, endpoint_id, release.dataset)
    return Wait(release, waits_for) if waits_for else Forward(release)


def create(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Find the endpoint, or create it. Raises OtherKindOfEndpoint."""
    serving = config_of(release).serving
    endpoint_id = serving.endpoint
    endpoint = world.vertex.find_endpoint(endpoint_id)
    if endpoint:
        deployments.check_kind(serving, endpoint)
        if endpoint.dedicated and not endpoint.dns:
            return Wait(release, f"the DNS name of endpoint {endpoint_id}", limit=NAME_LIMIT_SECONDS, kind="name")
        if endpoint.request_logging != deployments.request_logging(serving):
            world.vertex.set_request_logging(endpoint, deployments.request_logging(serving))
        return Forward(release.changed(endpoint=endpoint.name, endpoint_dns=endpoint.dns))
    labels = {DATASET_LABEL: release.dataset}
    return world.operate(
        release,
        start=lambda: world.vertex.start_create_endpoint(
            endpoint_id, display_name=endpoint_id, labels=labels, dedicated=serving.dedicated
        ),
        there=lambda: world.vertex.find_endpoint(endpoint_id) is not None,
        what=f"create endpoint {endpoint_id}",
    )
