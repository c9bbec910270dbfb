"""Planned faults: each names an API operation and what shall go wrong there, once, in order.

A fault that was planned and never happened fails the test that planned it: otherwise a renamed operation
would turn a fault test into a test of nothing.
"""

from __future__ import annotations

import collections
import contextlib
import re
import threading
from collections.abc import Iterator, Mapping, Sequence

#: What can be planned. `lost-response` does the work and then answers 503: the caller cannot know that it
#: was done, which is the case that idempotency exists for. `hang:N` waits N seconds before doing the work.
#: Deliveries (operations named `delivery.<subscription or trigger>`) also take `duplicate`, `delay:N` and
#: `drop`, and those of Pub/Sub `reorder`: held back until another message of the subscription went out. Jobs
#: (`aiplatform.jobs.run`) also take `crash` and `stall`.
INSTRUCTIONS = re.compile(
    r"return-(400|401|403|404|408|409|412|429|500|502|503|504)"
    r"|lost-response|reset-connection|hang:\d+(\.\d+)?"
    r"|duplicate|drop|reorder|delay:\d+(\.\d+)?|crash|stall"
)


class UnknownOperation(ValueError):
    """A fault names an operation that no emulated API has."""


class UnknownInstruction(ValueError):
    """A fault asks for something that cannot go wrong here."""


class FaultsNotConsumed(AssertionError):
    """A planned fault never happened, so the test did not test what it says."""


class Faults:
    """Queues of planned faults, one queue per operation; safe for concurrent use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[str, collections.deque[str]] = {}
        self._operations: set[str] = set()

    def register(self, operation: str) -> None:
        """Declare that `operation` exists, so that it can be planned for."""
        with self._lock:
            self._operations.add(operation)

    def operations(self) -> list[str]:
        with self._lock:
            return sorted(self._operations)

    def add(self, plan: Mapping[str, Sequence[str]]) -> None:
        """Queue the instructions of `plan` behind those already planned; all or nothing."""
        with self._lock:
            for operation, instructions in plan.items():
                if operation not in self._operations:
                    known = ", ".join(sorted(self._operations))
                    raise UnknownOperation(f"no operation {operation!r}; known: {known}")
                for instruction in instructions:
                    if not INSTRUCTIONS.fullmatch(instruction):
                        raise UnknownInstruction(f"{instruction!r}: must match {INSTRUCTIONS.pattern}")
            for operation, instructions in plan.items():
                self._queues.setdefault(operation, collections.deque()).extend(instructions)

    def take(self, operation: str) -> str | None:
        """The next fault planned for `operation`, which counts as having happened, or None."""
        with self._lock:
            queue = self._queues.get(operation)
            return queue.popleft() if queue else None

    def pending(self) -> dict[str, list[str]]:
        """What is planned and has not happened yet."""
        with self._lock:
            return {operation: list(queue) for operation, queue in self._queues.items() if queue}

    def clear(self) -> None:
        with self._lock:
            self._queues.clear()

    @contextlib.contextmanager
    def plan(self, plan: Mapping[str, Sequence[str]]) -> Iterator[None]:
        """Plan faults for the body; fail if one of them did not happen."""
        self.add(plan)
        yield
        pending = self.pending()
        self.clear()
        if pending:
            raise FaultsNotConsumed(f"planned faults that never happened: {pending}")
