"""`on_new_data: supersede`: newer data calls off the training of older data, and says so.

::

    training ──► step "called off" ──► cancel the job ──► superseded
                 (recorded first)      (repeatable)

The step is recorded before the job is cancelled, so that job_notifier, which may see the cancelled job first, knows
that this was no failure. What is trained already is left alone: it waits for its rollout, and is then replaced.
"""

from __future__ import annotations

import datetime
import logging

from dualdeploy import spending
from dualdeploy.clock import Clock
from dualdeploy.errors import CannotEverSucceed, ResourceMissing, UnknownRun
from dualdeploy.ledger import CALLED_OFF, Branch, Ledger, Run, State, Versioned, dataset_of
from dualdeploy.training import TARGETS, Target
from dualdeploy.vertex import RUN_LABEL, TARGET_LABEL, Vertex

log = logging.getLogger(__name__)

#: A branch in one of these has no trained model yet.
_UNTRAINED = frozenset({State.PENDING, State.LAUNCHING, State.TRAINING})

#: A newer run whose branch is in one of these was neither refused nor given up: it takes the older one's place.
_TAKES_OVER = frozenset(State) - {State.PENDING, State.REJECTED, State.FAILED, State.SUPERSEDED, State.ROLLED_BACK}


class Superseding:
    """Calls off older runs of the same data set, or the run itself if a newer one was faster."""

    def __init__(self, *, ledger: Ledger, vertex: Vertex, lease_seconds: float, clock: Clock) -> None:
        self._ledger = ledger
        self._vertex = vertex
        self._lease_seconds = lease_seconds
        self._clock = clock

    def make_way_for(self, run: Run) -> None:
        """Call off every older run of the data set that still trains, or those targets that a newer run took over.

        The caller holds the launch lease of `run`. Raises LeaseHeld while an older run is being launched: the clock
        comes back.
        """
        for other in self._others(run):
            if _age(other) < _age(run):
                with self._ledger.lease(f"launch/{other.run_id}", seconds=self._lease_seconds):
                    for target in TARGETS:
                        self._call_off(other, target, by=run)
            else:
                for target in TARGETS:
                    if self._state_of(other, target) in _TAKES_OVER:
                        self._call_off(run, target, by=other)

    def _others(self, run: Run) -> list[Run]:
        """The other unfinished runs of the data set."""
        found = {run_id for target in TARGETS for run_id in self._ledger.active(target)}
        others = []
        for run_id in sorted(found - {run.run_id}):
            if dataset_of(run_id) != run.dataset:
                continue
            try:
                others.append(self._ledger.read_run(run_id))
            except CannotEverSucceed as exc:
                # A record that nobody can read must not stand in the way of every later run.
                log.warning("%s is passed over: %s", run_id, exc)
        return others

    def _state_of(self, run: Run, target: Target) -> State:
        try:
            return self._ledger.read_branch(run.run_id, target).document.state
        except UnknownRun:
            return State.PENDING

    def _call_off(self, run: Run, target: Target, *, by: Run) -> None:
        try:
            versioned = self._ledger.read_branch(run.run_id, target)
        except UnknownRun:
            # Never opened: it will be by the clock, and then finds the newer run.
            return
        if versioned.document.state not in _UNTRAINED:
            return
        note = f"newer data arrived while it was {versioned.document.state}: superseded by {by.run_id}"
        if versioned.document.step != CALLED_OFF:
            intent = versioned.document.changed(step=CALLED_OFF, reason=note)
            versioned = self._ledger.write_branch(intent, expect=versioned.generation)
        seconds = self._cancel_jobs(versioned)
        cost = spending.settle(self._ledger, run.run_id, target, seconds=seconds)
        branch = versioned.document
        facts = {**branch.facts, "training_seconds": seconds, **({} if cost is None else {"cost_usd": cost})}
        moved = branch.moved(State.SUPERSEDED, at=self._clock(), note=branch.reason, facts=facts)
        self._ledger.write_branch(moved, expect=versioned.generation)
        log.info("%s/%s is called off: %s", run.run_id, target, branch.reason)

    def _cancel_jobs(self, versioned: Versioned[Branch]) -> float:
        """Cancel what runs for this branch; the seconds that it ran. Cancelled jobs are charged until then."""
        branch = versioned.document
        names = [branch.job] if branch.job else []
        if branch.state is State.LAUNCHING:
            # Whoever launched it may have died between creating a job and recording its name.
            labels = {RUN_LABEL: branch.run_id, TARGET_LABEL: branch.target}
            names = [job.name for job in self._vertex.find_custom_jobs(labels)]
        return sum(self._cancel(name) for name in names)

    def _cancel(self, name: str) -> float:
        try:
            self._vertex.cancel_custom_job(name)
            job = self._vertex.get_custom_job(name)
        except ResourceMissing:
            return 0.0
        ended = job.ended or self._clock()
        return max(0.0, (ended - job.started) / datetime.timedelta(seconds=1)) if job.started else 0.0


def _age(run: Run) -> tuple[str, str]:
    """Sorts runs by the time of their claims; of two in the same millisecond, everybody sees the same order."""
    return run.created_at, run.run_id
