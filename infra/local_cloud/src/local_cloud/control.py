"""The control API: how people, demos and tests speak to a running local cloud. Google has nothing like it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

import flask

from local_cloud.api import Api, ApiError
from local_cloud.faults import Faults, UnknownInstruction, UnknownOperation
from local_cloud.http import HttpServer

_ADDRESS = re.compile(r"[A-Za-z0-9.-]+:\d{1,5}")


class UnknownService(ValueError):
    """A service was registered that the topology does not have."""


class Control:
    """Environment, services and faults over HTTP; `stop_requested` is set by POST /shutdown.

    `register_service(name, address)` raises UnknownService for a name that the topology does not have;
    `token(email, audience)` is an identity token.
    """

    def __init__(
        self,
        *,
        faults: Faults,
        environment: Callable[[], Mapping[str, str]],
        services: Mapping[str, str],
        register_service: Callable[[str, str], None],
        token: Callable[[str, str], str],
        port: int = 0,
    ) -> None:
        self.api = Api("control", faults=faults)
        self.stop_requested = threading.Event()
        self._faults = faults
        self._environment = environment
        self._services = services
        self._register_service = register_service
        self._token = token
        self._add_routes()
        self._server = HttpServer(self.api.app, name="control", port=port, threads=4)
        self.address = self._server.address

    def start(self) -> Control:
        self._server.start()
        return self

    def close(self) -> None:
        self._server.close()

    def _add_routes(self) -> None:
        operation = self.api.operation
        operation("control.health.get", "GET", "/healthz")(lambda: {"status": "ok"})
        operation("control.environment.get", "GET", "/environment")(lambda: dict(self._environment()))
        operation("control.services.list", "GET", "/services")(lambda: dict(self._services))
        operation("control.services.register", "POST", "/services")(self.register_services)
        operation("control.faults.get", "GET", "/faults")(self.faults)
        operation("control.faults.add", "POST", "/faults")(self.add_faults)
        operation("control.faults.clear", "DELETE", "/faults")(self.clear_faults)
        operation("control.tokens.create", "POST", "/tokens")(self.create_token)
        operation("control.shutdown", "POST", "/shutdown")(self.shutdown)

    def register_services(self) -> Any:
        """{"training_launcher": "127.0.0.1:8081"}: where events for a service go from now on."""
        services = _json_object()
        for name, address in services.items():
            if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
                raise _invalid(f'{name}: the address must look like "127.0.0.1:8081", got {address!r}')
        for name, address in services.items():
            try:
                self._register_service(name, address)
            except UnknownService as exc:
                raise _invalid(str(exc)) from exc
        return dict(self._services)

    def faults(self) -> Any:
        """What is planned and has not happened, and the operations that can be planned for."""
        return {"pending": self._faults.pending(), "operations": self._faults.operations()}

    def add_faults(self) -> Any:
        """{"storage.objects.insert": ["return-503", "lost-response"]}: what shall go wrong, once each, in order."""
        plan = _json_object()
        if not all(isinstance(instructions, list) for instructions in plan.values()):
            raise _invalid('each operation takes a list of instructions, such as ["return-503"]')
        try:
            self._faults.add({name: [str(each) for each in instructions] for name, instructions in plan.items()})
        except (UnknownOperation, UnknownInstruction) as exc:
            raise _invalid(str(exc)) from exc
        return {"pending": self._faults.pending()}

    def clear_faults(self) -> Any:
        self._faults.clear()
        return {"pending": {}}

    def create_token(self) -> Any:
        """{"email": …, "audience": "http://…"}: an identity token, as `gcloud auth print-identity-token` prints one."""
        wanted = _json_object()
        email, audience = wanted.get("email"), wanted.get("audience")
        if not isinstance(email, str) or not isinstance(audience, str) or not email or not audience:
            raise _invalid("email and audience are needed, both texts")
        return {"token": self._token(email, audience)}

    def shutdown(self) -> Any:
        self.stop_requested.set()
        return {"status": "stopping"}


def _json_object() -> dict[str, Any]:
    document = flask.request.get_json(force=True, silent=True)
    if not isinstance(document, dict):
        raise _invalid("the body must be a JSON object")
    return document


def _invalid(message: str) -> ApiError:
    return ApiError(400, "INVALID_ARGUMENT", message)
