"""Google's answers, as they were recorded, and what each of them means to us."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import google.api_core.exceptions as api
import google.auth.exceptions as auth
import grpc
import pytest
import requests
import urllib3.exceptions
import yaml
from firebase_admin import exceptions as firebase
from google.cloud.storage import exceptions as storage

from dualdeploy import errors as ours
from dualdeploy.errors import (
    CannotEverSucceed,
    CredentialsUnavailable,
    DualDeployError,
    PermissionSpreads,
    RejectedByGoogle,
    ResourceMissing,
    RetryLater,
    ServiceUnavailable,
)
from dualdeploy.google import errors

RECORDED = yaml.safe_load((Path(__file__).parents[3] / "fixtures" / "google_errors.yaml").read_text())
ROWS = [(row["status"], row["code"], row["message"], getattr(ours, row["means"])) for row in RECORDED]
NAMES = [f"{status} {message[:40]}" for status, _, message, _ in ROWS]
#: 408, 412, 413, 502 and 507 are HTTP's alone.
IN_RPC = [row for row in ROWS if row[0] == dict(errors._RPC_CODES)[row[1]]]


def response(status: int, code: str, message: str, **more: Any) -> requests.Response:
    answer = requests.Response()
    answer.status_code = status
    answer.request = requests.Request("GET", "https://x.googleapis.com/v1/things").prepare()
    answer._content = json.dumps({"error": {"code": status, "status": code, "message": message, **more}}).encode()
    answer.headers["Content-Type"] = "application/json"
    return answer


def meant(exc: BaseException) -> DualDeployError:
    found = errors.translate(exc, "Vertex AI, create a job")
    assert found is not None
    assert "Vertex AI, create a job" in str(found)
    return found


@pytest.mark.parametrize(("status", "code", "message", "means"), ROWS, ids=NAMES)
def test_a_recorded_answer_means_the_same_through_every_library(
    status: int, code: str, message: str, means: type[DualDeployError]
) -> None:
    answer = response(status, code, message)
    of_http_error = requests.exceptions.HTTPError(f"{status} Error", response=answer)
    for exc in (
        api.from_http_response(answer),
        api.from_http_status(status, message),
        api.RetryError("Timeout of 10s exceeded", api.from_http_response(answer)),
        of_http_error,
        storage.InvalidResponse(answer, message),
    ):
        found = meant(exc)
        assert type(found) is means, exc
        assert message[:30] in str(found)


@pytest.mark.parametrize(("status", "code", "message", "means"), IN_RPC)
def test_a_code_of_grpc_of_firebase_and_of_a_failed_operation_means_the_same(
    status: int, code: str, message: str, means: type[DualDeployError]
) -> None:
    number = [name for name, _ in errors._RPC_CODES].index(code)
    assert type(errors.of_status(number, message, "x")) is means
    assert type(errors.of_status(status, message, "x")) is means, "as HTTP's number, should an operation have one"
    assert type(meant(api.from_grpc_status(grpc.StatusCode[code], message))) is means
    assert type(meant(RefusedCall(grpc.StatusCode[code], message))) is means
    assert type(meant(firebase.FirebaseError(code, message))) is means


class RefusedCall(grpc.RpcError):  # type: ignore[misc]  # grpc has no types
    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__()
        self.code = lambda: code
        self.details = lambda: message


def test_every_rule_is_shown_by_a_recorded_answer() -> None:
    shown = {
        next(rule for rule in errors.RULES if rule.fits(errors.Refusal(status, message)))
        for status, _, message, _ in ROWS
    }
    assert [rule for rule in errors.RULES if rule not in shown and rule.statuses != {errors.NO_ANSWER}] == []


@pytest.mark.parametrize(
    "exc",
    [
        requests.exceptions.ConnectionError("Connection aborted."),
        requests.exceptions.ReadTimeout("Read timed out."),
        requests.exceptions.ChunkedEncodingError("Response ended prematurely"),
        requests.exceptions.JSONDecodeError("Expecting value", "<html>", 0),
        requests.exceptions.HTTPError("no response came with it"),
        urllib3.exceptions.ProtocolError("Connection broken"),
        storage.DataCorruption(None, "Checksum mismatch while downloading"),
        ConnectionResetError(104, "Connection reset by peer"),
        TimeoutError("timed out"),
        TimeoutError(),
        api.RetryError("Timeout of 10s exceeded", None),
        api.RetryError("Timeout of 10s exceeded", ConnectionResetError("reset")),
        firebase.UnavailableError("Failed to establish a connection", cause=requests.exceptions.ConnectionError("x")),
        firebase.UnknownError("Unexpected", http_response=response(408, "", "Request Timeout")),
    ],
    ids=lambda exc: f"{type(exc).__name__} {exc}"[:40],
)
def test_no_answer_is_waited_for(exc: Exception) -> None:
    assert type(meant(exc)) is ServiceUnavailable


@pytest.mark.parametrize(
    "exc",
    [
        # Of a laptop without a login, of a metadata server that does not answer, and of one that says no.
        auth.DefaultCredentialsError(
            "Your default credentials were not found. To set up Application Default Credentials"
        ),
        auth.TransportError("Failed to retrieve http://metadata.google.internal/computeMetadata/v1/instance/…"),
        auth.RefreshError("Failed to retrieve token", {"error": "x"}),
        api.Unauthenticated("Request had invalid authentication credentials."),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_credentials_that_cannot_be_had_are_one_thing_for_every_client(exc: Exception) -> None:
    found = meant(exc)
    assert type(found) is CredentialsUnavailable
    assert "gcloud auth application-default login" in str(found)


def test_a_permission_that_spreads_is_named_with_its_resource_and_has_a_bound() -> None:
    refused = response(
        403,
        "PERMISSION_DENIED",
        "Permission 'a' denied",
        details=[
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "IAM_PERMISSION_DENIED",
                "domain": "aiplatform.googleapis.com",
                "metadata": {"permission": "aiplatform.models.upload", "resource": "projects/p/locations/r"},
            }
        ],
    )
    # As google-auth passes IAM's answer on: the text of a tuple, of a message and the body.
    denied = "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist)."
    body = response(403, "PERMISSION_DENIED", denied).text
    acting = "You do not have permission to act as service_account: t@p.iam.gserviceaccount.com. (or it may not exist)."
    cases: list[tuple[Exception, str, str]] = [
        (api.from_http_response(refused), "aiplatform.models.upload", "projects/p/locations/r"),
        (
            auth.RefreshError("Unable to acquire impersonated credentials", body),
            "iam.serviceAccounts.getAccessToken",
            "",
        ),
        (api.BadRequest(acting), "iam.serviceAccounts.actAs", "t@p.iam.gserviceaccount.com"),
        (api.Forbidden("ann@x.com does not have storage.objects.list access to …"), "storage.objects.list", ""),
        (api.Forbidden("User not authorized to perform this action."), "", ""),
    ]
    for exc, permission, resource in cases:
        found = meant(exc)
        assert isinstance(found, PermissionSpreads)
        assert (found.permission, found.resource) == (permission, resource), exc
        assert found.patience < ServiceUnavailable.patience
        assert "docs/permissions.md" in str(found)


@pytest.mark.parametrize(
    ("reason", "means"),
    [
        ("rateLimitExceeded", ServiceUnavailable),
        ("retentionPolicyNotMet", RejectedByGoogle),
        ("forbidden", PermissionSpreads),
    ],
)
def test_of_cloud_storage_s_403_the_reason_counts(reason: str, means: type[DualDeployError]) -> None:
    answer = response(403, "", "No.", errors=[{"message": "No.", "domain": "global", "reason": reason}])
    assert type(meant(api.from_http_response(answer))) is means
    assert type(meant(requests.exceptions.HTTPError("403", response=answer))) is means


def test_what_a_status_means_to_one_client_alone_comes_before_the_table() -> None:
    found = errors.translate(api.PreconditionFailed("x"), "Cloud Storage, a", meanings={412: KeyError})  # type: ignore[dict-item]
    assert type(found) is KeyError


def test_what_is_not_google_s_is_left_as_it_is() -> None:
    for exc in (ValueError("x"), OSError(28, "No space left on device"), ImportError("x"), ResourceMissing("ours")):
        assert errors.translate(exc, "x") is None


def test_later_and_never_are_kinds_that_cannot_be_confused() -> None:
    for rule in errors.RULES:
        assert issubclass(rule.means, RetryLater) != issubclass(rule.means, CannotEverSucceed)


def test_a_page_in_html_is_quoted_in_part() -> None:
    answer = response(403, "", "")
    answer._content = b"<html>" + b"x" * 5000
    assert len(str(meant(requests.exceptions.HTTPError("403", response=answer)))) < 600
