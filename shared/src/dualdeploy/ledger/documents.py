"""The documents of the ledger, each with one writer (see `names`).

They outlive the code that writes them: fields that this version does not know are kept and written back, states and
steps that it does not know are texts like any other. What cannot be understood at all is refused by name
(`UnreadableDocument`).
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Self

import pydantic

from dualdeploy import clock as clocks
from dualdeploy.contracts.routing import Routing
from dualdeploy.ledger.states import RELEASE_ENDS, RELEASE_MOVES, TRAINING_ENDS, TRAINING_MOVES, State, check_move

#: A state; one that a newer version added is a text like any other.
AnyState = Annotated[State | str, pydantic.Field(union_mode="left_to_right")]


class Document(pydantic.BaseModel):
    """Frozen. What a newer version wrote survives being read and written by this one."""

    model_config = pydantic.ConfigDict(frozen=True, extra="allow")

    def changed(self, **changes: Any) -> Self:
        """This document with other fields, checked."""
        unknown = self.__pydantic_extra__ or {}
        return type(self).model_validate({**self.__dict__, **unknown, **changes})


class Shard(Document):
    """One version of one object; `size` in bytes, `crc32c` base64 as Cloud Storage gives it."""

    name: str
    generation: int
    size: int
    crc32c: str


class Snapshot(Document):
    """The data of one run: these versions of these shards, of `bucket`, and nothing that came later.

    `storage_classes` tells how many of the shards are of which class, when the listing was made; STANDARD is left out.
    """

    bucket: str
    prefix: str
    shards: tuple[Shard, ...]
    storage_classes: Mapping[str, int] = {}

    def digest(self) -> str:
        """SHA-256 over names, sizes and checksums, in hex. Not over generations: the same bytes uploaded again are
        the same data."""
        lines = sorted(f"{shard.name}\0{shard.size}\0{shard.crc32c}\n" for shard in self.shards)
        return hashlib.sha256("".join(lines).encode()).hexdigest()


class DataSet(Document):
    """What training_launcher remembers of a data set, so that no event has to look through its runs.

    `newest` is the run of the newest claim, `recent` are the last ones (newest first), `unfinished` those whose
    trainings are not over. `slot` is the last time of the schedule (`cron`, `time_zone`) that was served, `asked_at`
    when the age of the newest run last asked for a training. `waits` says why data that arrived was not looked at.
    """

    v: int = 1
    dataset: str
    newest: str = ""
    newest_at: str = ""
    recent: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    cron: str = ""
    time_zone: str = ""
    slot: str = ""
    asked_at: str = ""
    waits: str = ""


class Run(Document):
    """One snapshot, trained twice. `claim` tells which writer created the object; `config` is the data set's
    configuration as it was then. `completed_by` is `marker` or `names` where one of these, and not the quiet period,
    told that the batch was complete; `extends` is a run of a part of the same batch, which was begun so too early.
    `modules` are, by target, the versions of people's own networks (`training.ModuleReference`)."""

    v: int = 1
    run_id: str
    dataset: str
    created_at: str
    reason: str
    snapshot: Snapshot
    config: Mapping[str, Any]
    claim: str
    completed_by: str = ""
    extends: str = ""
    modules: Mapping[str, Mapping[str, Any]] = {}


class Moment(Document):
    """One line of a history."""

    at: str
    state: AnyState
    note: str = ""


class Holdup(Document):
    """What is waited for, since when, and until when at most (empty: for as long as it takes).

    `kind` tells one wait from another that follows it: each has its own limit.
    """

    what: str
    kind: str = ""
    since: str
    until: str = ""


class _Moving(Document):
    """What a training and a release have in common: a state with its history."""

    state: AnyState
    since: str
    reason: str = ""
    history: tuple[Moment, ...] = ()

    def _moved(self, state: State, *, at: datetime.datetime, note: str, changes: Mapping[str, Any]) -> Self:
        moment = Moment(at=clocks.to_text(at), state=state, note=note)
        return self.changed(state=state, since=moment.at, reason=note, history=(*self.history, moment), **dict(changes))


