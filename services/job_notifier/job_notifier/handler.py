"""Three independent hints, one authority, one message.

    results/<run>/<target>.json finalized ─┐
    ml_job log entry ──────────────────────┼─► GetCustomJob decides ─► branch recorded ─► training-completed
    clock ─────────────────────────────────┘

No Google event tells that a CustomJob ended, so no hint is believed, and none is needed: the clock alone suffices.
"""

from __future__ import annotations

import logging

from dualdeploy import clock as clocks
from dualdeploy import logs, spending, training
from dualdeploy.clock import Clock
from dualdeploy.errors import LedgerContention, NotConfirmedYet, ResourceMissing, RetryLater, UnknownRun, UnusableResult
from dualdeploy.events import ObjectFinalized, TrainingCompleted, TrainingJobLogged, encode
from dualdeploy.ledger import CALLED_OFF, Branch, Ledger, State, Versioned
from dualdeploy.object_store import ObjectMissing, ObjectStore
from dualdeploy.outcome import Outcome, already_done, done, ignored
from dualdeploy.pubsub import Publisher
from dualdeploy.training import TARGETS, TrainingResult
from dualdeploy.vertex import RUN_LABEL, TARGET_LABEL, Job, JobOutcome, Vertex
from job_notifier.settings import NotifierSettings

log = logging.getLogger(__name__)

TRAINING_COMPLETED_TOPIC = "training-completed"


