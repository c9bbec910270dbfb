"""Firebase ML through `firebase_admin.ml`: find by display name, create or update, publish.

Firebase ML hosting ends on 15 June 2027; `docs/decisions/` says what replaces it. `create_model` and `update_model`
sign a URL for the file, which Cloud Run's own credentials cannot do: a credential that signs by impersonation (IAM
signBlob) is used, so no key file is needed. A key that somebody configured all the same is taken.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from dualdeploy import lazily
from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable, SigningRefused
from dualdeploy.google.calls import call

Result = TypeVar("Result")

#: Seconds that one HTTP call may take. The SDK's own limit is 120, as long as a lease, and it repeats calls.
CALL_TIMEOUT = 20.0

_SCOPES = (
    "https://www.googleapis.com/auth/cloud-platform",
    "https://www.googleapis.com/auth/firebase",
)


@dataclasses.dataclass(frozen=True)
class FirebaseModel:
    """`locked` while Firebase still works on an operation; `error` is Firebase's verdict on the file, if bad."""

    id: str
    display_name: str
    tags: tuple[str, ...]
    published: bool
    locked: bool
    model_hash: str
    size_bytes: int
    gcs_uri: str
    error: str = ""
    created: datetime.datetime | None = None


class FirebaseMl(Protocol):
    """Hosting of custom models; `FakeFirebaseMl` of the tests is the other implementation."""

    def find(self, display_name: str) -> FirebaseModel | None: ...
    def create(self, display_name: str, *, gcs_uri: str, tags: Sequence[str]) -> FirebaseModel: ...
    def update(self, model_id: str, *, gcs_uri: str, tags: Sequence[str]) -> FirebaseModel: ...
    def publish(self, model_id: str) -> FirebaseModel: ...


class HostedModels(Protocol):
    """What leaving Firebase ML takes; `FakeFirebaseMl` of the tests is the other implementation."""

    def all(self) -> list[FirebaseModel]:
        """Every model of the project, by display name."""

    def download(self, model: FirebaseModel) -> bytes:
        """The file that phones get. Raises RejectedByGoogle for a model that is not published."""


