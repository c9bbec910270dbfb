"""gRPC methods as named operations: each can be told to fail, and each is a row of COVERAGE.md."""

from __future__ import annotations

import concurrent.futures
import contextvars
import dataclasses
import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf import any_pb2, empty_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from local_cloud.api import ApiError, Operation, api_is_off, planned_refusal
from local_cloud.faults import Faults
from local_cloud.http import LOOPBACK
from local_cloud.iam import ApiIsOff, Gate, Refused
from local_cloud.iam.gate import asks
from local_cloud.pubsub.broker import UnknownAckIds

_LOG = logging.getLogger("local_cloud.pubsub")

Empty: Any = empty_pb2.Empty

#: A planned fault breaks a stream this long after it opened. One that fails while google-api-core still opens it
#: makes the client open two and forget one, which then swallows messages.
_BREAK_SECONDS = 0.05


#: Who sends the request that this thread answers.
_CALLER: contextvars.ContextVar[str] = contextvars.ContextVar("caller")


def caller() -> str:
    """Who sends the request that is being answered, as a member of IAM policies."""
    return _CALLER.get()


@dataclasses.dataclass(frozen=True)
class _Method:
    name: str
    request: Any
    handler: Callable[[Any, grpc.ServicerContext], Any]
    streaming: bool


