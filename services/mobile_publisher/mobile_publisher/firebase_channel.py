"""Channel `firebase-ml`: one model for each name, which holds one file; its tags tell whose file that is.

An operation of Firebase's that is not over is seen as a lock on the model. It is never waited for in place: the branch
is recorded as it is, and the clock comes back to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dualdeploy import clock as clocks
from dualdeploy.branches import OperationFailed
from dualdeploy.clock import Clock
from dualdeploy.firebase import FirebaseMl, FirebaseModel
from dualdeploy.ledger import Branch

#: Firebase looks at a new file for seconds; a model locked for longer than this is stuck.
LOCK_LIMIT_SECONDS = 1800.0

#: How often one release is handed to Firebase ML before that is a failure.
MAX_REGISTRATIONS = 3


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

    def wait(self, branch: Branch, model: FirebaseModel) -> Branch | None:
        """What to record while the model is locked: since when, at first. Raises OperationFailed when it is stuck."""
        if not branch.operation_since:
            return branch.changed(operation_since=clocks.to_text(self._clock()))
        age = (self._clock() - clocks.from_text(branch.operation_since)).total_seconds()
        if age > LOCK_LIMIT_SECONDS:
            raise OperationFailed(f"Firebase ML model {model.display_name} is locked since {age:.0f} s")
        return None


def tags_of(dataset: str, run_id: str, facts: Mapping[str, Any]) -> list[str]:
    """Firebase ML takes tags of 32 characters: the run's own part of its id, and the file's checksum."""
    return [f"run-{run_id.removeprefix(f'{dataset}-')}", f"sha256-{str(facts['tflite_sha256'])[:12]}"]
