"""From `trained` to `live` on phones, one look-then-act step at a time.

    gating: export ─► gate ─► deploying: upload ─► [plan ─► canary: share ─► bake …] ─┐
        record ─► live  ◄── settle ◄── point ◄── publish ◄── register (firebase-ml) ◄─┘

Every step first looks whether it is already done, so repeating any of them is harmless. A Firebase model carries the
run and the file's checksum as tags: they tell whether it already holds this release. Firebase ML has one published
model for each name, so it follows when the staged rollout (staging.py) is over; the pointer of Cloud Storage for
Firebase moves after it, so a file that Firebase ML refuses becomes nobody's latest. A rollback moves the pointer first,
and one channel that does not go back does not keep the others. What is aborted, overtaken or fails half-way is taken
back (taking_back.py).
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dualdeploy import clock as clocks
from dualdeploy import dataset_config
from dualdeploy.branches import branches_under_way, record_live
from dualdeploy.clock import Clock
from dualdeploy.dataset_config import DatasetConfig, StagedRollout
from dualdeploy.errors import CannotEverSucceed, InvalidDatasetConfig, UnknownDataset
from dualdeploy.firebase import FirebaseMl
from dualdeploy.ledger import Branch, Ledger, Run, State
from dualdeploy.object_store import ObjectStore
from dualdeploy.release_request import ReleaseRequest
from dualdeploy.remote_config import RemoteConfig
from mobile_publisher import on_device_gate, staging, taking_back
from mobile_publisher.firebase_channel import ChannelClosed, FirebaseChannel, tags_of
from mobile_publisher.on_device_gate import Figures
from mobile_publisher.settings import PublisherSettings
from mobile_publisher.staging import Staging
from mobile_publisher.storage_channel import StorageChannel
from mobile_publisher.taking_back import TakingBack, take_back
from mobile_publisher.version_parameter import key_of

if TYPE_CHECKING:
    # NumPy and LiteRT: an event that leads to no export must not pay for them.
    from mobile_publisher.export import Export

log = logging.getLogger(__name__)

FIREBASE_ML, FIREBASE_STORAGE = "firebase-ml", "firebase-storage"
_CHANNEL_NAMES = {FIREBASE_ML: "Firebase ML", FIREBASE_STORAGE: "Cloud Storage for Firebase"}

#: What each step brings a release out on: of a rollback, one of them may fail without keeping the others.
_BRINGS_OUT = {
    "register": "Firebase ML",
    "publish": "Firebase ML",
    "point": "the pointer",
    "settle": "Remote Config",
}

#: What an earlier release of the same run found out about its way is not true of the next one.
_OF_ONE_RELEASE = ("name", "route", "not_brought_back", "published_manifest", staging.FACT, taking_back.FACT)

#: What `Export.as_facts` tells of a file.
FILE_FACTS = (
    *("tflite", "tflite_sha256", "tflite_bytes", "manifest", "gate_table", "quantization", "named", "variant"),
    *("accuracy", "eval_examples", "invoke_ms_p50", "invoke_ms_p50_two_threads", "peak_memory_mb"),
    *("agreement_with_source", "float_accuracy", "worst_class_loss", "live_accuracy", "cloud_agreement"),
)
#: Of the file that phones had last, for a rollback: a later release of the run may have made another one since.
_SERVED = "served"

#: Makes the file of a run: `export.export` with its stores and settings bound.
Exporter = Callable[[Run, DatasetConfig], "Export"]
Step = Callable[[Branch, Run], Branch | None]


class NoOpenChannel(CannotEverSucceed):
    """None of the configured channels can be used; the message says why for each."""


class NameTaken(CannotEverSucceed):
    """Another data set is published under the name: phones would get now its model, now this one's."""