class FirebaseMlGateway:
    """`firebase_admin.ml` on the default app (a named app fails while an operation is pending: SDK 7.7.0).

    `signer` is the e-mail of the service account to sign as; empty means the process's own. `key` reads the JSON of a
    service account's key, to be used instead of both. With `signs=False` it only reads, as whoever is logged in.
    `emulator_host` and `iam_emulator_host` (`host:port`) are emulators of Firebase ML and of IAM Credentials.
    """

    def __init__(
        self,
        *,
        project: str,
        signer: str = "",
        key: Callable[[], bytes] | None = None,
        signs: bool = True,
        emulator_host: str = "",
        iam_emulator_host: str = "",
        call_timeout: float = CALL_TIMEOUT,
    ) -> None:
        self._iam_emulator_host = iam_emulator_host
        self._project = project
        self._signer = signer
        self._key = key
        self._signs = signs
        self._emulator_host = emulator_host
        self._call_timeout = call_timeout
        self._lock = threading.Lock()

    def find(self, display_name: str) -> FirebaseModel | None:
        ml = self._ml()
        wanted = f"display_name={display_name}"
        # Page by page inside the call: every one of them may fail.
        found = _call(f"find {display_name}", lambda: list(ml.list_models(wanted, page_size=10).iterate_all()))
        # The filter is Firebase's; that it means equality is checked here.
        matches = [model for model in found if model.display_name == display_name]
        return _model(matches[0]) if matches else None

    def create(self, display_name: str, *, gcs_uri: str, tags: Sequence[str]) -> FirebaseModel:
        ml = self._ml()
        model = ml.Model(
            display_name=display_name,
            tags=list(tags),
            model_format=ml.TFLiteFormat(model_source=ml.TFLiteGCSModelSource(gcs_uri)),
        )
        return _model(_call(f"create {display_name}", lambda: ml.create_model(model)))

    def update(self, model_id: str, *, gcs_uri: str, tags: Sequence[str]) -> FirebaseModel:
        ml = self._ml()
        model = _call(f"get {model_id}", lambda: ml.get_model(model_id))
        model.tags = list(tags)
        model.model_format = ml.TFLiteFormat(model_source=ml.TFLiteGCSModelSource(gcs_uri))
        return self._unless_locked(ml, model_id, f"update {model_id}", lambda: ml.update_model(model))

    def publish(self, model_id: str) -> FirebaseModel:
        ml = self._ml()
        return self._unless_locked(ml, model_id, f"publish {model_id}", lambda: ml.publish_model(model_id))

    def all(self) -> list[FirebaseModel]:
        ml = self._ml()
        models = _call("list the models", lambda: list(ml.list_models(page_size=100).iterate_all()))
        return sorted(map(_model, models), key=lambda model: model.display_name)

    def download(self, model: FirebaseModel) -> bytes:
        """What the SDK of a phone does; the Admin SDK has no call for it.

        Source: projects.models.download of https://firebaseml.googleapis.com/$discovery/rest?version=v1beta2
        """
        requests = lazily.load("requests")
        service = self._ml()._get_ml_service(None)

        def fetched() -> bytes:
            offer = service._client.body("get", url=f"models/{model.id}:download")
            response = requests.get(offer["downloadUri"], timeout=self._call_timeout)
            response.raise_for_status()
            content: bytes = response.content
            if len(content) != int(offer["sizeBytes"]):
                raise ServiceUnavailable(f"{model.display_name} came as {len(content)} bytes: cut short")
            return content

        return _call(f"download {model.display_name}", fetched)

    def _unless_locked(self, ml: Any, model_id: str, what: str, call: Callable[[], Any]) -> FirebaseModel:
        """A refusal is final, unless an operation still works on the model: perhaps our own, whose answer was lost."""
        try:
            return _model(_call(what, call))
        except RejectedByGoogle as exc:
            if _call(f"get {model_id}", lambda: ml.get_model(model_id)).locked:
                raise ServiceUnavailable(f"Firebase ML works on model {model_id}: {exc}") from exc
            raise

    def _ml(self) -> Any:
        with self._lock:
            return _call("sign in", lambda: self._module)

    @functools.cached_property
    def _module(self) -> Any:
        firebase_admin = lazily.load("firebase_admin")
        with _without_tensorflow():
            ml = lazily.load("firebase_admin.ml")
        if self._emulator_host:
            # The SDK reads no variable for this; both are class attributes, read on first use.
            ml._MLService.PROJECT_URL = f"http://{self._emulator_host}/v1beta2/projects/{{0}}/"
            ml._MLService.OPERATION_URL = f"http://{self._emulator_host}/v1beta2/"
        try:
            firebase_admin.get_app()
        except ValueError:
            firebase_admin.initialize_app(_wrapped(self._google_credential), {"projectId": self._project})
        # `httpTimeout` of the app's options does not reach this part of the SDK.
        service = ml._get_ml_service(None)
        for client in (service._client, service._operation_client):
            client._timeout = self._call_timeout
        return ml

    def _google_credential(self) -> Any:
        if not self._signs:
            # An emulator takes callers as they come.
            return _reader("" if self._emulator_host else self._project)
        if self._iam_emulator_host:
            _sign_at(self._iam_emulator_host)
        return credential_of_key(self._key()) if self._key else _impersonating_signer(self._signer)


