"""Planned faults: each names an API operation and what shall go wrong there, once, in order.

A fault that was planned and never happened fails the test that planned it: otherwise a renamed operation
would turn a fault test into a test of nothing. For the same reason an operation refuses what cannot go wrong
with it.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import re
import threading
from collections.abc import Iterator, Mapping, Sequence, Set

from local_cloud.recorded import REFUSALS

#: Every instruction and how it is written. `lost-response` does the work and then answers 503: the caller cannot
#: know that it was done, which is the case that idempotency exists for. `hang:SECONDS` waits before doing the
#: work, `delay:SECONDS` lets others go first; `reorder` is held back until another message of the subscription
#: went out; `drop` never arrives; `crash` kills a job, `stall` freezes it, `preempt` takes a machine of it away,
#: `no-capacity` finds none for it; `refuse:NAME` answers in Google's own words (`recorded.REFUSALS`).
INSTRUCTIONS: Mapping[str, re.Pattern[str]] = {
    "return-CODE": re.compile(r"return-(400|401|403|404|408|409|412|429|500|502|503|504)"),
    "lost-response": re.compile(r"lost-response"),
    "reset-connection": re.compile(r"reset-connection"),
    "hang:SECONDS": re.compile(r"hang:\d+(\.\d+)?"),
    "duplicate": re.compile(r"duplicate"),
    "drop": re.compile(r"drop"),
    "delay:SECONDS": re.compile(r"delay:\d+(\.\d+)?"),
    "reorder": re.compile(r"reorder"),
    "crash": re.compile(r"crash"),
    "stall": re.compile(r"stall"),
    "preempt": re.compile(r"preempt"),
    "no-capacity": re.compile(r"no-capacity"),
    "refuse:NAME": re.compile(f"refuse:({'|'.join(REFUSALS)})"),
}

#: What can go wrong with a call, over HTTP or gRPC.
CALL = frozenset({"return-CODE", "refuse:NAME", "lost-response", "reset-connection", "hang:SECONDS"})
#: With the delivery of an event by Eventarc (`delivery.<trigger>`).
EVENT_DELIVERY = CALL - {"refuse:NAME"} | {"duplicate", "drop", "delay:SECONDS"}
#: With the delivery of a message by Pub/Sub, pushed or pulled (`delivery.<subscription>`).
MESSAGE_DELIVERY = EVENT_DELIVERY | {"reorder"}
#: With what a long-running operation does after its call was answered.
LONG_RUNNING_OPERATION = frozenset({"return-CODE", "refuse:NAME", "hang:SECONDS"})
#: With finding machines for a job that was accepted.
JOB_PLACEMENT = frozenset({"no-capacity"})
#: With a job's processes.
JOB = frozenset({"crash", "stall"})
#: With the machines of a job that is running.
JOB_MACHINE = frozenset({"preempt"})
#: With the model of a training that succeeded.
MODEL_APPEARANCE = frozenset({"delay:SECONDS"})


class UnknownOperation(ValueError):
    """A fault names an operation that no emulated API has."""


class UnknownInstruction(ValueError):
    """A fault asks for something that cannot go wrong here."""


class FaultsNotConsumed(AssertionError):
    """A planned fault never happened, so the test did not test what it says."""


@dataclasses.dataclass(frozen=True)
class _Planned:
    instruction: str
    owner: object  # whose plan this is; None for those that `add` queued


class Faults:
    """Queues of planned faults, one queue per operation; safe for concurrent use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[str, collections.deque[_Planned]] = {}
        self._operations: dict[str, Set[str]] = {}
        self._called: collections.Counter[str] = collections.Counter()

    def called(self) -> collections.Counter[str]:
        """How often each operation was called so far, with or without a fault."""
        with self._lock:
            return self._called.copy()

    def register(self, operation: str, instructions: Set[str] = CALL) -> None:
        """Declare that `operation` exists and which of INSTRUCTIONS can happen to it.

        What is registered twice (several paths of one operation) takes what both take.
        """
        with self._lock:
            self._operations[operation] = self._operations.get(operation, instructions) & instructions

    def operations(self) -> list[str]:
        with self._lock:
            return sorted(self._operations)

    def add(self, plan: Mapping[str, Sequence[str]]) -> None:
        """Queue the instructions of `plan` behind those already planned; all or nothing.

        Raises UnknownOperation, and UnknownInstruction for what cannot happen to that operation.
        """
        self._add(plan, owner=None)

    def _add(self, plan: Mapping[str, Sequence[str]], *, owner: object) -> None:
        with self._lock:
            for operation, instructions in plan.items():
                self._require_possible(operation, instructions)
            for operation, instructions in plan.items():
                queue = self._queues.setdefault(operation, collections.deque())
                queue.extend(_Planned(instruction, owner) for instruction in instructions)

    def _require_possible(self, operation: str, instructions: Sequence[str]) -> None:
        possible = self._operations.get(operation)
        if possible is None:
            known = ", ".join(sorted(self._operations))
            raise UnknownOperation(f"no operation {operation!r}; known: {known}")
        for instruction in instructions:
            if not any(INSTRUCTIONS[form].fullmatch(instruction) for form in possible):
                raise UnknownInstruction(
                    f"{instruction!r} cannot happen to {operation}, which takes {', '.join(sorted(possible))}; "
                    f"a CODE is one of {INSTRUCTIONS['return-CODE'].pattern.partition('-')[2]}, a NAME of"
                    f" {', '.join(REFUSALS)}"
                )

    def take(self, operation: str) -> str | None:
        """The next fault planned for `operation`, which counts as having happened, or None."""
        with self._lock:
            self._called[operation] += 1
            queue = self._queues.get(operation)
            return queue.popleft().instruction if queue else None

    def pending(self) -> dict[str, list[str]]:
        """What is planned and has not happened yet."""
        with self._lock:
            return {
                operation: [planned.instruction for planned in queue]
                for operation, queue in self._queues.items()
                if queue
            }

    def clear(self) -> None:
        with self._lock:
            self._queues.clear()

    @contextlib.contextmanager
    def plan(self, plan: Mapping[str, Sequence[str]]) -> Iterator[None]:
        """Plan faults for the body; fail if one of them did not happen, unless the body failed first.

        Afterwards none of them is planned any more; what others planned is left alone.
        """
        owner = object()
        self._add(plan, owner=owner)
        try:
            yield
        except BaseException:
            self._withdraw(owner)
            raise
        if left := self._withdraw(owner):
            raise FaultsNotConsumed(f"planned faults that never happened: {left}")

    def _withdraw(self, owner: object) -> dict[str, list[str]]:
        """Forget what is left of a plan, and return it."""
        left: dict[str, list[str]] = {}
        with self._lock:
            for operation, queue in self._queues.items():
                own = [planned.instruction for planned in queue if planned.owner is owner]
                if own:
                    left[operation] = own
                    self._queues[operation] = collections.deque(one for one in queue if one.owner is not owner)
        return left
