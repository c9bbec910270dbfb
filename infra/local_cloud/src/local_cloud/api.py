"""One emulated HTTP API: its routes, each named after Google's operation, and its one error envelope."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flask
from werkzeug.exceptions import HTTPException

from local_cloud.faults import Faults
from local_cloud.http import CALLER
from local_cloud.iam import OWNER, PROJECT_NUMBER, ApiIsOff, Gate, Refused
from local_cloud.iam.gate import asks
from local_cloud.recorded import REFUSALS


class ApiError(Exception):
    """What an operation answers instead of a result; the API's envelope turns it into a body.

    `status` is Google's canonical name (`NOT_FOUND`, `FAILED_PRECONDITION`), `reason` the JSON APIs' own
    word for it (`notFound`, `conditionNotMet`) where the API has one. `details` are the messages that google.rpc.Status
    carries besides, each with its `@type`.
    """

    def __init__(
        self,
        code: int,
        status: str,
        message: str,
        *,
        reason: str = "",
        details: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.message = message
        self.reason = reason
        self.details = details


@dataclasses.dataclass(frozen=True)
class Operation:
    """One row of the route table, and so one row of COVERAGE.md."""

    name: str
    method: str
    path: str
    differs: str


#: Canonical status by HTTP code, for planned faults and for errors that Flask itself raises.
STATUS_BY_CODE = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    412: "FAILED_PRECONDITION",
    413: "OUT_OF_RANGE",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def planned_refusal(fault: str, operation: str) -> ApiError | None:
    """What a planned fault answers instead of the operation's result; None for one that does something else."""
    if fault.startswith("return-"):
        code = int(fault.removeprefix("return-"))
        return ApiError(code, STATUS_BY_CODE[code], f"planned fault: {fault} at {operation}")
    recorded = REFUSALS.get(fault.removeprefix("refuse:"))
    if recorded is None:
        return None
    return ApiError(recorded.code, recorded.status, recorded.message, reason=recorded.reason, details=recorded.details)


def google_error(error: ApiError) -> tuple[Mapping[str, Any], int]:
    """The envelope of Google's gRPC-backed REST APIs (Vertex AI, Firebase ML). Source: AIP-193."""
    details = {"details": list(error.details)} if error.details else {}
    body = {"error": {"code": error.code, "message": error.message, "status": error.status, **details}}
    return body, error.code


def caller() -> str:
    """Who sends the current request, as a member of IAM policies; the owner of the project where no port tells."""
    return str(flask.request.environ.get(CALLER, OWNER))


#: Parameters of the address that every method takes; those that begin with a dollar are not among them.
#: Source: https://docs.cloud.google.com/apis/docs/system-parameters
SYSTEM_PARAMETERS = frozenset(
    {
        "access_token",
        "alt",
        "callback",
        "fields",
        "key",
        "oauth_token",
        "prettyPrint",
        "quotaUser",
        "uploadType",
        "upload_protocol",
    }
)

#: What Google calls its APIs when one of them is off.
_TITLES = {
    "aiplatform": "Vertex AI API",
    "cloudquotas": "Cloud Quotas API",
    "cloudresourcemanager": "Cloud Resource Manager API",
    "cloudscheduler": "Cloud Scheduler API",
    "eventarc": "Eventarc API",
    "firebase": "Firebase Management API",
    "firebaseml": "Firebase ML API",
    "firebaseremoteconfig": "Firebase Remote Config API",
    "iam": "Identity and Access Management (IAM) API",
    "iamcredentials": "IAM Service Account Credentials API",
    "logging": "Cloud Logging API",
    "monitoring": "Cloud Monitoring API",
    "pubsub": "Cloud Pub/Sub API",
    "run": "Cloud Run Admin API",
    "serviceusage": "Service Usage API",
    "storage": "Cloud Storage JSON API",
}


