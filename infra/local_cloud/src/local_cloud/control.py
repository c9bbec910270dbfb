"""The control API: how people, demos and tests speak to a running local cloud. Google has nothing like it."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flask

from local_cloud.api import Api, ApiError
from local_cloud.deployed.state import Project
from local_cloud.faults import Faults, UnknownInstruction, UnknownOperation
from local_cloud.http import HttpServer
from local_cloud.iam import OWNER, BindingsError, Condition, Grant, Iam

_ADDRESS = re.compile(r"[A-Za-z0-9.-]+:\d{1,5}")


class UnknownService(ValueError):
    """A service was registered that the topology does not have."""


class Control:
    """Environment, services, faults and the state of the project over HTTP; `stop_requested` is set by POST /shutdown.

    `register_service(name, address)` raises UnknownService for a name that the topology does not have;
    `token(email, audience)` is an identity token.
    """

    def __init__(
        self,
        *,
        faults: Faults,
        project: Project,
        iam: Iam,
        environment: Callable[[str], Mapping[str, str]],
        page: Callable[[], str],
        services: Mapping[str, str],
        register_service: Callable[[str, str], None],
        token: Callable[[str, str], str],
        port: int = 0,
    ) -> None:
        self.api = Api("control", faults=faults)
        self.stop_requested = threading.Event()
        self._faults = faults
        self._project = project
        self._iam = iam
        self._environment = environment
        self._page = page
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
        operation("control.page.get", "GET", "/")(self.page)
        operation("control.health.get", "GET", "/healthz")(lambda: {"status": "ok"})
        operation("control.environment.get", "GET", "/environment")(self.environment)
        operation("control.services.list", "GET", "/services")(lambda: dict(self._services))
        operation("control.services.register", "POST", "/services")(self.register_services)
        operation("control.faults.get", "GET", "/faults")(self.faults)
        operation("control.faults.add", "POST", "/faults")(self.add_faults)
        operation("control.faults.clear", "DELETE", "/faults")(self.clear_faults)
        operation("control.project.get", "GET", "/project")(self.project)
        operation("control.project.change", "PATCH", "/project")(self.change_project)
        operation("control.permissions.get", "GET", "/permissions")(self.permissions)
        operation("control.permissions.forget", "DELETE", "/permissions")(self.forget_permissions)
        operation("control.tokens.create", "POST", "/tokens")(self.create_token)
        operation("control.shutdown", "POST", "/shutdown")(self.shutdown)

    def page(self) -> flask.Response:
        """What there is, for people."""
        return flask.Response(self._page(), content_type="text/html; charset=utf-8")

    def environment(self) -> Any:
        """The owner's variables, or with `?account=` (a short name) those of an account, who is judged."""
        account = flask.request.args.get("account", "")
        member = self._iam.member(account) if account else OWNER
        if member not in self._iam.callers:
            known = ", ".join(sorted(each.partition(":")[2].partition("@")[0] for each in self._iam.callers))
            raise ApiError(404, "NOT_FOUND", f"no account {account!r}; the bindings and services have {known}")
        return dict(self._environment(member))

    def register_services(self) -> Any:
        """{"shop": "127.0.0.1:8081"}: where events for a service go from now on."""
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

    def project(self) -> Any:
        """What has no process here and is only said: APIs that are off, quotas, accounts."""
        return {
            "apis_off": sorted(self._iam.apis_off),
            "quotas": self._project.quotas,
            "runs_as": self._project.runs_as,
            "is_firebase": self._project.is_firebase,
            "grants_count_after": self._iam.grants_count_after,
            "accounts": self._iam.accounts,
        }

    def change_project(self) -> Any:
        """{"apis_off": ["run.googleapis.com"], "quotas": {metric: 0}, "runs_as": {service: e-mail}}, and besides

        "is_firebase": false, "accounts": {e-mail: true (disabled), false or null (deleted)}, and "grant" and "revoke":
        [{"resource", "role", "member", "prefixes"}]; with "lists": true the bucket of a condition may be listed.
        Each may be left out.
        """
        changes = _json_object()
        try:
            changed = _Changes.of(changes)
        except (TypeError, ValueError, AttributeError) as exc:
            raise _invalid(f"the project cannot be changed so: {exc}") from exc
        if changed.apis_off is not None:
            self._iam.apis_off = changed.apis_off
        self._project.quotas.update(changed.quotas)
        self._project.runs_as.update(changed.runs_as)
        if changed.is_firebase is not None:
            self._project.is_firebase = changed.is_firebase
        if changed.grants_count_after is not None:
            self._iam.grants_count_after = changed.grants_count_after
        for account, is_disabled in changed.accounts.items():
            if is_disabled is None:
                self._iam.accounts.pop(account, None)
            else:
                self._iam.accounts[account] = is_disabled
        for grant in changed.revoke:
            self._iam.revoke(grant.resource, grant.role, grant.member)
        try:
            for grant in changed.grant:
                self._iam.grant(grant)
        except BindingsError as exc:
            raise _invalid(str(exc)) from exc
        return self.project()

    def permissions(self) -> Any:
        """Who was refused what, oldest first, and without which grants some call so far would have been refused."""
        needed = sorted(self._iam.needed(), key=lambda each: (each.member, each.resource, each.role))
        return {
            "refused": [dataclasses.asdict(each) for each in self._iam.refusals()],
            "needed": [
                {
                    "member": each.member,
                    "role": each.role,
                    "resource": each.resource,
                    "condition": each.condition.expression if each.condition else "",
                }
                for each in needed
            ],
        }

    def forget_permissions(self) -> Any:
        self._iam.forget()
        return self.permissions()

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


