"""What one page of a data set shows, read from the ledger and kept for two seconds.

Whatever cannot be read is said where it would stand; nothing of it hides the rest.
"""

from __future__ import annotations

import dataclasses
import datetime
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from dualdeploy import clock as clocks
from dualdeploy.clock import Clock
from dualdeploy.contracts.dataset_name import DATASET_NAME
from dualdeploy.contracts.routing import Routing
from dualdeploy.contracts.training import TARGETS
from dualdeploy.errors import CannotEverSucceed, DualDeployError, UnknownRun
from dualdeploy.google.object_store import ObjectStore
from dualdeploy.ledger import Ledger, Routings, Serving, names
from dualdeploy.ledger.overview import Runs, RunView
from dualdeploy.ledger.standing import Standing, standing

#: A page that was read is shown for so long, however many look at it.
KEPT_SECONDS = 2.0
#: Runs in the table of a data set.
SHOWN_RUNS = 12

Kept = TypeVar("Kept")

_SIGNS: Mapping[str, str] = {">=": "≥", "<=": "≤"}

TITLES: Mapping[str, str] = {"cloud": "Cloud", "mobile": "Phones"}


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured figure, beside its limit and the verdict on it (None: it has no limit)."""

    name: str
    value: str
    limit: str = ""
    passed: bool | None = None


@dataclasses.dataclass(frozen=True)
class Side:
    """What one target gives to users. `facts` are name and value; `actions` are those that would not be refused.

    `published_as` is the name under which phones find their file.
    """

    target: str
    run_id: str = ""
    previous: str = ""
    since: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    problem: str = ""
    published_as: str = ""

    @property
    def title(self) -> str:
        return TITLES[self.target]


@dataclasses.dataclass(frozen=True)
class UnderWay:
    """One release that is not over. `shares` are name and state (`done`, `now`, `ahead`)."""

    target: str
    run_id: str
    state: str
    since: str
    waits_for: str
    steps: tuple[tuple[str, str, str], ...] = ()
    shares: tuple[tuple[str, str], ...] = ()
    figures: tuple[Figure, ...] = ()
    not_judged: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return TITLES[self.target]


@dataclasses.dataclass(frozen=True)
class Waiting:
    """Something that waits for a person, and the command that mends it."""

    what: str
    command: str
    is_urgent: bool = True


@dataclasses.dataclass(frozen=True)
class Board:
    """One data set. `problem` is why nothing could be read."""

    dataset: str
    at: str
    sides: tuple[Side, ...] = ()
    under_way: tuple[UnderWay, ...] = ()
    routings: Routings | None = None
    runs: tuple[RunView, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    problem: str = ""

    @property
    def same_data(self) -> bool | None:
        """Whether both models learnt from the same snapshot; None while one is missing."""
        runs = {side.run_id for side in self.sides}
        return None if "" in runs or len(self.sides) < len(TARGETS) else len(runs) == 1

    @property
    def is_busy(self) -> bool:
        """Whether the page should look again soon."""
        return bool(self.under_way) or any(
            each.waits_for for run in self.runs[:2] for each in run.targets if each.state not in ("live", "failed")
        )

    @property
    def routing(self) -> Routing | None:
        """Of the file that phones have."""
        return self.routings.files[0] if self.routings and self.routings.files else None


class Boards:
    """Thread-safe. `dead_letters` counts what no service could handle, or says why they cannot be counted."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        project: str,
        dead_letters: Callable[[], int | str] = lambda: 0,
        clock: Clock = clocks.utc_now,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = Ledger(store, clock=clock)
        self._runs = Runs(store, clock=clock)
        self._project = project
        self._dead_letters = dead_letters
        self._clock = clock
        self._timer = timer
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, Any]] = {}

    def datasets(self) -> list[str]:
        """Every data set that the ledger knows, by name."""

        def read() -> list[str]:
            found = (name.rsplit("/", 1)[-1].removesuffix(".json") for name in self._names("serving/", "data/"))
            return sorted({name for name in found if DATASET_NAME.fullmatch(name)})

        return self._once("", read)

    def of(self, dataset: str) -> Board:
        return self._once(dataset, lambda: self._board(dataset))

    def run(self, run_id: str) -> RunView:
        """Raises UnknownRun."""
        return self._runs.one(run_id)

    def forget(self) -> None:
        """Read everything again: a person changed something."""
        with self._lock:
            self._kept.clear()

    def _once(self, key: str, read: Callable[[], Kept]) -> Kept:
        with self._lock:
            at, kept = self._kept.get(key, (-KEPT_SECONDS, None))
        if self._timer() - at < KEPT_SECONDS:
            return cast(Kept, kept)
        found = read()
        with self._lock:
            # Names come from addresses: made-up ones do not fill the memory.
            if len(self._kept) > 200:
                self._kept.clear()
            self._kept[key] = (self._timer(), found)
        return found

    def _names(self, *prefixes: str) -> Iterator[str]:
        for prefix in prefixes:
            yield from self._ledger.names(prefix)

    def _board(self, dataset: str) -> Board:
        at = clocks.to_text(self._clock())
        try:
            runs = tuple(self._runs.newest(dataset=dataset, most=SHOWN_RUNS))
            found = [(target, self._serving(target, dataset)) for target in TARGETS]
            sides = tuple(self._side(target, serving, runs) for target, serving in found)
            serving = [each for _, each in found if isinstance(each, Serving)]
            return Board(
                dataset,
                at,
                sides=sides,
                under_way=tuple(self._under_way(serving)),
                routings=self._routings(dataset),
                runs=runs,
                waiting=tuple(self._waiting(dataset, runs, sides)),
            )
        except DualDeployError as exc:
            return Board(dataset, at, problem=str(exc))

    def _serving(self, target: str, dataset: str) -> Serving | str:
        """The document, or why it cannot be read."""
        try:
            found = self._ledger.find_serving(Serving, target, dataset)
        except CannotEverSucceed as exc:
            return str(exc)
        return found.document if found else Serving(dataset=dataset, target=target)

    def _routings(self, dataset: str) -> Routings | None:
        try:
            found = self._ledger.find(names.routing(dataset), Routings)
        except CannotEverSucceed as exc:
            return Routings(dataset=dataset, at="", problem=str(exc))
        return found.document if found else None

    def _side(self, target: str, serving: Serving | str, runs: Sequence[RunView]) -> Side:
        if isinstance(serving, str):
            return Side(target, problem=serving, actions=("abort",))
        current, previous = serving.current, serving.previous
        is_serving = bool(current) and not serving.undeployed_at and not serving.retired_at
        return Side(
            target,
            run_id=current.run_id if current and is_serving else "",
            previous=previous.run_id if previous else "",
            since=current.since if current and is_serving else "",
            facts=tuple(_facts(target, current.model_dump(mode="json"))) if current else (),
            notes=tuple(_notes(serving)),
            actions=tuple(_actions(target, serving, runs)),
            published_as=str(getattr(current, "published_as", "")),
        )

    def _under_way(self, serving: Sequence[Serving]) -> Iterator[UnderWay]:
        for each in serving:
            for turn in filter(None, (each.under_way, *each.waiting)):
                try:
                    found = standing(self._ledger, turn.run_id, each.target)
                except (CannotEverSucceed, UnknownRun) as exc:
                    yield UnderWay(each.target, turn.run_id, "unreadable", turn.since, str(exc))
                    continue
                yield under_way(each.target, found)

    def _waiting(self, dataset: str, runs: Sequence[RunView], sides: Sequence[Side]) -> Iterator[Waiting]:
        project = f" PROJECT={self._project}"
        for side in sides:
            if side.problem:
                yield Waiting(f"{side.title}: {side.problem}", f"make doctor{project}")
        for run in runs:
            if run.problem:
                yield Waiting(f"{run.run_id}: {run.problem}", f"make run ID={run.run_id}{project}")
            elif run.refusal:
                yield Waiting(f"{run.run_id}: {run.refusal}", f"{self._configure(dataset)}  # with another budget")
        for name, why in self._runs.waiting_data(dataset):
            yield Waiting(f"Data of {name} that could not be looked at: {why}", self._configure(name))
        for text in self._runs.stays(dataset):
            yield Waiting(text, f"make doctor{project}", is_urgent=False)
        for refused in self._runs.refused(dataset):
            yield Waiting(f"{moment(refused.at)} {refused.kind}: {refused.reason}", _mends(refused.kind))
        letters = self._dead_letters()
        if letters:
            what = f"{letters} dead letters: no service could handle them" if isinstance(letters, int) else letters
            yield Waiting(what, f"make replay{project}", is_urgent=isinstance(letters, int))

    def _configure(self, dataset: str) -> str:
        return f"gcloud storage cp {dataset}.yaml gs://{self._project}-config/datasets/"


