"""The way of a release as data: ordered steps, each with the function that takes it.

A route is a list, and the list is the only place that says what follows what: a step answers with a `Turn` and does
not know its successor. Each service has its routes in its own `route.py`.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, Generic, TypeVar

from dualdeploy.ledger import Release, State
from dualdeploy.ledger.documents import PlannedStep
from dualdeploy.ledger.states import RELEASE_MOVES

AnyRelease = TypeVar("AnyRelease", bound=Release)

#: The step in which a release claims what serves; the engine itself takes it (`worker`).
CLAIM = "claim"


# What a step answers -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Forward(Generic[AnyRelease]):
    """The step is done: on to the next one of the route. `note` is for the history, should the state change."""

    release: AnyRelease
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Again(Generic[AnyRelease]):
    """Back to the first step of the loop that this one stands in."""

    release: AnyRelease


@dataclasses.dataclass(frozen=True)
class Stay(Generic[AnyRelease]):
    """Something was found out that must be recorded before the same step goes on, at once."""

    release: AnyRelease


@dataclasses.dataclass(frozen=True)
class Wait(Generic[AnyRelease]):
    """The step waits for something: what, and when to look again (a minute from now unless `at` says another time).

    `limit` is for how many seconds at most; None where the step itself keeps the limit, or where there is none. `kind`
    tells waits apart whose limits do not add up.
    """

    release: AnyRelease
    what: str
    at: datetime.datetime | None = None
    limit: float | None = None
    kind: str = ""


@dataclasses.dataclass(frozen=True)
class Back(Generic[AnyRelease]):
    """Take everything back, by the route that `release.route` does not name but its service does; it ends as `ends`."""

    release: AnyRelease
    why: str
    ends: State = State.ROLLED_BACK


@dataclasses.dataclass(frozen=True)
class End(Generic[AnyRelease]):
    """The release is over."""

    release: AnyRelease
    state: State
    note: str


Turn = (
    Forward[AnyRelease] | Again[AnyRelease] | Stay[AnyRelease] | Wait[AnyRelease] | Back[AnyRelease] | End[AnyRelease]
)

#: Takes one step of a release: looks how the world stands, does what is missing, and may be repeated at any time.
#: The second argument is everything that the service hands to its steps.
StepFunction = Callable[[Any, Any], Turn[Any]]


# The list ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Step:
    """One step: `take` is its function, `says` what people read while it lasts.

    `yields`: a newer release that waits may take the place of this one here. `is_out`: it is recorded as what serves,
    what is left is tidying.
    """

    name: str
    state: State
    take: StepFunction | None
    says: str
    yields: bool = False
    is_out: bool = False


def claim(says: str = "waits for its turn") -> Step:
    """The step in which a release claims what serves: everything after it happens under that claim."""
    return Step(CLAIM, State.WAITING, None, says)


@dataclasses.dataclass(frozen=True)
class Loop:
    """Steps that are taken several times, `each` time for something."""

    each: str
    steps: tuple[Step, ...]

    def __init__(self, each: str, *steps: Step) -> None:
        object.__setattr__(self, "each", each)
        object.__setattr__(self, "steps", steps)


class Route:
    """Steps in their order; raises ValueError at import when two have one name or a state cannot follow another."""

    def __init__(self, name: str, *parts: Step | Loop) -> None:
        self.name = name
        self.parts = parts
        self.steps: tuple[Step, ...] = tuple(_flat(parts))
        self._places: Mapping[str, int] = {step.name: place for place, step in enumerate(self.steps)}
        if len(self._places) != len(self.steps):
            raise ValueError(f"route {name!r} has two steps of one name")
        loops = ((part.steps[-1], part.steps[0]) for part in parts if isinstance(part, Loop))
        for before, after in (*itertools.pairwise(self.steps), *loops):
            if before.state != after.state and after.state not in RELEASE_MOVES[before.state]:
                raise ValueError(f"route {name!r}: {after.name} is {after.state}, which cannot follow {before.state}")

    def find(self, name: str) -> Step | None:
        place = self._places.get(name)
        return None if place is None else self.steps[place]

    def first(self, skipped: Container[str] = ()) -> Step:
        return next(step for step in self.steps if step.name not in skipped)

    def after(self, name: str, skipped: Container[str] = ()) -> Step:
        """The step that follows. Raises LookupError after the last one: it has to end the release."""
        later = self.steps[self._places[name] + 1 :]
        for step in later:
            if step.name not in skipped:
                return step
        raise LookupError(f"route {self.name!r} has nothing after {name!r}")

    def loop_start(self, name: str) -> Step:
        """The first step of the loop that `name` stands in. Raises LookupError when it stands in none."""
        for part in self.parts:
            if isinstance(part, Loop) and any(step.name == name for step in part.steps):
                return part.steps[0]
        raise LookupError(f"route {self.name!r}: {name!r} does not stand in a loop")

    def planned(self, skipped: Container[str] = ()) -> tuple[PlannedStep, ...]:
        """The list as people read it."""
        return tuple(PlannedStep(name=step.name, says=step.says) for step in self.steps if step.name not in skipped)

    def is_claimed_at(self, name: str) -> bool:
        """Whether a release at this step has claimed what serves; a route without a claim inherits it."""
        place = self._places.get(CLAIM)
        return place is None or self._places.get(name, 0) > place


def _flat(parts: tuple[Step | Loop, ...]) -> Iterator[Step]:
    for part in parts:
        if isinstance(part, Loop):
            yield from part.steps
        else:
            yield part