@contextlib.contextmanager
def _without_tensorflow() -> Iterator[None]:
    """`firebase_admin.ml` imports TensorFlow where it is installed: 5 s and 500 MB for helpers that we never call."""
    absent = "tensorflow" not in sys.modules
    if absent:
        # None makes `import tensorflow` raise ImportError, which the SDK takes for "not installed".
        sys.modules["tensorflow"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            sys.modules.pop("tensorflow", None)


def _wrapped(credential: Callable[[], Any]) -> Any:
    base: Any = lazily.load("firebase_admin.credentials").Base

    class Wrapped(base):  # type: ignore[misc]  # the SDK has no types
        """What the SDK wants: something that gives a google.auth credential."""

        def get_credential(self) -> Any:
            return credential()

    return Wrapped()


@functools.cache
def _reader(project: str) -> Any:
    if not project:
        return lazily.load("google.auth.credentials").AnonymousCredentials()
    # People's own credentials name no project to count the calls against.
    return lazily.load("google.auth").default(scopes=_SCOPES, quota_project_id=project)[0]


def credential_of_key(key: bytes) -> Any:
    """The google.auth credential of a service account's key, which signs by itself.

    Raises RejectedByGoogle for what is not such a key, without quoting any of it.
    """
    try:
        return lazily.load("google.oauth2.service_account").Credentials.from_service_account_info(
            json.loads(key), scopes=_SCOPES
        )
    except (ValueError, TypeError, AttributeError) as exc:
        # Not `from exc`: a parser's error quotes what it parsed.
        raise RejectedByGoogle(
            f"the key for Firebase is not a service account key in JSON ({type(exc).__name__})"
        ) from None


@functools.cache
def _impersonating_signer(signer: str) -> Any:
    signing = lazily.load("google.auth.credentials").Signing
    impersonated: Any = lazily.load("google.auth.impersonated_credentials").Credentials
    source, _ = lazily.load("google.auth").default(scopes=_SCOPES)
    if isinstance(source, signing) and not signer:
        return source
    if not signer:
        # Only after a refresh does the metadata server's credential know whose it is.
        source.refresh(lazily.load("google.auth.transport.requests").Request())
        signer = getattr(source, "service_account_email", "")
    if "@" not in signer:
        raise RejectedByGoogle(
            "no service account to sign as: set FIREBASE_SIGNER to this service's account and grant it"
            " roles/iam.serviceAccountTokenCreator on itself"
        )

    class Impersonation(impersonated):  # type: ignore[misc]  # google.auth is half typed
        """Tells a missing permission apart from an IAM that does not answer: the library has one error for both."""

        def refresh(self, request: Any) -> None:
            with _explained(source, signer):
                super().refresh(request)

        def sign_bytes(self, message: bytes) -> Any:
            with _explained(source, signer):
                return super().sign_bytes(message)

    return Impersonation(source, target_principal=signer, target_scopes=_SCOPES)


@contextlib.contextmanager
def _explained(source: Any, signer: str) -> Iterator[None]:
    """Raise SigningRefused, with the command that mends it, for IAM's PERMISSION_DENIED."""
    try:
        yield
    except lazily.load("google.auth.exceptions").GoogleAuthError as exc:
        # IAM's answer comes as a text of the error; the status in it is one of google.rpc.Code.
        if "PERMISSION_DENIED" not in str(exc):
            raise
        account = getattr(source, "service_account_email", "")
        member = account if "@" in account else signer
        raise SigningRefused(
            f"IAM does not let {member} sign as {signer}: gcloud iam service-accounts add-iam-policy-binding {signer}"
            f" --member=serviceAccount:{member} --role=roles/iam.serviceAccountTokenCreator ({exc})",
            permission="iam.serviceAccounts.signBlob",
            resource=signer,
        ) from exc


def _sign_at(host: str) -> None:
    """Let google-auth ask an emulator of IAM Credentials; the library reads no variable for this."""
    iam = lazily.load("google.auth.iam")
    account = f"http://{host}/v1/projects/-/serviceAccounts/{{}}"
    iam._IAM_ENDPOINT = f"{account}:generateAccessToken"
    iam._IAM_SIGN_ENDPOINT = f"{account}:signBlob"


def _model(model: Any) -> FirebaseModel:
    source = getattr(model.model_format, "model_source", None)
    return FirebaseModel(
        id=model.model_id,
        display_name=model.display_name,
        tags=tuple(model.tags or ()),
        published=bool(model.published),
        locked=bool(model.locked),
        model_hash=model.model_hash or "",
        size_bytes=int(getattr(model.model_format, "size_bytes", 0) or 0),
        gcs_uri=str(getattr(source, "_gcs_tflite_uri", "") or ""),
        error=model.validation_error or "",
        # Milliseconds, says the SDK.
        created=datetime.datetime.fromtimestamp(model.create_time / 1000, datetime.UTC) if model.create_time else None,
    )


def _call(what: str, function: Callable[[], Result]) -> Result:
    try:
        return call(f"Firebase ML, {what}", function)
    except ValueError as exc:
        # What the SDK itself takes for no valid name, tag or file.
        raise RejectedByGoogle(f"Firebase ML, {what}: {exc}") from exc
