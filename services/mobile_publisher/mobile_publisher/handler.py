"""From `trained` to `live` on phones, one look-then-act step at a time.

    gating: export ─► gate ─► deploying: register ─► publish ─► record ─► live

Every step first looks whether it is already done, so repeating any of them is harmless. A Firebase model carries the
run and the file's checksum as tags: they tell whether it already holds this release.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from dualdeploy import clock as clocks
from dualdeploy import dataset_config, gate
from dualdeploy.branches import OperationFailed, record_live
from dualdeploy.clock import Clock
from dualdeploy.dataset_config import DatasetConfig
from dualdeploy.firebase import FirebaseMl, FirebaseModel
from dualdeploy.ledger import Branch, Ledger, Run, State
from dualdeploy.object_store import ObjectStore
from mobile_publisher.settings import PublisherSettings

if TYPE_CHECKING:
    # NumPy and LiteRT: an event that leads to no export must not pay for them.
    from mobile_publisher.export import Export

log = logging.getLogger(__name__)

#: Firebase looks at a new file for seconds; a model locked for longer than this is stuck.
LOCK_LIMIT_SECONDS = 1800.0

#: How often one release is handed to Firebase ML before that is a failure.
MAX_REGISTRATIONS = 3

#: Makes the file of a run: `export.export` with its stores and settings bound.
Exporter = Callable[[Run, DatasetConfig], "Export"]
Step = Callable[[Branch, Run, DatasetConfig], Branch | None]


class MobilePublisher:
    """`advance` is what `BranchWorker` drives; everything it touches is handed to it."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        config: ObjectStore,
        firebase: FirebaseMl,
        export: Exporter,
        settings: PublisherSettings,
        clock: Clock = clocks.utc_now,
    ) -> None:
        self._ledger = ledger
        self._config = config
        self._firebase = firebase
        self._export = export
        self._settings = settings
        self._clock = clock
        self._steps: dict[tuple[State, str], Step] = {
            (State.GATING, ""): self._make,
            (State.GATING, "gate"): self._gate,
            (State.DEPLOYING, "register"): self._register,
            (State.DEPLOYING, "publish"): self._publish,
            (State.DEPLOYING, "record"): self._record,
        }

    def advance(self, branch: Branch, run: Run) -> Branch | None:
        """See `dualdeploy.branches.Advance`."""
        # The configuration as it is now: a redeploy is how a changed gate or name takes effect.
        config = dataset_config.read(self._config, branch.dataset)
        return self._steps[branch.state, branch.step](branch, run, config)

    def _make(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch:
        """Convert and check once for each run: a redeploy sends out the very file that was checked before."""
        if "tflite" in branch.facts:
            return branch.changed(step="gate")
        return branch.with_facts(**self._export(run, config).as_facts()).changed(step="gate")

    def _gate(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch:
        limits = config.gates.mobile
        verdict = gate.judge_mobile(
            accuracy=float(branch.facts["accuracy"]),
            min_accuracy=limits.min_accuracy,
            size_bytes=int(branch.facts["tflite_bytes"]),
            max_size_mb=limits.max_size_mb,
        )
        branch = branch.with_facts(gate=verdict.as_facts())
        if not verdict.passed and not branch.forced:
            return branch.moved(State.REJECTED, at=self._clock(), note=verdict.describe())
        forced = "" if verdict.passed else "forced although "
        return branch.moved(State.DEPLOYING, at=self._clock(), note=forced + verdict.describe(), step="register")

    def _register(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch | None:
        """Create or update the Firebase model until it holds this file."""
        tags = tags_of(branch)
        model = self._firebase.find(config.publishing.name)
        if model and model.locked:
            return self._wait_for_lock(branch, model)
        if model and set(tags) <= set(model.tags):
            if model.error:
                raise OperationFailed(f"Firebase ML refused {branch.facts['tflite']}: {model.error}")
            return _to_step(branch.with_facts(firebase_model=model.id, firebase_name=model.display_name), "publish")
        uri = str(branch.facts["tflite"])
        if branch.attempts >= MAX_REGISTRATIONS:
            raise OperationFailed(f"Firebase ML took {uri} {branch.attempts} times and does not show it")
        if model:
            self._firebase.update(model.id, gcs_uri=uri, tags=tags)
        else:
            self._firebase.create(config.publishing.name, gcs_uri=uri, tags=tags)
        # Recorded as an attempt of the same step: the next look tells whether Firebase is through with the file. The
        # time of an earlier lock is forgotten with it, this file has its own.
        return branch.changed(attempts=branch.attempts + 1, operation_since="")

    def _wait_for_lock(self, branch: Branch, model: FirebaseModel) -> Branch | None:
        if not branch.operation_since:
            return branch.changed(operation_since=clocks.to_text(self._clock()))
        age = (self._clock() - clocks.from_text(branch.operation_since)).total_seconds()
        if age > LOCK_LIMIT_SECONDS:
            raise OperationFailed(f"Firebase ML model {model.display_name} is locked since {age:.0f} s")
        return None

    def _publish(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch | None:
        model = self._firebase.find(config.publishing.name)
        if model and model.locked:
            return self._wait_for_lock(branch, model)
        if model is None or not set(tags_of(branch)) <= set(model.tags):
            return _to_step(branch, "register")
        if not model.published:
            self._firebase.publish(model.id)
        return _to_step(branch, "record")

    def _record(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch:
        keys = ("firebase_model", "firebase_name", "tflite", "tflite_sha256", "tflite_bytes", "variant", "accuracy")
        facts = {key: branch.facts[key] for key in keys}
        record_live(self._ledger, branch, run, facts=facts, clock=self._clock)
        note = f"published as {config.publishing.name} on Firebase ML"
        return branch.moved(State.LIVE, at=self._clock(), note=note)


def tags_of(branch: Branch) -> list[str]:
    """Firebase ML takes tags of 32 characters: the run's own part of its id, and the file's checksum."""
    suffix = branch.run_id.removeprefix(f"{branch.dataset}-")
    return [f"run-{suffix}", f"sha256-{str(branch.facts['tflite_sha256'])[:12]}"]


def _to_step(branch: Branch, step: str) -> Branch:
    return branch.changed(step=step, operation="", operation_since="", attempts=0)
