"""What people ask of a target over HTTP: redeploy, rollback, abort, hold, resume, retire.

In whatever state a release is, one of abort and rollback works, and what does not work says which::

    waiting, gating, deploying, canary ──► /abort       what served before serves on
    it serves (also while it tidies up) ─► /rollback    what served before serves again, and newer runs are held
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NoReturn, TypeVar

from dualdeploy import clock as clocks
from dualdeploy.errors import CannotEverSucceed, DualDeployError, UnknownRun
from dualdeploy.ledger import (
    Asked,
    Intent,
    Ledger,
    Release,
    Request,
    Run,
    Served,
    Serving,
    Turn,
    UnreadableDocument,
    Versioned,
    dataset_of,
    names,
)
from dualdeploy.ledger.due import Due
from dualdeploy.release import serving as serve
from dualdeploy.release.worker import ReleaseWorker, Target, key_of

log = logging.getLogger(__name__)

AnyRelease = TypeVar("AnyRelease", bound=Release)
AnyServing = TypeVar("AnyServing", bound=Serving)

#: Two requests that take the same number of a release: more than a few of them at once is a loop somewhere.
_ATTEMPTS = 10

#: So many runs are offered when someone has to choose.
_MOST_CANDIDATES = 10


class Refusal(Exception):
    """An answer that is not what the caller hoped for: an HTTP status, what is wrong, and what to send instead.

    `more` is added to the answer: `send` (the request to send instead), `candidates` (runs to choose from).
    """

    def __init__(self, status: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.more = more


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a caller asked for, checked; an Idempotency-Key (`key`) makes repeating it harmless."""

    kind: str
    dataset: str = ""
    run_id: str = ""
    to_run: str = ""
    force: bool = False
    canary: bool = True
    quantization: str = ""
    reason: str = ""
    confirm: bool = False
    by: str = ""
    key: str = ""

    def digest(self) -> str:
        """Of what is asked, not of who asks: the same key with another request is a mistake."""
        asked = dataclasses.asdict(dataclasses.replace(self, by="", key=""))
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class Commands(Generic[AnyRelease, AnyServing]):
    """The commands of one target. Every method raises Refusal, and RetryLater when the ledger does not answer."""

    def __init__(
        self,
        target: Target[AnyRelease, AnyServing],
        worker: ReleaseWorker[AnyRelease, AnyServing],
        *,
        ledger: Ledger,
        due: Due,
        nudge: Callable[[str], None] = lambda _key: None,
        would_retire: Callable[[str], Sequence[str]] = lambda _dataset: (),
    ) -> None:
        """`nudge` asks for a look at a due key now, a minute before the next tick; `would_retire` lists what /retire
        takes down."""
        self._of = target
        self._worker = worker
        self._ledger = ledger
        self._due = due
        self._nudge = nudge
        self._would_retire = would_retire

    # Releases --------------------------------------------------------------------------------------------------

    def redeploy(self, wanted: Wanted) -> tuple[dict[str, Any], bool]:
        """Bring a recorded run out again; returns the answer, and whether it was given before."""
        return self._begin(wanted, self._run_to_redeploy)

    def rollback(self, wanted: Wanted) -> tuple[dict[str, Any], bool]:
        """Go back to what served before; newer runs are held until /resume, or until newer data arrive."""
        return self._begin(wanted, self._run_to_roll_back_to)

    def retire(self, wanted: Wanted) -> tuple[dict[str, Any], bool]:
        """Show what of the data set stands on Google Cloud; with `confirm`, take it down and free its names."""
        if not wanted.confirm:
            found = list(self._would_retire(wanted.dataset))
            send = {"path": "/retire", "body": {"dataset": wanted.dataset, "confirm": True}}
            return {"dataset": wanted.dataset, "target": self._of.target, "takes_down": found, "send": send}, False
        return self._begin(wanted, self._run_to_retire)

    def _begin(self, wanted: Wanted, choose: Callable[[Wanted], Run]) -> tuple[dict[str, Any], bool]:
        """Write the intent, then the release that it names: a repetition after a death in between carries out what was
        intended, and does not choose anew among runs that have changed places meanwhile."""
        request_id = hashlib.sha256(f"{self._of.target}\0{wanted.key or uuid.uuid4().hex}".encode()).hexdigest()
        name = names.request(request_id)
        found = self._ledger.find(name, Intent)
        if found is None:
            run = choose(wanted)
            if not wanted.key and (same := self._same_under_way(run, wanted)):
                return same, True
            found = self._intended(name, wanted, run)
        if found.document.digest != wanted.digest():
            raise Refusal(422, "this Idempotency-Key came with another request before: send a new key")
        for _ in range(_ATTEMPTS):
            intent = found.document
            release, created = self._create(intent, wanted, request_id)
            if release.request.id == request_id:
                log.info("%s accepted for %s", release.request.describe(), release.name)
                return self._answer(release), not created
            n = self._ledger.newest_release_number(intent.run_id, self._of.target) + 1
            found = self._ledger.write(name, intent.changed(n=n), expect=found.generation)
        raise Refusal(503, f"releases of {found.document.run_id} are begun faster than one can be numbered")

    def _same_under_way(self, run: Run, wanted: Wanted) -> dict[str, Any] | None:
        """The answer for a request without a key whose first answer was lost: its release is not over yet."""
        n = self._ledger.newest_release_number(run.run_id, self._of.target)
        try:
            found = self._ledger.find_release(self._of.release_kind, run.run_id, self._of.target, n) if n else None
        except UnreadableDocument:
            return None
        if found is None or found.document.is_over or found.document.is_aborted:
            return None
        if found.document.request.changed(id="") != _request_of(wanted, ""):
            return None
        self._look_now(key_of(run.run_id, n))
        return self._answer(found.document)

    def _intended(self, name: str, wanted: Wanted, run: Run) -> Versioned[Intent]:
        intent = Intent(
            kind=wanted.kind,
            at=clocks.to_text(self._ledger.clock()),
            digest=wanted.digest(),
            dataset=run.dataset,
            target=self._of.target,
            run_id=run.run_id,
            n=self._ledger.newest_release_number(run.run_id, self._of.target) + 1,
        )
        return self._ledger.create(name, intent)[0]

    def _create(self, intent: Intent, wanted: Wanted, request_id: str) -> tuple[AnyRelease, bool]:
        key = key_of(intent.run_id, intent.n)
        # Ahead of the release, for the case that this instance dies before the reminder of now.
        self._due.put(key, self._ledger.clock() + datetime.timedelta(minutes=3))
        existing = self._ledger.find_release(self._of.release_kind, intent.run_id, self._of.target, intent.n)
        if existing:
            return existing.document, False
        request = _request_of(wanted, request_id)
        run = self._run(intent.run_id)
        new = self._worker.new_release(run, intent.n, request, self._config_of_last_release(intent))
        if wanted.kind == "rollback":
            self._hold(Asked(at=new.since, by=wanted.by, reason=request.describe()), run.dataset)
        made, created = self._ledger.create(names.release(intent.run_id, self._of.target, intent.n), new)
        serve.join(self._ledger, self._of.serving_kind, made.document)
        self._look_now(key)
        return made.document, created

    def _config_of_last_release(self, intent: Intent) -> Mapping[str, Any]:
        """What the run was last brought out with: a rollback must not depend on a file that is just being edited."""
        for n in range(intent.n - 1, 0, -1):
            with contextlib.suppress(UnreadableDocument):
                found = self._ledger.find_release(Release, intent.run_id, self._of.target, n)
                if found and found.document.config:
                    return found.document.config
        return {}

    def _answer(self, release: Release) -> dict[str, Any]:
        return {
            "run_id": release.run_id,
            "target": release.target,
            "state": str(release.state),
            "release": release.n,
            "status": f"/status/{release.dataset}",
        }

    # Which run -------------------------------------------------------------------------------------------------

    def _run_to_redeploy(self, wanted: Wanted) -> Run:
        """The run that was named, else the live one of the data set, else its newest that was trained."""
        dataset = wanted.dataset or dataset_of(wanted.run_id)
        serving = self._serving(dataset)
        if wanted.run_id:
            run = self._run(wanted.run_id)
        elif serving and serving.current:
            run = self._run(serving.current.run_id)
        else:
            run = self._newest_trained(dataset)
        self._refuse_untrained(run)
        self._refuse_while_under_way(dataset, serving, run)
        newer = serving.current if serving else None
        if newer and newer.run_created_at > run.created_at and not wanted.force:
            raise Refusal(
                409,
                f"{newer.run_id} is newer and live; send force: true to replace it by {run.run_id}",
                send={"path": "/redeploy", "body": {"run_id": run.run_id, "force": True}},
            )
        return run

    def _run_to_roll_back_to(self, wanted: Wanted) -> Run:
        """What served before; someone must choose where that was taken back itself."""
        serving = self._serving(wanted.dataset)
        current = serving.current if serving else None
        if serving is None or current is None:
            raise Refusal(404, f"nothing of data set {wanted.dataset!r} is live for {self._of.target}: redeploy a run")
        self._refuse_before_it_is_live(serving)
        run = self._run_before(wanted, serving, current)
        self._refuse_untrained(run)
        # Last: what is refused changes nothing.
        self._make_way_for_rollback(serving)
        return run

    def _run_before(self, wanted: Wanted, serving: AnyServing, current: Served) -> Run:
        if wanted.to_run == current.run_id:
            raise Refusal(
                409,
                f"{wanted.to_run} is live already; to release it again, send it to /redeploy",
                send={"path": "/redeploy", "body": {"run_id": wanted.to_run}},
            )
        previous = serving.previous
        if wanted.to_run:
            return self._run(wanted.to_run)
        if previous is None:
            self._have_someone_choose(current, f"nothing served before {current.run_id}")
        if previous.taken_back:
            self._have_someone_choose(
                current, f"{previous.run_id}, which served before, was taken back ({previous.taken_back})"
            )
        return self._run(previous.run_id)

    def _run_to_retire(self, wanted: Wanted) -> Run:
        serving = self._serving(wanted.dataset)
        current = serving.current if serving else None
        run = self._run(current.run_id) if current else self._newest_trained(wanted.dataset)
        self._refuse_while_under_way(wanted.dataset, serving, run)
        return run

    def _have_someone_choose(self, current: Served, why: str) -> NoReturn:
        candidates = [run.run_id for run in self._trained(dataset_of(current.run_id)) if run.run_id != current.run_id]
        if not candidates:
            raise Refusal(409, f"{why}, and no other run of the data set was trained: there is nothing to go back to")
        send = {"path": "/rollback", "body": {"dataset": dataset_of(current.run_id), "to_run": candidates[0]}}
        raise Refusal(409, f"{why}: choose a run and send it as to_run", candidates=candidates, send=send)

    def _trained(self, dataset: str) -> list[Run]:
        """The newest runs of the data set that have a trained model, newest first. Lists: for people only."""
        runs = []
        for run_id in self._ledger.run_ids(dataset):
            with contextlib.suppress(CannotEverSucceed):
                run = self._ledger.read_run(run_id)
                if self._ledger.was_trained(run.run_id, self._of.target):
                    runs.append(run)
        return sorted(runs, key=lambda run: run.created_at, reverse=True)[:_MOST_CANDIDATES]

    def _newest_trained(self, dataset: str) -> Run:
        trained = self._trained(dataset)
        if not trained:
            raise Refusal(
                404, f"data set {dataset!r} has no trained {self._of.target} run; send data or a retrain request first"
            )
        return trained[0]

    def _refuse_untrained(self, run: Run) -> None:
        try:
            if self._ledger.was_trained(run.run_id, self._of.target):
                return
            launch = self._ledger.read_launch(run.run_id, self._of.target).document
            why = f"its training is {launch.state}" + (f": {launch.reason}" if launch.reason else "")
        except UnknownRun:
            why = "its training has not begun"
        raise Refusal(409, f"{run.run_id} has no trained {self._of.target} model: {why}")

    # What is under way -----------------------------------------------------------------------------------------

    def _refuse_while_under_way(self, dataset: str, serving: AnyServing | None, run: Run) -> None:
        turn = serving.under_way if serving else None
        of_this_run = next((each for each in serving.waiting if each.run_id == run.run_id), None) if serving else None
        busy = turn if turn and not self._is_out(serving, turn) else of_this_run
        if busy is None:
            return
        state = "under way" if busy is turn else "waiting for its turn"
        raise Refusal(
            409,
            f"{busy.name} is {state} since {busy.since}: wait until it has ended, or stop it by /abort",
            send={"path": "/abort", "body": {"dataset": dataset, "run_id": busy.run_id}},
        )

    def _refuse_before_it_is_live(self, serving: AnyServing) -> None:
        turn = serving.under_way
        if turn is None or self._is_out(serving, turn):
            return
        says = "is under way and not live yet: /abort stops it, and what serves goes on serving"
        if turn.kind == "retire":
            says = "takes the data set down: /abort stops it where it is, and /redeploy then releases a run"
        send = {"path": "/abort", "body": {"dataset": serving.dataset}}
        raise Refusal(409, f"{turn.name} {says}", send=send)

    def _make_way_for_rollback(self, serving: AnyServing) -> None:
        turn = serving.under_way
        if turn is None:
            return
        serve.end_tail(
            self._ledger,
            self._of.serving_kind,
            serving.dataset,
            self._of.target,
            run_id=turn.run_id,
            n=turn.release,
        )

    def _is_out(self, serving: AnyServing | None, turn: Turn) -> bool:
        """Whether users have this release already, or it is over. What cannot be read is neither."""
        if serve.serves(serving, turn.run_id, turn.release):
            return True
        try:
            found = self._ledger.find_release(self._of.release_kind, turn.run_id, self._of.target, turn.release)
        except UnreadableDocument:
            return False
        return found is not None and found.document.is_over

    # Abort, hold, resume ---------------------------------------------------------------------------------------

    def abort(self, wanted: Wanted) -> tuple[dict[str, Any], bool]:
        """Have the release that is under way, or waits, stop and leave everything as it was; of one run, if named."""
        serving = self._serving(wanted.dataset)
        turns = [serving.under_way] if serving and serving.under_way else []
        turns += sorted(serving.waiting, key=lambda turn: turn.run_created_at, reverse=True) if serving else []
        asked = Asked(at=clocks.to_text(self._ledger.clock()), by=wanted.by, reason=wanted.reason)
        for turn in turns:
            if wanted.run_id not in ("", turn.run_id):
                continue
            if serving and (answer := self._abort(serving, turn.run_id, turn.release, asked)):
                return answer
        raise Refusal(
            409,
            f"nothing of {wanted.run_id or wanted.dataset} is under way for {self._of.target};"
            f" see /status/{wanted.dataset}",
        )

    def _abort(self, serving: AnyServing, run_id: str, n: int, asked: Asked) -> tuple[dict[str, Any], bool] | None:
        """The answer; None for a release that is over."""
        name = names.release(run_id, self._of.target, n)
        key = key_of(run_id, n)
        kind, target, dataset = self._of.serving_kind, self._of.target, serving.dataset
        try:
            found = self._ledger.find(name, self._of.release_kind)
        except UnreadableDocument:
            serve.note_abort(self._ledger, kind, dataset, target, run_id=run_id, n=n, asked=asked)
            self._look_now(key)
            answer = {"run_id": run_id, "target": target, "state": "unreadable", "release": n}
            return {**answer, "status": f"/status/{dataset}"}, False
        if found is None or found.document.is_over:
            return None
        try:
            serve.note_abort(self._ledger, kind, dataset, target, run_id=run_id, n=n, asked=asked)
        except serve.ServesAlready as exc:
            raise Refusal(
                409,
                f"{exc}: /rollback brings back what served before",
                send={"path": "/rollback", "body": {"dataset": dataset}},
            ) from exc
        already = found.document.abort is not None

        def decide(release: AnyRelease | None) -> AnyRelease | None:
            return release if release is None or release.is_over else release.changed(abort=release.abort or asked)

        aborted = self._ledger.update(name, self._of.release_kind, decide)
        if aborted is None or aborted.is_over:
            return None
        self._look_now(key)
        log.info("%s: %s", aborted.name, aborted.is_aborted)
        return self._answer(aborted), already

    def hold(self, wanted: Wanted) -> dict[str, Any]:
        """Keep releases of trainings away, until /resume or until data arrive that are claimed after this."""
        if self._serving(wanted.dataset) is None and not self._ledger.run_ids(wanted.dataset):
            raise Refusal(404, f"nothing is known of a data set {wanted.dataset!r}")
        asked = Asked(at=clocks.to_text(self._ledger.clock()), by=wanted.by, reason=wanted.reason)
        self._hold(asked, wanted.dataset)
        until = "/resume, or data that arrive from now on"
        return {"dataset": wanted.dataset, "target": self._of.target, "held_since": asked.at, "until": until}

    def resume(self, wanted: Wanted) -> dict[str, Any]:
        """End a hold; what waits goes on."""
        serving = serve.resume(self._ledger, self._of.serving_kind, wanted.dataset, self._of.target)
        waiting = serving.waiting if serving else ()
        for turn in waiting:
            self._look_now(key_of(turn.run_id, turn.release))
        return {
            "dataset": wanted.dataset,
            "target": self._of.target,
            "held_since": "",
            "goes_on": [turn.name for turn in waiting],
        }

    def _hold(self, asked: Asked, dataset: str) -> None:
        serve.hold(self._ledger, self._of.serving_kind, dataset, self._of.target, asked)

    # Inside ----------------------------------------------------------------------------------------------------

    def _serving(self, dataset: str) -> AnyServing | None:
        found = self._ledger.find_serving(self._of.serving_kind, self._of.target, dataset)
        return found.document if found else None

    def _run(self, run_id: str) -> Run:
        try:
            return self._ledger.read_run(run_id)
        except UnknownRun as exc:
            raise Refusal(404, str(exc)) from exc

    def _look_now(self, key: str) -> None:
        self._due.put(key)
        try:
            self._nudge(key)
        except DualDeployError as exc:
            log.warning("%s waits for the next tick: %s", key, exc)


def _request_of(wanted: Wanted, request_id: str) -> Request:
    return Request(
        kind=wanted.kind,
        id=request_id,
        by=wanted.by,
        reason=wanted.reason,
        forced=wanted.force,
        # Back to a model that has served everyone: at once, and probed all the same.
        canary=wanted.canary and wanted.kind == "redeploy",
        quantization=wanted.quantization,
    )
