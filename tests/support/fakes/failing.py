"""Failing on command: what every fake shares."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Self, TypeVar

Result = TypeVar("Result")

When = Literal["before", "after"]


class ProcessDied(BaseException):
    """Stands for kill -9: not an Exception, so that no handler of ours can swallow it."""


class Failing:
    """Raise `error` at a call; with `after=True` only after its work was done (the answer was lost)."""

    def __init__(self, error: BaseException, *, after: bool = False) -> None:
        self.error = error
        self.after = after


class Faults:
    """Planned failures by operation name, used up in order; and a count of calls by operation name."""

    def __init__(self, plan: Mapping[str, Sequence[Failing]] | None = None) -> None:
        self.calls: collections.Counter[str] = collections.Counter()
        self._plan = {name: collections.deque(failures) for name, failures in (plan or {}).items()}
        #: Called before every operation with its name; a test raises ProcessDied here to kill at the n-th call.
        self.before: Callable[[str], None] = lambda _name: None
        self.after: Callable[[str], None] = lambda _name: None

    @classmethod
    def telling(cls, told: Callable[[str, When], None], owner: str) -> Self:
        """Call `told` before and after every operation, with its name as `<owner>.<name>`."""
        faults = cls()
        faults.before = lambda name: told(f"{owner}.{name}", "before")
        faults.after = lambda name: told(f"{owner}.{name}", "after")
        return faults

    def plan(self, name: str, *failures: Failing) -> None:
        self._plan.setdefault(name, collections.deque()).extend(failures)

    def pending(self) -> dict[str, int]:
        """Planned failures that did not happen: a test asserts that there are none."""
        return {name: len(queue) for name, queue in self._plan.items() if queue}

    def run(self, name: str, work: Callable[[], Result]) -> Result:
        """Do `work` as operation `name`, or fail as planned."""
        self.calls[name] += 1
        self.before(name)
        queue = self._plan.get(name)
        failing = queue.popleft() if queue else None
        if failing and not failing.after:
            raise failing.error
        result = work()
        if failing:
            raise failing.error
        self.after(name)
        return result
