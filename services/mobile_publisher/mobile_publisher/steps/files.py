"""The file of a run: found or made, and held against the gate."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from dualdeploy.contracts import dataset_config
from dualdeploy.contracts.training import ManagedModel
from dualdeploy.errors import ResourceMissing
from dualdeploy.google.automl import APPEARS_SECONDS
from dualdeploy.ledger import State, UnreadableDocument
from dualdeploy.release.operations import Looked, poll_operation
from dualdeploy.release.route import End, Forward, Stay, Turn, Wait
from mobile_publisher import on_device_gate
from mobile_publisher.manifest import AUTOML
from mobile_publisher.release import FIREBASE_STORAGE, File, MobileRelease, MobileServed
from mobile_publisher.world import TARGET, Around, World

log = logging.getLogger(__name__)

#: An export of a few megabytes takes minutes.
EXPORT_LIMIT_SECONDS = 3600.0


def export(release: MobileRelease, world: World) -> Turn[MobileRelease]:
    """Find the file that goes out, or make it: a redeploy sends out the very file that was checked before.

    What AutoML trained is exported by Google first, and then checked as every file is.
    """
    file = _known(release, world)
    if file is None:
        served = world.served(release.dataset)
        run, config = world.ledger.read_run(release.run_id), dataset_config.stored(release.config)
        publishing = config.publishing.model_copy(
            update={
                "quantization": release.quantization,
                "name": release.published_as,
                "channels": release.channels,
            }
        )
        wanted = config.model_copy(update={"publishing": publishing})
        around = Around(
            live=served.file.uri if served else "",
            live_name=served.published_as if served else "",
            pointed=_pointed(release, world),
            exported=release.exported,
            forced=release.forced,
        )
        made = world.export(run, wanted, around)
        if isinstance(made, ManagedModel):
            return _by_google(release, world, made)
        file = made
    return Forward(release.changed(file=file))


def _pointed(release: MobileRelease, world: World) -> Mapping[str, Any] | None:
    if world.storage is None or FIREBASE_STORAGE not in release.channels:
        return None
    return world.storage.described(release.published_as)


def _by_google(release: MobileRelease, world: World, model: ManagedModel) -> Turn[MobileRelease]:
    """Have Google export the model, and note the folder that it says. Each export has a folder of its own, so one too
    many does no harm."""
    version = f"{model.name}@{model.version}"
    if release.operation and (operation := world.vertex.operation(release.operation)):
        folder = str(operation.metadata.get("outputInfo", {}).get("artifactOutputUri", ""))
        if operation.done and not operation.error and folder:
            return Stay(release.changed(exported=folder, operation="", operation_since="", attempts=0))
    try:
        return poll_operation(
            release,
            look=functools.partial(_look, world),
            start=lambda: world.vertex.start_export(
                version, format_id="tflite", folder=world.models.uri(f"exports/{release.dataset}/{release.run_id}")
            ),
            # Only the operation knows the folder.
            there=lambda: False,
            clock=world.clock,
            limit_seconds=EXPORT_LIMIT_SECONDS,
            what=f"export {version}",
        )
    except ResourceMissing as exc:
        if release.request.is_of_a_person:
            raise
        why = f"{version} to be in the Model Registry; if someone deleted it, train again: {exc}"
        return Wait(release, why, limit=APPEARS_SECONDS, kind="model")


def _look(world: World, name: str) -> Looked | None:
    operation = world.vertex.operation(name)
    if operation is None:
        return None
    return Looked(operation.done, operation.failure(name) if operation.error else None)


def judge(release: MobileRelease, world: World) -> Turn[MobileRelease]:
    """Hold the file's figures against the limits of `gates.mobile`, as they were when the release began."""
    if release.file is None:
        raise RuntimeError(f"{release.name} has no file at its gate")
    limits = dataset_config.stored(release.config).gates.mobile
    verdict = on_device_gate.judge(release.file.figures, limits)
    release = release.changed(gate=verdict.as_facts())
    if verdict.passed:
        return Forward(release, verdict.describe())
    if not release.forced:
        return End(release, State.REJECTED, verdict.describe())
    return Forward(release, f"forced although {verdict.describe()}")


def _known(release: MobileRelease, world: World) -> File | None:
    """The file that an earlier release of the run has, if that one is meant.

    A rollback means what phones had last of the run, also if another file was made of it since. Who forces a run means
    the file that there is, unless a variant is asked for. Everyone else means a file as the configuration asks for.
    """
    if release.request.kind == "rollback" and (served := _served(release, world)):
        return served.file
    as_made = release.forced and not release.request.quantization
    for earlier in _earlier(release, world):
        file = earlier.file
        if file and (as_made or _is_as_asked(file, release)):
            return file
    return None


def _is_as_asked(file: File, release: MobileRelease) -> bool:
    """AutoML makes one file of a model, whatever quantization is asked for."""
    is_same = file.variant == AUTOML or file.quantization == release.quantization
    return is_same and file.named == release.published_as


def _served(release: MobileRelease, world: World) -> MobileRelease | MobileServed | None:
    """What phones had last of this run."""
    serving = world.serving(release.dataset)
    for served in (serving.current, serving.previous):
        if served and served.run_id == release.run_id:
            return served
    for earlier in _earlier(release, world):
        if earlier.file and any(moment.state == State.LIVE for moment in earlier.history):
            return earlier
    return None


def _earlier(release: MobileRelease, world: World) -> Iterator[MobileRelease]:
    """The run's releases before this one, the last first."""
    for n in range(release.n - 1, 0, -1):
        with contextlib.suppress(UnreadableDocument):
            found = world.ledger.find_release(MobileRelease, release.run_id, TARGET, n)
            if found:
                yield found.document
