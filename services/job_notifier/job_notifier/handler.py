"""Three independent hints, one authority, one message.

    results/<run>/<target>.json finalized ─┐
    ml_job log entry ──────────────────────┼─► GetCustomJob decides ─► ended-<attempt>.json ─► training-completed
    marker of the launcher, each minute ───┘

Of an AutoML pipeline the marker alone tells, and GetTrainingPipeline decides; its result is written here (`pipelines`).
No Google event tells that a CustomJob ended, so no hint is believed, and none is needed: the markers alone suffice. A
marker goes only when the end of its training was published.
"""

from __future__ import annotations

import itertools
import logging

from dualdeploy import clock as clocks
from dualdeploy import logs
from dualdeploy.contracts import training
from dualdeploy.contracts.events import ObjectFinalized, TrainingCompleted, TrainingJobLogged, encode
from dualdeploy.contracts.training import TARGETS, TrainingResult
from dualdeploy.errors import (
    CannotEverSucceed,
    RejectedByGoogle,
    ResourceMissing,
    UnknownRun,
    UnusableResult,
)
from dualdeploy.google.automl import AutoML, Pipeline, is_pipeline
from dualdeploy.google.object_store import ObjectMissing, ObjectStore
from dualdeploy.google.pubsub import Publisher
from dualdeploy.google.vertex import RUN_LABEL, TARGET_LABEL, Job, JobOutcome, Vertex
from dualdeploy.http.ticks import Next, Ticks
from dualdeploy.ledger import Ended, Launch, Ledger, Versioned, names, spending
from dualdeploy.ledger.due import Due
from dualdeploy.outcome import Outcome, done, ignored
from job_notifier.pipelines import Pipelines
from job_notifier.settings import NotifierSettings

log = logging.getLogger(__name__)

TRAINING_COMPLETED_TOPIC = "training-completed"

#: The kind of due work: `job/<run>/<target>/<attempt>`, put by the launcher.
JOB = "job"

#: Which service brings out the models of a target.
RELEASED_BY = {"cloud": "cloud_deployer", "mobile": "mobile_publisher"}

#: The service and the kind of due work that take note of an end.
LAUNCHER, LAUNCH = "training_launcher", "launch"


