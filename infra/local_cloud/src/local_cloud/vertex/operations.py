"""Long-running operations: they take time, are polled, can be cancelled, and survive a restart.

An operation is a record: its kind, its arguments, and when it is due. The work of a kind is done in two
parts. `prepare` may take long and changes no record (starting a model server, waiting for it). What it
returns is applied in the one transaction that also marks the operation done, so a process that dies in
between leaves an operation that is simply done again after the restart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flask

from local_cloud.api import ApiError, planned_refusal
from local_cloud.faults import LONG_RUNNING_OPERATION, Faults
from local_cloud.vertex import pages
from local_cloud.vertex.errors import invalid_argument, not_found, rpc_status
from local_cloud.vertex.names import Location, new_id, now, seconds
from local_cloud.vertex.records import Record, Records
from local_cloud.vertex.wire import Wire, body, version

TYPE_PREFIX = "type.googleapis.com/google.cloud.aiplatform."
#: Where operations are polled: generated clients do it at `/ui/`.
SURFACES = "v1,v1beta1,ui"
EMPTY_TYPE = "type.googleapis.com/google.protobuf.Empty"

#: Faults planned for this name end an operation with an error (`return-503`) or delay it (`hang:2`).
RUN = "aiplatform.operations.run"

_COLLECTION = "operations"
#: What operations are named under, besides the location.
_COLLECTIONS = "models,endpoints,customJobs,datasets,trainingPipelines"
_LISTING = pages.Listing(key="operations", fields={})
_LOG = logging.getLogger(__name__)

Document = dict[str, Any]


def _nothing(_: bool) -> None:
    """The default of `Work.settle`."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What `prepare` hands back: `apply` changes records and returns the response; `settle(applied)` tidies.

    `generic` is what the operation's generic metadata says besides, `metadata` its own metadata.
    """

    apply: Callable[[], Document]
    settle: Callable[[bool], None] = _nothing
    generic: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One sort of operation: how it is prepared, and what its messages are called.

    What is done `at_once` is answered as done, and named after the location, as Google's deletions are.
    """

    prepare: Callable[[Document, threading.Event], Work]
    metadata: str
    response: str
    at_once: bool = False

    def metadata_type(self, api_version: str) -> str:
        return f"{TYPE_PREFIX}{api_version}.{self.metadata}"

    def response_type(self, api_version: str) -> str:
        return EMPTY_TYPE if self.response == "Empty" else f"{TYPE_PREFIX}{api_version}.{self.response}"


