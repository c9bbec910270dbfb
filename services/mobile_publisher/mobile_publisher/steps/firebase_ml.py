"""Channel `firebase-ml`: one model for each name, which holds one file; its tags tell whose file that is.

An operation of Firebase's that is not over is seen as a lock on the model. It is never waited for in place.
"""

from __future__ import annotations

from collections.abc import Callable

from dualdeploy.errors import SigningRefused
from dualdeploy.google.firebase_ml import FirebaseModel
from dualdeploy.release.operations import OperationFailed
from dualdeploy.release.route import Forward, Stay, Turn, Wait
from mobile_publisher.release import File, MobileRelease
from mobile_publisher.steps import names
from mobile_publisher.world import World

#: Firebase looks at a new file for seconds; a model locked for longer than this is stuck.
LOCK_LIMIT_SECONDS = 1800.0

#: A permission that was just given counts within minutes: cloud.google.com/iam/docs/access-change-propagation
SIGNING_LIMIT_SECONDS = 900.0

#: The kind of the wait for that permission.
SIGNING = "signing"

#: How often one release is handed to Firebase ML before that is a failure.
MAX_REGISTRATIONS = 3

#: Waits, tries again: a turn that is not the end of the step.
Pending = Wait[MobileRelease] | Stay[MobileRelease]


def register(release: MobileRelease, world: World) -> Turn[MobileRelease]:
    """Create or update the Firebase model until it holds this file."""
    names.require(release, world)

    def look() -> Turn[MobileRelease]:
        tags = tags_of(release.run_id, release.dataset, release.file)
        found = hold(release, world, file=_file(release).uri, tags=tags)
        if isinstance(found, FirebaseModel):
            return Forward(release.changed(firebase_model=found.id))
        return found

    return once_allowed(release, look)


def publish(release: MobileRelease, world: World) -> Turn[MobileRelease]:
    """Publish the model; if someone has overwritten it meanwhile, it is registered again first."""
    names.require(release, world)
    tags = tags_of(release.run_id, release.dataset, release.file)

    def look() -> Turn[MobileRelease]:
        model = world.firebase.find(release.published_as)
        if model and model.locked:
            return locked(release, model)
        if model is None or not set(tags) <= set(model.tags):
            again = hold(release, world, file=_file(release).uri, tags=tags)
            return Stay(release) if isinstance(again, FirebaseModel) else again
        if not model.published:
            world.check_current(release)
        if model.published or world.firebase.publish(model.id).published:
            return Forward(release)
        return Wait(
            release, f"Firebase ML, which publishes {release.published_as}", limit=LOCK_LIMIT_SECONDS, kind="publish"
        )

    return once_allowed(release, look)


def hold(release: MobileRelease, world: World, *, file: str, tags: tuple[str, ...]) -> FirebaseModel | Pending:
    """Create or update the model; gives it when it holds the file. Raises OperationFailed."""
    model = world.firebase.find(release.published_as)
    if model and model.locked:
        return locked(release, model)
    if model and set(tags) <= set(model.tags):
        if model.error:
            raise OperationFailed(f"Firebase ML refused {file}: {model.error}")
        return model
    if release.attempts >= MAX_REGISTRATIONS:
        raise OperationFailed(f"Firebase ML took {file} {release.attempts} times and does not show it")
    # Firebase ML has no precondition: this is as near to one as a look can be. Should an instance freeze just here, and
    # go on after its release was taken back, the next release, or a redeploy of what serves, sets the model right.
    world.check_current(release)
    if model:
        world.firebase.update(model.id, gcs_uri=file, tags=tags)
    else:
        world.firebase.create(release.published_as, gcs_uri=file, tags=tags)
    # The next look tells whether Firebase is through with the file.
    return Stay(release.changed(attempts=release.attempts + 1))


def locked(release: MobileRelease, model: FirebaseModel) -> Wait[MobileRelease]:
    # The time of an earlier lock is over with the file that it was for.
    kind = f"lock {release.attempts}"
    return Wait(release, f"Firebase ML, which works on {model.display_name}", limit=LOCK_LIMIT_SECONDS, kind=kind)


def once_allowed(release: MobileRelease, look: Callable[[], Turn[MobileRelease]]) -> Turn[MobileRelease]:
    """What `look` leads to; while IAM does not let this service sign, the release waits for that, with a bound."""
    try:
        return look()
    except SigningRefused as exc:
        return Wait(release, str(exc), limit=SIGNING_LIMIT_SECONDS, kind=SIGNING)


def tags_of(run_id: str, dataset: str, file: File | None) -> tuple[str, ...]:
    """Firebase ML takes tags of 32 characters: the run's own part of its id, and the file's checksum."""
    if file is None:
        return ()
    return (f"run-{run_id.removeprefix(f'{dataset}-')}", f"sha256-{file.sha256[:12]}")


def _file(release: MobileRelease) -> File:
    if release.file is None:
        raise RuntimeError(f"{release.name} has no file to register")
    return release.file
