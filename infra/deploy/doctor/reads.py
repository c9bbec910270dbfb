"""Google's APIs, to be read only: there is no method here that changes anything, and every call has an end."""

from __future__ import annotations

import datetime
import functools
import json
import os
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

import google.api_core.exceptions as google_errors
import google.auth
import google.auth.credentials
import google.auth.transport.requests
import requests
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.auth.transport.requests import AuthorizedSession
from google.cloud import pubsub_v1
from google.cloud.monitoring_v3 import ListTimeSeriesRequest, MetricServiceClient, TimeInterval

from dualdeploy.errors import DualDeployError

Result = TypeVar("Result")

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
#: The right to have one's questions counted on the project, which is another one than the right to ask them.
_QUOTA_PROJECT = "serviceusage.services.use"
#: Which role to ask for, by what a permission begins or ends with; the last one is for all others.
_ROLES: tuple[tuple[str, str], ...] = (
    (".getIamPolicy", "roles/iam.securityReviewer"),
    ("storage.objects.", "roles/storage.objectViewer"),
    ("storage.buckets.", "roles/storage.bucketViewer"),
    ("cloudquotas.", "roles/cloudquotas.viewer"),
    ("serviceusage.services.use", "roles/serviceusage.serviceUsageConsumer"),
    ("monitoring.", "roles/monitoring.viewer"),
    ("", "roles/viewer"),
)


class NotThere(DualDeployError):
    """The thing that was asked for does not exist."""


