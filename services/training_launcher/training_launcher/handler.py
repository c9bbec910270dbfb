"""Decides what arriving data, a request for training and the clock lead to.

    object finalized ─┐
    retrain requested ┼─► batch complete? ─► snapshot ─► claim the run ─► validate ─► two labelled jobs
    clock ────────────┘

The claim comes before the validation: of any number of duplicate events, one validates and spends.
"""

from __future__ import annotations

import contextlib
import logging
import uuid

from dualdeploy import clock as clocks
from dualdeploy import dataset_config, logs, training
from dualdeploy import shards as shard_names
from dualdeploy.clock import Clock
from dualdeploy.dataset_config import DatasetConfig
from dualdeploy.entrypoint import Outcome, already_done, done, ignored
from dualdeploy.errors import CannotEverSucceed, LeaseHeld, RejectedByGoogle, RetryLater, UnknownDataset, UnknownRun
from dualdeploy.events import ObjectFinalized, RetrainRequested
from dualdeploy.ledger import Branch, Ledger, Rejected, Run, State, Versioned, run_id_of
from dualdeploy.object_store import ABSENT, GenerationChanged, ObjectStore
from dualdeploy.training import TARGETS, Target
from dualdeploy.vertex import Vertex
from training_launcher import job_spec, snapshots
from training_launcher.admission import Admission, examine
from training_launcher.settings import LauncherSettings
from training_launcher.snapshots import Listing

log = logging.getLogger(__name__)

#: Forced repetitions of one snapshot: more than this is a loop somewhere, not a wish.
MAX_REPEATS = 99


class IncompleteSet(CannotEverSucceed):
    """A `-SSSSS-of-NNNNN` set lacks shards although the batch was said to be complete."""


class NoShards(CannotEverSucceed):
    """Training was asked for, but the data set has no shards."""