class JobNotifier:
    """The decisions of job_notifier; everything it touches is handed to it."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        models: ObjectStore,
        vertex: Vertex,
        publisher: Publisher,
        settings: NotifierSettings,
        clock: Clock = clocks.utc_now,
    ) -> None:
        self._ledger = ledger
        self._models = models
        self._vertex = vertex
        self._publisher = publisher
        self._settings = settings
        self._clock = clock

    # Hints -----------------------------------------------------------------------------------------------------

    def on_training_result(self, event: ObjectFinalized) -> Outcome:
        """The trainer wrote its result, which is its last act: the job ends about now."""
        place = training.parse_result_name(event.name)
        if event.bucket != self._settings.models_bucket or place is None:
            return ignored(f"{event.name} is no result")
        return self._settle(*place)

    def on_training_job_log(self, event: TrainingJobLogged) -> Outcome:
        """Something was logged about a job; its labels tell whether it is ours."""
        try:
            job = self._vertex.get_custom_job(event.job_id)
        except ResourceMissing:
            # `ml_job` also logs for hyperparameter trials and pipeline tasks, which are no custom jobs.
            return ignored(f"{event.job_id} is no custom job")
        run_id, target = job.labels.get(RUN_LABEL), job.labels.get(TARGET_LABEL)
        if not run_id or target not in TARGETS:
            return ignored(f"{job.name} is not ours")
        return self._settle(run_id, target)

    def on_clock(self) -> Outcome:
        """Look at every branch in training, and announce what was recorded and never announced."""
        outcomes = [self._sweep(run_id, target) for target in TARGETS for run_id in self._ledger.active(target)]
        return done("; ".join(filter(None, outcomes)) or "nothing ended")

    def _sweep(self, run_id: str, target: str) -> str:
        try:
            versioned = self._ledger.read_branch(run_id, target)
            branch = versioned.document
            if branch.state is State.TRAINING:
                return f"{run_id}/{target} {self._settle(run_id, target).message}"
            if _is_announceable(branch):
                if not self._is_overdue(branch):
                    return ""
                self._announce(versioned)
                return f"{run_id}/{target} announced late"
            if branch.is_final and not branch.was_trained:
                # Whoever announced it died before it removed the marker; nobody else would.
                self._ledger.unmark_active(run_id, target)
        except NotConfirmedYet:
            return ""
        except RetryLater as exc:
            log.warning("%s/%s is looked at again at the next tick: %s", run_id, target, exc)
        except UnknownRun:
            # A marker without a branch: the launcher writes it at its next tick.
            return ""
        except Exception:
            # An unreadable record, or a bug that one run meets, must not stop the clock for every other run.
            log.exception("%s/%s cannot be settled", run_id, target)
        return ""

    # The decision ----------------------------------------------------------------------------------------------

    def _settle(self, run_id: str, target: str) -> Outcome:
        """Record how the job of a branch ended, if Vertex AI says that it ended; then announce it."""
        with logs.bind(run_id=run_id, target=target):
            versioned = self._ledger.read_branch(run_id, target)
            branch = versioned.document
            if branch.state in (State.PENDING, State.LAUNCHING):
                raise NotConfirmedYet(f"{run_id}/{target} is {branch.state}: its job is not recorded yet")
            if branch.state is not State.TRAINING:
                return already_done(f"is {branch.state}")
            following = self._judge(branch)
            try:
                versioned = self._ledger.write_branch(following, expect=versioned.generation)
            except LedgerContention:
                # Another hint was faster; it announces.
                return already_done("was settled by another hint")
            log.info("training %s: %s", following.state, following.reason)
            self._announce(versioned)
            return done(f"is {following.state}")

    def _judge(self, branch: Branch) -> Branch:
        try:
            job = self._vertex.get_custom_job(branch.job)
        except ResourceMissing:
            return branch.moved(State.FAILED, at=self._clock(), note=f"{branch.job} no longer exists")
        if job.outcome is JobOutcome.UNFINISHED:
            raise NotConfirmedYet(f"{job.name} is {job.state}")
        facts = {**branch.facts, **self._spent(branch, _seconds(job))}
        if job.outcome is JobOutcome.CANCELLED and branch.step == CALLED_OFF:
            # The launcher cancelled it, and died or was overtaken before it could say so.
            return branch.moved(State.SUPERSEDED, at=self._clock(), note=branch.reason, facts=facts)
        if job.outcome is not JobOutcome.SUCCEEDED:
            note = f"the job {job.outcome}: {job.error or 'Vertex AI gives no reason'}"
            return branch.moved(State.FAILED, at=self._clock(), note=note, facts=facts)
        try:
            result = self._read_result(branch)
        except UnusableResult as exc:
            return branch.moved(State.FAILED, at=self._clock(), note=str(exc), facts=facts)
        facts |= {
            "accuracy": result.metrics.accuracy,
            "eval_examples": result.metrics.examples,
            "result": self._models.uri(training.result_name(branch.run_id, branch.target)),
        }
        note = f"accuracy {result.metrics.accuracy:.3f} on {result.metrics.examples} held-out examples"
        return branch.moved(State.TRAINED, at=self._clock(), note=note, facts=facts)

    def _spent(self, branch: Branch, seconds: float) -> dict[str, float]:
        """Settle the account before the branch is written: who dies in between settles the same amount again."""
        cost = spending.settle(self._ledger, branch.run_id, branch.target, seconds=seconds)
        spent = {"training_seconds": seconds}
        return spent if cost is None else {**spent, "cost_usd": cost}

    def _read_result(self, branch: Branch) -> TrainingResult:
        name = training.result_name(branch.run_id, branch.target)
        try:
            stored = self._models.read(name)
        except ObjectMissing as exc:
            raise UnusableResult(f"the job succeeded but wrote no {self._models.uri(name)}") from exc
        result = training.parse_result(stored.data, source=self._models.uri(name))
        if (result.run_id, result.target) != (branch.run_id, branch.target):
            raise UnusableResult(f"{self._models.uri(name)} is of {result.run_id}/{result.target}")
        return result

    # The message -----------------------------------------------------------------------------------------------

    def _is_overdue(self, branch: Branch) -> bool:
        age = (self._clock() - clocks.from_text(branch.since)).total_seconds()
        return age >= self._settings.announce_grace_seconds

    def _announce(self, versioned: Versioned[Branch]) -> None:
        """Publish, then remember that it was published: a death in between repeats the message, never loses it."""
        branch = versioned.document
        event = TrainingCompleted(
            run_id=branch.run_id,
            dataset=branch.dataset,
            target=branch.target,
            outcome="succeeded" if branch.was_trained else "failed",
            reason=branch.reason,
        )
        self._publisher.publish(TRAINING_COMPLETED_TOPIC, encode(event), event.attributes)
        try:
            self._ledger.write_branch(branch.changed(training_announced=True), expect=versioned.generation)
        except LedgerContention:
            # The deployer or publisher was so fast that the branch is already its own; it carries the fact along.
            log.info("%s/%s was taken up before the announcement was recorded", branch.run_id, branch.target)
        if not branch.was_trained:
            self._ledger.unmark_active(branch.run_id, branch.target)


def _is_announceable(branch: Branch) -> bool:
    """Whether nobody has been told how training ended. From `gating` on somebody obviously was."""
    if branch.training_announced:
        return False
    return branch.state is State.TRAINED or (branch.is_final and not branch.was_trained)


def _seconds(job: Job) -> float:
    """How long the job ran, as Vertex AI has it; 0 when it never started."""
    return (job.ended - job.started).total_seconds() if job.started and job.ended else 0.0
