"""Every run as a folder of small JSON objects, changed by compare-and-swap only.

runs/<run_id>/run.json             the snapshot and the configuration it was claimed with; written once
runs/<run_id>/estimate.json        what the run may cost, before anything is spent; written once (`spending`)
runs/<run_id>/{cloud,mobile}.json  the two branches
active/{cloud,mobile}/<run_id>     marker of an unfinished branch: the clock lists only these
live/<dataset>/{cloud,mobile}.json what serves now, and what served before
datasets/<dataset>/inbox/<window>  "something arrived in this window of time, perhaps not yet in a run"
datasets/<dataset>/retrained.json  which time of `data.retrain_schedule` was served last
spend/<month>/<dataset>.json       what the runs of a month have reserved and cost (`spending`)
hygiene/…                          what the deployer's janitor found, does and did (`cloud_deployer.hygiene`)
locks/<name>.json                  leases
rejected/<day>/<id>.json           events that can never succeed, with the reason
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import enum
import hashlib
import json
import logging
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, Literal, TypeVar

import pydantic
from pydantic import Field

from dualdeploy import clock as clocks
from dualdeploy.clock import Clock
from dualdeploy.errors import CannotEverSucceed, LeaseHeld, LedgerContention, RetryLater, UnknownRun
from dualdeploy.object_store import ABSENT, Generation, GenerationChanged, ObjectMissing, ObjectStore
from dualdeploy.training import TARGETS, Target

log = logging.getLogger(__name__)
Document = TypeVar("Document", bound=pydantic.BaseModel)

#: Length of an inbox window, and how long a window stays after it ended: longer than clocks of instances differ.
INBOX_WINDOW_SECONDS = 10
INBOX_GRACE_SECONDS = 30


#: How far `refused_lately` looks back.
REFUSED_LATELY_DAYS = 7

#: See `run_id_of`; a data set's name may itself end in what looks like the rest.
_RUN_ID = re.compile(r"(?P<dataset>[a-z][a-z0-9-]*)-[0-9a-f]{12}(-r[1-9][0-9]*)?")


class State(enum.StrEnum):
    """Where a branch stands. The launcher writes up to `training`, job_notifier moves it on to `trained` or
    `failed`, then the deployer or publisher owns it."""

    PENDING = "pending"
    LAUNCHING = "launching"
    TRAINING = "training"
    TRAINED = "trained"
    GATING = "gating"
    DEPLOYING = "deploying"
    CANARY = "canary"
    LIVE = "live"
    REJECTED = "rejected"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    SUPERSEDED = "superseded"


#: The whole table; every other transition is refused. A branch whose training succeeded can always be sent back to
#: `gating` by a forced redeploy or a rollback, so every later end leads there.
TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.PENDING: frozenset({State.LAUNCHING, State.REJECTED, State.FAILED, State.SUPERSEDED}),
    State.LAUNCHING: frozenset({State.TRAINING, State.FAILED, State.SUPERSEDED}),
    State.TRAINING: frozenset({State.TRAINED, State.FAILED, State.SUPERSEDED}),
    State.TRAINED: frozenset({State.GATING, State.SUPERSEDED, State.FAILED}),
    State.GATING: frozenset({State.DEPLOYING, State.REJECTED, State.FAILED, State.SUPERSEDED}),
    State.DEPLOYING: frozenset({State.CANARY, State.LIVE, State.FAILED, State.ROLLED_BACK, State.SUPERSEDED}),
    State.CANARY: frozenset({State.LIVE, State.FAILED, State.ROLLED_BACK, State.SUPERSEDED}),
    State.LIVE: frozenset({State.GATING, State.ROLLED_BACK, State.SUPERSEDED}),
    State.REJECTED: frozenset({State.GATING}),
    State.FAILED: frozenset({State.GATING}),
    State.ROLLED_BACK: frozenset({State.GATING}),
    State.SUPERSEDED: frozenset({State.GATING}),
}

#: A branch in one of these waits for nothing.
FINAL = frozenset({State.LIVE, State.REJECTED, State.FAILED, State.ROLLED_BACK, State.SUPERSEDED})


#: Step of a branch in training whose job the launcher cancels because newer data takes its place.
CALLED_OFF = "called off"


class IllegalTransition(CannotEverSucceed):
    """The transition table has no such move."""


class _Record(pydantic.BaseModel):
    """Frozen. Unknown keys are kept out, so an older instance reads what a newer one wrote."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")


