"""The jobs of one target of a run: found, created, called off. What kind of jobs they are, its method knows."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from dualdeploy.errors import ResourceMissing
from dualdeploy.google.vertex import ATTEMPT_LABEL, Job, JobOutcome
from dualdeploy.ledger import Launch, Ledger, Placement, Run, spending

log = logging.getLogger(__name__)


class Kind(Protocol):
    """One kind of jobs of Vertex AI; raises what `google.errors` makes of its answers."""

    def labels(self, run: Run, target: str) -> Mapping[str, str]:
        """What the jobs of all attempts have in common."""

    def find(self, labels: Mapping[str, str]) -> Sequence[Job]:
        """Jobs with all these labels, oldest first."""

    def get(self, name: str) -> Job: ...

    def create(self, run: Run, launch: Launch, *, placement: Placement, timeout: float) -> Job:
        """A job of the attempt that comes next, with `labels` and ATTEMPT_LABEL. `timeout` in seconds."""

    def cancel(self, name: str) -> None:
        """Ask for its end; one that has ended needs none."""


class Jobs:
    """Vertex AI takes no id of ours for a job: its labels tell whether it is there, and of which attempt.

    A job of a later attempt than `launch` knows is left alone: the instance that read `launch` was frozen since, and
    must not cancel what others created meanwhile.
    """

    def __init__(self, kind: Kind, *, ledger: Ledger) -> None:
        self._kind = kind
        self._ledger = ledger

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
            self._call_off_but("", jobs, launch)
            created = self._kind.create(run, launch, placement=placement, timeout=timeout)
            log.info("started %s", created.name, extra={"target": launch.target})
            # Not `created`: an instance that was frozen after it had looked, for longer than its lease, may have
            # started another one. Each that creates looks again, so that the later of the two sees both.
            jobs = self._until(attempt, run, launch)
            present = _of(attempt, jobs) or [created]
        self._call_off_but(present[0].name, jobs, launch)
        return present[0]

    def call_off_others(self, run: Run, launch: Launch) -> None:
        """Cancel every job but the recorded one: one whose creation was answered by nothing, say."""
        last = launch.attempt + 1 if launch.is_over else launch.attempt
        jobs = self._until(last, run, launch)
        self._call_off_but(launch.job, jobs, launch)
        # Those that have ended by themselves, or since they were called off.
        others = [job for job in jobs if job.name != launch.job and job.outcome is not JobOutcome.UNFINISHED]
        if not others:
            return
        ended = [self._ledger.find_ended(launch.run_id, launch.target, each) for each in range(1, last + 1)]
        paid = {each.document.job for each in ended if each}
        for job in others:
            if job.name not in paid:
                self._pay(job, launch, seconds=job.billed_seconds)

    def cancel(self, name: str) -> None:
        with contextlib.suppress(ResourceMissing):
            self._kind.cancel(name)

    def is_queued(self, name: str) -> bool:
        """Whether Vertex AI still has no machine for the job."""
        with contextlib.suppress(ResourceMissing):
            return self._kind.get(name).is_queued
        return False

    def _until(self, attempt: int, run: Run, launch: Launch) -> list[Job]:
        """The jobs of this target up to an attempt, oldest first."""
        found = self._kind.find(self._kind.labels(run, launch.target))
        return [job for job in found if _attempt(job) <= attempt]

    def _call_off_but(self, name: str, jobs: list[Job], launch: Launch) -> None:
        for job in jobs:
            if job.name != name and job.outcome is JobOutcome.UNFINISHED:
                log.warning("%s is a duplicate and is cancelled: %s is kept", job.name, name)
                self._pay(job, launch, seconds=dataclasses.replace(job, ended=self._ledger.clock()).billed_seconds)
                # Last: an instance that dies before is followed by one that finds the job unfinished, too.
                self.cancel(job.name)

    def _pay(self, job: Job, launch: Launch, *, seconds: float) -> None:
        spending.add(self._ledger, launch, job.name.rsplit("/", 1)[-1], seconds=seconds)


def _of(attempt: int, jobs: list[Job]) -> list[Job]:
    return [job for job in jobs if _attempt(job) == attempt]


def _attempt(job: Job) -> int:
    return int(job.labels.get(ATTEMPT_LABEL, "1"))