def _mends(kind: str) -> str:
    if "config" in kind:
        return "make validate DATA=folder YAML=file, then upload the file again"
    if "object" in kind or "data" in kind:
        return "make validate DATA=folder, then upload what is right"
    return "make doctor"


def _facts(target: str, current: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if target == "cloud":
        if current.get("accuracy") is not None:
            yield "accuracy on held-out pictures", percent(current["accuracy"])
        deployment = current.get("deployment") or {}
        if deployment.get("machine"):
            yield "machine", f"{deployment['machine']}, at least {deployment.get('min_replicas', 1)}"
        yield "endpoint", str(current.get("endpoint", "")).rsplit("/", 1)[-1]
        yield "version in the registry", str(current.get("model_version", ""))
        return
    file = current.get("file") or {}
    figures = file.get("figures") or {}
    if figures.get("accuracy") is not None:
        yield "accuracy in LiteRT on held-out pictures", percent(figures["accuracy"])
    if figures.get("size_bytes"):
        yield "file", f"{file.get('variant', '')}, {figures['size_bytes'] / 1e6:.2f} MB"
    if figures.get("latency_ms") is not None:
        yield "one prediction", f"{figures['latency_ms']:.1f} ms on the machine that checked it"
    yield "version", str(current.get("version") or file.get("version", ""))
    yield "published as", str(current.get("published_as", ""))


def _notes(serving: Serving) -> Iterator[str]:
    if serving.hold:
        by = f" by {serving.hold.by}" if serving.hold.by else ""
        reason = f": {serving.hold.reason}" if serving.hold.reason else ""
        yield f"On hold since {moment(serving.hold.at)}{by}{reason}"
    if serving.undeployed_at:
        yield f"Undeployed at {moment(serving.undeployed_at)}: {serving.undeployed_because}"
    if serving.retired_at:
        yield f"Retired at {moment(serving.retired_at)}"
    if serving.removing:
        yield f"The cleanup removes {serving.removing}"


def _actions(target: str, serving: Serving, runs: Sequence[RunView]) -> Iterator[str]:
    """The commands that would not be refused as things stand."""
    is_busy = bool(serving.under_way or serving.waiting)
    trained = any(
        view.target == target and (view.release or view.state == "trained") for run in runs for view in run.targets
    )
    if serving.current or trained:
        yield "redeploy"
    if serving.previous and serving.current and not serving.under_way:
        yield "rollback"
    if is_busy:
        yield "abort"
    yield "resume" if serving.hold else "hold"


# What is under way ---------------------------------------------------------------------------------------------


def under_way(target: str, found: Standing) -> UnderWay:
    """A release with every figure beside its limit."""
    gate = found.facts.get("gate") or {}
    rollout = found.facts.get("rollout") or {}
    place = next((n for n, step in enumerate(found.steps) if step.name == found.step), -1)
    return UnderWay(
        target,
        found.run_id,
        str(found.state),
        found.since,
        found.waits_for,
        steps=tuple((step.name, step.says, _where(n, place)) for n, step in enumerate(found.steps)),
        shares=tuple(_shares(rollout)),
        figures=(*_of_gate(gate), *_of_canary(rollout)),
        not_judged=tuple(map(str, gate.get("not_judged", ()))),
    )


def _where(number: int, place: int) -> str:
    return "now" if number == place else "done" if number < place else "ahead"


def _shares(rollout: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    steps = (rollout.get("limits") or {}).get("steps") or rollout.get("shares") or ()
    # Before the first share nothing was given.
    index = rollout.get("index", 0) if rollout.get("shifted_at") else -1
    for number, share in enumerate(steps):
        yield f"{share} %", _where(number, index)


def _of_gate(gate: Mapping[str, Any]) -> Iterator[Figure]:
    for rule in gate.get("rules", ()):
        limit = f"{_SIGNS.get(rule.get('comparison', ''), '')} {_short(rule.get('limit'))}".strip()
        yield Figure(f"gate: {words(str(rule.get('name', '')))}", _short(rule.get("figure")), limit, rule.get("passed"))


def _of_canary(rollout: Mapping[str, Any]) -> Iterator[Figure]:
    tally, limits = rollout.get("tally") or {}, rollout.get("limits") or {}
    if not tally.get("requests"):
        return
    answered = tally["requests"] - tally.get("failures", 0)
    yield Figure("probes", str(tally["requests"]), f"≥ {limits.get('answers', 0)} answers", None)
    rate, most = tally.get("failures", 0) / tally["requests"], limits.get("max_error_rate")
    yield Figure("errors", f"{tally.get('failures', 0)} ({percent(rate)})", *_at_most(rate, most))
    if answered > 0:
        agrees, least = tally.get("agreed", 0) / answered, limits.get("min_agreement")
        if (own := limits.get("accuracy")) is not None:
            # AutoML trained it: golden pictures have true labels, and what may be missing depends on chance.
            yield Figure("right on the golden set", percent(agrees), f"about {percent(own)}", None)
        else:
            limit = f"≥ {percent(least)}" if least is not None else ""
            passed = None if least is None else agrees >= least
            yield Figure("agreement with the golden set", percent(agrees), limit, passed)
    seconds, usual = _p95(tally.get("candidate_seconds")), _p95(tally.get("other_seconds"))
    usual = usual if usual is not None else _p95((rollout.get("baseline") or {}).get("other_seconds"))
    if seconds is not None:
        allowed = None
        if usual is not None:
            allowed = usual * limits.get("max_latency_ratio", 2.0) + limits.get("latency_slack", 0.25)
        ceiling = min(filter(None, (allowed, limits.get("max_latency"))), default=None)
        limit = f"≤ {ceiling * 1000:.0f} ms" if ceiling else ""
        yield Figure("p95", f"{seconds * 1000:.0f} ms", limit, None if ceiling is None else seconds <= ceiling)


def _at_most(figure: float, limit: float | None) -> tuple[str, bool | None]:
    return ("", None) if limit is None else (f"≤ {percent(limit)}", figure <= limit)


def _p95(seconds: Sequence[float] | None) -> float | None:
    ordered = sorted(seconds or ())
    return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))] if ordered else None


# Words ---------------------------------------------------------------------------------------------------------


def percent(share: float) -> str:
    """`97.5 %`, without zeros at the end."""
    return f"{share * 100:.1f}".removesuffix(".0") + " %"


def words(name: str) -> str:
    return name.replace("_", " ")


def moment(at: str) -> str:
    """A time as people write it, to the minute; all are UTC."""
    return clocks.for_people(at)[:16]


def ago(at: str, now: str) -> str:
    """`2 h`, `3 min`: how long since; nothing for what is not a time."""
    try:
        seconds = (datetime.datetime.fromisoformat(now) - datetime.datetime.fromisoformat(at)).total_seconds()
    except (ValueError, TypeError):
        return ""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return "under a minute"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)
