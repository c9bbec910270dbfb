"""From a claimed run to its two trainings and their ends, resumable at any line; the kind of due work `launch/<run>`.

    validate ─► reserve its cost ─► each target: find the labelled job, or create it ─► call off what it supersedes
        └ rejected    └ rejected         └ no quota, no capacity: asked again later (`placing` says as what)
                                         ◄── Vertex AI could not place the job ◄── ended ◄─┘ job_notifier says so

What a job needs first is made in between, where there is such a thing (`methods`): a data set at AutoML.
One instance at a time works on a run (a lease); what keeps a second job from being started are the labels, and what an
instance writes that was frozen meanwhile fails by its generation.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging

from dualdeploy import clock as clocks
from dualdeploy import logs
from dualdeploy.contracts import dataset_config, prices
from dualdeploy.contracts.training import TARGETS
from dualdeploy.errors import LeaseHeld, LedgerContention, NoCapacity, RejectedByGoogle, RetryLater, UnusableResult
from dualdeploy.google.automl import is_pipeline
from dualdeploy.google.object_store import ObjectStore
from dualdeploy.google.vertex import Job
from dualdeploy.http.ticks import Next
from dualdeploy.ledger import (
    Ended,
    Holdup,
    Launch,
    Ledger,
    Moment,
    Placement,
    Run,
    State,
    UnreadableDocument,
    Versioned,
    lease,
    names,
    spending,
)
from dualdeploy.ledger.due import Due
from dualdeploy.ledger.spending import Estimate
from training_launcher import budget, placing
from training_launcher.admission import Admission, examine
from training_launcher.data_sets import DataSets
from training_launcher.managed_data import Unprepared
from training_launcher.methods import Methods
from training_launcher.settings import LauncherSettings
from training_launcher.superseding import Superseding

log = logging.getLogger(__name__)

#: The service and the kind of due work that look at a job until it ends.
NOTIFIER, JOB = "job_notifier", "job"

#: After a refusal for lack of quota or capacity the next tick tries again, later ones wait 1, 2, 4, … minutes.
FIRST_WAIT_SECONDS = 60.0
LONGEST_WAIT_SECONDS = 1800.0

#: With less time left, a job whose machines were taken away is not asked for again; a job that had its machines for
#: less than that counts as one that Vertex AI could not place.
LEAST_SECONDS = 60.0

#: Kind of the wait for what a job needs: it ends by itself, well or not.
PREPARING = "Preparing"

#: When a creation that was answered by nothing is looked for once more.
UNANSWERED_SECONDS = 120.0


@dataclasses.dataclass(frozen=True)
class _Target:
    """One target of a run at work: its document as it was read, and what the run is allowed."""

    run: Run
    launch: Versioned[Launch]
    estimate: Estimate

    @property
    def document(self) -> Launch:
        return self.launch.document

    @property
    def placement(self) -> Placement:
        return placing.placement(self.run, self.document, self.estimate)

    @property
    def seconds_left(self) -> float:
        """Of the timeout, without what earlier jobs used: what a run may cost holds for all of them together."""
        return self.estimate.targets[self.document.target].timeout_seconds - self.document.spent_seconds


class Launching:
    """Everything between the claim of a run and the ends of its trainings; implements `ticks.Work`."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        data: ObjectStore,
        methods: Methods,
        due: Due,
        data_sets: DataSets,
        superseding: Superseding,
        settings: LauncherSettings,
    ) -> None:
        self._ledger = ledger
        self._data = data
        self._methods = methods
        self._due = due
        self._data_sets = data_sets
        self._superseding = superseding
        self._settings = settings

    def advance(self, what: str) -> Next:
        """`what` is the id of a run."""
        with logs.bind(run_id=what):
            found = self._ledger.find(names.run(what), Run)
            if found is None:
                # Whoever set the marker died before the claim; the event that led to it comes again.
                return Next(f"{what} was never claimed", self._due.soon(), is_missing=True)
            with lease(self._ledger, f"launch/{what}", seconds=self._settings.lease_seconds):
                return self._look(found.document)

    def give_up(self, what: str, why: str) -> None:
        """End what has no job; a training that has one ends with it."""
        run = self._ledger.read_run(what)
        for target in TARGETS:
            launch = self._opened(run, target)
            if launch.document.state == State.LAUNCHING:
                # Its process may have died each time between creating a job and recording its name.
                jobs = self._methods.of(run).jobs
                for job in jobs.present(run, launch.document):
                    jobs.cancel(job.name)
            if launch.document.state in (State.PENDING, State.LAUNCHING):
                self._end(launch, State.FAILED, why)
        if self._is_over(run):
            self._over(run)

    # A look at a run -------------------------------------------------------------------------------------------

    def _look(self, run: Run) -> Next:
        launches, unreadable = self._open(run)
        if all(each.document.is_over for each in launches):
            for each in launches:
                self._after_the_end(run, each)
            message, times = "its trainings are over", list[datetime.datetime]()
        else:
            message, times = self._go_on(run, launches)
        if unreadable and not times:
            raise unreadable[0]
        if not unreadable and self._is_over(run):
            self._over(run)
        return Next(message, min(times) if times else None)

    def _open(self, run: Run) -> tuple[list[Versioned[Launch]], list[UnreadableDocument]]:
        """The trainings of the run, begun if they were not yet; one that cannot be read keeps no other."""
        launches, unreadable = [], []
        for target in TARGETS:
            try:
                launches.append(self._opened(run, target))
            except UnreadableDocument as exc:
                unreadable.append(exc)
        return launches, unreadable

    def _go_on(self, run: Run, launches: list[Versioned[Launch]]) -> tuple[str, list[datetime.datetime]]:
        """What came of each target, and when to look again; never, if nothing is to be done before a job ends."""
        pending = [each for each in launches if each.document.state == State.PENDING]
        if pending and not self._admit(run, pending):
            return "rejected", []
        estimate = self._estimate(run)
        said: list[str] = []
        times: list[datetime.datetime] = []
        for each in launches:
            target = each.document.target
            try:
                message, at = self._advance_target(run, target, estimate)
            except LeaseHeld:
                raise
            except RetryLater as exc:
                # The other target may be luckier; another instance may have gone on with this one.
                log.warning("%s/%s is looked at again: %s", run.run_id, target, exc)
                message, at = f"later: {exc}", self._due.soon()
            said.append(f"{target} {message}")
            times += [at] if at else []
        return "; ".join(said), times

    def _is_over(self, run: Run) -> bool:
        return all(self._ledger.read_launch(run.run_id, target).document.is_over for target in TARGETS)

    def _over(self, run: Run) -> None:
        """Nothing of the run is trained any more."""
        self._methods.of(run).needs.over(run)
        self._data_sets.over(run)

    def _opened(self, run: Run, target: str) -> Versioned[Launch]:
        """The training of one target, begun if it was not yet."""
        name = names.launch(run.run_id, target)
        found = self._ledger.find(name, Launch)
        if found:
            return found
        self._data_sets.begun(run)
        at = clocks.to_text(self._ledger.clock())
        fresh = Launch(
            run_id=run.run_id,
            dataset=run.dataset,
            target=target,
            state=State.PENDING,
            since=at,
            history=(Moment(at=at, state=State.PENDING, note=run.reason),),
        )
        return self._ledger.create(name, fresh)[0]

    # Admission -------------------------------------------------------------------------------------------------

    def _admit(self, run: Run, pending: list[Versioned[Launch]]) -> bool:
        """Validate and reserve, and say of each pending target what came of it; whether the run may cost anything."""
        try:
            earlier = self._data_sets.earlier(run)
            admission = examine(run, ledger=self._ledger, data=self._data, clock=self._ledger.clock, earlier=earlier)
            if admission.accepted and (refusal := self._methods.of(run).needs.refusal(run, admission.found)):
                admission = Admission(accepted=False, reason=refusal)
            if admission.accepted:
                estimate = self._estimate(run, pictures=admission.pictures)
                admission = self._within_budget(run, estimate)
        except RetryLater as exc:
            self._say(pending, exc)
            raise
        if not admission.accepted:
            log.error("%s is rejected before any job: %s", run.run_id, admission.reason)
            for each in pending:
                self._end(each, State.REJECTED, admission.reason)
            return False
        for each in pending:
            expected = estimate.targets[each.document.target].estimated_usd
            usd = None if expected is None else round(expected, 4)
            self._move(each, State.LAUNCHING, estimated_usd=usd)
        return True

    def _say(self, pending: list[Versioned[Launch]], exc: RetryLater) -> None:
        """Tell people what is waited for before a verdict; for how long, the examination knows."""
        kind = type(exc).__name__
        for each in pending:
            held = each.document.holdup
            since = held.since if held and held.kind == kind else clocks.to_text(self._ledger.clock())
            self._write(each, each.document.changed(holdup=Holdup(what=str(exc), kind=kind, since=since)))

    def _estimate(self, run: Run, *, pictures: int = 0) -> Estimate:
        """The recorded estimate of a run, or a new one: prices and the month are those of its first launch."""
        recorded = spending.read_estimate(self._ledger, run.run_id)
        if recorded:
            return recorded
        region, now = self._settings.region, self._ledger.clock()
        estimate = budget.estimate(run, region=region, prices=prices.table(), now=now, pictures=pictures)
        for target, each in estimate.targets.items():
            if each.most_usd is None:
                log.warning("the cost of %s/%s is not counted: %s", run.run_id, target, each.price)
        return spending.record_estimate(self._ledger, estimate)

    def _within_budget(self, run: Run, estimate: Estimate) -> Admission:
        if estimate.refusal:
            return Admission(accepted=False, reason=estimate.refusal)
        limit = dataset_config.stored(run.config).budget.max_usd_per_month
        try:
            spending.reserve(self._ledger, estimate, limit_usd=limit)
        except spending.OverBudget as exc:
            return Admission(accepted=False, reason=str(exc))
        return Admission(accepted=True, reason="")

    # One target ------------------------------------------------------------------------------------------------

    def _advance_target(self, run: Run, target: str, estimate: Estimate) -> tuple[str, datetime.datetime | None]:
        """What came of it, and when to look again; None for when its job ends, or never."""
        each = _Target(run, self._ledger.read_launch(run.run_id, target), estimate)
        if each.document.is_over:
            self._after_the_end(run, each.launch)
            return str(each.document.state), None
        if each.document.state == State.LAUNCHING:
            return self._launch(each)
        if each.document.state == State.TRAINING:
            return self._training(each)
        return f"is {each.document.state}, which a newer version knows", self._in(3600)

    def _launch(self, each: _Target) -> tuple[str, datetime.datetime | None]:
        launch, now = each.document, self._ledger.clock()
        if not launch.called_off:
            newer = self._superseding.newer_that_trains(each.run, launch.target)
            if newer:
                each = dataclasses.replace(each, launch=self._superseding.note(each.launch, by=newer))
                launch = each.document
        if not launch.called_off and launch.retry_at and now < clocks.from_text(launch.retry_at):
            return f"waits for Vertex AI until {launch.retry_at}", clocks.from_text(launch.retry_at)
        try:
            if launch.called_off:
                return self._call_off_unnamed(each)
            held = launch.holdup
            is_over = held is not None and bool(held.until) and now >= clocks.from_text(held.until)
            if held and is_over and not self._methods.of(each.run).jobs.present(each.run, launch):
                return self._end(each.launch, State.FAILED, self._given_up(launch, held)), None
            asked = self._ask(each)
        except (RejectedByGoogle, Unprepared, UnusableResult) as exc:
            why = f"the job could not be created: {exc}" if isinstance(exc, RejectedByGoogle) else str(exc)
            return self._end(each.launch, State.FAILED, why), None
        except LedgerContention:
            raise
        except RetryLater as exc:
            return self._wait(each, exc)
        return self._prepares(each, asked) if isinstance(asked, str) else self._accepted(each, asked)

    def _ask(self, each: _Target) -> Job | str:
        """The job, or what has to be there before it can be asked for."""
        method = self._methods.of(each.run)
        if needed := method.needs.waits_for(each.run, each.estimate):
            return needed
        return method.jobs.find_or_create(each.run, each.document, placement=each.placement, timeout=each.seconds_left)

    def _prepares(self, each: _Target, needed: str) -> tuple[str, datetime.datetime | None]:
        """What the job needs is being made: people are told, and it is looked at again at the next tick."""
        launch = each.document
        if launch.holdup is None or (launch.holdup.kind, launch.holdup.what) != (PREPARING, needed):
            since = launch.holdup.since if launch.holdup and launch.holdup.kind == PREPARING else self._now()
            held = Holdup(what=needed, kind=PREPARING, since=since)
            self._write(each.launch, launch.changed(holdup=held, retry_at=""))
        return f"is prepared: {needed}", self._due.soon()

    def _accepted(self, each: _Target, job: Job) -> tuple[str, datetime.datetime | None]:
        attempt = each.document.attempt + 1
        placement = placing.placement_of(job, each.run, each.document, each.estimate)
        until = placing.queued_until(
            each.run,
            each.document,
            placement,
            now=self._ledger.clock(),
            limit=self._settings.launch_limit_seconds,
        )
        training = self._move(
            each.launch,
            State.TRAINING,
            note=f"{job.name}, {placement.describe()}",
            job=job.name,
            attempt=attempt,
            placement=placement,
            # Google chooses what a pipeline trains on: there is no other way of asking that could have its turn.
            queued_until="" if is_pipeline(job.name) else clocks.to_text(until),
        )
        return self._training(dataclasses.replace(each, launch=training))

    def _training(self, each: _Target) -> tuple[str, datetime.datetime | None]:
        """Vertex AI has the job: job_notifier looks at it, what is older makes way, and its end is taken note of."""
        launch, jobs = each.document, self._methods.of(each.run).jobs
        ended = self._ledger.find_ended(launch.run_id, launch.target, launch.attempt)
        if ended:
            return self._settle(each, ended.document)
        self._due.put(self._job_key(launch, launch.attempt), service=NOTIFIER)
        if launch.called_off:
            jobs.cancel(launch.job)
            return "is called off", None
        if launch.passed_over:
            jobs.cancel(launch.job)
            return "is given up for another machine", None
        self._superseding.call_off_older(each.run, launch.target)
        if launch.unanswered:
            at = clocks.from_text(launch.since) + datetime.timedelta(seconds=UNANSWERED_SECONDS)
            if self._ledger.clock() < at:
                return "training", at
            each = self._look_for_unanswered(each)
        return self._look_for_queued(each)

    def _look_for_unanswered(self, each: _Target) -> _Target:
        """A creation ended without an answer: what came of it after all is looked for once its time is over."""
        self._methods.of(each.run).jobs.call_off_others(each.run, each.document)
        return dataclasses.replace(each, launch=self._write(each.launch, each.document.changed(unanswered=False)))

    def _look_for_queued(self, each: _Target) -> tuple[str, datetime.datetime | None]:
        """A job that Vertex AI took and still has no machine for makes way for the next way of asking.

        job_notifier, which looks at the job each minute, asks for this look.
        """
        launch, jobs = each.document, self._methods.of(each.run).jobs
        if not launch.has_waited(self._ledger.clock()) or not jobs.is_queued(launch.job):
            return "training", None
        reason = f"Vertex AI had no {each.placement.describe()} for {launch.job} since {launch.since}"
        self._write(each.launch, launch.changed(passed_over=reason))
        jobs.cancel(launch.job)
        return f"is given up for another machine: {reason}", None

    # Ends ------------------------------------------------------------------------------------------------------

    def _settle(self, each: _Target, ended: Ended) -> tuple[str, datetime.datetime | None]:
        """Take note of how the present attempt ended."""
        launch = each.document
        if ended.outcome == "succeeded":
            # What is trained already is left alone: it waits for its release, and is then replaced.
            return self._end(each.launch, State.TRAINED, ended.reason), None
        if ended.outcome == "no_capacity":
            return self._ask_again(each, ended)
        if launch.called_off:
            return self._end(each.launch, State.SUPERSEDED, launch.called_off), None
        return self._end(each.launch, State.FAILED, ended.reason), None

    def _ask_again(self, each: _Target, ended: Ended) -> tuple[str, datetime.datetime | None]:
        """Vertex AI took the job and could not place it, or took its machines away: another one is asked for."""
        launch, now = each.document, self._ledger.clock()
        since = launch.no_capacity_since or launch.since
        if ended.seconds >= LEAST_SECONDS:
            # It had its machines: the wait for others begins now, and what was learned is in its checkpoint.
            since = clocks.to_text(now)
            launch = launch.changed(asked=0, placement=each.placement.changed(since=since))
        until = clocks.from_text(since) + datetime.timedelta(seconds=self._settings.launch_limit_seconds)
        holdup = Holdup(what=ended.reason, kind="NoCapacity", since=since, until=clocks.to_text(until))
        after = _with_spent(launch, ended).changed(job="", asked=launch.asked + 1, passed_over="")
        each = dataclasses.replace(each, launch=dataclasses.replace(each.launch, document=after))
        if launch.called_off:
            return self._end(each.launch, State.SUPERSEDED, launch.called_off), None
        if now >= until:
            return self._end(each.launch, State.FAILED, self._given_up(after, holdup)), None
        if each.seconds_left < LEAST_SECONDS:
            used = f"after {after.spent_seconds:.0f} s nothing is left of its timeout to go on with"
            return self._end(each.launch, State.FAILED, f"{used}: {ended.reason}"), None
        placement, retry_at = self._next_attempt(each)
        self._move(
            each.launch,
            State.LAUNCHING,
            note=ended.reason,
            holdup=holdup,
            placement=placement,
            retry_at=clocks.to_text(retry_at),
            no_capacity_since=since,
        )
        return f"waits for capacity until {clocks.to_text(retry_at)}", retry_at

    def _next_attempt(self, each: _Target) -> tuple[Placement, datetime.datetime]:
        """How the machines are asked for next, and when: at once where it is another way, then ever more seldom, and
        once more when the turn of this way ends."""
        following = placing.following(each.run, each.document, each.estimate, now=self._ledger.clock())
        if following.since != each.placement.since:
            return following, self._in(FIRST_WAIT_SECONDS)
        asked_for = (self._ledger.clock() - clocks.from_text(following.since)).total_seconds()
        wait = min(max(asked_for, FIRST_WAIT_SECONDS), LONGEST_WAIT_SECONDS)
        return following, min(self._in(wait), max(placing.turn_ends(following), self._in(FIRST_WAIT_SECONDS)))

    def _call_off_unnamed(self, each: _Target) -> tuple[str, datetime.datetime | None]:
        """Whoever launched it may have died between creating a job and recording its name: then it ends by that job."""
        jobs = self._methods.of(each.run).jobs.present(each.run, each.document)
        if jobs:
            return self._accepted(each, jobs[0])
        return self._end(each.launch, State.SUPERSEDED, each.document.called_off), None

    def _end(self, launch: Versioned[Launch], state: State, note: str, **changes: object) -> str:
        """Record an end, then do what follows from it: a death in between is made up for by the next look."""
        written = self._move(launch, state, note=note, **changes)
        if state is State.FAILED:
            log.error("%s/%s: %s", written.document.run_id, written.document.target, note)
        self._after_the_end(self._ledger.read_run(written.document.run_id), written)
        return f"{state}: {note}" if note else str(state)

    def _after_the_end(self, run: Run, launch: Versioned[Launch]) -> None:
        """Settle what it cost, leave no job behind, and have its end announced; repeating it changes nothing."""
        document = launch.document
        last = document.attempt if document.job else document.attempt + 1
        ended = self._ledger.find_ended(document.run_id, document.target, last)
        # What the jobs of all attempts cost takes the place of what was reserved.
        spent = _with_spent(document, ended.document) if ended and document.job else document
        spending.settle(
            self._ledger, document.run_id, document.target, seconds=spent.spent_seconds, usd=spent.spent_usd
        )
        if ended is None or not ended.document.announced:
            self._due.put(self._job_key(document, last), service=NOTIFIER)
        # Last: whether Vertex AI answers or not, the end is told.
        if document.job or document.unanswered:
            self._methods.of(run).jobs.call_off_others(run, document)

    # What passes by itself -------------------------------------------------------------------------------------

    def _wait(self, each: _Target, exc: RetryLater) -> tuple[str, datetime.datetime | None]:
        """Record that Vertex AI did not take the job now, and when it is asked again, and as what.

        The answer may have been lost and the job be there all the same: the next attempt looks for it first.
        """
        document, kind, now = each.document, type(exc).__name__, clocks.to_text(self._ledger.clock())
        asked = document.asked + 1
        held = document.holdup if document.holdup and document.holdup.kind == kind else None
        if held and held.until and now >= held.until:
            # Vertex AI does not even say whether there is a job.
            return self._end(each.launch, State.FAILED, self._given_up(document, held)), None
        since = held.since if held else now
        changes: dict[str, object] = {}
        retry_at = self._retry_at(asked)
        if isinstance(exc, NoCapacity):
            since = document.no_capacity_since or since
            placement, retry_at = self._next_attempt(each)
            changes = {"no_capacity_since": since, "placement": placement}
        seconds = min(exc.patience, self._settings.launch_limit_seconds)
        until = clocks.from_text(since) + datetime.timedelta(seconds=seconds)
        # Asked once more just before it is given up, however seldom it is asked by then.
        last = max(until, self._in(2 * FIRST_WAIT_SECONDS)) - datetime.timedelta(seconds=FIRST_WAIT_SECONDS)
        retry_at = min(retry_at, last)
        waiting = document.changed(
            asked=asked,
            unanswered=document.unanswered or kind == "ServiceUnavailable",
            holdup=Holdup(what=str(exc), kind=kind, since=since, until=clocks.to_text(until)),
            retry_at=clocks.to_text(retry_at),
            **changes,
        )
        self._write(each.launch, waiting)
        log.warning("%s/%s waits: %s", document.run_id, document.target, exc)
        return f"waits for Vertex AI until {waiting.retry_at}: {exc}", retry_at

    def _retry_at(self, asked: int) -> datetime.datetime:
        # Bounded before it is raised to a power: a count has no bound of its own.
        wait = FIRST_WAIT_SECONDS * 2 ** min(max(asked - 2, 0), 20)
        return self._in(min(wait, LONGEST_WAIT_SECONDS))

    def _given_up(self, launch: Launch, holdup: Holdup) -> str:
        attempts = "1 attempt" if launch.asked == 1 else f"{launch.asked} attempts"
        return f"given up after {attempts} since {holdup.since}: {holdup.what}"

    # Writing ---------------------------------------------------------------------------------------------------

    def _move(self, launch: Versioned[Launch], state: State, *, note: str = "", **changes: object) -> Versioned[Launch]:
        return self._write(launch, launch.document.moved(state, at=self._ledger.clock(), note=note, **changes))

    def _write(self, launch: Versioned[Launch], following: Launch) -> Versioned[Launch]:
        name = names.launch(following.run_id, following.target)
        return self._ledger.write(name, following, expect=launch.generation)

    def _job_key(self, launch: Launch, attempt: int) -> str:
        return f"{JOB}/{launch.run_id}/{launch.target}/{attempt}"

    def _now(self) -> str:
        return clocks.to_text(self._ledger.clock())

    def _in(self, seconds: float) -> datetime.datetime:
        return self._ledger.clock() + datetime.timedelta(seconds=seconds)


def _with_spent(launch: Launch, ended: Ended) -> Launch:
    """With what the job that ended took besides; what it cost is not known when a part of it is not."""
    usd = None if launch.spent_usd is None or ended.cost_usd is None else launch.spent_usd + ended.cost_usd
    return launch.changed(spent_seconds=launch.spent_seconds + ended.seconds, spent_usd=usd)
