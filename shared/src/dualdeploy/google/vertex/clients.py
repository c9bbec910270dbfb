"""What every gateway to Vertex AI has: where the API is, how long it is waited for, and how an operation stands."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from dualdeploy import lazily
from dualdeploy.errors import ResourceMissing
from dualdeploy.google.calls import call
from dualdeploy.google.vertex.types import Operation

#: Seconds that one HTTP call may take, and seconds after which a failed reading call is not repeated any more.
CALL_TIMEOUT = 15.0
RETRY_DEADLINE = 10.0

Result = TypeVar("Result")


class Dated(Protocol):
    """What Vertex AI lists; `created` is None where it does not say."""

    @property
    def name(self) -> str: ...
    @property
    def created(self) -> datetime.datetime | None: ...


Each = TypeVar("Each", bound=Dated)


class Clients:
    """One project and region of Vertex AI, or an emulator of it at `emulator_host` (`host:port`, plain HTTP, no
    credentials). `call_timeout` in seconds, `retry_deadline` too: nothing is repeated after it.
    """

    def __init__(
        self,
        *,
        project: str,
        region: str,
        emulator_host: str = "",
        call_timeout: float = CALL_TIMEOUT,
        retry_deadline: float = RETRY_DEADLINE,
    ) -> None:
        self._parent = f"projects/{project}/locations/{region}"
        self._region = region
        self._emulator_host = emulator_host
        self._call_timeout = call_timeout
        self._retry_deadline = retry_deadline

    def operation(self, name: str) -> Operation | None:
        """The operation as it stands, or None when Vertex AI no longer knows it."""
        try:
            found = self._operation(name)
        except ResourceMissing:
            return None
        code = int(found.error.code)
        error = found.error.message or f"code {code}" if code else ""
        return Operation(name, bool(found.done), error, code, _metadata(found))

    def _operation(self, name: str) -> Any:
        json_format = lazily.load("google.protobuf.json_format")

        client = self._endpoints.transport.operations_client

        def get() -> Any:
            return asked(f"get {name}", lambda: client.get_operation(name=name, **self._patience(repeat=True)))

        try:
            return get()
        except json_format.ParseError:
            # Begun through v1beta1 by another instance: its messages can be read once their package is imported.
            self._beta_endpoints  # noqa: B018  # for its effect
            return get()

    def _patience(self, *, repeat: bool) -> dict[str, Any]:
        """GAPIC clients repeat nothing by themselves, and only reading calls may be repeated."""
        exceptions = lazily.load("google.api_core.exceptions")
        retries = lazily.load("google.api_core.retry")
        transient = retries.if_exception_type(
            exceptions.ServiceUnavailable, exceptions.TooManyRequests, exceptions.BadGateway
        )
        retry = retries.Retry(predicate=transient, initial=0.2, maximum=3.0, timeout=self._retry_deadline)
        return {"timeout": self._call_timeout, "retry": retry if repeat else None}

    @functools.cached_property
    def _models(self) -> Any:
        return lazily.load("google.cloud.aiplatform_v1").ModelServiceClient(**self._client_arguments())

    @functools.cached_property
    def _endpoints(self) -> Any:
        return lazily.load("google.cloud.aiplatform_v1").EndpointServiceClient(**self._client_arguments())

    @functools.cached_property
    def _beta_endpoints(self) -> Any:
        """For what v1 does not have. A second package of its size (a second, 65 MB): only scaling to zero costs it."""
        return lazily.load("google.cloud.aiplatform_v1beta1").EndpointServiceClient(**self._client_arguments())

    def _client_arguments(self, host: str = "") -> dict[str, Any]:
        if not self._emulator_host:
            return {
                "transport": "rest",
                "client_options": {"api_endpoint": host or f"{self._region}-aiplatform.googleapis.com"},
            }
        # Anonymous on purpose: otherwise a real bearer token would travel over plain HTTP.
        return {
            "transport": "rest",
            "credentials": lazily.load("google.auth.credentials").AnonymousCredentials(),
            "client_options": {"api_endpoint": f"http://{self._emulator_host}"},
        }


def asked(what: str, function: Callable[[], Result]) -> Result:
    """What `function` returns. Raises what the table makes of Vertex AI's errors; `what` says what was asked for."""
    return call(f"Vertex AI, {what}", function)


def with_labels(labels: Mapping[str, str]) -> str:
    """The filter of a listing: what has all these labels."""
    return " AND ".join(f'labels.{key}="{value}"' for key, value in sorted(labels.items()))


def oldest_first(found: Iterable[Each]) -> list[Each]:
    """In the order of their creation; last what Vertex AI gives no date for."""
    return sorted(found, key=lambda each: (each.created is None, each.created, each.name))


def _metadata(operation: Any) -> Mapping[str, Any]:
    """The operation's own metadata as JSON has it: partial failures, the folder of an export."""
    json_format = lazily.load("google.protobuf.json_format")

    return json_format.MessageToDict(operation.metadata) if operation.metadata.type_url else {}