class Launcher:
    """The decisions of training_launcher; everything it touches is handed to it."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        data: ObjectStore,
        config: ObjectStore,
        models: ObjectStore,
        vertex: Vertex,
        settings: LauncherSettings,
        clock: Clock = clocks.utc_now,
    ) -> None:
        self._ledger = ledger
        self._data = data
        self._config = config
        self._models = models
        self._vertex = vertex
        self._settings = settings
        self._clock = clock

    # What happens ----------------------------------------------------------------------------------------------

    def on_object_finalized(self, event: ObjectFinalized) -> Outcome:
        """A shard or a `_SUCCESS` marker may complete a batch; every other object is none of our business."""
        marker = shard_names.is_success_marker(event.name)
        if event.bucket != self._settings.data_bucket or not (marker or shard_names.is_shard(event.name)):
            return ignored(f"{event.name} is neither a shard nor a marker")
        dataset, folder, _ = event.name.partition("/")
        if not folder:
            raise UnknownDataset(
                f"{event.name} lies in no folder: put shards under gs://{event.bucket}/<dataset>/, and the data set's"
                f" configuration at {self._config.uri(dataset_config.object_name('<dataset>'))}"
            )
        config = dataset_config.read(self._config, dataset)
        if not event.name.startswith(config.data.prefix):
            return ignored(f"{event.name} is not under {config.data.prefix}")
        # Before the listing: whoever forgets this arrival has listed the shards after it.
        self._ledger.note_arrival(dataset)
        if not marker and shard_names.numbered(event.name) is None:
            return done(f"{event.name} noted; the quiet period or {shard_names.SUCCESS_MARKER} completes its batch")
        return self._look_whether_complete(event.name, config, marker=marker)

    def on_retrain_requested(self, event: RetrainRequested, *, event_id: str) -> Outcome:
        """Train on what is there now: unchanged data only with `force`, and then once for each message."""
        config = dataset_config.read(self._config, event.dataset)
        listing = self._list(config)
        if not listing.snapshot.shards:
            raise NoShards(f"data set {event.dataset!r} has no shards under {self._data.uri(config.data.prefix)}")
        reason = f"retrain requested: {event.reason or 'no reason given'}"
        if not event.force:
            return self._launch_complete(config, listing, reason=reason)
        _refuse_incomplete(listing)
        return self._launch_forced(config, listing, reason=reason, token=f"retrain:{event_id}")

    def on_clock(self) -> Outcome:
        """Launch batches whose quiet period is over, and go on with launches that were interrupted."""
        outcomes = [self._quiet(dataset, windows) for dataset, windows in self._ledger.arrivals().items()]
        outcomes += [self._resume(run_id) for run_id in self._unlaunched()]
        return done("; ".join(filter(None, outcomes)) or "nothing waits")

    # Completing a batch ----------------------------------------------------------------------------------------

    def _list(self, config: DatasetConfig) -> Listing:
        return snapshots.list_shards(self._data, config, bucket=self._settings.data_bucket, clock=self._clock)

    def _look_whether_complete(self, name: str, config: DatasetConfig, *, marker: bool) -> Outcome:
        listing = self._list(config)
        if marker:
            return self._launch_complete(config, listing, reason=f"{name} arrived")
        if not shard_names.is_whole(listing.names):
            return done(f"{name} noted; its batch is not complete")
        if self._replaces_known_data(listing, config.dataset):
            return done(f"{name} noted; {config.dataset} was trained before, so the quiet period completes this batch")
        return self._launch_complete(config, listing, reason="every numbered set is whole")

    def _replaces_known_data(self, listing: Listing, dataset: str) -> bool:
        """Whether a set that is whole by its names may still be a mixture of old shards and new ones.

        Once a set was complete, replacing its shards one by one leaves it "whole" after each of them: launching then
        would pay for as many runs as there are shards.
        """
        known = self._ledger.run_ids(dataset)
        return bool(known) and run_id_of(dataset, listing.snapshot) not in known

    def _launch_complete(self, config: DatasetConfig, listing: Listing, *, reason: str) -> Outcome:
        if not listing.snapshot.shards:
            return ignored("the batch has no shards")
        _refuse_incomplete(listing)
        run = self._run(config, listing, reason=reason, claim=uuid.uuid4().hex)
        claimed, created = self._ledger.claim(run)
        return self._launch(claimed, created=created)

    def _launch_forced(self, config: DatasetConfig, listing: Listing, *, reason: str, token: str) -> Outcome:
        """Claim the first free repetition; the message's id is the claim, so that a duplicate finds its own run."""
        for repeat in range(1, MAX_REPEATS + 1):
            run = self._run(config, listing, reason=reason, claim=token, repeat=repeat)
            claimed, created = self._ledger.claim(run)
            if created or claimed.claim == token:
                return self._launch(claimed, created=created)
        raise CannotEverSucceed(f"{run_id_of(config.dataset, listing.snapshot)} was repeated {MAX_REPEATS} times")

    def _run(self, config: DatasetConfig, listing: Listing, *, reason: str, claim: str, repeat: int = 1) -> Run:
        return Run(
            run_id=run_id_of(config.dataset, listing.snapshot, repeat=repeat),
            dataset=config.dataset,
            created_at=clocks.to_text(self._clock()),
            reason=reason,
            snapshot=listing.snapshot,
            config=config.model_dump(mode="json"),
            claim=claim,
        )

    def _quiet(self, dataset: str, windows: list[int]) -> str:
        """What the clock does about one data set with arrivals; empty when there is nothing to say."""
        try:
            return self._complete_when_quiet(dataset, windows)
        except LeaseHeld:
            return ""
        except RetryLater as exc:
            log.warning("%s is looked at again at the next tick: %s", dataset, exc)
            return ""
        except Exception:
            # A bug that one data set meets must not stop the clock for every other.
            log.exception("%s cannot be looked at", dataset)
            return ""

    def _complete_when_quiet(self, dataset: str, windows: list[int]) -> str:
        # Before the listing: what arrives while a batch is validated and launched must not be forgotten with it.
        listed_at = self._clock()
        try:
            config = dataset_config.read(self._config, dataset)
            listing = self._list(config)
            if listing.newest and listing.quiet_for() < config.data.quiet_period:
                return ""
            message = self._launch_complete(config, listing, reason="the quiet period is over").message
        except CannotEverSucceed as exc:
            # Said once, not every minute: the name of the record is derived from what it says.
            self._record(dataset, exc)
            message = str(exc)
        self._ledger.forget_arrivals(dataset, windows, listed_at=listed_at)
        return f"{dataset}: {message}"

    def _record(self, dataset: str, exc: CannotEverSucceed) -> None:
        reason = f"{type(exc).__name__}: {exc}"
        rejected = Rejected(
            at=clocks.to_text(self._clock()),
            service="training_launcher",
            kind="quiet-period",
            reason=reason,
            event={"dataset": dataset},
        )
        self._ledger.record_rejected(rejected, event_id=f"{dataset} {reason}")

    # Launching a run -------------------------------------------------------------------------------------------

    def _launch(self, run: Run, *, created: bool) -> Outcome:
        with logs.bind(run_id=run.run_id):
            # Also for a run that exists: whoever claimed it may have died before its branches were opened.
            self._ledger.open_branches(run)
            if not created:
                return already_done(f"nothing new: {run.run_id} is this very data")
            log.info("claimed %s: %d shards, %s", run.run_id, len(run.snapshot.shards), run.reason)
            return done(self._start(run))

    def _unlaunched(self) -> list[str]:
        """Run ids with a branch that still waits for its job."""
        waiting = set()
        for target in TARGETS:
            for run_id in self._ledger.active(target):
                if self._waits_for_its_job(run_id, target):
                    waiting.add(run_id)
        return sorted(waiting)

    def _waits_for_its_job(self, run_id: str, target: str) -> bool:
        try:
            state = self._ledger.read_branch(run_id, target).document.state
        except UnknownRun:
            # Whoever set the marker died before it wrote the branch.
            return True
        except CannotEverSucceed:
            # An unreadable record must not stop the clock for every other run.
            log.exception("%s/%s cannot be looked at", run_id, target)
            return False
        return state in (State.PENDING, State.LAUNCHING)

    def _resume(self, run_id: str) -> str:
        try:
            with logs.bind(run_id=run_id):
                run = self._ledger.read_run(run_id)
                self._ledger.open_branches(run)
                return self._start(run)
        except LeaseHeld:
            return ""
        except RetryLater as exc:
            log.warning("%s is tried again at the next tick: %s", run_id, exc)
            return ""
        except Exception:
            # An unreadable record, or a bug that one run meets, must not stop the clock for every other run.
            log.exception("%s cannot be launched", run_id)
            return ""

    def _start(self, run: Run) -> str:
        """Validate once, then launch what is not launched; one instance at a time."""
        with self._ledger.lease(f"launch/{run.run_id}", seconds=self._settings.lease_seconds):
            admission = examine(run, ledger=self._ledger, data=self._data)
            outcomes, failures = [], []
            for target in TARGETS:
                try:
                    outcomes.append(f"{target} {self._launch_target(run, target, admission)}")
                except RetryLater as exc:
                    # The other target may be luckier: quotas, for example, are counted by accelerator type.
                    failures.append(exc)
        if failures:
            raise failures[0]
        return f"{run.run_id}: " + ", ".join(outcomes)

    def _launch_target(self, run: Run, target: Target, admission: Admission) -> str:
        versioned = self._ledger.read_branch(run.run_id, target)
        branch = versioned.document
        if branch.state is State.PENDING:
            if not admission.accepted:
                rejected = branch.moved(State.REJECTED, at=self._clock(), note=admission.reason)
                self._ledger.write_branch(rejected, expect=versioned.generation)
                log.error("%s is rejected before any job: %s", run.run_id, admission.reason)
                return f"rejected: {admission.reason}"
            versioned = self._ledger.write_branch(
                branch.moved(State.LAUNCHING, at=self._clock()), expect=versioned.generation
            )
        if versioned.document.state is not State.LAUNCHING:
            return str(versioned.document.state)
        return self._create_job(run, target, versioned)

    def _create_job(self, run: Run, target: Target, versioned: Versioned[Branch]) -> str:
        """One job for each run and target: Vertex AI takes no id of ours, so labels tell whether it is there."""
        branch = versioned.document
        try:
            jobs = self._vertex.find_custom_jobs(job_spec.job_labels(run, target))
            if not jobs:
                document = job_spec.training_job(run, target, models_bucket=self._settings.models_bucket)
                self._write_job(training.job_name(run.run_id, target), document.to_json())
                jobs = [self._vertex.create_custom_job(job_spec.custom_job(run, target, self._settings))]
                log.info("started %s", jobs[0].name, extra={"target": target})
            else:
                log.info("adopted %s", jobs[0].name, extra={"target": target})
        except RejectedByGoogle as exc:
            following = branch.moved(State.FAILED, at=self._clock(), note=f"the job could not be created: {exc}")
            log.error("%s: %s", target, exc)  # noqa: TRY400  # Google's sentence says it all
        else:
            following = branch.moved(State.TRAINING, at=self._clock(), note=jobs[0].name, job=jobs[0].name)
        self._ledger.write_branch(following, expect=versioned.generation)
        return str(following.state)

    def _write_job(self, name: str, data: bytes) -> None:
        """A run is frozen, so an earlier copy says the same, even if an older version of this service wrote it."""
        with contextlib.suppress(GenerationChanged):
            self._models.put(name, data, expect=ABSENT)


def _refuse_incomplete(listing: Listing) -> None:
    if missing := shard_names.missing_from_sets(listing.names):
        raise IncompleteSet(
            f"the data is not complete: {shard_names.describe_missing(missing)};"
            " upload what is missing, or remove the rest of the set"
        )