class Operations:
    """All long-running operations of one location, each on a thread of its own while it runs."""

    def __init__(self, *, records: Records, location: Location, faults: Faults, operation_seconds: float) -> None:
        faults.register(RUN, LONG_RUNNING_OPERATION)
        self._records = records
        self._location = location
        self._faults = faults
        self._seconds = operation_seconds
        self._kinds: dict[str, Kind] = {}
        self._changed = threading.Condition()
        self._stops: dict[str, threading.Event] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._closing = False

    def define(self, kind: str, definition: Kind) -> None:
        self._kinds[kind] = definition

    def define_deletion(self, kind: str, remove: Callable[[Document], None]) -> None:
        """A deletion, which is done at once: `remove` takes away what its arguments name, or refuses to."""

        def prepare(arguments: Document, _: threading.Event) -> Work:
            def apply() -> Document:
                remove(arguments)
                return {}

            return Work(apply)

        self.define(kind, Kind(prepare, "DeleteOperationMetadata", "Empty", at_once=True))

    def start(self, kind: str, subject: str, arguments: Document) -> Document:
        """Record an operation on `subject` (a full resource name) and begin it; call in a transaction.

        Returns:
            The google.longrunning.Operation to answer.
        """
        definition = self._kinds[kind]
        name = f"{self._location.name if definition.at_once else subject}/operations/{new_id()}"
        created = now()
        operation: Document = {
            "name": name,
            "metadata": {
                "@type": definition.metadata_type(version()),
                "genericMetadata": {"createTime": created, "updateTime": created},
            },
        }
        record = {
            "operation": operation,
            "kind": kind,
            "version": version(),
            "subject": subject,
            "arguments": arguments,
        }
        if definition.at_once:
            done = definition.prepare(arguments, threading.Event()).apply()
            operation |= {"done": True, "response": {"@type": definition.response_type(version()), **done}}
        self._records.put(_COLLECTION, name, record)
        if not definition.at_once:
            self._launch(name)
        return operation

    def pending_on(self, subject: str) -> list[Record]:
        """The unfinished operations on `subject`, as records with `operation`, `kind` and `arguments`."""
        return [record for record in self._pending() if record["subject"] == subject]

    def pending_of(self, kind: str) -> list[Record]:
        """The unfinished operations of a kind."""
        return [record for record in self._pending() if record["kind"] == kind]

    def resume(self) -> None:
        """Begin again every operation that the last process left unfinished."""
        for record in self._pending():
            self._launch(record["operation"]["name"])

    def close(self) -> None:
        """Stop waiting; unfinished operations stay unfinished and are resumed by the next process."""
        with self._changed:
            self._closing = True
            for stop in self._stops.values():
                stop.set()
            threads = list(self._threads.values())
        for thread in threads:
            thread.join(timeout=10)

    def _pending(self) -> Iterator[Record]:
        return (record for _, record in self._records.all(_COLLECTION) if "done" not in record["operation"])

    def _launch(self, name: str) -> None:
        thread = threading.Thread(target=self._run, args=(name,), name=f"operation-{name[-6:]}", daemon=True)
        with self._changed:
            self._stops[name] = threading.Event()
            self._threads[name] = thread
        thread.start()

    def _run(self, name: str) -> None:
        stop = self._stops[name]
        try:
            self._work(name, stop)
        except ApiError as error:
            self._finish(name, {"error": rpc_status(error)})
        except Exception as error:  # noqa: BLE001  # an operation must end, or its poller waits for ever
            if self._closing:
                return
            _LOG.exception("operation %s failed", name)
            self._finish(name, {"error": rpc_status(ApiError(500, "INTERNAL", f"Internal error: {error}"))})
        finally:
            with self._changed:
                self._stops.pop(name, None)
                self._threads.pop(name, None)
                self._changed.notify_all()

    def _work(self, name: str, stop: threading.Event) -> None:
        # The creating transaction may still be open: nothing is visible before it is committed.
        with self._records.transaction():
            record = self._records.get(_COLLECTION, name)
        if record is None or stop.wait(self._seconds) or self._fails_as_planned(stop):
            return
        kind = self._kinds[record["kind"]]
        work = kind.prepare(record["arguments"], stop)
        applied = False
        try:
            with self._records.transaction():
                # A cancellation that came first has already written the outcome.
                if not stop.is_set() and "done" not in self._existing(name):
                    response = {"@type": kind.response_type(record["version"]), **work.apply()}
                    self._finish(name, {"response": response}, work)
                    applied = True
        finally:
            work.settle(applied)

    def _fails_as_planned(self, stop: threading.Event) -> bool:
        """Act on a planned fault; True when the process stops meanwhile."""
        fault = self._faults.take(RUN)
        if fault is None:
            return False
        if fault.startswith("hang:"):
            return stop.wait(float(fault.removeprefix("hang:")))
        if refusal := planned_refusal(fault, RUN):
            raise refusal
        return False

    def _finish(self, name: str, outcome: Document, work: Work | None = None) -> None:
        with self._records.transaction():
            record = self._records.get(_COLLECTION, name)
            if record is None or "done" in record["operation"]:
                return
            metadata = record["operation"]["metadata"]
            metadata["genericMetadata"] |= {"updateTime": now(), **(work.generic if work else {})}
            metadata |= work.metadata if work else {}
            record["operation"] |= {"done": True, **outcome}
            self._records.put(_COLLECTION, name, record)

    def register(self, wire: Wire) -> None:
        """Add the operation methods to `wire`, at every path that Google's generated clients use.

        The clients poll `/ui/…`, not `/v1/…`, and poll names below a resource for all but deletions.
        """
        nested = f"/<any({_COLLECTIONS}):collection>/<resource>"
        for path in ("/operations", f"{nested}/operations"):
            self._register(wire, "get", "GET", f"{path}/<operation>", self._get, answer="Operation")
            self._register(wire, "list", "GET", path, self._list, answer="ListOperationsResponse")
            self._register(wire, "wait", "POST", f"{path}/<operation>:wait", self._wait, answer="Operation")
            self._register(wire, "cancel", "POST", f"{path}/<operation>:cancel", self._cancel)

    def _register(
        self, wire: Wire, name: str, method: str, path: str, view: Callable[..., Document], *, answer: str = ""
    ) -> None:
        body = f"{name.capitalize()}OperationRequest" if method == "POST" else ""
        wire.operation(f"aiplatform.operations.{name}", method, path, view, answer=answer, body=body, surfaces=SURFACES)

    def _parent(self, *, project: str, location: str, collection: str = "", resource: str = "") -> str:
        parent = self._location.check(project, location)
        return f"{parent}/{collection}/{resource}" if collection else parent

    def _existing(self, name: str) -> Document:
        record = self._records.get(_COLLECTION, name)
        if record is None:
            raise not_found(f"Operation {name} is not found.")
        operation: Document = record["operation"]
        return operation

    def _get(self, operation: str, **where: str) -> Document:
        return self._existing(f"{self._parent(**where)}/operations/{operation}")

    def _list(self, **where: str) -> Document:
        prefix = f"{self._parent(**where)}/operations/"
        found = [(sequence, record["operation"]) for sequence, record in self._records.all(_COLLECTION)]
        return pages.answer(_LISTING, [pair for pair in found if pair[1]["name"].startswith(prefix)])

    def _wait(self, **where: str) -> Document:
        wanted = body() or flask.request.args.to_dict()
        limit = min(seconds(wanted["timeout"], "timeout") if wanted.get("timeout") else 10.0, 60.0)
        deadline = time.monotonic() + limit
        while True:
            operation = self._get(**where)
            left = deadline - time.monotonic()
            if operation.get("done") or left <= 0 or self._closing:
                return operation
            with self._changed:
                # Short waits: the thread that finishes may have notified just before.
                self._changed.wait(min(left, 0.1))

    def _cancel(self, **where: str) -> Document:
        operation = self._get(**where)
        if operation.get("done"):
            raise invalid_argument(f"Operation {operation['name']} is already done.")
        cancelled = ApiError(499, "CANCELLED", "The operation was cancelled.")
        self._finish(operation["name"], {"error": rpc_status(cancelled)})
        with self._changed, contextlib.suppress(KeyError):
            self._stops[operation["name"]].set()
        return {}
