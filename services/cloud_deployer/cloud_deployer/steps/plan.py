"""How a release gets its traffic, and what the traffic was before: fixed while nothing is changed yet."""

from __future__ import annotations

import dataclasses

from cloud_deployer import deployments
from cloud_deployer.naming import deployed_id_of, former_id_of, model_id_in, model_ids_of
from cloud_deployer.release import (
    LEAVING_SECONDS,
    CloudRelease,
    CloudServing,
    DeploymentPlan,
    InPlace,
    Limits,
    Rollout,
)
from cloud_deployer.steps import registry
from cloud_deployer.world import World, config_of
from dualdeploy.contracts.dataset_config import Serving
from dualdeploy.contracts.prediction import Form
from dualdeploy.contracts.training import as_mapping
from dualdeploy.errors import RejectedByGoogle
from dualdeploy.google.vertex import DeployedModel, Deployment, Endpoint, ModelVersion
from dualdeploy.ledger import ByHand, dataset_of, names
from dualdeploy.release import serving as serve
from dualdeploy.release.route import Forward, Stay, Turn, Wait

#: The limits of a release that goes to everyone at once: it is probed all the same.
_AT_ONCE = {"steps": (100,), "bake": 0.0, "monitoring": None}


class NoCommonForm(RejectedByGoogle):
    """There is no way to send a picture that both the new model and what serves beside it understand."""


class NotAlone(RejectedByGoogle):
    """What scales to zero must be the endpoint's only model, and one of the others is not ours to take down."""