@dataclasses.dataclass(frozen=True)
class _Changes:
    """A request that was understood as a whole, before any of it is done."""

    apis_off: set[str] | None
    quotas: dict[str, int]
    runs_as: dict[str, str]
    is_firebase: bool | None
    grants_count_after: float | None
    accounts: dict[str, bool | None]
    grant: list[Grant]
    revoke: list[Grant]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> _Changes:
        """Raises ValueError, TypeError or AttributeError for what is not of this form."""
        if unknown := set(document) - {field.name for field in dataclasses.fields(cls)}:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        apis = document.get("apis_off")
        return cls(
            apis_off=None if apis is None else {str(each) for each in list(apis)},
            quotas={str(key): int(value) for key, value in document.get("quotas", {}).items()},
            runs_as={str(key): str(value) for key, value in document.get("runs_as", {}).items()},
            is_firebase=None if "is_firebase" not in document else bool(document["is_firebase"]),
            grants_count_after=None if "grants_count_after" not in document else float(document["grants_count_after"]),
            accounts={
                str(key): None if value is None else bool(value) for key, value in document.get("accounts", {}).items()
            },
            grant=[_grant(**each) for each in document.get("grant", [])],
            revoke=[_grant(**each) for each in document.get("revoke", [])],
        )


def _grant(resource: str, role: str, member: str, prefixes: Sequence[str] = (), *, lists: bool = False) -> Grant:
    if not prefixes:
        return Grant(resource, role, member)
    bucket = f"projects/_/{resource}"
    begin = tuple(f"{bucket}/objects/{prefix}" for prefix in prefixes)
    title = f"only-{'-and-'.join(prefix.rstrip('/') for prefix in prefixes)}"
    return Grant(resource, role, member, Condition(begin, bucket if lists else "", title))


def _json_object() -> dict[str, Any]:
    document = flask.request.get_json(force=True, silent=True)
    if not isinstance(document, dict):
        raise _invalid("the body must be a JSON object")
    return document


def _invalid(message: str) -> ApiError:
    return ApiError(400, "INVALID_ARGUMENT", message)