class CouldNotLook(DualDeployError):
    """Nobody knows how the thing stands; `remedy` is what lets the doctor look next time."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class NotSignedIn(DualDeployError):
    """There are no credentials to ask with."""


class Google:
    """Reads of one project, each made once and remembered. Raises NotThere and CouldNotLook.

    `environ` may point the APIs elsewhere, by the variables that Google's clients and our settings know;
    `patience` is what one call may take, in seconds.
    """

    def __init__(self, project: str, *, environ: Mapping[str, str] = os.environ, patience: float = 10.0) -> None:
        self.project = project
        self.patience = patience
        self._environ = environ
        self._local = threading.local()
        self._lock = threading.Lock()
        self._answers: dict[Any, Future[Any]] = {}

    # --- over HTTP ---------------------------------------------------------------------------------------------

    def get(self, api: str, path: str, *, needs: str, **parameters: Any) -> Mapping[str, Any]:
        """A JSON document; `needs` is the permission that Google asks for."""
        return _document(api, self.read(api, path, needs=needs, **parameters))

    def read(self, api: str, path: str, *, needs: str, **parameters: Any) -> bytes:
        """The same as bytes."""
        pairs = [(key, one) for key, each in sorted(parameters.items()) for one in _listed(each)]
        return self._once(("GET", api, path, *pairs), lambda: self._request("GET", api, path, needs, params=pairs))

    def pages(self, api: str, path: str, key: str, *, needs: str, **parameters: Any) -> Iterator[Mapping[str, Any]]:
        """The elements of a list, page by page."""
        token = ""
        while True:
            page = self.get(api, path, needs=needs, **parameters, **({"pageToken": token} if token else {}))
            yield from page.get(key, [])
            token = str(page.get("nextPageToken", ""))
            if not token:
                return

    def policy(self, api: str, path: str, *, needs: str) -> Mapping[str, Any]:
        """An IAM policy from an API that wants its question posted, though it changes nothing."""
        body = {"options": {"requestedPolicyVersion": 3}}
        ask = functools.partial(self._request, "POST", api, f"{path}:getIamPolicy", needs, json=body)
        return _document(api, self._once(("policy", api, path), ask))

    def _request(self, method: str, api: str, path: str, needs: str, **arguments: Any) -> bytes:
        url = f"{self._base(api)}{path}"
        what = f"{api} was asked for {urllib.parse.unquote(path)}"
        try:
            answer = self._session().request(method, url, timeout=self.patience, **arguments)
        except requests.Timeout as exc:
            raise CouldNotLook(f"{what} and did not answer within {self.patience:g} s", "ask again later") from exc
        except (requests.RequestException, GoogleAuthError) as exc:
            raise CouldNotLook(f"{what} and cannot be reached: {exc}", "ask again later") from exc
        if answer.status_code == 404:
            raise NotThere(f"{what}, which does not exist")
        if answer.status_code >= 400:
            raise self._refused(api, what, needs, answer.status_code, answer.text)
        return answer.content

    def _refused(self, api: str, what: str, needs: str, code: int, said: str) -> CouldNotLook:
        if "SERVICE_DISABLED" in said or "has not been used in project" in said:
            # Vertex AI is asked in a region, and turned on as a whole.
            service = "aiplatform.googleapis.com" if api.endswith("-aiplatform") else f"{api}.googleapis.com"
            enable = f"gcloud services enable {service} --project={self.project}"
            return CouldNotLook(f"{service} is off, so nothing can be asked of it", enable)
        if code in (401, 403):
            return self._forbidden(what, needs, said)
        return CouldNotLook(f"{what} and answered {code}: {_message(said)}", "ask again later")

    def _forbidden(self, what: str, needs: str, said: str) -> CouldNotLook:
        if "USER_PROJECT_DENIED" in said or _QUOTA_PROJECT in said:
            needs = _QUOTA_PROJECT
        role = next(role for part, role in _ROLES if part in needs)
        grant = f"gcloud projects add-iam-policy-binding {self.project} --member=user:YOU --role={role}"
        return CouldNotLook(f"{what}: you lack {needs}", f"{grant}   (by an owner)")

    def _base(self, api: str) -> str:
        variable = {"storage": "STORAGE_EMULATOR_HOST"}.get(api, "GOOGLE_APIS_EMULATOR_HOST")
        if api.endswith("aiplatform"):
            variable = "VERTEX_EMULATOR_HOST"
        host = self._environ.get(variable, "")
        if not host:
            return f"https://{api}.googleapis.com"
        return host if "://" in host else f"http://{host}"

    def _session(self) -> requests.Session:
        """One for each thread: sessions are not made to be shared."""
        if not hasattr(self._local, "session"):
            self._local.session = (
                requests.Session()
                if self._is_emulated
                else AuthorizedSession(self.credentials, refresh_timeout=self.patience)
            )
        return self._local.session  # type: ignore[no-any-return]

    def sign_in(self) -> None:
        """See once whether anything can be asked at all, before everything is. Raises NotSignedIn."""
        if self._is_emulated:
            return
        try:
            self.credentials.refresh(functools.partial(google.auth.transport.requests.Request(), timeout=self.patience))
        except GoogleAuthError as exc:
            raise NotSignedIn(f"gcloud auth application-default login   ({exc})") from exc

    @property
    def _is_emulated(self) -> bool:
        return bool(self._environ.get("GOOGLE_APIS_EMULATOR_HOST"))

    @functools.cached_property
    def credentials(self) -> google.auth.credentials.Credentials:
        """Raises NotSignedIn."""
        try:
            # Whoever looks as himself has to name the project that the question is counted on.
            found, _ = google.auth.default(scopes=[_SCOPE], quota_project_id=self.project)
        except DefaultCredentialsError as exc:
            raise NotSignedIn("gcloud auth application-default login") from exc
        return found

    # --- Pub/Sub and Cloud Monitoring, by their clients --------------------------------------------------------

    def topic(self, name: str) -> Any:
        """google.pubsub.v1.Topic, by its full name."""
        return self._ask_pubsub(self._publisher.get_topic, "topics.get", topic=name)

    def subscription(self, name: str) -> Any:
        """google.pubsub.v1.Subscription, by its full name."""
        return self._ask_pubsub(self._subscriber.get_subscription, "subscriptions.get", subscription=name)

    def pubsub_policy(self, name: str) -> Any:
        """google.iam.v1.Policy of a topic or a subscription, by its full name."""
        client = self._publisher if "/topics/" in name else self._subscriber
        kind = "topics" if "/topics/" in name else "subscriptions"
        request = {"resource": name, "options": {"requested_policy_version": 3}}
        return self._ask_pubsub(client.get_iam_policy, f"{kind}.getIamPolicy", request=request)

    def series(self, metric: str, *, seconds: int, now: datetime.datetime) -> Mapping[str, int]:
        """The newest value of an integer metric of Pub/Sub's subscriptions within `seconds`, by subscription."""
        request = ListTimeSeriesRequest(
            name=f"projects/{self.project}",
            filter=f'metric.type = "{metric}" AND resource.type = "pubsub_subscription"',
            interval=TimeInterval(start_time=now - datetime.timedelta(seconds=seconds), end_time=now),
        )

        def ask() -> Mapping[str, int]:
            found = self._monitoring.list_time_series(request=request, timeout=self.patience, retry=None)
            # The newest point comes first.
            return {each.resource.labels["subscription_id"]: int(each.points[0].value.int64_value) for each in found}

        what = f"Cloud Monitoring was asked for {metric}"
        return self._once(("series", metric), lambda: self._grpc(ask, what, "monitoring.timeSeries.list"))

    def _ask_pubsub(self, method: Callable[..., Result], needs: str, **request: Any) -> Result:
        ask = functools.partial(method, timeout=self.patience, retry=None, **request)
        name = request.get("topic") or request.get("subscription") or request["request"]["resource"]
        what = f"Pub/Sub was asked for {name}"
        return self._once((needs, name), lambda: self._grpc(ask, what, f"pubsub.{needs}"))

    def _grpc(self, ask: Callable[[], Result], what: str, needs: str) -> Result:
        try:
            return ask()
        except google_errors.NotFound as exc:
            raise NotThere(f"{what}, which does not exist") from exc
        except google_errors.DeadlineExceeded as exc:
            raise CouldNotLook(f"{what} and did not answer within {self.patience:g} s", "ask again later") from exc
        except google_errors.Forbidden as exc:
            raise self._forbidden(what, needs, str(exc)) from exc
        except (google_errors.GoogleAPICallError, GoogleAuthError) as exc:
            raise CouldNotLook(f"{what} and failed: {exc}", "ask again later") from exc

    @functools.cached_property
    def _publisher(self) -> Any:
        return pubsub_v1.PublisherClient(**self._client_arguments("PUBSUB_EMULATOR_HOST"))

    @functools.cached_property
    def _subscriber(self) -> Any:
        return pubsub_v1.SubscriberClient(**self._client_arguments("PUBSUB_EMULATOR_HOST"))

    @functools.cached_property
    def _monitoring(self) -> Any:
        host = self._environ.get("MONITORING_EMULATOR_HOST", "")
        if not host:
            return MetricServiceClient(credentials=self.credentials)
        import grpc  # noqa: PLC0415  # as in dualdeploy.google.monitoring: an emulator is spoken to without encryption
        from google.cloud.monitoring_v3.services.metric_service.transports import (  # noqa: PLC0415
            MetricServiceGrpcTransport,
        )

        return MetricServiceClient(transport=MetricServiceGrpcTransport(channel=grpc.insecure_channel(host)))

    def _client_arguments(self, variable: str) -> dict[str, Any]:
        """Google's clients know their own emulator's variable, and then want no credentials."""
        return {} if self._environ.get(variable) else {"credentials": self.credentials}

    def _once(self, key: Any, ask: Callable[[], Result]) -> Result:
        """Ask, or wait for who asked the same: every check gets the same answer, or the same error."""
        with self._lock:
            answer = self._answers.get(key)
            is_first = answer is None
            if answer is None:
                answer = self._answers[key] = Future()
        if is_first:
            try:
                answer.set_result(ask())
            except BaseException as exc:  # noqa: BLE001  # whoever waits gets it, and so does who asked
                answer.set_exception(exc)
        return answer.result()  # type: ignore[no-any-return]


def _document(api: str, content: bytes) -> Mapping[str, Any]:
    """A proxy's sign-in page has status 200 too."""
    try:
        document = json.loads(content)
    except ValueError as exc:
        raise CouldNotLook(f"what answers for {api} sends no JSON, but {content[:80]!r}", "ask again later") from exc
    if not isinstance(document, Mapping):
        raise CouldNotLook(f"what answers for {api} sends no JSON object, but {content[:80]!r}", "ask again later")
    return document


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _message(said: str) -> str:
    """What Google's envelope says, or the beginning of whatever else came."""
    try:
        return str(json.loads(said)["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return said[:300]