class JobNotifier:
    """The decisions of job_notifier; implements `ticks.Work`."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        models: ObjectStore,
        vertex: Vertex,
        automl: AutoML,
        publisher: Publisher,
        due: Due,
        settings: NotifierSettings,
    ) -> None:
        self._ledger = ledger
        self._models = models
        self._vertex = vertex
        self._pipelines = Pipelines(ledger=ledger, models=models, automl=automl)
        self._publisher = publisher
        self._due = due
        self._settings = settings

    # Hints -----------------------------------------------------------------------------------------------------

    def on_training_result(self, event: ObjectFinalized, ticks: Ticks) -> Outcome:
        """The trainer wrote its result, which is its last act: the job ends about now."""
        place = training.parse_result_name(event.name)
        if event.bucket != self._settings.models_bucket or place is None:
            return ignored(f"{event.name} is not a result")
        return self._look(*place, ticks)

    def on_training_job_log(self, event: TrainingJobLogged, ticks: Ticks) -> Outcome:
        """Something was logged about a job; its labels tell whether it is ours."""
        try:
            job = self._vertex.get_custom_job(event.job_id)
        except ResourceMissing:
            # `ml_job` also logs for hyperparameter trials and pipeline tasks, which are no custom jobs.
            return ignored(f"{event.job_id} is not a custom job")
        run_id, target = job.labels.get(RUN_LABEL), job.labels.get(TARGET_LABEL)
        if not run_id or target not in TARGETS:
            return ignored(f"{job.name} is not ours")
        return self._look(run_id, target, ticks)

    def _look(self, run_id: str, target: str, ticks: Ticks) -> Outcome:
        launch = self._ledger.read_launch(run_id, target).document
        if not launch.job:
            return done(f"{run_id}/{target} has no recorded job yet; the launcher says when it has")
        return ticks.now(f"{JOB}/{run_id}/{target}/{launch.attempt}")

    # Markers ---------------------------------------------------------------------------------------------------

    def advance(self, what: str) -> Next:
        """`what` is `<run>/<target>/<attempt>`."""
        run_id, target, attempt = _parts(what)
        with logs.bind(run_id=run_id, target=target):
            ended = self._ledger.find_ended(run_id, target, attempt)
            if ended is None:
                try:
                    launch = self._ledger.read_launch(run_id, target).document
                except UnknownRun as exc:
                    return Next(str(exc), self._due.soon(), is_missing=True)
                if attempt < launch.attempt:
                    return Next("another attempt is under way")
                end = self._end_of(launch, attempt)
                if end is None:
                    return Next("has not ended", self._due.soon())
                ended = self._record(end)
            return self._announce(ended)

    def give_up(self, what: str, why: str) -> None:
        """Whoever waits for this training must hear of an end."""
        run_id, target, attempt = _parts(what)
        launch = self._ledger.read_launch(run_id, target).document
        seconds = None if launch.job and attempt == launch.attempt else 0.0
        self._announce(self._record(self._ended(launch, attempt, outcome="failed", reason=why, seconds=seconds)))

    # The decision ----------------------------------------------------------------------------------------------

    def _end_of(self, launch: Launch, attempt: int) -> Ended | None:
        """How this attempt ended, if it did."""
        if attempt > launch.attempt:
            # The training ended without this job: nothing but its end is left to tell.
            outcome = "cancelled" if launch.called_off else "failed"
            return self._ended(launch, attempt, outcome=outcome, reason=launch.reason) if launch.is_over else None
        try:
            job = self._job(launch.job)
        except ResourceMissing:
            # Google bills it all the same.
            return self._ended(launch, attempt, outcome="failed", reason=f"{launch.job} no longer exists", seconds=None)
        if job.outcome is JobOutcome.UNFINISHED:
            if job.state == "PIPELINE_STATE_PAUSED":
                log.warning("%s is paused: only a person can resume it", job.name)
            if launch.has_waited(self._ledger.clock()) and job.is_queued and not launch.passed_over:
                # The launcher decides how the machines are asked for.
                self._due.put(f"{LAUNCH}/{launch.run_id}", service=LAUNCHER)
            return None
        # Why a job is cancelled is written first: what was read before the job may be older than that.
        launch = self._ledger.read_launch(launch.run_id, launch.target).document
        return self._judge(launch, attempt, job) if launch.attempt == attempt else None

    def _job(self, name: str) -> Job:
        return self._pipelines.get(name) if is_pipeline(name) else self._vertex.get_custom_job(name)

    def _judge(self, launch: Launch, attempt: int, job: Job) -> Ended | None:
        """How a job ended; None while its result is not there yet."""
        seconds = job.billed_seconds
        if job.outcome is JobOutcome.CANCELLED and launch.passed_over and not launch.called_off:
            return self._ended(launch, attempt, outcome="no_capacity", reason=launch.passed_over, seconds=seconds)
        if job.outcome is JobOutcome.CANCELLED:
            reason = launch.called_off or "the job was cancelled"
            return self._ended(launch, attempt, outcome="cancelled", reason=reason, seconds=seconds)
        if job.outcome is not JobOutcome.SUCCEEDED:
            outcome = "no_capacity" if job.was_never_placed else "failed"
            reason = f"the job {job.outcome}: {job.error or 'Vertex AI gives no reason'}"
            return self._ended(launch, attempt, outcome=outcome, reason=reason, seconds=seconds)
        try:
            if isinstance(job, Pipeline) and not self._pipelines.write_result(launch, job):
                return None
            result = self._read_result(launch)
        except UnusableResult as exc:
            return self._ended(launch, attempt, outcome="failed", reason=str(exc), seconds=seconds)
        metrics = result.metrics
        return self._ended(
            launch,
            attempt,
            outcome="succeeded",
            reason=f"accuracy {metrics.accuracy:.3f} on {metrics.examples} held-out examples",
            seconds=seconds,
            accuracy=metrics.accuracy,
            eval_examples=metrics.examples,
            result=self._models.uri(training.result_name(launch.run_id, launch.target)),
        )

    def _ended(
        self, launch: Launch, attempt: int, *, outcome: str, reason: str, seconds: float | None = 0.0, **found: object
    ) -> Ended:
        """`seconds` is None where nobody can say how long the job ran: then what was reserved stays on the account."""
        is_of_job = attempt == launch.attempt
        ended = Ended(
            run_id=launch.run_id,
            dataset=launch.dataset,
            target=launch.target,
            attempt=attempt,
            at=clocks.to_text(self._ledger.clock()),
            outcome=outcome,
            reason=reason,
            job=launch.job if is_of_job else "",
            seconds=seconds or 0.0,
            cost_usd=None if seconds is None else spending.cost_of(self._ledger, launch, seconds=seconds),
        )
        return ended.changed(**found) if found else ended

    def _record(self, ended: Ended) -> Versioned[Ended]:
        """Keep the end, once: of two hints at the same time, what the first one wrote counts for both."""
        name = names.ended(ended.run_id, ended.target, ended.attempt)
        found, created = self._ledger.create(name, ended)
        if created:
            log.info("training %s: %s", ended.outcome, ended.reason)
        return found

    def _read_result(self, launch: Launch) -> TrainingResult:
        name = training.result_name(launch.run_id, launch.target)
        uri = self._models.uri(name)
        try:
            stored = self._models.read(name)
        except ObjectMissing as exc:
            raise UnusableResult(f"the job succeeded but wrote no {uri}: write it before it ends with 0") from exc
        result = training.parse_result(stored.data, source=uri)
        if (result.run_id, result.target) != (launch.run_id, launch.target):
            raise UnusableResult(f"{uri} is of {result.run_id}/{result.target}: write run_id and target of job.json")
        labels = self._ledger.read_run(launch.run_id).config["labels"]
        for number, (said, wanted) in enumerate(itertools.zip_longest(result.labels, labels)):
            # Their order is what the model's answers mean.
            if said != wanted:
                raise UnusableResult(
                    f"{uri} has {said!r} as label {number}, and the run {wanted!r}: write labels as in job.json"
                )
        self._refuse_other_job(launch, result, uri)
        return result

    def _refuse_other_job(self, launch: Launch, result: TrainingResult, uri: str) -> None:
        """What two jobs of one training wrote to one place may be a mixture. Raises UnusableResult.

        An id that is not of one of our jobs proves nothing: only Vertex AI could say what it is of.
        """
        if not result.job or result.job == launch.job.rsplit("/", 1)[-1]:
            return
        try:
            labels = self._vertex.get_custom_job(result.job).labels
        except RejectedByGoogle:
            labels = {}
        if (labels.get(RUN_LABEL), labels.get(TARGET_LABEL)) != (launch.run_id, launch.target):
            log.warning(
                "%s says that job %s wrote it, which is not one of ours: %s succeeded", uri, result.job, launch.job
            )
            return
        raise UnusableResult(
            f"{uri} was written by job {result.job} and not by {launch.job}: Vertex AI created both, and both wrote to"
            " one place; send a retrain request with force: true"
        )

    # The message -----------------------------------------------------------------------------------------------

    def _announce(self, versioned: Versioned[Ended]) -> Next:
        """Publish, then remember that it was published: a death in between repeats the message, and never loses it."""
        ended = versioned.document
        if not ended.announced:
            if ended.outcome == "succeeded":
                # A message can be lost for good (given up, purged): the tick of who releases the model suffices.
                self._due.put(f"release/{ended.run_id}/1", service=RELEASED_BY[ended.target])
            if ended.outcome != "no_capacity":
                # Such a training is not over: the launcher asks for another job.
                event = TrainingCompleted(
                    run_id=ended.run_id,
                    dataset=ended.dataset,
                    target=ended.target,
                    outcome=ended.outcome,
                    reason=ended.reason,
                )
                self._publisher.publish(TRAINING_COMPLETED_TOPIC, encode(event), event.attributes)
            name = names.ended(ended.run_id, ended.target, ended.attempt)
            self._ledger.write(name, ended.changed(announced=True), expect=versioned.generation)
        self._due.put(f"{LAUNCH}/{ended.run_id}", service=LAUNCHER)
        return Next(f"{ended.outcome}: {ended.reason}")


def _parts(what: str) -> tuple[str, str, int]:
    run_id, target, attempt = (*what.split("/"), "", "")[:3]
    if target not in TARGETS or not attempt.isascii() or not attempt.isdigit():
        raise CannotEverSucceed(f"{what!r} is not <run>/<target>/<attempt>")
    return run_id, target, int(attempt)