class MobilePublisher:
    """`advance` is what `BranchWorker` drives; everything it touches is handed to it."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        config: ObjectStore,
        firebase: FirebaseMl,
        remote_config: RemoteConfig,
        export: Exporter,
        settings: PublisherSettings,
        storage: StorageChannel | None = None,
        clock: Clock = clocks.utc_now,
    ) -> None:
        self._ledger = ledger
        self._config = config
        self._firebase = FirebaseChannel(firebase, clock=clock)
        self._export = export
        self._settings = settings
        self._storage = storage
        self._clock = clock
        self._staging = Staging(remote_config=remote_config, storage=storage, clock=clock)
        self._taking_back = TakingBack(
            ledger=ledger, staging=self._staging, storage=storage, firebase=self._firebase, clock=clock
        )
        #: From the gate on the way stands in the branch, and a changed configuration holds for the next release.
        self._steps: dict[str, Step] = {
            "upload": self._upload,
            "plan": self._plan,
            "share": _without_run(self._staging.share),
            "bake": self._bake,
            "register": self._once_allowed(self._register),
            "publish": self._once_allowed(self._publish),
            "point": self._point,
            "settle": self._settle,
            "record": self._record,
            **{step: _without_run(back) for step, back in self._taking_back.steps.items()},
        }

    def advance(self, branch: Branch, run: Run) -> Branch | None:
        """See `dualdeploy.branches.Advance`."""
        if not self._is_past_stopping(branch) and (stopped := self._stopped(branch)):
            return stopped
        if branch.state is State.GATING:
            return self._prepare(branch, run)
        try:
            return self._steps[branch.step](branch, run)
        except CannotEverSucceed as exc:
            if self._is_past_stopping(branch):
                raise
            return self._failed(branch, exc)

    def _is_past_stopping(self, branch: Branch) -> bool:
        """Everything is out and waits to be recorded, or is being taken back already."""
        return branch.step == "record" or branch.step in self._taking_back.steps

    def _stopped(self, branch: Branch) -> Branch | None:
        """The branch on its way back, if somebody or a newer run asked for that."""
        if why := ReleaseRequest.abort_of(branch):
            if branch.state is State.GATING:
                # Nothing was begun; the facts may be those of an earlier release, which may well be live.
                return branch.moved(State.FAILED, at=self._clock(), note=why)
            return take_back(branch, why)
        if branch.step in staging.SHARING and (successor := ReleaseRequest.successor_of(branch)):
            return take_back(branch, f"replaced by {successor}", ends=State.SUPERSEDED)
        return None

    def _failed(self, branch: Branch, exc: CannotEverSucceed) -> Branch:
        """A step that can never succeed: phones must not stay between two versions."""
        part = _BRINGS_OUT.get(branch.step)
        if part and ReleaseRequest.of(branch).kind == "rollback":
            log.error("%s does not go back on %s: %s", branch.run_id, part, exc)
            failed = {**branch.facts.get("not_brought_back", {}), part: str(exc)}
            if failed.keys() != {_BRINGS_OUT[step] for step in branch.facts["route"] if step in _BRINGS_OUT}:
                return _next(branch.with_facts(not_brought_back=failed), skip=part)
        elif isinstance(exc, ChannelClosed) and (left := [c for c in branch.facts["channels"] if c != FIREBASE_ML]):
            log.error("%s goes out without one channel: %s", branch.run_id, exc)
            closed = [*branch.facts["closed_channels"], str(exc)]
            return _next(branch.with_facts(channels=left, closed_channels=closed), skip=_BRINGS_OUT[branch.step])
        elif branch.state is State.CANARY or branch.step == "settle":
            return take_back(branch, f"{type(exc).__name__}: {exc}")
        raise exc

    # Gate ------------------------------------------------------------------------------------------------------

    def _prepare(self, branch: Branch, run: Run) -> Branch | None:
        # The configuration as it is now: a redeploy is how a changed gate or name takes effect.
        config = dataset_config.read(self._config, branch.dataset)
        return self._gate(branch, run, config) if branch.step == "gate" else self._make(branch, run, config)

    def _make(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch:
        """Convert and check once for each run: a redeploy sends out the very file that was checked before.

        Another `publishing.quantization` or `name` than the file was made with makes another file, unless the release
        is forced: who forces one, or rolls back to it, means the file that there is. A request that names a variant
        means that.
        """
        if ReleaseRequest.of(branch).kind == "rollback":
            branch = branch.with_facts(**branch.facts.get(_SERVED, {}))
        requested = ReleaseRequest.of(branch).quantization
        if requested:
            publishing = config.publishing.model_copy(update={"quantization": requested})
            config = config.model_copy(update={"publishing": publishing})
        asked, name = config.publishing.quantization, config.publishing.name
        as_made = branch.forced and not requested
        # A file of a time when there were no manifests is made again: no phone could check it.
        is_as_asked = branch.facts.get("quantization", asked) == asked and branch.facts.get("named", name) == name
        if "manifest" in branch.facts and (as_made or is_as_asked):
            return branch.changed(step="gate")
        return branch.with_facts(**self._export(run, config).as_facts()).changed(step="gate")

    def _gate(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch | None:
        verdict = on_device_gate.judge(Figures.of_facts(branch.facts), config.gates.mobile)
        kept = {key: value for key, value in branch.facts.items() if key not in _OF_ONE_RELEASE}
        branch = branch.changed(facts={**kept, "gate": verdict.as_facts()})
        if not verdict.passed and not branch.forced:
            return branch.moved(State.REJECTED, at=self._clock(), note=verdict.describe())
        channels, closed = self._channels(config)
        if not channels:
            raise NoOpenChannel("; ".join(closed))
        if self._overtakes(branch):
            return None
        self._refuse_if_taken(config)
        for reason in closed:
            log.warning("%s goes out without one channel: %s", branch.run_id, reason)
        # Decided once for a release: what changes half-way holds for the next one.
        route = self._route(branch, config, channels)
        branch = branch.with_facts(name=config.publishing.name, channels=channels, closed_channels=closed, route=route)
        if "plan" in route and config.publishing.rollout:
            branch = branch.with_facts(rollout_limits=config.publishing.rollout.model_dump(mode="json"))
        forced = "" if verdict.passed else "forced although "
        return branch.moved(State.DEPLOYING, at=self._clock(), note=forced + verdict.describe(), step=route[0])

    def _overtakes(self, branch: Branch) -> bool:
        """Whether a rollout is under way, which a run that passed its gate takes the place of; it is told to stop."""
        for rival in branches_under_way(self._ledger, branch.dataset, branch.target):
            if rival.run_id == branch.run_id:
                continue
            if rival.step in staging.SHARING and not ReleaseRequest.successor_of(rival):
                found = self._ledger.read_branch(rival.run_id, rival.target)
                told = ReleaseRequest.with_successor(found.document, branch.run_id)
                self._ledger.write_branch(told, expect=found.generation)
                log.info("%s takes the place of %s in its rollout", branch.run_id, rival.run_id)
            return True
        return False

    def _refuse_if_taken(self, config: DatasetConfig) -> None:
        """Raise NameTaken if another data set is live under the name of this one, and configured to go on so.

        One that has no configuration any more, or another name by now, leaves its name to whoever takes it up.
        """
        name = config.publishing.name
        for live in self._ledger.everything_live("mobile"):
            facts = live.current.facts
            places = {facts.get("firebase_name"), facts.get("pointer")}
            ours = {name, self._storage.uri(name)} if self._storage else {name}
            if live.dataset != config.dataset and places & ours and self._goes_on_as(name, live.dataset):
                raise NameTaken(
                    f"publishing.name {name!r} of {config.dataset} is that of {live.dataset} too, whose"
                    f" {live.current.run_id} is live under it: give one of the two another name, then redeploy"
                )

    def _goes_on_as(self, name: str, dataset: str) -> bool:
        try:
            return dataset_config.read(self._config, dataset).publishing.name == name
        except UnknownDataset:
            return False
        except InvalidDatasetConfig:
            # Somebody is about to mend it, and what phones have under the name is still its model.
            return True

    def _route(self, branch: Branch, config: DatasetConfig, channels: Sequence[str]) -> list[str]:
        """The steps of this release, from the first after the gate."""
        is_rollback = ReleaseRequest.of(branch).kind == "rollback"
        firebase_ml = ["register", "publish"] if FIREBASE_ML in channels else []
        if FIREBASE_STORAGE not in channels:
            return [*firebase_ml, "record"]
        plan = ["plan"] if config.publishing.rollout else []
        # Where Remote Config told phones their version before, it must not go on naming that one.
        named = self._live_fact(branch, "remote_config") == key_of(config.publishing.name)
        phones = ["point", *(["settle"] if plan or named else [])]
        return ["upload", *plan, *([*phones, *firebase_ml] if is_rollback else [*firebase_ml, *phones]), "record"]

    def _live_fact(self, branch: Branch, key: str) -> Any:
        live = self._ledger.read_live(branch.dataset, branch.target)
        return live.document.current.facts.get(key) if live else None

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

    # Bringing out ----------------------------------------------------------------------------------------------

    def _upload(self, branch: Branch, run: Run) -> Branch:
        """Bring file and manifest to the bucket that phones read; nothing points at them yet."""
        manifest = self._open_storage().upload(_name(branch), branch.facts)
        return _next(branch.with_facts(published_manifest=dict(manifest)))

    def _plan(self, branch: Branch, run: Run) -> Branch:
        limits = StagedRollout.model_validate(branch.facts["rollout_limits"])
        branch = self._staging.plan(branch, limits, live=str(self._live_fact(branch, "version") or ""))
        rollout = staging.rollout_of(branch)
        if rollout and rollout.share < 100:
            return staging.begin(branch, rollout, at=self._clock())
        return _next(branch)

    def _bake(self, branch: Branch, run: Run) -> Branch | None:
        following = self._staging.bake(branch)
        return following if following is None or following.step else _next(following.changed(step="plan"))

    def _once_allowed(self, step: Step) -> Step:
        return lambda branch, run: self._firebase.once_allowed(branch, lambda: step(branch, run))

    def _register(self, branch: Branch, run: Run) -> Branch | None:
        """Create or update the Firebase model until it holds this file."""
        model, following = self._firebase.hold(
            branch, _name(branch), uri=str(branch.facts["tflite"]), tags=_tags(branch)
        )
        if model is None:
            return following
        return _next(branch.with_facts(firebase_model=model.id, firebase_name=model.display_name))

    def _publish(self, branch: Branch, run: Run) -> Branch | None:
        model, following, is_lost = self._firebase.publish(branch, _name(branch), tags=_tags(branch))
        if is_lost:
            return branch.at_step("register")
        return _next(branch) if model else following

    def _point(self, branch: Branch, run: Run) -> Branch:
        """Move the pointer: from here on phones that follow it fetch the new version."""
        storage = self._open_storage()
        manifest = branch.facts["published_manifest"]
        storage.point(_name(branch), manifest)
        facts = {"pointer": storage.uri(_name(branch)), "version": manifest["version"]}
        return _next(branch.with_facts(**facts))

    def _settle(self, branch: Branch, run: Run) -> Branch:
        """Let Remote Config say what the pointer says, and end the rollout's condition."""
        self._staging.settle(branch)
        return _next(branch)

    def _open_storage(self) -> StorageChannel:
        if self._storage is None:
            raise NoOpenChannel("FIREBASE_STORAGE_BUCKET was set when this release began and is not any more")
        return self._storage

    def _record(self, branch: Branch, run: Run) -> Branch:
        channels = branch.facts["channels"]
        facts = {key: branch.facts[key] for key in _live_facts(channels) if key in branch.facts}
        if staging.FACT in branch.facts:
            facts["remote_config"] = key_of(_name(branch))
        elif "settle" not in branch.facts["route"] and (named := self._live_fact(branch, "remote_config")):
            # What an earlier release told phones there stands there still; the next one that may changes it.
            facts["remote_config"] = named
        if closed := branch.facts.get("closed_channels"):
            facts["closed_channels"] = closed
        record_live(self._ledger, branch, run, facts=facts, clock=self._clock)
        note = f"published as {_name(branch)} on {' and '.join(_CHANNEL_NAMES[each] for each in channels)}"
        note += staging.described(branch)
        note += "".join(f"; without {reason}" for reason in closed or ())
        stays = branch.facts.get("not_brought_back", {})
        note += "".join(f"; not brought back on {part}: {reason}" for part, reason in stays.items())
        served = {key: branch.facts[key] for key in FILE_FACTS if key in branch.facts}
        return branch.with_facts(**{_SERVED: served}).moved(State.LIVE, at=self._clock(), note=note)


def _without_run(step: Callable[[Branch], Branch | None]) -> Step:
    return lambda branch, _run: step(branch)


def _live_facts(channels: Sequence[str]) -> list[str]:
    facts = ["tflite", "tflite_sha256", "tflite_bytes", "variant", "accuracy", "manifest", "gate_table"]
    if FIREBASE_ML in channels:
        facts += ["firebase_model", "firebase_name"]
    if FIREBASE_STORAGE in channels:
        facts += ["pointer", "version"]
    return facts


def _name(branch: Branch) -> str:
    return str(branch.facts["name"])


def _tags(branch: Branch) -> list[str]:
    return tags_of(branch.dataset, branch.run_id, branch.facts)


def _next(branch: Branch, *, skip: str = "") -> Branch:
    """The branch at the next step of its route; `skip` leaves out what else brings it out there."""
    route = branch.facts["route"]
    later = route[route.index(branch.step) + 1 :]
    return branch.at_step(next(step for step in later if not skip or _BRINGS_OUT.get(step) != skip))
