"""From `trained` to `live` on phones, one look-then-act step at a time.

    gating: export ─► gate ─► deploying: upload ─► register ─► publish ─► point ─► record ─► live
                              firebase-storage   └── firebase-ml ──┘   firebase-storage

Every step first looks whether it is already done, so repeating any of them is harmless. A Firebase model carries the
run and the file's checksum as tags: they tell whether it already holds this release. The pointer of Cloud Storage for
Firebase moves last, so a file that Firebase ML refuses reaches nobody.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dualdeploy import clock as clocks
from dualdeploy import dataset_config
from dualdeploy.branches import OperationFailed, record_live
from dualdeploy.clock import Clock
from dualdeploy.dataset_config import DatasetConfig
from dualdeploy.errors import CannotEverSucceed
from dualdeploy.firebase import FirebaseMl, FirebaseModel
from dualdeploy.ledger import Branch, Ledger, Run, State
from dualdeploy.object_store import ObjectStore
from dualdeploy.release_request import ReleaseRequest
from mobile_publisher import on_device_gate
from mobile_publisher.on_device_gate import Figures
from mobile_publisher.settings import PublisherSettings
from mobile_publisher.storage_channel import StorageChannel

if TYPE_CHECKING:
    # NumPy and LiteRT: an event that leads to no export must not pay for them.
    from mobile_publisher.export import Export

log = logging.getLogger(__name__)

#: Firebase looks at a new file for seconds; a model locked for longer than this is stuck.
LOCK_LIMIT_SECONDS = 1800.0

#: How often one release is handed to Firebase ML before that is a failure.
MAX_REGISTRATIONS = 3

FIREBASE_ML, FIREBASE_STORAGE = "firebase-ml", "firebase-storage"
_CHANNEL_NAMES = {FIREBASE_ML: "Firebase ML", FIREBASE_STORAGE: "Cloud Storage for Firebase"}

#: Makes the file of a run: `export.export` with its stores and settings bound.
Exporter = Callable[[Run, DatasetConfig], "Export"]
Step = Callable[[Branch, Run, DatasetConfig], Branch | None]


class NoOpenChannel(CannotEverSucceed):
    """None of the configured channels can be used; the message says why for each."""


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
        storage: StorageChannel | None = None,
        clock: Clock = clocks.utc_now,
    ) -> None:
        self._ledger = ledger
        self._config = config
        self._firebase = firebase
        self._export = export
        self._settings = settings
        self._storage = storage
        self._clock = clock
        self._steps: dict[tuple[State, str], Step] = {
            (State.GATING, ""): self._make,
            (State.GATING, "gate"): self._gate,
            (State.DEPLOYING, "upload"): self._upload,
            (State.DEPLOYING, "register"): self._register,
            (State.DEPLOYING, "publish"): self._publish,
            (State.DEPLOYING, "point"): self._point,
            (State.DEPLOYING, "record"): self._record,
        }

    def advance(self, branch: Branch, run: Run) -> Branch | None:
        """See `dualdeploy.branches.Advance`."""
        # The configuration as it is now: a redeploy is how a changed gate or name takes effect.
        config = dataset_config.read(self._config, branch.dataset)
        return self._steps[branch.state, branch.step](branch, run, config)

    def _make(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch:
        """Convert and check once for each run: a redeploy sends out the very file that was checked before.

        Another `publishing.quantization` than the file was made with makes another file, unless the release is forced:
        who forces one, or rolls back to it, means the file that there is. A request that names a variant means that.
        """
        requested = ReleaseRequest.of(branch).quantization
        if requested:
            publishing = config.publishing.model_copy(update={"quantization": requested})
            config = config.model_copy(update={"publishing": publishing})
        asked = config.publishing.quantization
        as_made = branch.forced and not requested
        # A file of a time when there were no manifests is made again: no phone could check it.
        if "manifest" in branch.facts and (as_made or branch.facts.get("quantization", asked) == asked):
            return branch.changed(step="gate")
        return branch.with_facts(**self._export(run, config).as_facts()).changed(step="gate")

    def _gate(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch:
        verdict = on_device_gate.judge(Figures.of_facts(branch.facts), config.gates.mobile)
        branch = branch.with_facts(gate=verdict.as_facts())
        if not verdict.passed and not branch.forced:
            return branch.moved(State.REJECTED, at=self._clock(), note=verdict.describe())
        channels, closed = self._channels(config)
        if not channels:
            raise NoOpenChannel("; ".join(closed))
        for reason in closed:
            log.warning("%s goes out without one channel: %s", branch.run_id, reason)
        # Decided once for a release: what changes half-way holds for the next one.
        branch = branch.with_facts(channels=channels, closed_channels=closed)
        forced = "" if verdict.passed else "forced although "
        step = "upload" if FIREBASE_STORAGE in channels else "register"
        return branch.moved(State.DEPLOYING, at=self._clock(), note=forced + verdict.describe(), step=step)

    def _channels(self, config: DatasetConfig) -> tuple[list[str], list[str]]:
        """The configured channels that can be used, and why the others cannot."""
        closed: dict[str, str] = {}
        ends = self._settings.firebase_ml_ends
        if self._clock().date() >= datetime.date.fromisoformat(ends):
            closed[FIREBASE_ML] = (
                f"firebase-ml: Firebase ML hosts no custom models since {ends}; set publishing.channels to"
                " [firebase-storage], see docs/phones.md"
            )
        if self._storage is None:
            closed[FIREBASE_STORAGE] = "firebase-storage: FIREBASE_STORAGE_BUCKET is not set"
        wanted = config.publishing.channels
        return [each for each in wanted if each not in closed], [closed[each] for each in wanted if each in closed]

    def _upload(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch:
        """Bring file and manifest to the bucket that phones read; nothing points at them yet."""
        manifest = self._open_storage().upload(config.publishing.name, branch.facts)
        branch = branch.with_facts(published_manifest=dict(manifest))
        return _to_step(branch, "register" if FIREBASE_ML in branch.facts["channels"] else "point")

    def _point(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch:
        """Move the pointer: from here on phones fetch the new version."""
        storage = self._open_storage()
        manifest = branch.facts["published_manifest"]
        storage.point(config.publishing.name, manifest)
        facts = {"pointer": storage.uri(config.publishing.name), "version": manifest["version"]}
        return _to_step(branch.with_facts(**facts), "record")

    def _open_storage(self) -> StorageChannel:
        if self._storage is None:
            raise NoOpenChannel("FIREBASE_STORAGE_BUCKET was set when this release began and is not any more")
        return self._storage

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
        # A branch that began before there were channels has none recorded.
        pointed = FIREBASE_STORAGE in branch.facts.get("channels", ())
        return _to_step(branch, "point" if pointed else "record")

    def _record(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch:
        channels = branch.facts.get("channels", [FIREBASE_ML])
        facts = {key: branch.facts[key] for key in _live_facts(channels) if key in branch.facts}
        record_live(self._ledger, branch, run, facts=facts, clock=self._clock)
        note = f"published as {config.publishing.name} on {' and '.join(_CHANNEL_NAMES[each] for each in channels)}"
        closed = "".join(f"; without {reason}" for reason in branch.facts.get("closed_channels", ()))
        return branch.moved(State.LIVE, at=self._clock(), note=note + closed)


def _live_facts(channels: Sequence[str]) -> list[str]:
    facts = ["tflite", "tflite_sha256", "tflite_bytes", "variant", "accuracy", "manifest", "gate_table"]
    if FIREBASE_ML in channels:
        facts += ["firebase_model", "firebase_name"]
    if FIREBASE_STORAGE in channels:
        facts += ["pointer", "version"]
    return facts


def tags_of(branch: Branch) -> list[str]:
    """Firebase ML takes tags of 32 characters: the run's own part of its id, and the file's checksum."""
    suffix = branch.run_id.removeprefix(f"{branch.dataset}-")
    return [f"run-{suffix}", f"sha256-{str(branch.facts['tflite_sha256'])[:12]}"]


def _to_step(branch: Branch, step: str) -> Branch:
    return branch.changed(step=step, operation="", operation_since="", attempts=0)