class Placement(Document):
    """How a training's machines are asked for: entry number `entry`, from 0, of `training.<target>.capacity`.

    Written before the job is asked for, and whole: a reader need not know the configuration. `since` is when
    its turn began, `wait` after how many seconds the next entry has its turn.
    """

    entry: int = 0
    since: str
    wait: float
    machine: str
    accelerator: str = ""
    count: int = 0
    strategy: str
    usd_per_hour: float | None = None

    def describe(self) -> str:
        """`n1-standard-8 with 1 NVIDIA_TESLA_T4 (spot)`, for messages."""
        fitted = f" with {self.count} {self.accelerator}" if self.count else ""
        return f"{self.machine}{fitted} ({self.strategy})"


class Launch(_Moving):
    """The training of one target of a run, as training_launcher knows it.

    `attempt` counts the jobs that Vertex AI took for it, `job` is the present one.
    `unanswered` says that a creation ended without an answer, so that a job may exist that nobody named yet.
    `asked` counts refusals for lack of quota or capacity, `retry_at` is when Vertex AI is asked again,
    `no_capacity_since` when it first had no machine, since the last job that ran. `placement` is how the machines are
    asked for; without it, as the first entry of the configuration says. A job that is queued longer than until
    `queued_until` is cancelled, and `passed_over` says why; `called_off` is why newer data takes its place. Both are
    written before the job is cancelled.
    `spent_seconds` and `spent_usd` (None: not known) are of the attempts before.
    """

    v: int = 1
    run_id: str
    dataset: str
    target: str
    attempt: int = 0
    job: str = ""
    unanswered: bool = False
    asked: int = 0
    holdup: Holdup | None = None
    retry_at: str = ""
    no_capacity_since: str = ""
    placement: Placement | None = None
    queued_until: str = ""
    passed_over: str = ""
    spent_seconds: float = 0.0
    spent_usd: float | None = 0.0
    called_off: str = ""
    estimated_usd: float | None = None

    def moved(self, state: State, *, at: datetime.datetime, note: str = "", **changes: Any) -> Self:
        """This training in `state`; raises IllegalTransition for a move that the table does not have."""
        check_move(f"{self.run_id}/{self.target}", self.state, state, TRAINING_MOVES)
        return self._moved(state, at=at, note=note, changes={"holdup": None, "retry_at": "", **changes})

    @property
    def is_over(self) -> bool:
        return self.state in TRAINING_ENDS

    def has_waited(self, now: datetime.datetime) -> bool:
        """Whether the present job, if it is queued at `now`, has been queued for too long."""
        return bool(self.queued_until) and now >= clocks.from_text(self.queued_until)


class ManagedData(Document):
    """The data set at AutoML of everything that is trained on the same pictures, and how far it is.

    `step` is `prepare`, `dataset`, `import`, `ready`, `failed` (with a `reason`), `deleting` or `deleted`. `users` are
    the runs that need it; without any, since `idle_since`, it is deleted. `job` is the one that prepares it, of
    attempt `attempt`, `payer` the run that pays for those jobs, which took `spent_seconds` so far. `anew`: what an
    earlier attempt prepared is not relied on. `managed` is the data set's full name, `operation` what is waited for.
    `uncounted_since`: since when an import that is over shows another number of `pictures`.
    """

    v: int = 1
    dataset: str
    key: str
    step: str
    since: str
    users: tuple[str, ...] = ()
    idle_since: str = ""
    attempt: int = 0
    job: str = ""
    payer: str = ""
    spent_seconds: float = 0.0
    anew: bool = False
    pictures: int = 0
    managed: str = ""
    operation: str = ""
    uncounted_since: str = ""
    reason: str = ""


