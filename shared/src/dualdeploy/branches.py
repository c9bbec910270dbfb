"""The resumable state machine that cloud_deployer and mobile_publisher share.

A service gives one function, `advance`: look how the world stands, do the next step, say what the branch is now, or
that it waits. `BranchWorker` does the rest: one worker at a time, every step recorded before the next, an end
announced, and everything repeatable after a death between any two lines.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from dualdeploy import clock as clocks
from dualdeploy import logs
from dualdeploy.clock import Clock
from dualdeploy.errors import CannotEverSucceed, LeaseHeld, LedgerContention, RetryLater
from dualdeploy.events import DeploymentCompleted, TrainingCompleted, encode
from dualdeploy.ledger import Branch, Ledger, Live, Release, Run, State, Versioned, dataset_of
from dualdeploy.object_store import ABSENT
from dualdeploy.outcome import Outcome, already_done, done
from dualdeploy.pubsub import Publisher
from dualdeploy.release_request import ReleaseRequest

log = logging.getLogger(__name__)

DEPLOYMENT_COMPLETED_TOPIC = "deployment-completed"

#: More steps than any branch has: a loop that does not end is a bug, and must not hold an instance for ever.
MAX_STEPS = 30

#: After so many seconds a handling takes no further step: Cloud Run ends it after 60 (infra/topology.json), its lease
#: is over after 120, and the last step has to fit too.
WORK_SECONDS = 30.0

#: Branches in these states are at work on what serves; of one data set and target there is one at a time, but for a
#: newer run that is judged while an older one's rollout goes on.
UNDER_WAY = frozenset({State.GATING, State.DEPLOYING, State.CANARY})


class Advance(Protocol):
    """Do the next step of a branch that is not final.

    Returns the branch as it is to be recorded, or None while it waits for something (an operation, another run).
    Raises CannotEverSucceed when the branch has failed, RetryLater when the same step is to be tried again.
    """

    def __call__(self, branch: Branch, run: Run) -> Branch | None: ...


class BranchWorker:
    """Brings the branches of one target to their ends."""

    def __init__(
        self,
        target: str,
        advance: Advance,
        *,
        ledger: Ledger,
        publisher: Publisher,
        lease_seconds: float,
        clock: Clock = clocks.utc_now,
        on_end: Callable[[Branch, Run], None] | None = None,
        overtakes_rollouts: bool = False,
    ) -> None:
        """`on_end` is called before an end is announced, and again if announcing it is repeated.

        `overtakes_rollouts`: whether a newer run need not wait for an older one's rollout to end. `advance` then tells
        the older one to stop (`ReleaseRequest.with_successor`) and waits for that, and heeds it.
        """
        self._on_end = on_end
        self._target = target
        self._advance = advance
        self._ledger = ledger
        self._publisher = publisher
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._overtakes_rollouts = overtakes_rollouts

    def on_training_completed(self, event: TrainingCompleted) -> Outcome:
        """Start what the message announces; whatever cannot be done now is left to the clock."""
        if event.target != self._target:
            return already_done(f"{event.target} is not ours")
        if event.outcome != "succeeded":
            return already_done(f"training of {event.run_id} {event.outcome}: nothing to bring out")
        try:
            return self.resume(event.run_id)
        except LeaseHeld as exc:
            # The branch is marked active, so the clock comes back to it.
            return already_done(f"{event.run_id} waits: {exc}")

    def on_clock(self) -> Outcome:
        """Resume every unfinished branch; one that cannot be resumed now does not keep the others."""
        outcomes, until = [], self._work_until()
        for run_id in self._in_turn(self._ledger.active(self._target)):
            if self._clock() >= until:
                outcomes.append("the others wait for the next tick")
                break
            try:
                outcomes.append(f"{run_id}: {self.resume(run_id, until=until).message}")
            except LeaseHeld:
                continue
            except RetryLater as exc:
                log.warning("%s is tried again at the next tick: %s", run_id, exc)
            except Exception:
                # An unreadable record, or a bug that one branch meets, must not stop the clock for every other run.
                log.exception("%s cannot be resumed", run_id)
        return done("; ".join(outcomes) or "nothing waits")

    def _in_turn(self, run_ids: Sequence[str]) -> Sequence[str]:
        """Another one first each minute: where time is short, none is always the last."""
        first = int(self._clock().timestamp() // 60) % max(len(run_ids), 1)
        return [*run_ids[first:], *run_ids[:first]]

    def _work_until(self) -> datetime.datetime:
        return self._clock() + datetime.timedelta(seconds=WORK_SECONDS)

    def resume(self, run_id: str, *, until: datetime.datetime | None = None) -> Outcome:
        """Take a branch as far as it goes now, and not much longer than `until`.

        Raises LeaseHeld while another instance works for the same data set.
        """
        branch = self._ledger.read_branch(run_id, self._target).document
        if not branch.was_trained:
            # The launcher and job_notifier own it until then, and a training that failed is theirs to announce.
            return already_done("has no trained model")
        with (
            logs.bind(run_id=run_id, target=self._target),
            self._ledger.lease(f"{branch.dataset}/{self._target}", seconds=self._lease_seconds),
        ):
            return self._work(self._ledger.read_branch(run_id, self._target), until or self._work_until())

    def _work(self, versioned: Versioned[Branch], until: datetime.datetime) -> Outcome:
        run = self._ledger.read_run(versioned.document.run_id)
        for _ in range(MAX_STEPS):
            branch = versioned.document
            if branch.is_final:
                return self._finish(versioned, run)
            following = self._step(branch, run)
            if following is None:
                return done(f"waits in {branch.state} {branch.step}".rstrip())
            if (following.state, following.step) != (branch.state, branch.step):
                log.info("%s %s -> %s %s", branch.state, branch.step, following.state, following.step)
            versioned = self._write(versioned, following)
            if self._clock() >= until:
                return done(f"worked for {WORK_SECONDS:.0f} s; goes on at the next tick")
        return done(f"took {MAX_STEPS} steps; goes on at the next tick")

    def _write(self, versioned: Versioned[Branch], following: Branch) -> Versioned[Branch]:
        """Record a step; a branch that changed meanwhile is read again, for the step to be decided anew."""
        try:
            return self._ledger.write_branch(following, expect=versioned.generation)
        except LedgerContention:
            if versioned.document.state is not State.TRAINED:
                raise
            # job_notifier notes that it announced the training just when its message arrives here: that is no reason
            # to have the message sent again. Later states have no other writer, there it means that a lease was lost.
            return self._ledger.read_branch(following.run_id, following.target)

    def _step(self, branch: Branch, run: Run) -> Branch | None:
        try:
            if branch.state is State.TRAINED:
                return self._admit(branch, run)
            return self._advance(branch, run)
        except CannotEverSucceed as exc:
            log.error("%s failed: %s", branch.run_id, exc)  # noqa: TRY400  # expected, and said in full
            return branch.moved(State.FAILED, at=self._clock(), note=f"{type(exc).__name__}: {exc}")

    def _admit(self, branch: Branch, run: Run) -> Branch | None:
        """Let a trained branch begin, unless a newer run is live or another one is under way."""
        live = self._ledger.read_live(branch.dataset, self._target)
        if live and not branch.forced and live.document.current.run_created_at > run.created_at:
            note = f"{live.document.current.run_id} is newer and live"
            return branch.moved(State.SUPERSEDED, at=self._clock(), note=note)
        for rival in branches_under_way(self._ledger, branch.dataset, self._target):
            if rival.run_id != branch.run_id and not self._may_overtake(rival, run):
                log.info("%s waits until %s is through", branch.run_id, rival.run_id)
                return None
        return branch.moved(State.GATING, at=self._clock())

    def _may_overtake(self, rival: Branch, run: Run) -> bool:
        if not self._overtakes_rollouts or rival.state is not State.CANARY:
            return False
        return self._ledger.read_run(rival.run_id).created_at < run.created_at

    def _finish(self, versioned: Versioned[Branch], run: Run) -> Outcome:
        """Announce the end, remember that it was announced, and let the clock forget the branch.

        In this order: a death in between repeats the message, which receivers must bear, and never loses it.
        """
        branch = versioned.document
        # Before the branch is written or read again: whoever takes it up after that makes a new mark, which stays.
        mark = self._ledger.active_mark(branch.run_id, branch.target)
        if not branch.deployment_announced:
            self._tidy(branch, run)
            self._announce(versioned)
        elif mark and self._ledger.read_branch(branch.run_id, branch.target).generation != versioned.generation:
            return already_done("was taken up again meanwhile")
        if mark:
            self._ledger.remove_mark(branch.run_id, branch.target, expect=mark)
        return done(f"is {branch.state}" + (f": {branch.reason}" if branch.reason else ""))

    def _announce(self, versioned: Versioned[Branch]) -> None:
        branch = versioned.document
        event = DeploymentCompleted(
            run_id=branch.run_id,
            dataset=branch.dataset,
            target=branch.target,
            outcome=str(branch.state),
            reason=branch.reason,
            previous=self._served_before(branch),
            links={key: value for key, value in branch.facts.items() if isinstance(value, str)},
            verdict=branch.facts.get("gate") or {},
        )
        self._publisher.publish(DEPLOYMENT_COMPLETED_TOPIC, encode(event), event.attributes)
        self._ledger.write_branch(branch.changed(deployment_announced=True), expect=versioned.generation)

    def _tidy(self, branch: Branch, run: Run) -> None:
        if self._on_end is None:
            return
        try:
            self._on_end(branch, run)
        except CannotEverSucceed as exc:
            # The branch is at its end all the same, and whoever waits for that must hear of it.
            log.error("what %s leaves behind is not as it should be: %s", branch.run_id, exc)  # noqa: TRY400

    def _served_before(self, branch: Branch) -> str:
        """The run that this release replaced; if it did not get so far, the one that serves on."""
        live = self._ledger.read_live(branch.dataset, self._target)
        if live is None:
            return ""
        replaced = live.document.previous if branch.state is State.LIVE else live.document.current
        return replaced.run_id if replaced else ""


def branch_under_way(ledger: Ledger, dataset: str, target: str) -> Branch | None:
    """A branch that is at work on what serves for `target` of `dataset`, if any."""
    return next(branches_under_way(ledger, dataset, target), None)


def branches_under_way(ledger: Ledger, dataset: str, target: str) -> Iterator[Branch]:
    """The branches that are at work on what serves: one, or a rollout and the newer run that is about to end it."""
    for run_id in ledger.active(target):
        if dataset_of(run_id) != dataset:
            continue
        try:
            branch = ledger.read_branch(run_id, target).document
        except CannotEverSucceed as exc:
            # A marker whose branch was never written (its launcher died in between), or a record that nobody can
            # read: neither is at work, and neither may stand in the way of every later run.
            log.warning("%s/%s is passed over: %s", run_id, target, exc)
            continue
        if branch.state in UNDER_WAY:
            yield branch


def record_live(
    ledger: Ledger, branch: Branch, run: Run, *, facts: Mapping[str, object], clock: Clock
) -> Release | None:
    """Make this release the live one; what it replaces becomes `previous`, its branch `superseded`
    (`rolled_back`, if that is what was asked for).

    Repeating it changes nothing. Returns the replaced release, if any.
    """
    found = ledger.read_live(branch.dataset, branch.target)
    current = found.document.current if found else None
    previous = found.document.previous if found else None
    if current is None or (current.run_id, current.release) != (branch.run_id, branch.release):
        # A redeploy of the live run replaces nothing that one could roll back to.
        if current and current.run_id != branch.run_id:
            previous = current
        release = Release(
            run_id=branch.run_id,
            run_created_at=run.created_at,
            release=branch.release,
            since=clocks.to_text(clock()),
            facts=dict(facts),
        )
        live = Live(dataset=branch.dataset, target=branch.target, current=release, previous=previous)
        ledger.write_live(live, expect=found.generation if found else ABSENT)
    if previous:
        try:
            _supersede(ledger, previous.run_id, branch, clock=clock)
        except CannotEverSucceed as exc:
            # The record of what serves is the truth, and is written; an unreadable branch is for people to mend.
            log.error("%s is not marked as replaced by %s: %s", previous.run_id, branch.run_id, exc)  # noqa: TRY400
    return previous


def _supersede(ledger: Ledger, run_id: str, by: Branch, *, clock: Clock) -> None:
    replaced = ledger.read_branch(run_id, by.target)
    if replaced.document.state is State.LIVE:
        request = ReleaseRequest.of(by)
        is_rollback = request.kind == "rollback"
        state = State.ROLLED_BACK if is_rollback else State.SUPERSEDED
        note = f"{request.describe()}; {by.run_id} serves again" if is_rollback else f"replaced by {by.run_id}"
        ledger.write_branch(replaced.document.moved(state, at=clock(), note=note), expect=replaced.generation)


def await_operation(
    branch: Branch,
    *,
    look: Callable[[str], tuple[bool, str] | None],
    start: Callable[[], str],
    there: Callable[[], bool],
    clock: Clock,
    limit_seconds: float,
    what: str,
) -> Branch | None:
    """Start a long-running operation or look at the one already started; never wait for it.

    `look(name)` tells (done, error), or None when Google no longer knows the operation. `there()` tells whether the
    operation's effect can be seen; the caller has already looked once and not seen it. Returns the branch to record,
    or None while the operation runs. Raises OperationFailed when it failed, or is older than `limit_seconds`.
    """
    if not branch.operation:
        return branch.changed(operation=start(), operation_since=clocks.to_text(clock()))
    state = look(branch.operation)
    finished, error = state if state is not None else (True, "")
    if error:
        if there():
            # This was a second start, after a death before the first one's name was recorded; that one succeeded.
            return branch.changed(operation="", operation_since="")
        raise OperationFailed(f"{what}: {error}")
    age = (clock() - clocks.from_text(branch.operation_since)).total_seconds()
    if not finished:
        if age > limit_seconds:
            raise OperationFailed(f"{what}: {branch.operation} is still running after {age:.0f} s")
        return None
    # Done without an error, and yet its effect is not to be seen: lost, or not visible yet. Again, not for ever.
    if branch.attempts >= 3:
        raise OperationFailed(f"{what}: {branch.operation} ended, but what it should have made is not there")
    return branch.changed(operation="", operation_since="", attempts=branch.attempts + 1)


class OperationFailed(CannotEverSucceed):
    """A long-running operation ended with an error, was lost, or took longer than its limit."""