@dataclasses.dataclass(frozen=True)
class _Status(grpc.Status):  # type: ignore[misc]  # grpc is untyped
    """What `abort_with_status` takes: a status with its details as google.rpc.Status in the trailer."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, bytes], ...]


class RpcTable:
    """The methods of one package by path; those that are missing answer UNIMPLEMENTED and say so.

    `api` is what operations are called after: `pubsub.publish`. One that does not refuse leaves what it has not to the
    tables after it. `gate` is asked before each method; what it refuses, `deny` puts into the API's words.
    """

    def __init__(
        self,
        *,
        faults: Faults,
        gate: Gate,
        deny: Callable[[Refused], ApiError],
        package: str = "google.pubsub.v1",
        api: str = "pubsub",
        refuses: bool = True,
    ) -> None:
        self._gate = gate
        self._deny = deny
        self._refuses = refuses
        self._package = package
        self._api = api
        self.operations: list[Operation] = []
        self._faults = faults
        self._methods: dict[str, _Method] = {}
        self._stopping = threading.Event()

    def unary(self, service: str, method: str, request: Any, handler: Callable[..., Any], *, differs: str = "") -> None:
        """Serve <package>.<service>/<method>; `handler(request, context)` returns its response."""
        self._add(service, method, request, handler, differs, streaming=False)

    def streaming(
        self, service: str, method: str, request: Any, handler: Callable[..., Any], *, differs: str = ""
    ) -> None:
        """The same for a stream in both directions; `handler(requests, context)` yields responses."""
        self._add(service, method, request, handler, differs, streaming=True)

    def _add(self, service: str, method: str, request: Any, handler: Any, differs: str, *, streaming: bool) -> None:
        name = f"{self._api}.{method[0].lower()}{method[1:]}"
        path = f"{self._package}.{service}/{method}"
        self._faults.register(name)
        asks(name)  # said at start, not at the first call, if nothing is known of it
        self.operations.append(Operation(name, "gRPC", path, differs))
        self._methods[f"/{path}"] = _Method(name, request, handler, streaming)

    def stop(self) -> None:
        """Let planned hangs end."""
        self._stopping.set()

    def has(self, path: str) -> bool:
        """Whether `/<package>.<service>/<method>` is one of its unary methods."""
        method = self._methods.get(path)
        return method is not None and not method.streaming

    def request_type(self, path: str) -> Any:
        """The message that a method takes."""
        return self._methods[path].request

    def call(self, path: str, request: Any, context: Any, caller: str) -> Any:
        """Answer a request that did not come over gRPC. Raises ApiError."""
        return self._answer(self._methods[path], request, context, caller)

    def handler_for(self, caller: str) -> grpc.GenericRpcHandler:
        """The methods as one caller meets them: a server of gRPC does not tell a method at which port it was called."""
        return _OfCaller(self, caller)

    def find(self, path: str, caller: str) -> Any:
        """What serves a path for a caller; None leaves it to the tables after this one."""
        method = self._methods.get(path)
        if method is None and not self._refuses:
            return None
        if method is None:
            return grpc.unary_unary_rpc_method_handler(lambda _, context: _refuse(path, context))
        serve = self._serve_stream if method.streaming else self._serve
        make = grpc.stream_stream_rpc_method_handler if method.streaming else grpc.unary_unary_rpc_method_handler
        return make(
            lambda request, context: serve(method, request, context, caller),
            request_deserializer=method.request.FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )

    def _serve(self, method: _Method, request: Any, context: grpc.ServicerContext, caller: str) -> Any:
        try:
            return self._answer(method, request, context, caller)
        except ApiError as error:
            _abort(context, error)

    def _answer(self, method: _Method, request: Any, context: Any, caller: str) -> Any:
        """The response to one request. Raises ApiError."""
        _CALLER.set(caller)
        try:
            fault = self._faults.take(method.name)
            self._begin(method, fault)
            self._name_by_id(request)
            self._gate.check(method.name, caller, request, _names(request))
            response = method.handler(request, context)
            _end(method, fault)
        except Refused as refused:
            raise self._deny(refused) from refused
        except ApiIsOff as off:
            raise api_is_off(off) from off
        except ApiError:
            raise
        except Exception as error:
            _LOG.exception("%s failed", method.name)
            # gRPC would answer UNKNOWN and keep the reason to itself.
            raise ApiError(500, "INTERNAL", f"{method.name} failed: {error!r}") from error
        return response

    def _name_by_id(self, message: Any) -> None:
        """Names with the project's number mean the same as those with its id, by which they are kept and answered."""
        for field, value in message.ListFields():
            if field.is_repeated:
                continue
            if field.message_type is not None:
                self._name_by_id(value)
            elif field.type == field.TYPE_STRING:
                setattr(message, field.name, self._gate.iam.by_id(value))

    def _serve_stream(
        self, method: _Method, requests: Any, context: grpc.ServicerContext, caller: str
    ) -> Iterator[Any]:
        try:
            requests = self._admitted(method, requests, caller)
            fault = self._faults.take(method.name)
            breaks = fault is not None and (fault.startswith(("return-", "refuse:")) or fault == "reset-connection")
            if not breaks:
                self._begin(method, fault)
            for response in method.handler(requests, context):
                if response.received_messages:
                    _end(method, fault)
                yield response
                if breaks:
                    self._stopping.wait(_BREAK_SECONDS)
                    self._begin(method, fault)
        except Refused as refused:
            _abort(context, self._deny(refused))
        except ApiIsOff as off:
            _abort(context, api_is_off(off))
        except ApiError as error:
            _abort(context, error)
        except Exception as error:  # noqa: BLE001  # as above
            _LOG.exception("%s failed", method.name)
            _abort(context, ApiError(500, "INTERNAL", f"{method.name} failed: {error!r}"))

    def _admitted(self, method: _Method, requests: Any, caller: str) -> Iterator[Any]:
        """The stream's requests, once the first, which says what they are about, was let through."""
        try:
            first = next(requests)
        except (StopIteration, grpc.RpcError):
            return iter(())  # the client left before it asked for anything
        self._name_by_id(first)
        self._gate.check(method.name, caller, first, {})
        return itertools.chain([first], requests)

    def _begin(self, method: _Method, fault: str | None) -> None:
        """Suffer what is planned for before the work is done."""
        if fault is None or fault == "lost-response":
            return
        if refusal := planned_refusal(fault, method.name):
            raise refusal
        if fault.startswith("hang:"):
            self._stopping.wait(float(fault.removeprefix("hang:")))
            return
        # What is left of faults.CALL, the only faults that a method takes: reset-connection. A client sees that as
        # UNAVAILABLE; HTTP/2 shares the connection itself with calls that are not to fail.
        raise _unavailable("connection reset")


