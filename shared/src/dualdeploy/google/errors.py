"""What Google answers, as our errors: the one table for every client and for failed long-running operations.

*Later* is what passes by itself, and *never* is what a repetition would be told again. `RULES` is read from the top;
the first rule that fits decides. Statuses are HTTP's; gRPC's and those of operations are translated as Google does it
(https://cloud.google.com/apis/design/errors#handling_errors).
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from dualdeploy.errors import (
    AgentBeingProvisioned,
    CredentialsUnavailable,
    DualDeployError,
    ModelAsleep,
    NoCapacity,
    PermissionSpreads,
    RejectedByGoogle,
    ResourceConflict,
    ResourceMissing,
    ServiceUnavailable,
)

#: In place of a status: nothing came back, or nothing that can be read.
NO_ANSWER: Final = 0

#: google.rpc.Code by number, each with its name and the HTTP status that stands for it.
_RPC_CODES: Final = (
    ("OK", 200),
    ("CANCELLED", 499),
    ("UNKNOWN", 500),
    ("INVALID_ARGUMENT", 400),
    ("DEADLINE_EXCEEDED", 504),
    ("NOT_FOUND", 404),
    ("ALREADY_EXISTS", 409),
    ("PERMISSION_DENIED", 403),
    ("RESOURCE_EXHAUSTED", 429),
    ("FAILED_PRECONDITION", 400),
    ("ABORTED", 409),
    ("OUT_OF_RANGE", 400),
    ("UNIMPLEMENTED", 501),
    ("INTERNAL", 500),
    ("UNAVAILABLE", 503),
    ("DATA_LOSS", 500),
    ("UNAUTHENTICATED", 401),
)
#: CONFLICT is a name that firebase_admin adds.
_STATUS_BY_NAME: Final = {**dict(_RPC_CODES), "CONFLICT": 409}


@dataclasses.dataclass(frozen=True)
class Refusal:
    """What Google said: an HTTP status (or `NO_ANSWER`), its words, and the permission that it names."""

    status: int
    message: str
    permission: str = ""
    resource: str = ""


@dataclasses.dataclass(frozen=True)
class Rule:
    """What has one of these `statuses` (none: any) and a message that fits `says` is `means`; `advice` mends it."""

    statuses: frozenset[int]
    says: str
    means: type[DualDeployError]
    advice: str = ""

    def fits(self, refusal: Refusal) -> bool:
        return (not self.statuses or refusal.status in self.statuses) and bool(
            re.search(self.says, refusal.message, re.IGNORECASE)
        )


def _rule(statuses: str, says: str, means: type[DualDeployError], advice: str = "") -> Rule:
    return Rule(frozenset(int(each) for each in statuses.split()), says, means, advice)


_GRANT = "if it was granted in the last minutes this passes by itself; if not, grant it (docs/permissions.md)"

#: The texts are recorded answers; tests/unit/dualdeploy/google/test_errors.py has them in full, with their sources.
RULES: Final = (
    _rule(str(NO_ANSWER), "", ServiceUnavailable),
    _rule("429", "not yet ready for inference", ModelAsleep),
    # At creation as 429, of a job or an operation that was accepted as its error, with whatever code.
    _rule(
        "",
        "resources are insufficient in region|not have enough resources|stockout"
        "|resource_pool_exhausted|out of capacity|machine type temporarily unavailable"
        "|is currently unavailable in the \\S+ zone",
        NoCapacity,
        "Google has no free machine of this kind now; another machine, accelerator or region may be available sooner",
    ),
    _rule(
        "403 429",
        "quota metrics? exceed|quotas are exceeded|quota exceeded for .*_(gpus|cpus|tpus)"
        "|quota '\\w*[gc]pus\\w*' exceeded",
        NoCapacity,
        "the quota is in use or too small: `make doctor` compares it with what the data sets ask for",
    ),
    # What Vertex AI says, with 400, when it may not start a job as this account, or the account is minutes old.
    _rule("400 403", "act as service.?account|iam\\.serviceaccounts\\.actas", PermissionSpreads, _GRANT),
    _rule(
        "400 403 409",
        "agents? (is|are) being provisioned",
        AgentBeingProvisioned,
        "Google makes it at the first use of an API, within minutes",
    ),
    # Google's own word, whatever the status.
    _rule("400 403", "(try again|retry) (in a few minutes|later)", ServiceUnavailable),
    _rule("400", "other operations running", ResourceConflict),
    _rule(
        "401",
        "",
        CredentialsUnavailable,
        "on Google Cloud the metadata server gives them out; on a laptop: gcloud auth application-default login",
    ),
    # Some APIs count requests and answer 403: https://cloud.google.com/storage/docs/json_api/v1/status-codes
    _rule("403", "ratelimitexceeded|rate limit exceeded|quotaexceeded", ServiceUnavailable),
    _rule(
        "403",
        "organization'?s policy|organization policy|vpcservicecontrols|security_policy_violated",
        RejectedByGoogle,
        "a policy of the organization forbids it: an administrator of the organization has to allow it",
    ),
    _rule("403", "retention policy|object hold|retentionpolicynotmet", RejectedByGoogle, "the bucket keeps it"),
    _rule(
        "403",
        "has not been used in project|service_disabled|accessnotconfigured",
        PermissionSpreads,
        "enable the API (`make deploy` does); it counts after some minutes",
    ),
    _rule("403", "billing", PermissionSpreads, "link the project to a billing account; it counts after some minutes"),
    _rule("403", "", PermissionSpreads, _GRANT),
    _rule("404", "", ResourceMissing),
    _rule("409", "", ResourceConflict),
    _rule("408 429 499", "", ServiceUnavailable),
    _rule("501 505", "", RejectedByGoogle, "the API does not have this method: the address or the client is wrong"),
    _rule(" ".join(map(str, range(500, 600))), "", ServiceUnavailable),
    _rule("", "", RejectedByGoogle, "the same request is refused again: correct what it names"),
)


def translate(
    exc: BaseException, subject: str, *, meanings: Mapping[int, type[DualDeployError]] | None = None
) -> DualDeployError | None:
    """What an exception of Google's libraries means to us, or None when it is not one of theirs.

    `subject` says which service was asked for what. `meanings` are what a status means to one client alone, such as
    412 to a store whose writes have preconditions; they come before the table.
    """
    refusal = _refusal(exc)
    return _error(refusal, subject, meanings=meanings) if refusal else None


def of_status(code: int, message: str, subject: str) -> DualDeployError:
    """What the `google.rpc.Status` of a failed long-running operation or job means."""
    status = _RPC_CODES[code][1] if 0 <= code < len(_RPC_CODES) else code
    return _error(_named(status, message), subject)


def _error(
    refusal: Refusal, subject: str, *, meanings: Mapping[int, type[DualDeployError]] | None = None
) -> DualDeployError:
    answered = f"{refusal.status} " if refusal.status else "no answer: "
    text = f"{subject}: {answered}{refusal.message}"
    if meanings and refusal.status in meanings:
        return meanings[refusal.status](text)
    rule = next(rule for rule in RULES if rule.fits(refusal))
    if rule.advice:
        text = f"{text} ({rule.advice})"
    if issubclass(rule.means, PermissionSpreads):
        return rule.means(text, permission=refusal.permission, resource=refusal.resource)
    return rule.means(text)


# What the libraries raise ------------------------------------------------------------------------------------------


def _refusal(exc: BaseException) -> Refusal | None:
    # By name: an exception that was raised has its library loaded, and one that was not needs none.
    for kind in type(exc).__mro__:
        reader = _READERS.get(f"{kind.__module__}.{kind.__qualname__}")
        if reader:
            return reader(exc)
    return None


def _of_api_core(exc: Any) -> Refusal:
    # 408 has no class of its own, and an error that never reached a server no code.
    status = int(exc.code) if exc.code else NO_ANSWER
    named = _named(status, str(exc.message))
    reasons = " ".join(str(each.get("reason", "")) for each in exc.errors if isinstance(each, Mapping))
    metadata = exc.metadata or {}
    return dataclasses.replace(
        named,
        message=" ".join(filter(None, (named.message, exc.reason, reasons))) if status == 403 else named.message,
        permission=metadata.get("permission", named.permission),
        resource=metadata.get("resource", named.resource),
    )


def _of_retry(exc: Any) -> Refusal:
    return (_refusal(exc.cause) if exc.cause else None) or _no_answer(exc)


def _of_response(exc: Any) -> Refusal:
    if exc.response is None:
        return _no_answer(exc)
    return _of_body(int(exc.response.status_code), exc.response.text)


def _of_firebase(exc: Any) -> Refusal:
    if exc.cause is not None and exc.http_response is None:
        return _refusal(exc.cause) or _no_answer(exc)
    status = _STATUS_BY_NAME.get(str(exc.code), NO_ANSWER)
    if exc.http_response is not None and status in (NO_ANSWER, 500):
        # UNKNOWN is also what the SDK calls a status that it has no name for.
        status = int(exc.http_response.status_code)
    return _named(status, str(exc))


def _of_grpc(exc: Any) -> Refusal:
    return _named(_STATUS_BY_NAME.get(exc.code().name, NO_ANSWER), str(exc.details()))


def _of_credentials(exc: BaseException) -> Refusal:
    # IAM's answer to an account that impersonates another one comes as a text, with the name of its code in it.
    named = next((name for name in ("PERMISSION_DENIED", "UNAVAILABLE", "INTERNAL") if f'"{name}"' in str(exc)), "")
    return _named(_STATUS_BY_NAME.get(named, 401), str(exc))


def _no_answer(exc: BaseException) -> Refusal:
    return Refusal(NO_ANSWER, str(exc) or type(exc).__name__)


_READERS: Final[Mapping[str, Callable[[Any], Refusal]]] = {
    "google.api_core.exceptions.RetryError": _of_retry,
    "google.api_core.exceptions.GoogleAPICallError": _of_api_core,
    "google.cloud.storage.exceptions.InvalidResponse": _of_response,
    "google.cloud.storage.exceptions.DataCorruption": _no_answer,
    "google.auth.exceptions.GoogleAuthError": _of_credentials,
    "firebase_admin.exceptions.FirebaseError": _of_firebase,
    "grpc.RpcError": _of_grpc,
    "requests.exceptions.HTTPError": _of_response,
    "requests.exceptions.RequestException": _no_answer,
    "urllib3.exceptions.HTTPError": _no_answer,
    "http.client.HTTPException": _no_answer,
    "socket.gaierror": _no_answer,
    "ssl.SSLError": _no_answer,
    "builtins.ConnectionError": _no_answer,
    "builtins.TimeoutError": _no_answer,
}

#: "Permission 'a.b.c' denied on resource '//x' (or it may not exist)", "Permission a.b.c denied (or …)",
#: "ann@example.com does not have a.b.c access to the …".
_PERMISSION = re.compile(
    r"[Pp]ermission \W*(?P<one>[a-z]+(?:\.[A-Za-z]+){2,})\W* denied|does not have (?P<two>[a-z]+(?:\.[A-Za-z]+){2,})"
)
_RESOURCE = re.compile(r"on resource \W*?'(?P<one>[^'\\]+)|act as service_account: (?P<account>\S+?)\.? \(or")


def _of_body(status: int, text: str) -> Refusal:
    """Out of Google's error envelope, or of whatever else came as the body."""
    try:
        error = json.loads(text)["error"]
        message, details = str(error["message"]), error.get("details") or error.get("errors") or []
    except (ValueError, LookupError, TypeError, AttributeError):
        return _named(status, text[:200])
    reasons = " ".join(str(each["reason"]) for each in details if isinstance(each, Mapping) and "reason" in each)
    return _named(status, f"{message} {reasons}".rstrip() if status == 403 else message)


def _named(status: int, message: str) -> Refusal:
    """With the permission and the resource that the message names, if it does."""
    permission, resource = _PERMISSION.search(message), _RESOURCE.search(message)
    named = (permission["one"] or permission["two"]) if permission else ""
    if resource and resource["account"]:
        named = "iam.serviceAccounts.actAs"
    return Refusal(status, message, named, (resource["one"] or resource["account"]) if resource else "")
