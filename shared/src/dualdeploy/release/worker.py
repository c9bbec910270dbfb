"""Takes releases along their routes: one release in one `advance`, resumable after a death between any two lines.

    training-completed ─► release 1 ─┐
    POST /redeploy, … ─► release n ──┴─► begin ─► [step ─► step ─► …] ─► end ─► give up the turn ─► announce
                                           │ configuration is read here, and nowhere later

The service gives the routes and what its steps need; the worker reads the release, takes steps until one has to wait,
and records each before the next.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar

from dualdeploy import clock as clocks
from dualdeploy import logs
from dualdeploy.contracts import dataset_config
from dualdeploy.contracts.dataset_config import DatasetConfig
from dualdeploy.contracts.events import DeploymentCompleted, TrainingCompleted, encode
from dualdeploy.errors import (
    CannotEverSucceed,
    InvalidDatasetConfig,
    LeaseHeld,
    LedgerContention,
    RetryLater,
    UnknownRun,
)
from dualdeploy.google import config_bucket
from dualdeploy.google.object_store import ObjectStore
from dualdeploy.google.pubsub import Publisher
from dualdeploy.http.ticks import Next, Ticks
from dualdeploy.ledger import (
    Holdup,
    Ledger,
    Moment,
    Release,
    Request,
    Run,
    Serving,
    State,
    UnreadableDocument,
    Versioned,
    lease,
    names,
)
from dualdeploy.ledger import Turn as Place
from dualdeploy.ledger.due import Due
from dualdeploy.outcome import Outcome, already_done
from dualdeploy.release import serving as serve
from dualdeploy.release.route import CLAIM, Again, Back, End, Forward, Route, Stay, Step, Turn, Wait

log = logging.getLogger(__name__)

DEPLOYMENT_COMPLETED_TOPIC = "deployment-completed"

#: The kind of a release's due markers: `release/<run>/<n>`.
KIND = "release"

#: More steps than any release has: a loop that does not end is a bug, and must not hold an instance forever.
MAX_STEPS = 60

#: After so many seconds one look takes no further step: Cloud Run ends a request after 60 (infra/topology.json).
WORK_SECONDS = 30.0

#: How long a step that this version does not know may be left to a newer version before the release is taken back.
UNKNOWN_STEP_SECONDS = 3600.0

#: How long a release that has a turn waits for the record of what serves to be mended, before it is taken back.
MENDING_SECONDS = 3600.0

#: How long a release waits for its data set's configuration to be mended.
CONFIGURATION_SECONDS = 24 * 3600.0

#: How long a release at least goes on trying to take itself back: until then users have what shall not serve.
BACK_SECONDS = 24 * 3600.0

AnyRelease = TypeVar("AnyRelease", bound=Release)
AnyServing = TypeVar("AnyServing", bound=Serving)


class WaitedTooLong(CannotEverSucceed):
    """What was to pass by itself did not pass within its limit."""


class Target(Protocol[AnyRelease, AnyServing]):
    """What a service knows of its releases."""

    target: str
    release_kind: type[AnyRelease]
    serving_kind: type[AnyServing]
    routes: Mapping[str, Route]
    #: Handed to every step as its second argument.
    world: Any

    def begin(self, release: AnyRelease, run: Run, config: DatasetConfig) -> AnyRelease:
        """The release with its `route` and everything that follows from the configuration."""

    def skipped(self, release: AnyRelease) -> frozenset[str]:
        """The steps of its route that this release has no need of."""

    def route_back(self, release: AnyRelease) -> str:
        """The route by which it is taken back; empty when nothing was begun that would have to be."""

    def failed(self, release: AnyRelease, step: Step | None, exc: CannotEverSucceed) -> Turn[AnyRelease]:
        """What a step that can never succeed leads to."""

    def without_document(self, release: AnyRelease, way_back: Mapping[str, Any]) -> AnyRelease:
        """A release whose document cannot be read, made anew from what its claim kept (`note_way_back`)."""

    def tidy(self, release: AnyRelease) -> None:
        """Called when a release is over, before that is announced, and perhaps again."""

    def described(self, release: AnyRelease) -> tuple[Mapping[str, str], Mapping[str, Any]]:
        """Links and verdict for the announcement."""


class ReleaseWorker(Generic[AnyRelease, AnyServing]):
    """The engine of cloud_deployer and mobile_publisher; implements `ticks.Work`."""

    def __init__(
        self,
        target: Target[AnyRelease, AnyServing],
        *,
        ledger: Ledger,
        config: ObjectStore,
        due: Due,
        publisher: Publisher,
        lease_seconds: float,
    ) -> None:
        self._of = target
        self._ledger = ledger
        self._config = config
        self._due = due
        self._publisher = publisher
        self._lease_seconds = lease_seconds

    # Where releases come from ----------------------------------------------------------------------------------

    def on_training_completed(self, event: TrainingCompleted, ticks: Ticks) -> Outcome:
        """Begin the first release of a trained run. The message may come twice, late, or never be acknowledged."""
        if event.target != self._of.target:
            return already_done(f"{event.target} is not ours")
        if event.outcome != "succeeded":
            return already_done(f"training of {event.run_id} {event.outcome}: nothing to release")
        run = self._ledger.read_run(event.run_id)
        key = key_of(run.run_id, 1)
        self._due.put(key, self._in(180))
        self._ledger.create(names.release(run.run_id, self._of.target, 1), self.new_release(run, 1, Request()))
        return ticks.now(key)

    def new_release(self, run: Run, n: int, request: Request, config: Mapping[str, Any] | None = None) -> AnyRelease:
        """A release that has not begun."""
        at = clocks.to_text(self._ledger.clock())
        return self._of.release_kind(
            run_id=run.run_id,
            dataset=run.dataset,
            target=self._of.target,
            n=n,
            run_created_at=run.created_at,
            request=request,
            config=config or {},
            state=State.WAITING,
            since=at,
            history=(Moment(at=at, state=State.WAITING, note=request.describe()),),
        )

    # Work ------------------------------------------------------------------------------------------------------

    def advance(self, what: str) -> Next:
        """See `ticks.Work`. Raises LeaseHeld while another instance is at work on the release."""
        run_id, n = _parse(what)
        name = f"release/{self._of.target}/{run_id}/{n}"
        with (
            logs.bind(run_id=run_id, target=self._of.target),
            lease(self._ledger, name, seconds=self._lease_seconds),
        ):
            try:
                return self._work(run_id, n)
            except UnreadableDocument:
                # Told, and looked at again until someone mends it: a verdict on the release it is not.
                raise
            except CannotEverSucceed as exc:
                # Not of a step, whose failures lead back: the release must come to an end all the same.
                log.exception("%s cannot go on", what)
                self.give_up(what, f"{type(exc).__name__}: {exc}")
                return Next(f"cannot go on: {exc}", self._due.soon())

    def give_up(self, what: str, why: str) -> None:
        """See `ticks.Work`."""
        run_id, n = _parse(what)
        try:
            found = self._find(run_id, n)
        except UnreadableDocument:
            self._made_anew(run_id, n, why)
            return
        if found is None or found.document.is_over:
            return
        release = found.document
        if release.going_back:
            turn: Turn[AnyRelease] = End(release, State.FAILED, f"{release.going_back}; not taken back: {why}")
        else:
            turn = self._stopped(release, why, ends=State.FAILED)
        self._apply(found, turn)
        self._due.put(what_key(what))

    def _work(self, run_id: str, n: int) -> Next:
        until = self._in(WORK_SECONDS)
        try:
            versioned = self._find(run_id, n)
        except UnreadableDocument as exc:
            return self._unreadable(run_id, n, exc)
        if versioned is None:
            versioned = self._first_release(run_id, n)
        if versioned is None:
            return Next("nothing is recorded yet", self._due.soon(), is_missing=True)
        for _ in range(MAX_STEPS):
            release = versioned.document
            if release.is_over:
                return self._finish(versioned)
            turn = self._turn(release)
            if isinstance(turn, Wait):
                return self._wait(versioned, turn)
            versioned = self._apply(versioned, turn)
            if self._ledger.clock() >= until:
                break
        return Next(f"goes on after {versioned.document.step}", self._in(0))

    def _first_release(self, run_id: str, n: int) -> Versioned[AnyRelease] | None:
        """The first release of a trained run whose message never came: job_notifier leaves a marker besides."""
        if n != 1 or not self._ledger.was_trained(run_id, self._of.target):
            return None
        run = self._ledger.read_run(run_id)
        return self._ledger.create(names.release(run_id, self._of.target, 1), self.new_release(run, 1, Request()))[0]

    def _turn(self, release: AnyRelease) -> Turn[AnyRelease]:
        """What happens next; nothing is written but what the step itself writes."""
        route = self._of.routes.get(release.route)
        step = route.find(release.step) if route else None
        try:
            if release.is_aborted and not release.going_back and not self._serves(release):
                return self._stopped(release, release.is_aborted)
            return self._take(release, route, step) if release.route else self._begin(release)
        except (LeaseHeld, LedgerContention):
            raise
        except RetryLater as exc:
            return self._later(release, exc)
        except CannotEverSucceed as exc:
            return self._refused(release, step, exc)

    def _refused(self, release: AnyRelease, step: Step | None, exc: CannotEverSucceed) -> Turn[AnyRelease]:
        """What a step leads to that can never succeed."""
        if isinstance(exc, serve.Displaced):
            return self._displaced(release, str(exc))
        if isinstance(exc, serve.Aborted):
            return self._stopped(release, str(exc))
        if isinstance(exc, UnreadableDocument) and self._is_waiting(release):
            return Wait(release, f"someone to mend it: {exc}", limit=CONFIGURATION_SECONDS, kind="document")
        if isinstance(exc, InvalidDatasetConfig) and not release.going_back:
            # What is recorded was valid when the release began: a newer version of the service wrote it.
            what = f"a version of the service that understands its configuration; /abort takes it back: {exc}"
            return Wait(release, what, limit=UNKNOWN_STEP_SECONDS, kind="version")
        log.error("%s at %s: %s", release.name, release.step or "its beginning", exc)
        return self._of.failed(release, step, exc)

    def _is_waiting(self, release: AnyRelease) -> bool:
        """Whether it has not begun, or has no turn yet: then nothing is lost by waiting."""
        return not release.route or release.step == CLAIM

    def _take(self, release: AnyRelease, route: Route | None, step: Step | None) -> Turn[AnyRelease]:
        """Take one step of the route."""
        if route is None or step is None:
            return self._unknown_step(release)
        if step.name == CLAIM:
            return self._claim(release)
        if route.is_claimed_at(step.name) and (turn := self._checked_claim(release, step)):
            return turn
        if step.take is None:
            raise RuntimeError(f"{step.name} has no function")
        return step.take(release, self._of.world)

    # Beginning -------------------------------------------------------------------------------------------------

    def _begin(self, release: AnyRelease) -> Turn[AnyRelease]:
        """Fix what this release does. From here on a changed or broken configuration is a matter of the next one."""
        serving = serve.join(self._ledger, self._of.serving_kind, release)
        if newer := serve.newer_live(serving, release):
            return End(release, State.SUPERSEDED, f"{newer} is newer and live")
        # Before anything is converted or measured for a release that is held anyway.
        if not release.request.is_of_a_person and (hold := serve.holds(serving, release.run_created_at)):
            return Wait(release, hold)
        run = self._ledger.read_run(release.run_id)
        try:
            config = config_bucket.read(self._config, release.dataset)
            raw: Mapping[str, Any] = config.model_dump(mode="json")
        except CannotEverSucceed as exc:
            if release.request.kind not in ("rollback", "retire") or not release.config:
                what = f"a configuration that can be read: {exc}"
                return Wait(release, what, limit=CONFIGURATION_SECONDS, kind="configuration")
            # The way back must not depend on what someone is just editing.
            raw = release.config
            config = dataset_config.stored(raw)
        return Forward(self._of.begin(release.changed(config=raw), run, config))

    def _claim(self, release: AnyRelease) -> Turn[AnyRelease]:
        answer = serve.ask_for_turn(self._ledger, self._of.serving_kind, release)
        if answer.superseded_by:
            return End(release, State.SUPERSEDED, f"{answer.superseded_by} is newer and live")
        if answer.waits_for:
            self._ask_to_yield(release, answer)
            self._look_at_what_is_over(answer)
            return Wait(release, answer.waits_for)
        return Forward(release)

    def _ask_to_yield(self, release: AnyRelease, answer: serve.Admission) -> None:
        """Have an older release looked at that makes way for newer data: it may not be due for a day."""
        behind = answer.behind
        if behind is None or release.request.is_of_a_person or behind.run_created_at >= release.run_created_at:
            return
        if any(step.yields for route in self._of.routes.values() for step in route.steps):
            self._due.put(key_of(behind.run_id, behind.release))

    def _look_at_what_is_over(self, answer: serve.Admission) -> None:
        """Have a release give up its turn that is over, and could not because what serves could not be read then."""
        behind = answer.behind
        if behind is None:
            return
        with contextlib.suppress(UnreadableDocument):
            found = self._find(behind.run_id, behind.release)
            if found and found.document.is_over:
                self._due.put(key_of(behind.run_id, behind.release))

    def _checked_claim(self, release: AnyRelease, step: Step) -> Turn[AnyRelease] | None:
        """None while the release has its claim; what was not claimed is not touched."""
        try:
            found = self._ledger.find_serving(self._of.serving_kind, self._of.target, release.dataset)
        except UnreadableDocument as exc:
            # No other release can claim what cannot be read: whoever goes back may, and everyone else waits.
            return None if release.going_back else Wait(release, f"someone to mend it: {exc}", limit=MENDING_SECONDS)
        turn = found.document.under_way if found else None
        if found is None or turn is None or not turn.is_of(release.run_id, release.n):
            holder = turn.name if turn else "no release"
            return self._displaced(release, f"{holder} has the claim on what serves")
        if turn.abort and not release.going_back and not serve.serves(found.document, release.run_id, release.n):
            return self._stopped(release, serve.abort_of(turn))
        if step.yields and not release.going_back and (newer := serve.newer_waiting(found.document, release)):
            return Back(release, f"replaced by {newer.run_id}", ends=State.SUPERSEDED)
        return None

    def _serves(self, release: AnyRelease) -> bool:
        found = self._ledger.find_serving(self._of.serving_kind, self._of.target, release.dataset)
        return serve.serves(found.document if found else None, release.run_id, release.n)

    def _displaced(self, release: AnyRelease, why: str) -> Turn[AnyRelease]:
        if self._serves(release):
            return End(release, State.LIVE, f"what it replaced is left to the cleanup: {why}")
        return End(release, State.SUPERSEDED, why)

    # Stopping --------------------------------------------------------------------------------------------------

    def _stopped(self, release: AnyRelease, why: str, *, ends: State = State.ROLLED_BACK) -> Turn[AnyRelease]:
        if self._of.route_back(release):
            return Back(release, why, ends)
        # Nothing was begun that users could see.
        return End(release, State.FAILED, why)

    def _unknown_step(self, release: AnyRelease) -> Turn[AnyRelease]:
        """A newer version took it there, and goes on with it; if that is gone, the release must not be stranded."""
        where = f"step {release.step!r} of route {release.route!r}"
        if release.going_back:
            # The way back looks before each step, so it may begin anew.
            return Back(release, release.going_back, _state(release.back_ends))
        what = f"a version of the service that knows {where}; /abort takes the release back"
        return Wait(release, what, limit=UNKNOWN_STEP_SECONDS, kind=f"step {release.step}")

    def _later(self, release: AnyRelease, exc: RetryLater) -> Turn[AnyRelease]:
        """Google says later: waited for, as long as that makes sense."""
        patience = max(exc.patience, BACK_SECONDS) if release.going_back else exc.patience
        return Wait(release, str(exc), limit=patience, kind=type(exc).__name__)

    def _wait(self, versioned: Versioned[AnyRelease], turn: Wait[AnyRelease]) -> Next:
        """Record what is waited for, once; give up when its limit is reached."""
        release, now = turn.release, self._ledger.clock()
        before = versioned.document.holdup
        same = before is not None and (before.kind, before.until != "") == (turn.kind, turn.limit is not None)
        since = clocks.from_text(before.since) if before and same else now
        until = since + datetime.timedelta(seconds=turn.limit) if turn.limit is not None else None
        if until and now >= until:
            return self._waited_too_long(versioned, f"waited since {clocks.to_text(since)} for {turn.what}")
        at = max(turn.at or now, self._due.soon())
        holdup = Holdup(
            what=turn.what,
            kind=turn.kind,
            since=clocks.to_text(since),
            until=clocks.to_text(until) if until else "",
        )
        waiting = release.changed(holdup=holdup, look_at=clocks.to_text(turn.at) if turn.at else "")
        if waiting != versioned.document:
            self._write(versioned, waiting)
        return Next(f"waits at {release.step or 'its beginning'} for {turn.what}", at)

    def _waited_too_long(self, versioned: Versioned[AnyRelease], why: str) -> Next:
        release = versioned.document
        route = self._of.routes.get(release.route)
        step = route.find(release.step) if route else None
        turn = self._of.failed(release, step, WaitedTooLong(why)) if step else self._stopped(release, why)
        if isinstance(turn, Wait):
            turn = self._stopped(release, why)
        self._apply(versioned, turn)
        return Next(why, self._in(0))

    # Recording -------------------------------------------------------------------------------------------------

    def _apply(self, versioned: Versioned[AnyRelease], turn: Turn[AnyRelease]) -> Versioned[AnyRelease]:
        return self._write(versioned, self._following(turn))

    def _following(self, turn: Turn[AnyRelease]) -> AnyRelease:
        release, now = turn.release, self._ledger.clock()
        if isinstance(turn, End):
            log.info("%s: %s -> %s: %s", release.name, release.step or release.state, turn.state, turn.note)
            return release.moved(turn.state, at=now, note=turn.note, step="", operation="", operation_since="")
        if isinstance(turn, Stay | Wait):
            return release.changed(holdup=None, look_at="")
        if isinstance(turn, Back):
            log.warning("%s goes back: %s", release.name, turn.why)
            back = self._of.routes[self._of.route_back(release)]
            going = release.changed(route=back.name, going_back=turn.why, back_ends=str(turn.ends))
            going = going.changed(steps=back.planned(self._of.skipped(going)))
            return self._entered(going, back.first(self._of.skipped(going)), turn.why)
        route = self._of.routes[release.route]
        if isinstance(turn, Again):
            return self._entered(release, route.loop_start(release.step), "")
        skipped = self._of.skipped(release)
        # Also in the middle of its way a release may find out that it has to go by another route.
        release = release.changed(steps=route.planned(skipped))
        step = route.after(release.step, skipped) if release.step else route.first(skipped)
        return self._entered(release, step, turn.note)

    def _entered(self, release: AnyRelease, step: Step, note: str) -> AnyRelease:
        """The release at the beginning of a step."""
        begins: dict[str, Any] = {"step": step.name, "operation": "", "operation_since": "", "failing_since": ""}
        begins |= {"attempts": 0, "holdup": None, "look_at": ""}
        log.info("%s: %s -> %s", release.name, release.step or "begins", step.name)
        # The way back keeps the state: where a release was when it failed is what people look for.
        if step.state == release.state or release.going_back:
            return release.changed(**begins)
        return release.moved(step.state, at=self._ledger.clock(), note=note, **begins)

    def _write(self, versioned: Versioned[AnyRelease], release: AnyRelease) -> Versioned[AnyRelease]:
        name = names.release(release.run_id, release.target, release.n)
        return self._ledger.write(name, release, expect=versioned.generation)

    def _find(self, run_id: str, n: int) -> Versioned[AnyRelease] | None:
        return self._ledger.find_release(self._of.release_kind, run_id, self._of.target, n)

    # Ending ----------------------------------------------------------------------------------------------------

    def _finish(self, versioned: Versioned[AnyRelease]) -> Next:
        """Let others begin, tidy, announce; each may be repeated after a death."""
        release = versioned.document
        try:
            serving = serve.give_up_turn(self._ledger, self._of.serving_kind, release)
        except UnreadableDocument as exc:
            log.error("%s keeps its turn until someone mends it: %s", release.name, exc)  # noqa: TRY400
            serving = None
        for turn in serving.waiting if serving and not serving.under_way else ():
            self._due.put(key_of(turn.run_id, turn.release))
        if not release.announced:
            self._tidy(release)
            self._announce(versioned, serving)
        return Next(f"is {release.state}" + (f": {release.reason}" if release.reason else ""))

    def _tidy(self, release: AnyRelease) -> None:
        try:
            self._of.tidy(release)
        except CannotEverSucceed as exc:
            # The release is at its end all the same, and whoever waits for that must hear of it.
            log.error("what %s leaves behind is not as it should be: %s", release.name, exc)  # noqa: TRY400

    def _announce(self, versioned: Versioned[AnyRelease], serving: AnyServing | None) -> None:
        """Publish, then remember that it was published: a death in between repeats the message, never loses it."""
        release = versioned.document
        links, verdict = self._of.described(release)
        event = DeploymentCompleted(
            run_id=release.run_id,
            dataset=release.dataset,
            target=release.target,
            outcome=str(release.state),
            reason=release.reason,
            previous=_served_before(release, serving),
            links=links,
            verdict=verdict,
        )
        self._publisher.publish(DEPLOYMENT_COMPLETED_TOPIC, encode(event), event.attributes)
        self._write(versioned, release.changed(announced=True))

    # Documents that cannot be read -----------------------------------------------------------------------------

    def _unreadable(self, run_id: str, n: int, exc: UnreadableDocument) -> Next:
        """Refused by name. It must not keep its place: after ten looks, or an abort, it is taken back without it."""
        log.error("%s", exc)
        turn = self._place(run_id, n)
        if turn is None:
            # It has not begun, or is over: it stands in no one's way, so it is left to whoever mends it.
            raise exc
        if turn.abort:
            self._made_anew(run_id, n, f"aborted; {exc}")
            return Next("is taken back without its document", self._in(0))
        return Next(str(exc), self._due.soon(), failed=True)

    def _made_anew(self, run_id: str, n: int, why: str) -> None:
        """Replace a document that cannot be read by one that goes back with what the claim kept.

        Of one that only waits nothing is to be seen: it ends. One that someone has mended meanwhile stays as it is.
        """
        dataset = names.dataset_of(run_id)
        turn = self._place(run_id, n)
        if turn is None:
            return
        name = names.release(run_id, self._of.target, n)
        stored = self._ledger.store.read(name)
        with contextlib.suppress(UnreadableDocument):
            # Looked at after its generation is known: whoever mends it later makes the write below fail.
            self._find(run_id, n)
            return
        at = clocks.to_text(self._ledger.clock())
        release = self._of.release_kind(
            run_id=run_id,
            dataset=dataset,
            target=self._of.target,
            n=n,
            run_created_at=turn.run_created_at,
            state=State.DEPLOYING,
            since=at,
            history=(Moment(at=at, state=State.DEPLOYING, note="its document could not be read and was made anew"),),
        )
        release = self._of.without_document(release, turn.way_back)
        following = self._following(self._stopped(release, why, ends=State.FAILED))
        self._ledger.write(name, following, expect=stored.generation)
        self._due.put(key_of(run_id, n))

    def _place(self, run_id: str, n: int) -> Place | None:
        found = self._ledger.find_serving(self._of.serving_kind, self._of.target, names.dataset_of(run_id))
        return serve.turn_in(found.document if found else None, run_id, n)

    def _in(self, seconds: float) -> datetime.datetime:
        return self._ledger.clock() + datetime.timedelta(seconds=seconds)


def key_of(run_id: str, n: int) -> str:
    """The key of a release's due markers."""
    return f"{KIND}/{run_id}/{n}"


def what_key(what: str) -> str:
    return f"{KIND}/{what}"


def _parse(what: str) -> tuple[str, int]:
    run_id, _, n = what.partition("/")
    if not names.dataset_of(run_id) or not n.isdigit():
        raise UnknownRun(f"{what!r} does not name a release: one looks like flowers-0123456789ab/1")
    return run_id, int(n)


def _state(text: str) -> State:
    return State(text) if text in set(State) else State.ROLLED_BACK


def _served_before(release: Release, serving: Serving | None) -> str:
    """The run that this release replaced; if it did not get so far, the one that serves on."""
    if serving is None:
        return ""
    replaced = serving.previous if release.state == State.LIVE else serving.current
    return replaced.run_id if replaced else ""
