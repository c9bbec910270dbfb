"""From a claimed run to two labelled jobs, resumable at any line.

    validate ─► reserve its cost ─► call off what it supersedes ─► for each target: find the labelled job, or create it
        └ rejected    └ rejected                                        └ no quota, no capacity: again on the clock

One instance at a time works on a run (a lease); what keeps a second job from being started are the labels.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
from typing import NoReturn

from dualdeploy import clock as clocks
from dualdeploy import logs, prices, spending, training
from dualdeploy.clock import Clock
from dualdeploy.dataset_config import DatasetConfig
from dualdeploy.errors import CannotEverSucceed, LeaseHeld, RejectedByGoogle, RetryLater, ServiceUnavailable, UnknownRun
from dualdeploy.ledger import Branch, Ledger, Run, State, Versioned
from dualdeploy.object_store import ABSENT, GenerationChanged, ObjectStore
from dualdeploy.outcome import Outcome, already_done, done
from dualdeploy.spending import Estimate
from dualdeploy.training import TARGETS, Target
from dualdeploy.vertex import Job, Vertex
from training_launcher import budget, job_spec
from training_launcher.admission import Admission, examine
from training_launcher.live_model import live_model
from training_launcher.settings import LauncherSettings
from training_launcher.superseding import Superseding

log = logging.getLogger(__name__)

#: After a refusal for lack of quota or capacity the next tick tries again, later ones wait 1, 2, 4, … minutes.
FIRST_WAIT_SECONDS = 60.0
LONGEST_WAIT_SECONDS = 1800.0


class Launching:
    """Everything between the claim of a run and its jobs."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        data: ObjectStore,
        models: ObjectStore,
        vertex: Vertex,
        settings: LauncherSettings,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._data = data
        self._models = models
        self._vertex = vertex
        self._settings = settings
        self._clock = clock
        self._superseding = Superseding(ledger=ledger, vertex=vertex, lease_seconds=settings.lease_seconds, clock=clock)

    def open(self, run: Run) -> None:
        """Make sure that the clock knows of the run: whoever claimed it may have died before it said so."""
        self._ledger.open_branches(run)

    def launch(self, run: Run, *, created: bool) -> Outcome:
        """Take a run whose branches are open to its jobs, if this very call claimed it."""
        with logs.bind(run_id=run.run_id):
            if not created:
                return already_done(f"nothing new: {run.run_id} is this very data")
            log.info("claimed %s: %d shards, %s", run.run_id, len(run.snapshot.shards), run.reason)
            return done(self._start(run))

    def resume_all(self) -> list[str]:
        """Go on with every launch that was interrupted or waits; what came of each."""
        return [self._resume(run_id) for run_id in self._unlaunched()]

    # What waits ------------------------------------------------------------------------------------------------

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
            branch = self._ledger.read_branch(run_id, target).document
        except UnknownRun:
            # Whoever set the marker died before it wrote the branch.
            return True
        except CannotEverSucceed:
            # An unreadable record must not stop the clock for every other run.
            log.exception("%s/%s cannot be looked at", run_id, target)
            return False
        return branch.state in (State.PENDING, State.LAUNCHING) and not self._is_too_early(branch)

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

    # Admission -------------------------------------------------------------------------------------------------

    def _start(self, run: Run) -> str:
        """Validate and reserve once, then launch what is not launched; one instance at a time."""
        with self._ledger.lease(f"launch/{run.run_id}", seconds=self._settings.lease_seconds):
            admission = examine(run, ledger=self._ledger, data=self._data, clock=self._clock)
            estimate = self._estimate(run)
            if admission.accepted:
                admission = self._within_budget(run, estimate)
            if admission.accepted and DatasetConfig.model_validate(run.config).data.on_new_data == "supersede":
                self._superseding.make_way_for(run)
            outcomes, failures = [], []
            for target in TARGETS:
                try:
                    outcomes.append(f"{target} {self._launch_target(run, target, admission, estimate)}")
                except RetryLater as exc:
                    # The other target may be luckier: quotas, for example, are counted by accelerator type.
                    failures.append(exc)
        if failures:
            raise failures[0]
        return f"{run.run_id}: " + ", ".join(outcomes)

    def _estimate(self, run: Run) -> Estimate:
        """The recorded estimate of a run, or a new one: prices and the month are those of its first launch."""
        recorded = spending.read_estimate(self._ledger, run.run_id)
        if recorded:
            return recorded
        region = self._settings.region
        estimate = budget.estimate(run, region=region, prices=prices.table(), now=self._clock())
        for target, each in estimate.targets.items():
            if each.most_usd is None:
                log.warning("the cost of %s/%s is not counted: %s", run.run_id, target, each.price)
        return spending.record_estimate(self._ledger, estimate)

    def _within_budget(self, run: Run, estimate: Estimate) -> Admission:
        if estimate.refusal:
            return Admission(accepted=False, reason=estimate.refusal)
        limit = DatasetConfig.model_validate(run.config).budget.max_usd_per_month
        try:
            spending.reserve(self._ledger, estimate, limit_usd=limit)
        except spending.OverBudget as exc:
            return Admission(accepted=False, reason=str(exc))
        return Admission(accepted=True, reason="")

    # One target ------------------------------------------------------------------------------------------------

    def _launch_target(self, run: Run, target: Target, admission: Admission, estimate: Estimate) -> str:
        versioned = self._ledger.read_branch(run.run_id, target)
        branch = versioned.document
        if branch.state is State.PENDING:
            if not admission.accepted:
                rejected = branch.moved(State.REJECTED, at=self._clock(), note=admission.reason)
                self._ledger.write_branch(rejected, expect=versioned.generation)
                log.error("%s is rejected before any job: %s", run.run_id, admission.reason)
                return f"rejected: {admission.reason}"
            launching = branch.moved(State.LAUNCHING, at=self._clock(), facts=_facts(branch, estimate))
            versioned = self._ledger.write_branch(launching, expect=versioned.generation)
        if versioned.document.state is not State.LAUNCHING:
            return str(versioned.document.state)
        if self._is_too_early(versioned.document):
            return f"waits for Vertex AI until {versioned.document.retry_at}"
        return self._find_or_create_job(run, target, versioned, estimate)

    def _find_or_create_job(self, run: Run, target: Target, versioned: Versioned[Branch], estimate: Estimate) -> str:
        """One job for each run and target: Vertex AI takes no id of ours, so labels tell whether it is there."""
        branch, labels = versioned.document, job_spec.job_labels(run, target)
        try:
            jobs = self._vertex.find_custom_jobs(labels)
            if jobs:
                log.info("adopted %s", jobs[0].name, extra={"target": target})
            elif self._has_waited_enough(branch):
                return self._fail(versioned, f"given up after {branch.attempts} attempts: {branch.reason}")
            else:
                created = self._create_job(run, target, versioned, estimate)
                log.info("started %s", created.name, extra={"target": target})
                # Not `created`: an instance that was frozen after it had looked, for longer than its lease, may have
                # started another one. Whoever creates looks again, so that the later of the two sees both.
                jobs = self._vertex.find_custom_jobs(labels) or [created]
        except RejectedByGoogle as exc:
            return self._fail(versioned, f"the job could not be created: {exc}")
        for extra in jobs[1:]:
            log.warning("%s is one too many, cancelled: %s is older", extra.name, jobs[0].name)
            self._vertex.cancel_custom_job(extra.name)
        following = branch.moved(State.TRAINING, at=self._clock(), note=jobs[0].name, job=jobs[0].name)
        self._ledger.write_branch(following, expect=versioned.generation)
        return str(following.state)

    def _create_job(self, run: Run, target: Target, versioned: Versioned[Branch], estimate: Estimate) -> Job:
        live = live_model(run.dataset, target, ledger=self._ledger, models=self._models)
        document = job_spec.training_job(run, target, models_bucket=self._settings.models_bucket, live=live)
        self._write_job(training.job_name(run.run_id, target), document.to_json())
        timeout = estimate.targets[target].timeout_seconds
        try:
            return self._vertex.create_custom_job(job_spec.custom_job(run, target, self._settings, timeout=timeout))
        except ServiceUnavailable as exc:
            self._wait(versioned, exc)

    def _write_job(self, name: str, data: bytes) -> None:
        """An earlier copy stays: a run is frozen, and what was live at the first attempt is as good to compare with."""
        with contextlib.suppress(GenerationChanged):
            self._models.put(name, data, expect=ABSENT)

    def _fail(self, versioned: Versioned[Branch], note: str) -> str:
        branch = versioned.document
        # There is no job, so nothing of what was reserved for it is spent.
        spending.settle(self._ledger, branch.run_id, branch.target, seconds=0.0)
        following = branch.moved(State.FAILED, at=self._clock(), note=note)
        log.error("%s/%s: %s", branch.run_id, branch.target, note)
        self._ledger.write_branch(following, expect=versioned.generation)
        return str(following.state)

    # No quota, no capacity -------------------------------------------------------------------------------------

    def _wait(self, versioned: Versioned[Branch], exc: ServiceUnavailable) -> NoReturn:
        """Record that Vertex AI did not take the job now, and when it is asked again; always raises `exc`.

        The answer may have been lost and the job be there all the same: the next attempt looks for it first.
        """
        branch, now = versioned.document, self._clock()
        attempts = branch.attempts + 1
        # Bounded before it is raised to a power: an attempt count has no bound of its own.
        wait = FIRST_WAIT_SECONDS * 2 ** min(attempts - 2, 20) if attempts > 1 else 0.0
        retry_at = now + datetime.timedelta(seconds=min(wait, LONGEST_WAIT_SECONDS))
        waiting = branch.changed(
            attempts=attempts,
            reason=str(exc),
            waiting_since=branch.waiting_since or clocks.to_text(now),
            retry_at=clocks.to_text(retry_at),
        )
        self._ledger.write_branch(waiting, expect=versioned.generation)
        raise exc

    def _is_too_early(self, branch: Branch) -> bool:
        return bool(branch.retry_at) and self._clock() < clocks.from_text(branch.retry_at)

    def _has_waited_enough(self, branch: Branch) -> bool:
        if not branch.waiting_since:
            return False
        waited = (self._clock() - clocks.from_text(branch.waiting_since)).total_seconds()
        return waited >= self._settings.launch_limit_seconds


def _facts(branch: Branch, estimate: Estimate) -> dict[str, object]:
    """What is known of the costs: the estimate stands beside the actual cost that job_notifier adds."""
    estimated = estimate.targets[branch.target].estimated_usd
    return dict(branch.facts) if estimated is None else {**branch.facts, "estimated_usd": round(estimated, 4)}
