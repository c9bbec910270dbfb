"""The file of a run: found or made, and held against the gate."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from dualdeploy.contracts import dataset_config
from dualdeploy.ledger import State, UnreadableDocument
from dualdeploy.release.route import End, Forward, Turn
from mobile_publisher import on_device_gate
from mobile_publisher.release import File, MobileRelease, MobileServed
from mobile_publisher.world import TARGET, World

log = logging.getLogger(__name__)


def export(release: MobileRelease, world: World) -> Turn[MobileRelease]:
    """Find the file that goes out, or make it: a redeploy sends out the very file that was checked before."""
    file = _known(release, world)
    if file is None:
        served = world.served(release.dataset)
        run, config = world.ledger.read_run(release.run_id), dataset_config.stored(release.config)
        publishing = config.publishing.model_copy(
            update={"quantization": release.quantization, "name": release.published_as}
        )
        wanted = config.model_copy(update={"publishing": publishing})
        file = world.export(run, wanted, served.file.uri if served else "")
    return Forward(release.changed(file=file))


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
        if file and (as_made or (file.quantization, file.named) == (release.quantization, release.published_as)):
            return file
    return None


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