def api_is_off(off: ApiIsOff) -> ApiError:
    """How every API says that it is not enabled.

    Source: github.com/GoogleCloudPlatform/agent-starter-pack/issues/304, and AIP-193 for the details.
    """
    project = f"projects/{PROJECT_NUMBER}"
    title = _TITLES.get(off.api.partition(".")[0], off.api)
    page = f"https://console.developers.google.com/apis/api/{off.api}/overview?project={PROJECT_NUMBER}"
    return ApiError(
        403,
        "PERMISSION_DENIED",
        f"{title} has not been used in project {PROJECT_NUMBER} before or it is disabled. Enable it by visiting {page}"
        " then retry. If you enabled this API recently, wait a few minutes for the action to propagate to our systems"
        " and retry.",
        reason="accessNotConfigured",
        details=[
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "SERVICE_DISABLED",
                "domain": "googleapis.com",
                "metadata": {
                    "service": off.api,
                    "serviceTitle": title,
                    "consumer": project,
                    "containerInfo": PROJECT_NUMBER,
                    "activationUrl": page,
                },
            }
        ],
    )


def no_gate(refused: Refused) -> ApiError:
    """How an API without a gate refuses: it never has to."""
    return ApiError(403, "PERMISSION_DENIED", str(refused))


class Api:
    """A Flask application whose every route is a named, faultable, documented operation.

    `gate` is asked before each; what it refuses, `refuse` puts into the API's words. Without a gate nobody is refused:
    what Google has nothing like.
    """

    def __init__(
        self,
        name: str,
        *,
        faults: Faults,
        render_error: Callable[[ApiError], tuple[Mapping[str, Any], int]] = google_error,
        gate: Gate | None = None,
        refuse: Callable[[Refused], ApiError] = no_gate,
        caller: Callable[[], str] = caller,
    ) -> None:
        self.name = name
        self._caller = caller
        self._gate = gate
        self._refuse = refuse
        self.app = flask.Flask(f"local_cloud.{name}")
        self.app.json.sort_keys = False  # type: ignore[attr-defined]  # the default provider has it
        self.operations: list[Operation] = []
        self._faults = faults
        self._render_error = render_error
        self.app.register_error_handler(ApiError, self.answer)
        self.app.register_error_handler(Refused, self._answer_refused)
        self.app.register_error_handler(ApiIsOff, lambda off: self.answer(api_is_off(off)))
        self.app.register_error_handler(HTTPException, self._answer_http)

    def operation(self, name: str, method: str, path: str, *, differs: str = "") -> Callable[..., Any]:
        """Register a view as Google's operation `name`; `differs` says where it is not like Google's."""
        self._faults.register(name)
        if self._gate is not None:
            asks(name)  # said at start, not at the first call, if nothing is known of it
        self.operations.append(Operation(name, method, path, differs))

        def register(view: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(view)
            def faulted(**arguments: Any) -> Any:
                return self._with_fault(name, lambda: self._judged(name, view, arguments))

            self.app.add_url_rule(path, endpoint=f"{name} {method} {path}", view_func=faulted, methods=[method])
            return view

        return register

    def _judged(self, name: str, view: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        if self._gate is not None:
            self._gate.check(name, self._caller(), flask.request, arguments)
        return view(**arguments)

    def _with_fault(self, name: str, view: Callable[[], Any]) -> Any:
        fault = self._faults.take(name)
        if fault is None:
            return view()
        if refusal := planned_refusal(fault, name):
            raise refusal
        if fault.startswith("hang:"):
            time.sleep(float(fault.removeprefix("hang:")))
            return view()
        if fault == "lost-response":
            view()
            raise ApiError(503, "UNAVAILABLE", f"planned fault: the response of {name} was lost")
        # What is left of faults.CALL, the only faults that an operation takes: reset-connection.
        return flask.Response(_reset(), direct_passthrough=True, headers={"Content-Length": "1"})

    def answer(self, error: ApiError) -> flask.Response:
        """An error in the API's envelope."""
        body, code = self._render_error(error)
        response = flask.jsonify(body)
        response.status_code = code
        return response

    def _answer_refused(self, refused: Refused) -> flask.Response:
        return self.answer(self._refuse(refused))

    def _answer_http(self, error: HTTPException) -> flask.Response:
        code = error.code or 500
        message = str(error.description)
        if code in {404, 405}:
            request = flask.request
            message = f"The local cloud has no {request.method} {request.path}: COVERAGE.md lists what it has."
        return self.answer(ApiError(code, STATUS_BY_CODE.get(code, "UNKNOWN"), message))


def _reset() -> Any:
    """A body that breaks off: the server closes the connection, the client sees it reset."""
    raise ConnectionResetError("planned fault: connection reset")
    yield b""
