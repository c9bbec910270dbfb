"""gRPC methods as named operations: each can be told to fail, and each is a row of COVERAGE.md."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf import any_pb2, empty_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from local_cloud.api import STATUS_BY_CODE, ApiError, Operation
from local_cloud.faults import Faults
from local_cloud.pubsub.broker import UnknownAckIds

_LOG = logging.getLogger("local_cloud.pubsub")

Empty: Any = empty_pb2.Empty

#: A planned fault breaks a stream this long after it opened. One that fails while google-api-core still opens it
#: makes the client open two and forget one, which then swallows messages.
_BREAK_SECONDS = 0.05


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


class RpcTable(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc is untyped
    """The methods of one package by path; those that are missing answer UNIMPLEMENTED and say so.

    `api` is what operations are called after: `pubsub.publish`. One that does not refuse leaves what it has not to the
    tables after it.
    """

    def __init__(
        self, *, faults: Faults, package: str = "google.pubsub.v1", api: str = "pubsub", refuses: bool = True
    ) -> None:
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
        self.operations.append(Operation(name, "gRPC", path, differs))
        self._methods[f"/{path}"] = _Method(name, request, handler, streaming)

    def stop(self) -> None:
        """Let planned hangs end."""
        self._stopping.set()

    def service(self, handler_call_details: Any) -> Any:
        path = handler_call_details.method
        method = self._methods.get(path)
        if method is None and not self._refuses:
            return None
        if method is None:
            return grpc.unary_unary_rpc_method_handler(lambda _, context: _refuse(path, context))
        serve = self._serve_stream if method.streaming else self._serve
        make = grpc.stream_stream_rpc_method_handler if method.streaming else grpc.unary_unary_rpc_method_handler
        return make(
            lambda request, context: serve(method, request, context),
            request_deserializer=method.request.FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )

    def _serve(self, method: _Method, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            fault = self._faults.take(method.name)
            self._begin(method, fault)
            response = method.handler(request, context)
            _end(method, fault)
        except ApiError as error:
            _abort(context, error)
        except Exception as error:  # noqa: BLE001  # gRPC would answer UNKNOWN and keep the reason to itself
            _LOG.exception("%s failed", method.name)
            _abort(context, ApiError(500, "INTERNAL", f"{method.name} failed: {error!r}"))
        else:
            return response

    def _serve_stream(self, method: _Method, requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            fault = self._faults.take(method.name)
            breaks = fault is not None and (fault.startswith("return-") or fault == "reset-connection")
            if not breaks:
                self._begin(method, fault)
            for response in method.handler(requests, context):
                if response.received_messages:
                    _end(method, fault)
                yield response
                if breaks:
                    self._stopping.wait(_BREAK_SECONDS)
                    self._begin(method, fault)
        except ApiError as error:
            _abort(context, error)
        except Exception as error:  # noqa: BLE001  # as above
            _LOG.exception("%s failed", method.name)
            _abort(context, ApiError(500, "INTERNAL", f"{method.name} failed: {error!r}"))

    def _begin(self, method: _Method, fault: str | None) -> None:
        """Suffer what is planned for before the work is done."""
        if fault is None or fault == "lost-response":
            return
        if fault.startswith("return-"):
            code = int(fault.removeprefix("return-"))
            raise ApiError(code, STATUS_BY_CODE[code], f"planned fault: {fault} at {method.name}")
        if fault.startswith("hang:"):
            self._stopping.wait(float(fault.removeprefix("hang:")))
            return
        # What is left of faults.CALL, the only faults that a method takes: reset-connection. A client sees that as
        # UNAVAILABLE; HTTP/2 shares the connection itself with calls that are not to fail.
        raise _unavailable("connection reset")


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