def _names(request: Any) -> Mapping[str, str]:
    """The collection that a request about a policy names: `topics` or `subscriptions`."""
    resource = getattr(request, "resource", "")
    return {"collection": resource.split("/")[2]} if resource.count("/") == 3 else {}


class _OfCaller(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc is untyped
    """A table, called by one caller."""

    def __init__(self, table: RpcTable, caller: str) -> None:
        self._table = table
        self._caller = caller

    def service(self, handler_call_details: Any) -> Any:
        return self._table.find(handler_call_details.method, self._caller)


class RpcServers:
    """A gRPC server for each caller on one executor; the port is how a method is told who calls.

    `address` is that of the first caller, `addresses` those of all. Raises OSError where `port` is taken.
    """

    def __init__(
        self,
        name: str,
        tables: Sequence[RpcTable],
        *,
        callers: Sequence[str],
        port: int = 0,
        threads: int,
        options: Sequence[tuple[str, int]] = (),
    ) -> None:
        self._threads = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix=f"{name}-rpc")
        # Without so_reuseport=0 a second server on the same port silently takes half of the calls.
        settings = (("grpc.so_reuseport", 0), *options)
        self._servers: list[grpc.Server] = []
        addresses: dict[str, str] = {}
        for caller in callers:
            server = grpc.server(
                self._threads, handlers=[each.handler_for(caller) for each in tables], options=settings
            )
            wanted = 0 if self._servers else port
            try:
                bound = server.add_insecure_port(f"{LOOPBACK}:{wanted}")
            except RuntimeError as exc:
                raise OSError(f"{name} cannot listen on {LOOPBACK}:{port}: is another local cloud running?") from exc
            self._servers.append(server)
            addresses[caller] = f"{LOOPBACK}:{bound}"
        self.addresses: Mapping[str, str] = addresses
        self.address = addresses[callers[0]]

    def start(self) -> None:
        for server in self._servers:
            server.start()

    def stop(self) -> None:
        """Hang up; what is under way ends without an answer."""
        for event in [server.stop(grace=0) for server in self._servers]:
            event.wait(timeout=5)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)


def _end(method: _Method, fault: str | None) -> None:
    """Suffer what is planned for when the work is done but the caller has not heard of it."""
    if fault == "lost-response":
        raise _unavailable(f"the response of {method.name} was lost")


def _unavailable(what: str) -> ApiError:
    return ApiError(503, "UNAVAILABLE", f"planned fault: {what}")


def _refuse(path: str, context: grpc.ServicerContext) -> None:
    _abort(
        context,
        ApiError(501, "UNIMPLEMENTED", f"The local cloud has no {path.lstrip('/')}: COVERAGE.md lists what it has."),
    )


def _abort(context: grpc.ServicerContext, error: ApiError) -> None:
    code = grpc.StatusCode[error.status]
    if not isinstance(error, UnknownAckIds):
        context.abort(code, error.message)
    status = status_pb2.Status(code=code_pb2.Code.Value(error.status), message=error.message)
    detail = any_pb2.Any()
    detail.Pack(_invalid_ack_ids(error))
    status.details.append(detail)
    trailer = (("grpc-status-details-bin", status.SerializeToString()),)
    context.abort_with_status(_Status(code, error.message, trailer))


def _invalid_ack_ids(error: ApiError) -> Any:
    """How the client libraries learn which ids failed. Source: google-cloud-pubsub's streaming pull manager."""
    ack_ids = error.ack_ids if isinstance(error, UnknownAckIds) else []
    return error_details_pb2.ErrorInfo(
        reason=error.reason,
        domain="pubsub.googleapis.com",
        metadata=dict.fromkeys(ack_ids, "PERMANENT_FAILURE_INVALID_ACK_ID"),
    )
