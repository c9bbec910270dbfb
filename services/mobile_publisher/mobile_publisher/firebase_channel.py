"""Channel `firebase-ml`: one model for each name, which holds one file; its tags tell whose file that is.

An operation of Firebase's that is not over is seen as a lock on the model. It is never waited for in place: the branch
is recorded as it is, and the clock comes back to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dualdeploy import clock as clocks
from dualdeploy.branches import OperationFailed
from dualdeploy.clock import Clock
from dualdeploy.errors import CannotEverSucceed, SigningRefused
from dualdeploy.firebase import FirebaseMl, FirebaseModel
from dualdeploy.ledger import Branch

log = logging.getLogger(__name__)

#: Firebase looks at a new file for seconds; a model locked for longer than this is stuck.
LOCK_LIMIT_SECONDS = 1800.0

#: A right that was just given counts within minutes: cloud.google.com/iam/docs/access-change-propagation
SIGNING_LIMIT_SECONDS = 900.0

#: How often one release is handed to Firebase ML before that is a failure.
MAX_REGISTRATIONS = 3


class ChannelClosed(CannotEverSucceed):
    """The channel cannot be used until somebody mends it; a release goes out on the others."""


class FirebaseChannel:
    """Each method gives the model once it is as asked, else the branch to record meanwhile: None while it waits."""

    def __init__(self, firebase: FirebaseMl, *, clock: Clock) -> None:
        self._firebase = firebase
        self._clock = clock

    def find(self, name: str) -> FirebaseModel | None:
        return self._firebase.find(name)

    def hold(
        self, branch: Branch, name: str, *, uri: str, tags: Sequence[str]
    ) -> tuple[FirebaseModel | None, Branch | None]:
        """Create or update the model until it holds the file at `uri`. Raises OperationFailed."""
        model = self._firebase.find(name)
        if model and model.locked:
            return None, self.wait(branch, model)
        if model and set(tags) <= set(model.tags):
            if model.error:
                raise OperationFailed(f"Firebase ML refused {uri}: {model.error}")
            return model, None
        if branch.attempts >= MAX_REGISTRATIONS:
            raise OperationFailed(f"Firebase ML took {uri} {branch.attempts} times and does not show it")
        if model:
            self._firebase.update(model.id, gcs_uri=uri, tags=tags)
        else:
            self._firebase.create(name, gcs_uri=uri, tags=tags)
        # Recorded as an attempt of the same step: the next look tells whether Firebase is through with the file. The
        # time of an earlier lock is forgotten with it, this file has its own.
        return None, branch.changed(attempts=branch.attempts + 1, operation_since="")

    def publish(
        self, branch: Branch, name: str, *, tags: Sequence[str]
    ) -> tuple[FirebaseModel | None, Branch | None, bool]:
        """Publish the model; the third is whether it holds another file meanwhile. Raises OperationFailed."""
        model = self._firebase.find(name)
        if model and model.locked:
            return None, self.wait(branch, model), False
        if model is None or not set(tags) <= set(model.tags):
            return None, None, True
        if model.published or self._firebase.publish(model.id).published:
            return model, None, False
        # Firebase is at it: the next look tells.
        return None, None, False

    def once_allowed(self, branch: Branch, step: Callable[[], Branch | None]) -> Branch | None:
        """What `step` leads to; while IAM does not let it sign, the branch waits. In the end raises ChannelClosed."""
        try:
            return step()
        except SigningRefused as exc:
            if self._waited(branch) > SIGNING_LIMIT_SECONDS:
                raise ChannelClosed(f"firebase-ml: since {branch.operation_since} {exc}") from exc
            log.warning("%s waits for a right: %s", branch.run_id, exc)
            return self._since_now(branch)

    def wait(self, branch: Branch, model: FirebaseModel) -> Branch | None:
        """What to record while the model is locked: since when, at first. Raises OperationFailed when it is stuck."""
        if (age := self._waited(branch)) > LOCK_LIMIT_SECONDS:
            raise OperationFailed(f"Firebase ML model {model.display_name} is locked since {age:.0f} s")
        return self._since_now(branch)

    def _waited(self, branch: Branch) -> float:
        if not branch.operation_since:
            return 0.0
        return (self._clock() - clocks.from_text(branch.operation_since)).total_seconds()

    def _since_now(self, branch: Branch) -> Branch | None:
        """What to record of a wait: when it began, and then nothing more."""
        return None if branch.operation_since else branch.changed(operation_since=clocks.to_text(self._clock()))


def tags_of(dataset: str, run_id: str, facts: Mapping[str, Any]) -> list[str]:
    """Firebase ML takes tags of 32 characters: the run's own part of its id, and the file's checksum."""
    return [f"run-{run_id.removeprefix(f'{dataset}-')}", f"sha256-{str(facts['tflite_sha256'])[:12]}"]