@dataclasses.dataclass(frozen=True)
class Versioned(Generic[Document]):
    """A document and the generation that it was read at, which the next write has to state."""

    document: Document
    generation: Generation


class Shard(_Record):
    """One version of one object; `size` in bytes, `crc32c` base64 as Cloud Storage gives it."""

    name: str
    generation: int
    size: int
    crc32c: str


class Snapshot(_Record):
    """The data of one run: these versions of these shards, of `bucket`, and nothing that came later."""

    bucket: str
    prefix: str
    shards: tuple[Shard, ...]

    def digest(self) -> str:
        """SHA-256 over names, sizes and checksums, in hex. Not over generations: the same bytes uploaded again are
        the same data."""
        lines = sorted(f"{shard.name}\0{shard.size}\0{shard.crc32c}\n" for shard in self.shards)
        return hashlib.sha256("".join(lines).encode()).hexdigest()


class Run(_Record):
    """One snapshot, trained twice. `claim` tells which writer created the object."""

    v: Literal[1] = 1
    run_id: str
    dataset: str
    created_at: str
    reason: str
    snapshot: Snapshot
    config: Mapping[str, Any]
    claim: str


class Moment(_Record):
    """One line of a branch's history."""

    at: str
    state: State
    note: str = ""


class Branch(_Record):
    """One target of one run.

    `job` is the Vertex AI job, `operation` the long-running operation it waits for, `step` where inside `state` it
    is, `release` counts how often it was sent out (a redeploy is a new release), `facts` is what its owner found out.
    `waiting_since` is when Vertex AI first had no quota or capacity for it, `retry_at` when it is asked again.
    """

    v: Literal[1] = 1
    run_id: str
    dataset: str
    target: Target
    state: State = State.PENDING
    step: str = ""
    since: str
    reason: str = ""
    job: str = ""
    operation: str = ""
    operation_since: str = ""
    attempts: int = 0
    waiting_since: str = ""
    retry_at: str = ""
    release: int = 1
    forced: bool = False
    training_announced: bool = False
    deployment_announced: bool = False
    facts: Mapping[str, Any] = {}
    history: tuple[Moment, ...] = ()

    def moved(self, state: State, *, at: datetime.datetime, note: str = "", **changes: Any) -> Branch:
        """This branch in `state`; raises IllegalTransition for a move that the table does not have."""
        if state not in TRANSITIONS[self.state]:
            allowed = ", ".join(sorted(TRANSITIONS[self.state]))
            raise IllegalTransition(
                f"{self.run_id}/{self.target}: {self.state} cannot become {state} (allowed: {allowed})"
            )
        moment = Moment(at=clocks.to_text(at), state=state, note=note)
        cleared = {"step": "", "operation": "", "operation_since": "", "attempts": 0}
        changes = {**cleared, "waiting_since": "", "retry_at": "", **changes}
        return self.changed(state=state, since=moment.at, reason=note, history=(*self.history, moment), **changes)

    def changed(self, **changes: Any) -> Branch:
        """This branch with other fields, in the same state unless `moved` calls it."""
        return Branch.model_validate({**self.model_dump(), **changes})

    def at_step(self, step: str) -> Branch:
        """This branch at the beginning of another step of its state."""
        return self.changed(step=step, operation="", operation_since="", attempts=0)

    def with_facts(self, **facts: Any) -> Branch:
        return self.changed(facts={**self.facts, **facts})

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    @property
    def was_trained(self) -> bool:
        """Whether its training succeeded, whatever came afterwards."""
        return any(moment.state is State.TRAINED for moment in self.history)


class Release(_Record):
    """What was, or is, given to users: one release of one run."""

    run_id: str
    run_created_at: str
    release: int = 1
    since: str
    facts: Mapping[str, Any] = {}


