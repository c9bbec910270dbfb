"""A run's version in the Model Registry: uploaded once, with its figures and its card."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from cloud_deployer.console_metrics import SCHEMA_URI, classification_metrics
from cloud_deployer.naming import CANDIDATE, HEALTH_ROUTE, PORT, PREDICT_ROUTE, model_id_in, model_id_of
from cloud_deployer.release import CloudRelease
from cloud_deployer.world import World
from dualdeploy.errors import RejectedByGoogle, ResourceMissing
from dualdeploy.google.automl import APPEARS_SECONDS
from dualdeploy.google.vertex import (
    BOTH_FORMS,
    DATASET_LABEL,
    FORMS_LABEL,
    REVISION_LABEL,
    RUN_LABEL,
    SNAPSHOT_LABEL,
    Evaluation,
    ModelSpec,
    ModelVersion,
)
from dualdeploy.release.route import Forward, Turn, Wait

log = logging.getLogger(__name__)


def upload(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Find the run's version, or upload it; one that AutoML trained is there, or nowhere. Raises ResourceMissing."""
    if release.managed:
        return _found(release, world)
    model_id = model_id_of(release.dataset)
    version = world.vertex.find_model_version(model_id, release.run_id)
    if version:
        change_aliases(world, version, add=[CANDIDATE])
        return Forward(release.changed(model=version.name, model_version=version.version))
    spec = ModelSpec(
        model_id=model_id,
        display_name=model_id,
        artifact_uri=release.saved_model,
        image=world.settings.predictor_image,
        predict_route=PREDICT_ROUTE,
        health_route=HEALTH_ROUTE,
        port=PORT,
        environment={"MODEL_VERSION": release.run_id},
        labels=_labels(release, world),
        aliases=[release.run_id],
        description=f"{release.run_id}: {release.trained_because}"[:200],
    )
    return world.operate(
        release,
        start=lambda: world.vertex.start_upload(spec),
        there=lambda: world.vertex.find_model_version(model_id, release.run_id) is not None,
        what=f"upload to {model_id}",
    )


def _found(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    managed = world.result(release.run_id).managed
    version = world.vertex.find_model_version(model_id_in(managed.name), managed.version) if managed else None
    if managed is None or version is None:
        what = f"{managed.name}@{managed.version}" if managed else "the model"
        what += f", which AutoML trained as {release.run_id}"
        if release.request.is_of_a_person:
            raise ResourceMissing(f"{what}, was deleted; train again")
        why = f"{what}, to be in the Model Registry; if someone deleted it, train again"
        return Wait(release, why, limit=APPEARS_SECONDS, kind="model")
    change_aliases(world, version, add=[CANDIDATE])
    return Forward(release.changed(model=version.name, model_version=version.version))


def version_of(release: CloudRelease, world: World) -> ModelVersion:
    """The release's version, as it is in the Model Registry now. Raises ResourceMissing."""
    version = world.vertex.find_model_version(model_id_in(release.model), release.model_version)
    if version is None:
        raise ResourceMissing(f"the version of {release.run_id} was deleted from {model_id_in(release.model)}")
    return version


def _labels(release: CloudRelease, world: World) -> dict[str, str]:
    """A label value has at most 63 characters: half of a SHA-256 in hex is enough to tell snapshots apart."""
    labels = {DATASET_LABEL: release.dataset, RUN_LABEL: release.run_id, SNAPSHOT_LABEL: release.snapshot[:32]}
    labels[FORMS_LABEL] = BOTH_FORMS
    return labels | ({REVISION_LABEL: world.settings.git_revision} if world.settings.git_revision else {})


def show_evaluation(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Show in the console what was measured, and leave the model card, before any traffic moves."""
    result = world.result(release.run_id)
    version = version_of(release, world)
    try:
        # Google shows what it measured of its own model.
        if not release.managed and not world.vertex.has_evaluation(version, release.run_id):
            measured = classification_metrics(result.metrics, result.labels)
            world.vertex.import_evaluation(version, Evaluation(release.run_id, SCHEMA_URI, measured))
    except RejectedByGoogle as exc:
        # It is there to be looked at; no release depends on it.
        log.error("the console does not show the figures of %s: %s", version.versioned_name, exc)  # noqa: TRY400
    world.cards.write(release)
    return Forward(release)


def change_aliases(world: World, version: ModelVersion, *, add: Sequence[str], remove: Sequence[str] = ()) -> None:
    """Give and take aliases; they tell people what is what, and no release depends on them."""
    try:
        world.vertex.change_aliases(version, add=add, remove=remove)
    except RejectedByGoogle as exc:
        log.error("the aliases of %s are not as they should be: %s", version.versioned_name, exc)  # noqa: TRY400