class Ended(Document):
    """How one attempt of a training ended: created once by job_notifier, then only `announced` and `job` change.

    `outcome` is `succeeded`, `failed`, `cancelled` or `no_capacity` (Vertex AI took the job and could not place it).
    """

    v: int = 1
    run_id: str
    dataset: str
    target: str
    attempt: int
    at: str
    outcome: str
    reason: str = ""
    job: str = ""
    announced: bool = False
    seconds: float = 0.0
    cost_usd: float | None = None
    accuracy: float | None = None
    eval_examples: int | None = None
    result: str = ""


class Request(Document):
    """Why a release began. `by` is who called, empty when the caller's identity was not verified.

    `kind` is `training`, `redeploy`, `rollback` or `retire`; `id` tells one request from another. `quantization` is the
    variant of the file that was asked for, empty for the one that the configuration names.
    """

    kind: str = "training"
    id: str = ""
    by: str = ""
    reason: str = ""
    forced: bool = False
    canary: bool = True
    quantization: str = ""

    def describe(self) -> str:
        """`rollback by jo@example.com: the reason`, for the history."""
        return sentence(self.kind, self.by, self.reason)

    @property
    def is_of_a_person(self) -> bool:
        return self.kind != "training"


class Asked(Document):
    """Someone asked for something: an abort, a hold."""

    at: str
    by: str = ""
    reason: str = ""


class ByHand(Document):
    """People took back by hand what is recorded as live (`taken`), before a release went out.

    `instead` is what they gave users, where that is what served before. Both are `<run>/<release>`.
    """

    why: str
    taken: str
    instead: str = ""


class PlannedStep(Document):
    """One step of a release's route, as people read it."""

    name: str
    says: str


class Release(_Moving):
    """One release of one trained model: written by the service of its target only, and never reopened.

    `n` counts the releases of a run, `route` and `step` say where it is (`dualdeploy.release.route`), `steps` are those
    of its route; `operation` is the long-running operation that the step waits for, `attempts` counts what the step
    tried, `failing_since` is when its operation first failed for a reason that passes by itself. `config` is the data
    set's configuration as it was when the release began: what the release does is fixed then. `going_back` says why it
    is taken back, `back_ends` in which state that ends. `by_hand` is what people had changed before it went out.
    """

    v: int = 1
    run_id: str
    dataset: str
    target: str
    n: int
    run_created_at: str
    request: Request = Request()
    config: Mapping[str, Any] = {}
    route: str = ""
    steps: tuple[PlannedStep, ...] = ()
    step: str = ""
    operation: str = ""
    operation_since: str = ""
    failing_since: str = ""
    attempts: int = 0
    holdup: Holdup | None = None
    look_at: str = ""
    abort: Asked | None = None
    going_back: str = ""
    back_ends: str = ""
    by_hand: ByHand | None = None
    announced: bool = False

    def moved(self, state: State, *, at: datetime.datetime, note: str = "", **changes: Any) -> Self:
        """This release in `state`; raises IllegalTransition for a move that the table does not have."""
        check_move(f"{self.run_id}/{self.target} release {self.n}", self.state, state, RELEASE_MOVES)
        return self._moved(state, at=at, note=note, changes={"holdup": None, "look_at": "", **changes})

    @property
    def is_over(self) -> bool:
        return self.state in RELEASE_ENDS

    @property
    def forced(self) -> bool:
        """Whether it goes out whatever its gate says: someone said so, or rolls back to what has served before."""
        return self.request.forced or self.request.kind == "rollback"

    @property
    def is_aborted(self) -> str:
        """The sentence of an abort, or nothing."""
        return sentence("aborted", self.abort.by, self.abort.reason) if self.abort else ""

    @property
    def name(self) -> str:
        """`flowers-0123456789ab/cloud release 2`, for messages."""
        return f"{self.run_id}/{self.target} release {self.n}"