class Live(_Record):
    """What serves now for one target of one data set, and what served before it.

    `undeployed_at` says that it serves no more, and `undeployed_because` why (mostly that nobody asked it); the next
    release of it or another serves again.
    """

    v: Literal[1] = 1
    dataset: str
    target: Target
    current: Release
    previous: Release | None = None
    undeployed_at: str = ""
    undeployed_because: str = ""


class Lease(_Record):
    holder: str
    until: str


class Rejected(_Record):
    """An event that can never succeed; `event` says which, `reason` why and what to do."""

    at: str
    service: str
    kind: str
    reason: str
    event: Mapping[str, Any] = Field(default_factory=dict)

    @property
    def dataset(self) -> str:
        """The data set that it is about, as far as the event says; the first folder of an object's name."""
        said = [self.event]
        with contextlib.suppress(ValueError):
            said.append(json.loads(str(self.event.get("data", ""))))
        for each in said:
            if isinstance(each, Mapping) and (name := each.get("dataset") or each.get("name")):
                return str(name).partition("/")[0]
        return ""


class Ledger:
    """The ledger bucket. Every method raises RetryLater's children when the bucket does not answer."""

    def __init__(self, store: ObjectStore, *, clock: Clock = clocks.utc_now) -> None:
        self._store = store
        self._clock = clock
        self._passed_over: set[str] = set()

    # Runs ------------------------------------------------------------------------------------------------------

    def claim(self, run: Run) -> tuple[Run, bool]:
        """Create the run, or find that it exists: the object's existence is the lock.

        Returns the run as recorded and whether this call created it. `run.claim` makes the bytes this writer's own,
        so a repeated call after a lost response still knows itself.
        """
        name = _run_name(run.run_id)
        try:
            self._store.put(name, _encode(run), expect=ABSENT)
        except GenerationChanged:
            return self.read_run(run.run_id), False
        return run, True

    def read_run(self, run_id: str) -> Run:
        """Raises UnknownRun."""
        try:
            return self._read(_run_name(run_id), Run).document
        except ObjectMissing as exc:
            raise UnknownRun(f"the ledger has no run {run_id!r}") from exc

    def run_exists(self, run_id: str) -> bool:
        try:
            self.read_run(run_id)
        except UnknownRun:
            return False
        return True

    def run_ids(self, dataset: str) -> list[str]:
        """Every run of a data set, in the order of their names. Lists: for people and redeploys, not for events."""
        # `flowers-` is also the beginning of the runs of a data set `flowers-2`, hence the second look.
        names = (summary.name.split("/") for summary in self._store.list(f"runs/{dataset}-"))
        found = [parts[1] for parts in names if len(parts) == 3 and parts[2] == "run.json"]
        return [run_id for run_id in found if dataset_of(run_id) == dataset]

    def newest_run(self, dataset: str) -> tuple[str, datetime.datetime] | None:
        """The run of a data set that was claimed last, and when; one listing."""
        claims = (
            (summary.updated, parts[1])
            for summary in self._store.list(f"runs/{dataset}-")
            if len(parts := summary.name.split("/")) == 3 and parts[2] == "run.json" and dataset_of(parts[1]) == dataset
        )
        newest = max(claims, default=None)
        return (newest[1], newest[0]) if newest else None

    def read_document(self, name: str, kind: type[Document]) -> Versioned[Document] | None:
        """Any other document, or None when there is none. Raises CannotEverSucceed when it is no `kind`."""
        try:
            return self._read(name, kind)
        except ObjectMissing:
            return None

    def write_document(self, name: str, document: pydantic.BaseModel, *, expect: Generation) -> None:
        """Raises LedgerContention when the object is no longer at `expect`."""
        try:
            self._store.put(name, _encode(document), expect=expect)
        except GenerationChanged as exc:
            raise LedgerContention(f"{name} was changed by another instance") from exc

    def document_names(self, prefix: str) -> list[str]:
        """What is there below a prefix that ends with a slash; one listing."""
        return [summary.name for summary in self._store.list(prefix)]

    def write_once(self, name: str, data: bytes) -> bytes:
        """Put an object that never changes; returns what is there, which may be an earlier writer's."""
        try:
            self._store.put(name, data, expect=ABSENT)
        except GenerationChanged:
            return self._store.read(name).data
        return data

    def read_bytes(self, name: str) -> bytes | None:
        try:
            return self._store.read(name).data
        except ObjectMissing:
            return None

    # Branches --------------------------------------------------------------------------------------------------

    def open_branches(self, run: Run) -> None:
        """Mark both branches active, then create them; repeating it changes nothing.

        The marker comes first: a marker without a branch is looked at again by the clock, a branch without a marker
        would be forgotten.
        """
        for target in TARGETS:
            since = clocks.to_text(self._clock())
            opening = Moment(at=since, state=State.PENDING, note=run.reason)
            branch = Branch(
                run_id=run.run_id,
                dataset=run.dataset,
                target=target,
                since=since,
                history=(opening,),
            )
            with contextlib.suppress(ObjectMissing):
                self._store.read(_branch_name(run.run_id, target))
                continue
            self.mark_active(run.run_id, target)
            self.write_once(_branch_name(run.run_id, target), _encode(branch))

    def read_branch(self, run_id: str, target: str) -> Versioned[Branch]:
        """Raises UnknownRun."""
        try:
            return self._read(_branch_name(run_id, target), Branch)
        except ObjectMissing as exc:
            raise UnknownRun(f"the ledger has no {target} branch of run {run_id!r}") from exc

    def write_branch(self, branch: Branch, *, expect: Generation) -> Versioned[Branch]:
        """Raises LedgerContention when the branch is no longer at `expect`."""
        name = _branch_name(branch.run_id, branch.target)
        try:
            generation = self._store.put(name, _encode(branch), expect=expect)
        except GenerationChanged as exc:
            raise LedgerContention(f"{name} was changed by another instance") from exc
        return Versioned(branch, generation)

    def mark_active(self, run_id: str, target: str) -> None:
        with contextlib.suppress(GenerationChanged):
            self._store.put(_marker_name(run_id, target), b"", expect=ABSENT, content_type="text/plain")

    def mark_active_anew(self, run_id: str, target: str) -> None:
        """Mark a branch that takes up work again, so that whoever was about to remove an older mark leaves this one."""
        found = self.active_mark(run_id, target)
        name, expect = _marker_name(run_id, target), ABSENT if found is None else found
        try:
            # Other bytes than those of any other mark: equal ones would count as written, and nothing would be new.
            self._store.put(name, uuid.uuid4().hex.encode(), expect=expect, content_type="text/plain")
        except GenerationChanged as exc:
            raise LedgerContention(f"{name} was changed by another instance") from exc

    def active_mark(self, run_id: str, target: str) -> Generation | None:
        """The generation of a branch's marker, None when it has none."""
        try:
            return self._store.read(_marker_name(run_id, target)).generation
        except ObjectMissing:
            return None

    def unmark_active(self, run_id: str, target: str) -> None:
        """For a branch that never takes up work again, as one whose training failed."""
        if mark := self.active_mark(run_id, target):
            self.remove_mark(run_id, target, expect=mark)

    def remove_mark(self, run_id: str, target: str, *, expect: Generation) -> None:
        """Remove the marker that was read at `expect`; a newer one is of work taken up since, and stays."""
        with contextlib.suppress(GenerationChanged):
            self._store.delete(_marker_name(run_id, target), expect=expect)

    def active(self, target: str) -> list[str]:
        """Run ids of the unfinished branches of `target`; what else lies there is passed over, and named once."""
        folder = f"active/{target}/"
        names = [summary.name.removeprefix(folder) for summary in self._store.list(folder)]
        strange = {folder + name for name in names if not dataset_of(name)}
        for name in sorted(strange - self._passed_over):
            log.warning("%s is named after no run, and is passed over: delete it", self._store.uri(name))
        # Listed every minute by every service: once for each instance is enough.
        self._passed_over |= strange
        return [name for name in names if dataset_of(name)]

    # What serves -----------------------------------------------------------------------------------------------

    def read_live(self, dataset: str, target: str) -> Versioned[Live] | None:
        try:
            return self._read(f"live/{dataset}/{target}.json", Live)
        except ObjectMissing:
            return None

    def everything_live(self, target: str) -> Iterator[Live]:
        """What serves for `target` of every data set. Lists and reads them all: for releases, not for events."""
        for summary in self._store.list("live/"):
            _, dataset, name = summary.name.split("/", 2)
            if name != f"{target}.json":
                continue
            try:
                found = self.read_live(dataset, target)
            except CannotEverSucceed as exc:
                # Another data set's record must not stand in the way.
                log.warning("%s is passed over: %s", self._store.uri(summary.name), exc)
                continue
            if found:
                yield found.document

    def write_live(self, live: Live, *, expect: Generation) -> None:
        """Raises LedgerContention when the record is no longer at `expect`."""
        name = f"live/{live.dataset}/{live.target}.json"
        try:
            self._store.put(name, _encode(live), expect=expect)
        except GenerationChanged as exc:
            raise LedgerContention(f"{name} was changed by another instance") from exc

    # Arrivals --------------------------------------------------------------------------------------------------

    def arrival_window(self) -> int:
        """The window of time that an arrival of now is noted in: its beginning, in seconds since the epoch."""
        return int(self._clock().timestamp()) // INBOX_WINDOW_SECONDS * INBOX_WINDOW_SECONDS

    def note_arrival(self, dataset: str, window: int | None = None) -> None:
        """Say that something of `dataset` arrived now: one small object for each window of ten seconds.

        A window may only be deleted by somebody who listed the shards after it ended (see `settled_arrivals`), so an
        event that finds its window already noted can be sure that a listing still to come will see its shard.
        """
        name = _inbox_name(dataset, self.arrival_window() if window is None else window)
        with contextlib.suppress(GenerationChanged):
            self._store.put(name, b"", expect=ABSENT, content_type="text/plain")

    def arrivals(self) -> dict[str, list[int]]:
        """The noted windows (seconds since the epoch of their beginnings) of every data set that has any."""
        windows: dict[str, list[int]] = {}
        for summary in self._store.list("datasets/"):
            parts = summary.name.split("/")
            if len(parts) == 4 and parts[2] == "inbox" and parts[3].isdigit():
                windows.setdefault(parts[1], []).append(int(parts[3]))
        return windows

    def forget_arrivals(self, dataset: str, windows: Iterable[int], *, listed_at: datetime.datetime) -> None:
        """Delete the windows that had ended, by any instance's clock, before the shards were listed at `listed_at`."""
        settled_before = listed_at.timestamp() - INBOX_WINDOW_SECONDS - INBOX_GRACE_SECONDS
        for window in windows:
            if window < settled_before:
                self._delete(_inbox_name(dataset, window))

    # Leases and refusals ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lease(self, name: str, *, seconds: float) -> Iterator[None]:
        """Be the only one to work on `name` for at most `seconds`. Raises LeaseHeld.

        ::

            taken            until            until + anything
              |-- held -------|-- expired --------------->
              LeaseHeld        may be taken by compare-and-swap on the generation that was read as expired

        It may be taken when the object is absent, or when its time is over. It keeps two instances from doing the
        same work, not from harm: harm is prevented by the generation that every write to a branch states.
        """
        holder = uuid.uuid4().hex
        lock = f"locks/{name}.json"
        until = self._clock() + datetime.timedelta(seconds=seconds)
        generation = self._take(lock, Lease(holder=holder, until=clocks.to_text(until)))
        try:
            yield
        finally:
            try:
                self._store.delete(lock, expect=generation)
            except GenerationChanged:
                log.warning("lease %s ran out while its holder was still at work", name)
            except RetryLater as exc:
                # What was done under the lease is done, and the lease runs out by itself.
                log.warning("lease %s could not be given back: %s", name, exc)

    def _take(self, lock: str, lease: Lease) -> Generation:
        expect = ABSENT
        for _ in range(3):
            with contextlib.suppress(GenerationChanged):
                return self._store.put(lock, _encode(lease), expect=expect)
            try:
                current = self._read(lock, Lease)
            except ObjectMissing:
                expect = ABSENT
                continue
            if clocks.from_text(current.document.until) > self._clock():
                raise LeaseHeld(f"{lock} is held until {current.document.until}")
            expect = current.generation
        raise LeaseHeld(f"{lock} changes hands faster than it can be taken")

    def record_rejected(self, rejected: Rejected, *, event_id: str) -> str:
        """Keep an event that can never succeed, once a day however often it is delivered. Returns the object's name."""
        digest = hashlib.sha256(f"{rejected.service}\0{rejected.kind}\0{event_id}".encode()).hexdigest()[:16]
        name = f"rejected/{rejected.at[:10]}/{digest}.json"
        self.write_once(name, _encode(rejected))
        return name

    def refused_lately(self, dataset: str = "", *, most: int = 10) -> list[Rejected]:
        """What was rejected in the last days, newest first; of one data set if named. Lists: for people."""
        today = self._clock().date()
        days = [today - datetime.timedelta(days=back) for back in range(REFUSED_LATELY_DAYS)]
        found: list[Rejected] = []
        for day in days:
            names = [summary.name for summary in self._store.list(f"rejected/{day.isoformat()}/")]
            of_day = [self._read(name, Rejected).document for name in names]
            found += [each for each in of_day if not dataset or each.dataset == dataset]
            if len(found) >= most:
                break
        return sorted(found, key=lambda each: each.at, reverse=True)[:most]

    def rejections(self) -> list[Rejected]:
        """Every recorded rejection, in the order of days. Lists: for people."""
        names = [summary.name for summary in self._store.list("rejected/")]
        return [self._read(name, Rejected).document for name in names]

    # Inside ----------------------------------------------------------------------------------------------------

    def _read(self, name: str, kind: type[Document]) -> Versioned[Document]:
        stored = self._store.read(name)
        try:
            return Versioned(kind.model_validate_json(stored.data), stored.generation)
        except pydantic.ValidationError as exc:
            raise CannotEverSucceed(f"{self._store.uri(name)} is not a {kind.__name__}: {exc}") from exc

    def _delete(self, name: str) -> None:
        with contextlib.suppress(ObjectMissing, GenerationChanged):
            self._store.delete(name, expect=self._store.read(name).generation)


