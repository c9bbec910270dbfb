"""The Vertex AI jobs of one target of a run: found, created, called off."""

from __future__ import annotations

import contextlib
import logging

from dualdeploy.contracts import training
from dualdeploy.contracts.training import Target
from dualdeploy.errors import ResourceMissing
from dualdeploy.google.object_store import ABSENT, GenerationChanged, ObjectStore
from dualdeploy.google.vertex import ATTEMPT_LABEL, Job, JobOutcome, Vertex
from dualdeploy.ledger import Launch, Ledger, Placement, Run
from training_launcher import job_spec
from training_launcher.live_model import live_model
from training_launcher.settings import LauncherSettings

log = logging.getLogger(__name__)


class Jobs:
    """Vertex AI takes no id of ours for a job: its labels tell whether it is there, and of which attempt.

    A job of a later attempt than `launch` knows is left alone: the instance that read `launch` was frozen since, and
    must not cancel what others created meanwhile.
    """

    def __init__(self, *, ledger: Ledger, models: ObjectStore, vertex: Vertex, settings: LauncherSettings) -> None:
        self._ledger = ledger
        self._models = models
        self._vertex = vertex
        self._settings = settings

    def present(self, run: Run, launch: Launch) -> list[Job]:
        """The jobs of the attempt that comes next, oldest first."""
        return _of(launch.attempt + 1, self._until(launch.attempt + 1, run, launch))

    def find_or_create(self, run: Run, launch: Launch, *, placement: Placement, timeout: float) -> Job:
        """The one job of the attempt that comes next. `timeout` in seconds."""
        attempt = launch.attempt + 1
        jobs = self._until(attempt, run, launch)
        present = _of(attempt, jobs)
        if present:
            log.info("adopted %s", present[0].name, extra={"target": launch.target})
        else:
            # What an earlier attempt left behind would train beside this one.
            self._call_off_but("", jobs)
            created = self._create(run, launch, placement, timeout)
            log.info("started %s", created.name, extra={"target": launch.target})
            # Not `created`: an instance that was frozen after it had looked, for longer than its lease, may have
            # started another one. Whoever creates looks again, so that the later of the two sees both.
            jobs = self._until(attempt, run, launch)
            present = _of(attempt, jobs) or [created]
        self._call_off_but(present[0].name, jobs)
        return present[0]

    def call_off_others(self, run: Run, launch: Launch) -> None:
        """Cancel every job but the recorded one: one whose creation was answered by nothing, say."""
        last = launch.attempt + 1 if launch.is_over else launch.attempt
        self._call_off_but(launch.job, self._until(last, run, launch))

    def cancel(self, name: str) -> None:
        with contextlib.suppress(ResourceMissing):
            self._vertex.cancel_custom_job(name)

    def is_queued(self, name: str) -> bool:
        """Whether Vertex AI still has no machine for the job."""
        with contextlib.suppress(ResourceMissing):
            return self._vertex.get_custom_job(name).is_queued
        return False

    def _until(self, attempt: int, run: Run, launch: Launch) -> list[Job]:
        """The jobs of this target up to an attempt, oldest first."""
        found = self._vertex.find_custom_jobs(job_spec.job_labels(run, launch.target))
        return [job for job in found if _attempt(job) <= attempt]

    def _call_off_but(self, name: str, jobs: list[Job]) -> None:
        for job in jobs:
            if job.name != name and job.outcome is JobOutcome.UNFINISHED:
                log.warning("%s is one too many, cancelled: %s is the one", job.name, name)
                self.cancel(job.name)

    def _create(self, run: Run, launch: Launch, placement: Placement, timeout: float) -> Job:
        target: Target = "cloud" if launch.target == "cloud" else "mobile"
        live = live_model(run.dataset, target, ledger=self._ledger, models=self._models)
        document = job_spec.training_job(run, target, models_bucket=self._settings.models_bucket, live=live)
        with contextlib.suppress(GenerationChanged):
            # An earlier copy stays: a run is frozen, and what was live at the first attempt is as good to compare with.
            self._models.put(training.job_name(run.run_id, target), document.to_json(), expect=ABSENT)
        spec = job_spec.custom_job(
            run, target, self._settings, placement=placement, timeout=timeout, attempt=launch.attempt + 1
        )
        return self._vertex.create_custom_job(spec)


def _of(attempt: int, jobs: list[Job]) -> list[Job]:
    return [job for job in jobs if _attempt(job) == attempt]


def _attempt(job: Job) -> int:
    return int(job.labels.get(ATTEMPT_LABEL, "1"))