class Served(Document):
    """What was, or is, given to users: one release of one run. The services add what their users need to know.

    `taken_back` says why it is not what a rollback goes to by itself.
    """

    run_id: str
    run_created_at: str
    release: int = 1
    since: str
    taken_back: str = ""

    @property
    def name(self) -> str:
        """`<run>/<release>`."""
        return f"{self.run_id}/{self.release}"


class Turn(Document):
    """A release that is under way, or waits for that: which one, since when, and how old its data is.

    `ready`: all that it still waits for is its turn. `way_back` is what its service needs to take it back although the
    document of the release cannot be read; `abort` is then where an abort is noted. `replaces` is what served when this
    release was recorded as live: `<run>/<release>`.
    """

    run_id: str
    release: int
    run_created_at: str
    since: str
    kind: str = "training"
    ready: bool = False
    way_back: Mapping[str, Any] = {}
    abort: Asked | None = None
    replaces: str = ""

    def is_of(self, run_id: str, n: int) -> bool:
        return (self.run_id, self.release) == (run_id, n)

    @property
    def name(self) -> str:
        return self.run_id if self.release == 1 else f"{self.run_id} release {self.release}"


class Serving(Document):
    """What serves for one target of one data set, what served before it, and what is under way: one object, so that
    whatever changes one of them sees the others.

    `under_way` is the claim of one release (or of the cleanup, `removing`) on what serves; `waiting` are those that
    want it next. `hold` keeps releases of trainings away. `undeployed_at` says that it serves no more, and
    `undeployed_because` why; the next release serves again. `retired_at` says that the data set was taken down.
    """

    v: int = 1
    dataset: str
    target: str
    current: Served | None = None
    previous: Served | None = None
    under_way: Turn | None = None
    removing: str = ""
    waiting: tuple[Turn, ...] = ()
    hold: Asked | None = None
    undeployed_at: str = ""
    undeployed_because: str = ""
    retired_at: str = ""


class Routings(Document):
    """When phones ask the cloud model: one `Routing` for each published file that they may have, the live one first.

    Written before the objects that phones read; `published` says that these hold the same, and that those of `dropped`
    files are gone. `problem` is why the last attempt was given up.
    """

    v: int = 1
    dataset: str
    at: str
    files: tuple[Routing, ...] = ()
    dropped: tuple[str, ...] = ()
    published: bool = False
    problem: str = ""


class Intent(Document):
    """What a request sets out to do, written before its effect: a repetition finds it and does the same, or nothing.

    `digest` is of what was asked. A release is named by `run_id` and `n`; `run` is a whole run to be claimed.
    """

    v: int = 1
    kind: str
    at: str
    digest: str = ""
    dataset: str = ""
    target: str = ""
    run_id: str = ""
    n: int = 0
    run: Run | None = None


class Claim(Document):
    """Which data set holds what only one can hold: an endpoint, a publishing name.

    `unconfigured_since` is when someone who wants it first saw that the holder has no configuration any more,
    `deleting_since` when its deletion began; `formerly` are the data sets that held it before.
    """

    v: int = 1
    dataset: str
    since: str
    unconfigured_since: str = ""
    deleting_since: str = ""
    formerly: tuple[str, ...] = ()


class Lease(Document):
    holder: str
    until: str


class Rejected(Document):
    """What can never succeed; `event` says which, `reason` why and what to do."""

    at: str
    service: str
    kind: str
    reason: str
    event: Mapping[str, Any] = {}

    @property
    def dataset(self) -> str:
        """The data set that it is about, as far as the event says; the first folder of an object's name."""
        said: list[Any] = [self.event]
        with contextlib.suppress(ValueError):
            said.append(json.loads(str(self.event.get("data", ""))))
        for each in said:
            if isinstance(each, Mapping) and (name := each.get("dataset") or each.get("name")):
                return str(name).partition("/")[0]
        return ""


def sentence(what: str, by: str, reason: str) -> str:
    return what + (f" by {by}" if by else "") + (f": {reason}" if reason else "")
