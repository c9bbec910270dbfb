"""Long-running operations in memory, as the fakes of Google's services that have them share them."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable, Mapping
from typing import Any

from dualdeploy.errors import ResourceMissing
from dualdeploy.google.vertex import Operation
from support.fakes.failing import Faults

#: Of google.rpc: what operations and jobs end with whose own fault it is, and those whose subject is gone.
FAILED_PRECONDITION, NOT_FOUND = 9, 5

#: What an operation does when it ends, and the metadata that it leaves, if any.
Work = Callable[[], Mapping[str, Any] | None]


@dataclasses.dataclass
class Pending:
    work: Work
    subject: str = ""
    done: bool = False
    error: str = ""
    code: int = 0
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class HasOperations:
    """A service whose operations do their work when they end.

    `finish_operations()` ends all, or `auto_finish=True` ends each at the first look. `fail_operation` plans the
    message that the next one of a kind ends with.
    """

    def __init__(self, *, faults: Faults | None, auto_finish: bool, first_id: int) -> None:
        self.faults = faults or Faults()
        self.auto_finish = auto_finish
        self.operations: dict[str, Pending] = {}
        self._failures: dict[str, list[tuple[str, int]]] = {}
        self._ids = itertools.count(first_id)
        self._lock = threading.RLock()

    def finish_operations(self) -> None:
        for name in list(self.operations):
            self._finish(name)

    def fail_operation(self, kind: str, message: str, *, code: int = FAILED_PRECONDITION) -> None:
        """The next operation that the fake begins as a `kind` ends with this error."""
        self._failures.setdefault(kind, []).append((message, code))

    def operation(self, name: str) -> Operation | None:
        def looked() -> Operation | None:
            with self._lock:
                if name not in self.operations:
                    return None
                if self.auto_finish:
                    self._finish(name)
                pending = self.operations[name]
                return Operation(name, pending.done, pending.error, pending.code, pending.metadata)

        return self.faults.run("operation", looked)

    def _begin(self, kind: str, parent: str, work: Work, *, subject: str = "") -> str:
        """Begin an operation; the name that it has under `parent`."""
        with self._lock:
            name = f"{parent}/operations/{next(self._ids)}"
            pending = Pending(work, subject)
            if self._failures.get(kind):
                pending.error, pending.code = self._failures[kind].pop(0)
            self.operations[name] = pending
            return name

    def _finish(self, name: str) -> None:
        with self._lock:
            pending = self.operations[name]
            if pending.done:
                return
            pending.done = True
            if pending.error:
                return
            try:
                pending.metadata = pending.work() or {}
            except ResourceMissing as exc:
                pending.error, pending.code = str(exc), NOT_FOUND