def plan(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Fix the rollout, side by side with what serves or in its place. Raises NotAlone and NoCommonForm."""
    if release.rollout is None:
        return _planned(release, world)
    note_way_back(release, world, release.rollout)
    return Forward(release)


def _planned(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    serving = config_of(release).serving
    endpoint = world.endpoint(serving.endpoint)
    if leaving := _leaving_with_traffic(release, world, endpoint):
        return Wait(release, leaving, limit=world.settings.operation_limit_seconds, kind="leaving")
    release = release.changed(by_hand=traffic_by_hand(release, world, endpoint))
    version = registry.version_of(release, world)
    release = release.changed(takes_content="content" in version.forms)
    deployment = deployments.deployment(
        serving, deployed_id=deployed_id_of(release), version=version, run_id=release.run_id
    )
    in_place = _in_place(release, world, endpoint, serving, deployment)
    if in_place:
        rollout = _rollout_in_place(release, endpoint, serving, deployment, in_place)
    else:
        rollout = _side_by_side(release, world, endpoint, serving, deployment)
        rollout = rollout.changed(form=_common_form(version, rollout, world, endpoint))
    if not any(picture.is_answer for picture in world.golden(release)):
        rollout = rollout.changed(limits=rollout.limits.changed(accuracy=release.accuracy))
    return Stay(release.changed(rollout=rollout, route="in place" if in_place else "forward"))


def _leaving_with_traffic(release: CloudRelease, world: World, endpoint: Endpoint) -> str:
    """Which deployed models have traffic and may be about to be undeployed, in words; empty for none. The split to go
    on from is known when they are gone, or when so much time has passed that they stay."""
    asked = {key for key in endpoint.deployed_ids if endpoint.traffic.get(key)}
    found = world.leaving(release.dataset, asked, within=world.settings.operation_limit_seconds)
    return f"{', '.join(sorted(found))} to be undeployed, which was begun before" if found else ""


def _common_form(version: ModelVersion, rollout: Rollout, world: World, endpoint: Endpoint) -> Form:
    """How probes, and clients, send pictures that the new model and all that has traffic understand: the split draws a
    model for each request, so what only some of them take would be a failed prediction for some. Raises NoCommonForm.
    """
    common = version.forms
    for one in endpoint.deployed:
        if one.id not in rollout.before:
            continue
        serves = world.vertex.find_model_version(model_id_in(one.model), one.version)
        forms = serves.forms if serves else frozenset[Form]({"b64"})
        if not common & forms:
            raise NoCommonForm(_too_old(version, one))
        common &= forms
    # What our own predictors always took goes first: it proves what most clients send.
    return "b64" if "b64" in common else "content"


def _too_old(version: ModelVersion, serves: DeployedModel) -> str:
    old, automls = (serves.display_name, version.versioned_name) if version.is_automatic else ("", "")
    if old:
        return (
            f'{old} serves, and its predictor is from before predictors took {{"content": …}}, which is all that'
            f" {automls} of AutoML takes: requests would fail on one of the two. Release one more model with"
            " training.method: custom first; its predictor takes both"
        )
    return (
        f'{version.versioned_name} was uploaded with a predictor from before predictors took {{"content": …}}, which is'
        f" what clients send to {serves.display_name}, which AutoML trained and which serves. Train once more with"
        " training.method: custom; the new version's predictor takes both"
    )


def note_way_back(release: CloudRelease, world: World, rollout: Rollout) -> None:
    """Keep in the claim what taking the release back needs, before anything of it can be seen."""
    serve.note_way_back(world.ledger, CloudServing, release, rollout=rollout.model_dump(mode="json"))


def ours(endpoint: Endpoint, release: CloudRelease) -> list[DeployedModel]:
    """Versions of the data set's models, named after its runs: what is taken down serves users, so a name alone is not
    enough."""
    return [
        one
        for one in endpoint.deployed
        if dataset_of(one.display_name) == release.dataset and model_id_in(one.model) in model_ids_of(release.dataset)
    ]


def traffic_by_hand(release: CloudRelease, world: World, endpoint: Endpoint) -> ByHand | None:
    """Someone may have moved the traffic by hand: then what is recorded as live is not what serves, nor what a rollback
    of this release should go to."""
    known = world.serving(release.dataset)
    current, previous = known.current, known.previous
    serving = {key for key, share in endpoint.traffic.items() if share}
    if current is None or current.endpoint_id != endpoint.id or not serving or current.deployed_model in serving:
        return None
    instead = previous.name if previous and previous.deployed_model in serving else ""
    return ByHand(why="its traffic was moved away by hand", taken=current.name, instead=instead)


# Side by side --------------------------------------------------------------------------------------------------


def _side_by_side(
    release: CloudRelease, world: World, endpoint: Endpoint, serving: Serving, deployment: Deployment
) -> Rollout:
    candidate = _warm(release, world, endpoint) or deployment.id
    shares = {key: share for key, share in endpoint.traffic.items() if share}
    before = shares if shares.keys() - {candidate} else {}
    limits = Limits.model_validate(as_mapping(serving.canary))
    if not before or not release.request.canary:
        limits = limits.changed(**_AT_ONCE)
    claim = world.ledger.find_claim(names.endpoint_claim(endpoint.id))
    return Rollout(
        endpoint=endpoint.id,
        candidate=candidate,
        deployment=DeploymentPlan.of(deployment),
        before=before,
        limits=limits,
        keep_previous=serving.keep_previous,
        cool_down=serving.cool_down,
        formerly=claim.document.formerly if claim else (),
    )


def _warm(release: CloudRelease, world: World, endpoint: Endpoint) -> str:
    """What a rollback finds still deployed (`cool_down`, `keep_previous`), and is not about to be taken down: only its
    traffic was taken away."""
    if release.request.kind != "rollback":
        return ""
    found = [
        each.id
        for each in endpoint.deployed
        if each.display_name == release.run_id and each.version == release.model_version
    ]
    leaving = world.leaving(release.dataset, found, within=LEAVING_SECONDS)
    return next((each for each in found if each not in leaving), "")


# In place ------------------------------------------------------------------------------------------------------


def _in_place(
    release: CloudRelease, world: World, endpoint: Endpoint, wanted: Serving, deployment: Deployment
) -> InPlace | None:
    """How this release replaces what serves, None when it need not: then both models can stand side by side.

    What serves goes back as it was deployed, or, when that is not recorded, as the configuration asks. Raises NotAlone.
    """
    mine = ours(endpoint, release)
    serves = max(
        (one for one in mine if endpoint.traffic.get(one.id)), key=lambda one: endpoint.traffic[one.id], default=None
    )
    recorded = _recorded(release, world, serves)
    if not (wanted.scale_to_zero or (recorded and recorded.scale_to_zero)):
        return None
    strangers = [one.id for one in endpoint.deployed if one not in mine]
    if strangers and wanted.scale_to_zero:
        raise NotAlone(
            f"endpoint {endpoint.id} has a model that is not ours ({', '.join(strangers)}), and what scales to zero"
            " must be alone there: undeploy it, or give the data set another serving.endpoint"
        )
    if serves is None:
        return InPlace()
    former = dataclasses.replace(
        recorded or deployment,
        id=former_id_of(release),
        model=f"{serves.model.partition('@')[0]}@{serves.version}",
        display_name=serves.display_name,
    )
    return InPlace(former=DeploymentPlan.of(former), former_id=serves.id)


def _recorded(release: CloudRelease, world: World, serves: DeployedModel | None) -> Deployment | None:
    current = world.serving(release.dataset).current
    if serves is None or current is None or current.deployed_model != serves.id or current.deployment is None:
        return None
    return current.deployment.to_vertex()


def _rollout_in_place(
    release: CloudRelease, endpoint: Endpoint, serving: Serving, deployment: Deployment, in_place: InPlace
) -> Rollout:
    limits = Limits.model_validate(as_mapping(serving.canary)).changed(**_AT_ONCE)
    if in_place.former and release.request.canary:
        limits = limits.changed(bake=serving.canary.bake)
    return Rollout(
        endpoint=endpoint.id,
        candidate=deployment.id,
        deployment=DeploymentPlan.of(deployment),
        limits=limits,
        in_place=in_place,
    )
