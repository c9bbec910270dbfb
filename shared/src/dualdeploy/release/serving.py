"""Who may change what serves: decisions about the one object that says what serves, what is under way and who waits.

    waiting ─► under way ─► live
       │           └─► taken back, failed: what served before serves on
       └─► superseded: something newer serves

Every decision is a pure function of that object, written by compare-and-swap: whoever decided on an older state of it
decides anew. So two releases are never under way at once, in whatever order ticks come and instances freeze.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections.abc import Callable
from typing import TypeVar

from dualdeploy import clock as clocks
from dualdeploy.errors import CannotEverSucceed, LedgerContention
from dualdeploy.ledger import Asked, Ledger, Release, Served, Serving, State, Turn, names
from dualdeploy.ledger.documents import sentence

log = logging.getLogger(__name__)

AnyServing = TypeVar("AnyServing", bound=Serving)


class Displaced(CannotEverSucceed):
    """Another release has claimed what serves since: this one changes nothing any more."""


class Aborted(CannotEverSucceed):
    """Someone aborted the release before it served."""


class ServesAlready(CannotEverSucceed):
    """The release cannot be aborted any more: it serves."""


@dataclasses.dataclass(frozen=True)
class Admission:
    """What came of asking for a turn: admitted, or why not yet (`waits_for`), or why never (`superseded_by`).

    `behind` is the release that has the turn.
    """

    waits_for: str = ""
    behind: Turn | None = None
    superseded_by: str = ""

    @property
    def is_admitted(self) -> bool:
        return not self.waits_for and not self.superseded_by


def turn_of(release: Release, *, at: datetime.datetime) -> Turn:
    return Turn(
        run_id=release.run_id,
        release=release.n,
        run_created_at=release.run_created_at,
        since=clocks.to_text(at),
        kind=release.request.kind,
    )


def admission(serving: Serving, release: Release) -> Admission:
    """Whether the release may begin to change what serves."""
    mine = serving.under_way is not None and serving.under_way.is_of(release.run_id, release.n)
    if mine:
        return Admission()
    if newer := newer_live(serving, release):
        return Admission(superseded_by=newer)
    return Admission(waits_for=_in_the_way(serving, release), behind=serving.under_way)


def _in_the_way(serving: Serving, release: Release) -> str:
    if not release.request.is_of_a_person and (hold := holds(serving, release.run_created_at)):
        return hold
    if serving.removing:
        return f"the cleanup, which removes {serving.removing}"
    if serving.under_way:
        return f"{serving.under_way.name}, under way since {serving.under_way.since}"
    if not release.request.is_of_a_person and (ahead := newer_waiting(serving, release)):
        return f"{ahead.name}, which is newer"
    return ""


def turn_in(serving: Serving | None, run_id: str, n: int) -> Turn | None:
    """The place of a release among what is under way or waits; None when it has none."""
    if serving is None:
        return None
    known = [*([serving.under_way] if serving.under_way else []), *serving.waiting]
    return next((turn for turn in known if turn.is_of(run_id, n)), None)


def newer_live(serving: Serving, release: Release) -> str:
    """The run that serves, if it is newer and the release was not forced; else empty."""
    current = serving.current
    if current is None or release.forced or current.run_created_at <= release.run_created_at:
        return ""
    return current.run_id


def newer_waiting(serving: Serving, release: Release) -> Turn | None:
    """The newest release of a training that waits for nothing but its turn and is newer than this one."""
    newer = [
        turn
        for turn in serving.waiting
        if turn.ready and turn.kind == "training" and turn.run_created_at > release.run_created_at
    ]
    return max(newer, key=lambda turn: turn.run_created_at, default=None)


def serves(serving: Serving | None, run_id: str, n: int) -> bool:
    """Whether this release is what serves. From that moment on it is taken back by a rollback, and not by an abort."""
    current = serving.current if serving else None
    return current is not None and (current.run_id, current.release) == (run_id, n)


def holds(serving: Serving, run_created_at: str) -> str:
    """Why a release of a training is kept away, empty when it is not: a hold ends with data claimed after it."""
    hold = serving.hold
    if hold is None or run_created_at > hold.at:
        return ""
    by = f" by {hold.by}" if hold.by else ""
    why = f" ({hold.reason})" if hold.reason else ""
    return f"/resume, or newer data: held{by} since {hold.at}{why}"


def join(ledger: Ledger, kind: type[AnyServing], release: Release) -> AnyServing:
    """Let the release stand among those that wait, where people and an abort find it. Returns what is there then."""

    def decide(present: AnyServing | None) -> AnyServing:
        serving = present or kind(dataset=release.dataset, target=release.target)
        known = [*serving.waiting, *([serving.under_way] if serving.under_way else [])]
        if any(turn.is_of(release.run_id, release.n) for turn in known):
            return serving
        return serving.changed(waiting=(*serving.waiting, turn_of(release, at=ledger.clock())))

    written = ledger.update(names.serving(release.target, release.dataset), kind, decide)
    return written or kind(dataset=release.dataset, target=release.target)


def ask_for_turn(ledger: Ledger, kind: type[AnyServing], release: Release) -> Admission:
    """Claim what serves for the release, or join those that wait."""
    answer = Admission()

    def decide(present: AnyServing | None) -> AnyServing:
        nonlocal answer
        serving = present or kind(dataset=release.dataset, target=release.target)
        answer = admission(serving, release)
        others = tuple(turn for turn in serving.waiting if not turn.is_of(release.run_id, release.n))
        if answer.superseded_by:
            return serving.changed(waiting=others)
        if not answer.is_admitted:
            known = next((turn for turn in serving.waiting if turn.is_of(release.run_id, release.n)), None)
            waits = (known or turn_of(release, at=ledger.clock())).changed(ready=True)
            return serving.changed(waiting=(*others, waits))
        if serving.under_way:
            return serving
        known = next((turn for turn in serving.waiting if turn.is_of(release.run_id, release.n)), None)
        turn = turn_of(release, at=ledger.clock()).changed(abort=known.abort if known else None)
        hold = serving.hold if release.request.is_of_a_person else None  # data that is newer than the hold has come
        if release.request.kind == "rollback":
            hold = hold or Asked(at=release.history[0].at, by=release.request.by, reason=release.request.describe())
        return serving.changed(under_way=turn, waiting=others, hold=hold)

    ledger.update(names.serving(release.target, release.dataset), kind, decide)
    return answer


def give_up_turn(ledger: Ledger, kind: type[AnyServing], release: Release) -> AnyServing | None:
    """The release is over: whoever waits may begin. Returns what is there then."""

    def decide(serving: AnyServing | None) -> AnyServing | None:
        if serving is None:
            return None
        mine = serving.under_way is not None and serving.under_way.is_of(release.run_id, release.n)
        others = tuple(turn for turn in serving.waiting if not turn.is_of(release.run_id, release.n))
        return serving.changed(under_way=None if mine else serving.under_way, waiting=others)

    return ledger.update(names.serving(release.target, release.dataset), kind, decide)


def end_tail(ledger: Ledger, kind: type[AnyServing], dataset: str, target: str, *, run_id: str, n: int) -> None:
    """Take the claim of a release that serves already, and only tidies up: a rollback must not wait for that."""

    def decide(serving: AnyServing | None) -> AnyServing | None:
        if serving is None or serving.under_way is None or not serving.under_way.is_of(run_id, n):
            return serving
        return serving.changed(under_way=None)

    ledger.update(names.serving(target, dataset), kind, decide)


def note_abort(
    ledger: Ledger, kind: type[AnyServing], dataset: str, target: str, *, run_id: str, n: int, asked: Asked
) -> None:
    """Note an abort where it is decided whether a release serves: of the two, only one comes first.

    Raises ServesAlready.
    """

    def noted(turn: Turn) -> Turn:
        return turn.changed(abort=turn.abort or asked) if turn.is_of(run_id, n) else turn

    def decide(serving: AnyServing | None) -> AnyServing | None:
        if serving is None:
            return None
        if serves(serving, run_id, n):
            raise ServesAlready(f"{run_id} serves already")
        under_way = noted(serving.under_way) if serving.under_way else None
        return serving.changed(under_way=under_way, waiting=tuple(noted(turn) for turn in serving.waiting))

    ledger.update(names.serving(target, dataset), kind, decide)


def abort_of(turn: Turn) -> str:
    """The sentence of an abort that stands in a claim, or nothing."""
    return sentence("aborted", turn.abort.by, turn.abort.reason) if turn.abort else ""


def note_way_back(ledger: Ledger, kind: type[AnyServing], release: Release, **facts: object) -> None:
    """Keep in the claim what taking the release back needs. Raises Displaced."""

    def decide(serving: AnyServing | None) -> AnyServing:
        present, turn = _under_way(serving, release)
        return present.changed(under_way=turn.changed(way_back=facts))

    ledger.update(names.serving(release.target, release.dataset), kind, decide)


def note_in_claim(
    ledger: Ledger, kind: type[AnyServing], release: Release, change: Callable[[AnyServing], AnyServing]
) -> None:
    """Note something in what serves that others must know before this release does it. Raises Displaced."""
    ledger.update(
        names.serving(release.target, release.dataset), kind, lambda serving: change(_under_way(serving, release)[0])
    )


def _replaced(current: Served, previous: Served | None, release: Release) -> Served:
    """What a rollback of this release goes to: what it replaces, unless people had taken that back already."""
    by_hand = release.by_hand
    if by_hand and by_hand.taken == current.name:
        if previous and by_hand.instead == previous.name:
            return previous.changed(taken_back="")
        return current.changed(taken_back=by_hand.why)
    return current.changed(taken_back=release.request.describe() if release.request.kind == "rollback" else "")


def record_live(ledger: Ledger, kind: type[AnyServing], release: Release, served: Served) -> AnyServing:
    """Make this release what serves; what it replaces becomes `previous`. Repeating it changes nothing.

    Raises Displaced when another release has the claim, and Aborted.
    """

    def decide(serving: AnyServing | None) -> AnyServing:
        present, turn = _under_way(serving, release)
        current, previous = present.current, present.previous
        if serves(present, release.run_id, release.n):
            return present
        if turn.abort:
            raise Aborted(abort_of(turn))
        # A redeploy of what serves replaces nothing that one could roll back to.
        if current and current.run_id != release.run_id:
            previous = _replaced(current, previous, release)
        replaces = current.name if current else ""
        return present.changed(
            current=served,
            previous=previous,
            under_way=turn.changed(replaces=replaces),
            undeployed_at="",
            undeployed_because="",
            retired_at="",
        )

    written = ledger.update(names.serving(release.target, release.dataset), kind, decide)
    if written is None or written.under_way is None:
        raise Displaced(f"{release.name} has no claim on what serves")
    run_id, _, n = written.under_way.replaces.partition("/")
    by_hand = release.by_hand
    if by_hand and by_hand.taken == written.under_way.replaces:
        mark_replaced(ledger, run_id, int(n), release, note=by_hand.why, state=State.ROLLED_BACK)
    elif run_id:
        mark_replaced(ledger, run_id, int(n), release, note=_replaced_by(release, run_id))
    return written


def _replaced_by(release: Release, run_id: str) -> str:
    if run_id == release.run_id:
        return f"released again as release {release.n}"
    if release.request.kind == "rollback":
        return f"{release.request.describe()}; {release.run_id} serves again"
    return f"replaced by {release.run_id}"


def record_retired(ledger: Ledger, kind: type[AnyServing], release: Release) -> None:
    """Record that the data set was taken down; a release of it that goes out later ends that. Raises Displaced."""

    def decide(serving: AnyServing | None) -> AnyServing:
        present, _ = _under_way(serving, release)
        return present.changed(retired_at=clocks.to_text(ledger.clock()))

    ledger.update(names.serving(release.target, release.dataset), kind, decide)


def mark_replaced(ledger: Ledger, run_id: str, n: int, by: Release, *, note: str, state: State | None = None) -> None:
    """Say in the release that was live that it is not any more. What serves is the truth, so a failure is only told."""
    wanted = state or (State.ROLLED_BACK if by.request.kind in ("rollback", "retire") else State.SUPERSEDED)
    try:
        found = ledger.find_release(Release, run_id, by.target, n)
        if found is None or found.document.state != State.LIVE:
            return
        replaced = found.document.moved(wanted, at=ledger.clock(), note=note)
        ledger.write(names.release(run_id, by.target, n), replaced, expect=found.generation)
    except (CannotEverSucceed, LedgerContention) as exc:
        log.error("%s release %d is not marked as replaced by %s: %s", run_id, n, by.run_id, exc)  # noqa: TRY400


def hold(ledger: Ledger, kind: type[AnyServing], dataset: str, target: str, asked: Asked) -> AnyServing | None:
    """Keep releases of trainings away until /resume, or until data arrive that are claimed after this."""

    def decide(serving: AnyServing | None) -> AnyServing:
        return (serving or kind(dataset=dataset, target=target)).changed(hold=asked)

    return ledger.update(names.serving(target, dataset), kind, decide)


def resume(ledger: Ledger, kind: type[AnyServing], dataset: str, target: str) -> AnyServing | None:
    """End a hold."""

    def decide(serving: AnyServing | None) -> AnyServing | None:
        return serving.changed(hold=None) if serving else None

    return ledger.update(names.serving(target, dataset), kind, decide)


def _under_way(serving: AnyServing | None, release: Release) -> tuple[AnyServing, Turn]:
    turn = serving.under_way if serving else None
    if serving is None or turn is None or not turn.is_of(release.run_id, release.n):
        raise Displaced(f"{release.name} has no claim on what serves: {turn.name if turn else 'nothing'} has it")
    return serving, turn