def run_id_of(dataset: str, snapshot: Snapshot, *, repeat: int = 1) -> str:
    """`<dataset>-<first 12 hex of the snapshot digest>`, and `-r2`, `-r3` for forced repetitions."""
    run_id = f"{dataset}-{snapshot.digest()[:12]}"
    return run_id if repeat == 1 else f"{run_id}-r{repeat}"


def dataset_of(run_id: str) -> str:
    """The data set that a run id begins with; empty when it is no run id."""
    match = _RUN_ID.fullmatch(run_id)
    return match["dataset"] if match else ""


def _run_name(run_id: str) -> str:
    return f"runs/{_checked(run_id)}/run.json"


def _branch_name(run_id: str, target: str) -> str:
    return f"runs/{_checked(run_id)}/{target}.json"


def _checked(run_id: str) -> str:
    """A run id that may become part of an object's name: it came in a message, a URL or the name of another object.

    Raises UnknownRun. With a slash in it, it would name some other object of the ledger.
    """
    if not dataset_of(run_id):
        raise UnknownRun(f"{run_id[:200]!r} is no run id: one looks like flowers-0123456789ab")
    return run_id


def _marker_name(run_id: str, target: str) -> str:
    return f"active/{target}/{run_id}"


def _inbox_name(dataset: str, window: int) -> str:
    return f"datasets/{dataset}/inbox/{window}"


def _encode(document: pydantic.BaseModel) -> bytes:
    # Sorted and indented, because people read the ledger with `gcloud storage cat`.
    return json.dumps(document.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False).encode()
