"""The model that serves, measured on a new run's held-out pictures, when the trainer measured another one or none.

    look for the result ─► look for the labelled job ─► create it ─► look at it, each minute, until its result is there

It is a small job of the trainer's image with `--evaluate-live`. Labels of its own keep it apart from training jobs; the
release is among them, so that a redeploy tries anew what failed before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging

import pydantic

from cloud_deployer.settings import DeployerSettings
from dualdeploy import clock as clocks
from dualdeploy import spending, training
from dualdeploy.clock import Clock
from dualdeploy.dataset_config import DatasetConfig
from dualdeploy.errors import CannotEverSucceed, RejectedByGoogle, ServiceUnavailable, UnusableResult
from dualdeploy.ledger import Branch, Ledger, Release, Run
from dualdeploy.object_store import ABSENT, GenerationChanged, ObjectMissing, ObjectStore
from dualdeploy.training import LiveMetrics, LiveModel, Metrics, OutputLocations, TrainingJob
from dualdeploy.vertex import DATASET_LABEL, CustomJobSpec, Job, JobOutcome, Vertex

log = logging.getLogger(__name__)

EVALUATION_LABEL, LIVE_LABEL, RELEASE_LABEL = "dualdeploy_evaluation", "dualdeploy_live", "dualdeploy_release"

#: Vertex AI ends a job that runs longer. Loading, TensorFlow and some thousand pictures take a few minutes of it.
TIMEOUT_SECONDS = 1800.0
#: After so long without an end (queueing and provisioning included) the job is called off.
LIMIT_SECONDS = 2 * TIMEOUT_SECONDS

STEP = "evaluate"


@dataclasses.dataclass(frozen=True)
class Measured:
    """`metrics` is None when `problem` says why there are none."""

    metrics: Metrics | None = None
    problem: str = ""


class LiveEvaluation:
    """Everything about the job that measures the live model again."""

    def __init__(
        self, *, ledger: Ledger, models: ObjectStore, vertex: Vertex, settings: DeployerSettings, clock: Clock
    ) -> None:
        self._ledger = ledger
        self._models = models
        self._vertex = vertex
        self._settings = settings
        self._clock = clock

    @property
    def is_possible(self) -> bool:
        """Whether the service was told with which image to measure."""
        return bool(self._settings.trainer_image)

    def advance(self, branch: Branch, run: Run, live: Release, config: DatasetConfig) -> Measured | Branch | None:
        """What was measured, or the branch with the next step, or None while the job runs."""
        if not self.is_possible:
            return Measured(problem="this service knows no TRAINER_IMAGE to measure it with")
        if measured := self._result(run, live):
            self._settle(branch, run)
            return measured
        if branch.step != STEP:
            return branch.changed(step=STEP, operation="", operation_since=clocks.to_text(self._clock()))
        if not branch.operation:
            return self._find_or_create(branch, run, live, config)
        return self._look(branch, run, live)

    def call_off(self, branch: Branch, run: Run) -> None:
        """Of a branch that is aborted: nobody waits for the job any more."""
        if branch.step == STEP:
            with contextlib.suppress(RejectedByGoogle):
                for job in self._jobs(branch):
                    self._vertex.cancel_custom_job(job.name)
            self._settle(branch, run)

    def _jobs(self, branch: Branch) -> list[Job]:
        """The job of this release, found by its labels while its name is not recorded."""
        if branch.operation:
            return [self._vertex.get_custom_job(branch.operation)]
        labels = {EVALUATION_LABEL: branch.run_id, RELEASE_LABEL: str(branch.release)}
        return self._vertex.find_custom_jobs(labels)

    # Steps -----------------------------------------------------------------------------------------------------

    def _result(self, run: Run, live: Release) -> Measured | None:
        name = training.live_evaluation_name(run.run_id, live.run_id)
        try:
            found = LiveMetrics.model_validate_json(self._models.read(name).data)
        except ObjectMissing:
            return None
        except pydantic.ValidationError as exc:
            return Measured(problem=f"{self._models.uri(name)} is no evaluation: {exc.errors()[0]['msg']}")
        return Measured(found.metrics, found.problem)

    def _find_or_create(
        self, branch: Branch, run: Run, live: Release, config: DatasetConfig
    ) -> Measured | Branch | None:
        labels = {EVALUATION_LABEL: run.run_id, LIVE_LABEL: live.run_id, RELEASE_LABEL: str(branch.release)}
        try:
            jobs = self._vertex.find_custom_jobs(labels)
            if not jobs:
                if problem := self._too_expensive(run, config):
                    return Measured(problem=problem)
                self._reserve(branch, run, config)
                jobs = [self._create(run, live, config, labels | {DATASET_LABEL: run.dataset})]
        except ServiceUnavailable as exc:
            if self._age(branch) > LIMIT_SECONDS:
                self._settle(branch, run)
                return Measured(problem=f"Vertex AI did not take the job for {LIMIT_SECONDS:.0f} s: {exc}")
            raise
        except spending.OverBudget as exc:
            return Measured(problem=f"measuring it {exc}")
        except (RejectedByGoogle, UnusableResult) as exc:
            self._settle(branch, run)
            return Measured(problem=str(exc))
        log.info("%s measures %s on the pictures of %s", jobs[0].name, live.run_id, run.run_id)
        evaluation = {"live": live.run_id, "job": jobs[0].name, "most_usd": self._most_usd(run)}
        started = branch.with_facts(live_evaluation=evaluation)
        return started.changed(operation=jobs[0].name, operation_since=clocks.to_text(self._clock()))

    def _create(self, run: Run, live: Release, config: DatasetConfig, labels: dict[str, str]) -> Job:
        name = training.live_evaluation_job_name(run.run_id, live.run_id)
        document = self._document(run, live)
        with contextlib.suppress(GenerationChanged):
            # What an earlier attempt left says the same: a run is frozen.
            self._models.put(name, document.to_json(), expect=ABSENT)
        parameters = config.training.cloud
        accelerator = parameters.accelerator
        return self._vertex.create_custom_job(
            CustomJobSpec(
                display_name=f"{run.run_id}-evaluates-{live.run_id}"[:128],
                image=self._settings.trainer_image,
                arguments=["--target", "cloud", "--job", self._models.uri(name), "--evaluate-live"],
                environment={"GOOGLE_CLOUD_PROJECT": self._settings.project},
                labels=labels,
                machine=parameters.machine,
                accelerator_type=accelerator.type if accelerator else "",
                accelerator_count=accelerator.count if accelerator else 0,
                spot=parameters.spot,
                timeout=TIMEOUT_SECONDS,
                output_directory=self._models.uri(name).rsplit("/", 1)[0],
                service_account=self._settings.training_service_account,
            )
        )

    def _document(self, run: Run, live: Release) -> TrainingJob:
        """The job that trained the run, with the live model in it and another place for the result."""
        name = training.job_name(run.run_id, "cloud")
        try:
            trained = TrainingJob.model_validate_json(self._models.read(name).data)
        except (ObjectMissing, pydantic.ValidationError) as exc:
            raise UnusableResult(f"{self._models.uri(name)} cannot be read: {exc}") from exc
        result = self._models.uri(training.live_evaluation_name(run.run_id, live.run_id))
        output = OutputLocations(directory=result.rsplit("/", 1)[0], result=result)
        model = LiveModel(run_id=live.run_id, saved_model=self._saved_model(live))
        return trained.model_copy(update={"live": model, "output": output})

    def _saved_model(self, live: Release) -> str:
        name = training.result_name(live.run_id, "cloud")
        try:
            found = training.parse_result(self._models.read(name).data, source=self._models.uri(name))
        except ObjectMissing as exc:
            raise UnusableResult(f"{self._models.uri(name)} is gone") from exc
        return found.artifacts.saved_model

    def _look(self, branch: Branch, run: Run, live: Release) -> Measured | None:
        try:
            job = self._vertex.get_custom_job(branch.operation)
        except RejectedByGoogle as exc:
            return Measured(problem=str(exc))  # what it cost is not known: its reservation stays
        if job.outcome is JobOutcome.UNFINISHED:
            if self._age(branch) <= LIMIT_SECONDS:
                return None
            self.call_off(branch, run)
            return Measured(problem=f"{job.name} had no end after {LIMIT_SECONDS:.0f} s")
        self._settle(branch, run)
        # It may have written its result between the two looks.
        missing = Measured(problem=f"{job.name} {job.outcome} without a result: {job.error or 'no reason given'}")
        return self._result(run, live) or missing

    # Money -----------------------------------------------------------------------------------------------------

    def _usd_per_hour(self, run: Run) -> float | None:
        """The machine is that of the training, whose hourly price is on record."""
        try:
            estimate = spending.read_estimate(self._ledger, run.run_id)
        except CannotEverSucceed as exc:
            log.warning("the estimate of %s cannot be read: %s", run.run_id, exc)
            return None
        return estimate.targets["cloud"].usd_per_hour if estimate else None

    def _most_usd(self, run: Run) -> float | None:
        """What the job can cost at most."""
        price = self._usd_per_hour(run)
        return None if price is None else round(price * TIMEOUT_SECONDS / 3600, 4)

    def _reserve(self, branch: Branch, run: Run, config: DatasetConfig) -> None:
        """Put the job on the account of the month in which this release began. Raises OverBudget."""
        most = self._most_usd(run) or 0.0
        job = {_account_key(branch): spending.Entry(estimated_usd=most, reserved_usd=most)}
        limit = config.budget.max_usd_per_month
        spending.reserve_jobs(self._ledger, run.dataset, branch.since[:7], job, limit_usd=limit)

    def _settle(self, branch: Branch, run: Run) -> None:
        """Replace the reservation by what the job cost until now; no more is spent on a job that is called off."""
        price = self._usd_per_hour(run)
        if branch.step != STEP or price is None:
            return
        try:
            seconds = sum(self._seconds(job) for job in self._jobs(branch))
            usd = round(price * seconds / 3600, 6)
            key = _account_key(branch)
            spending.settle_job(self._ledger, run.dataset, branch.since[:7], key, actual_usd=usd, seconds=seconds)
        except CannotEverSucceed as exc:
            # The reservation stays, which is the most that it can have cost.
            log.warning("what the evaluation for %s cost is not recorded: %s", run.run_id, exc)

    def _seconds(self, job: Job) -> float:
        ended = job.ended or self._clock()
        return max(0.0, (ended - job.started).total_seconds()) if job.started else 0.0

    def _too_expensive(self, run: Run, config: DatasetConfig) -> str:
        limit, most = config.budget.max_usd_per_run, self._most_usd(run)
        if limit is None or most is None or most <= limit:
            return ""
        return f"measuring it may cost {most:.2f} USD, budget.max_usd_per_run is {limit:.2f}"

    def _age(self, branch: Branch) -> float:
        return (self._clock() - clocks.from_text(branch.operation_since)).total_seconds()


def _account_key(branch: Branch) -> str:
    """One entry for each release: a redeploy may measure again, and pay again."""
    return f"{branch.run_id}/cloud/live-evaluation-{branch.release}"
