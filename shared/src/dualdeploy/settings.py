"""Configuration of a process: read once from the environment into a frozen object.

A service declares what it reads as a frozen dataclass whose fields are made by `setting`; a choice among words is a
Literal. `load` reports every missing or wrong name together, so that a deployment is mended in one go. Order:
explicit > environment > default.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from dualdeploy.errors import DualDeployError

#: In this format (key id → X.509 certificate) google-auth reads them without a further library.
GOOGLE_CERTS_URL = "https://www.googleapis.com/oauth2/v1/certs"

_REQUIRED = object()
Settings = TypeVar("Settings")


class WrongSettings(DualDeployError):
    """One or more environment variables are missing or wrong; the message lists them all."""


def setting(
    variable: str,
    describes: str,
    *,
    default: Any = _REQUIRED,
    minimum: float | None = None,
    required: bool | None = None,
) -> Any:
    """A dataclass field read from the environment variable `variable`; required unless `default` is given.

    `minimum` is the smallest number that works. It, and `required` besides a default, bind the environment only: a
    test may be more impatient, and need not say what it does not use.
    """
    metadata = {
        "variable": variable,
        "describes": describes,
        "minimum": minimum,
        "required": default is _REQUIRED if required is None else required,
    }
    if default is _REQUIRED:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def variables(kind: type[Any]) -> dict[str, bool]:
    """Every environment variable that `kind` reads, and whether it is required."""
    return {field.metadata["variable"]: field.metadata["required"] for field in dataclasses.fields(kind)}


def load(kind: type[Settings], environ: Mapping[str, str], **explicit: Any) -> Settings:
    """Build `kind` from `environ`; `explicit` values win. Raises WrongSettings naming every fault at once."""
    values: dict[str, Any] = dict(explicit)
    faults: list[str] = []
    types = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # every settings class is a dataclass
        if field.name in values:
            continue
        variable = field.metadata["variable"]
        text = environ.get(variable, "").strip()
        if not text:
            if field.metadata["required"]:
                faults.append(f"{variable} is not set ({field.metadata['describes']})")
            continue
        try:
            values[field.name] = _parse(text, types[field.name], minimum=field.metadata.get("minimum"))
        except ValueError as exc:
            faults.append(f"{variable}={text!r} is wrong: {exc} ({field.metadata['describes']})")
    if faults:
        raise WrongSettings("wrong environment:\n  " + "\n  ".join(faults))
    return kind(**values)


def listed(text: str) -> list[str]:
    """The items of a setting that is separated by commas."""
    return [each.strip() for each in text.split(",") if each.strip()]


def _parse(text: str, kind: Any, *, minimum: float | None) -> Any:
    if typing.get_origin(kind) is Literal:
        if text not in typing.get_args(kind):
            raise ValueError(f"must be one of {', '.join(typing.get_args(kind))}")
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("must be true or false")
        return text.lower() == "true"
    if kind not in (int, float):
        return text
    number = kind(text)
    if kind is float and not math.isfinite(number):
        raise ValueError("must be a finite number")
    if minimum is not None and number < minimum:
        raise ValueError(f"must be at least {minimum:g}")
    return number


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProjectSettings:
    """What every service needs to know of its project."""

    project: str = setting("GOOGLE_CLOUD_PROJECT", "id of the Google Cloud project")
    region: str = setting("GOOGLE_CLOUD_REGION", "region of Vertex AI, for example us-central1")
    ledger_bucket: str = setting("LEDGER_BUCKET", "bucket that holds the ledger")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CallerSettings:
    """What makes a token of Google's a caller; see `callers`."""

    cloud_run_checks_tokens: bool = setting(
        "CLOUD_RUN_CHECKS_TOKENS",
        "true where Cloud Run admits only accounts that may invoke the service: tokens come checked, unsigned",
        default=False,
    )
    google_certs_url: str = setting(
        "GOOGLE_CERTS_URL", "where Google's certificates for identity tokens are", default=GOOGLE_CERTS_URL
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VertexSettings:
    """Of a service that asks Vertex AI."""

    vertex_emulator_host: str = setting(
        "VERTEX_EMULATOR_HOST", "host:port of a Vertex AI emulator; empty for the real one", default=""
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MonitoringSettings:
    """Of a service that asks Cloud Monitoring."""

    monitoring_emulator_host: str = setting(
        "MONITORING_EMULATOR_HOST", "host:port of an emulator of Cloud Monitoring; empty for the real one", default=""
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebSettings(ProjectSettings):
    """Of a service that people or apps reach, and events do not."""

    cloud_run_service: str = setting("K_SERVICE", "set by Cloud Run itself", default="")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CloudSettings(VertexSettings, CallerSettings, ProjectSettings):
    """What every event service reads."""

    config_bucket: str = setting("CONFIG_BUCKET", "bucket that holds datasets/<dataset>.yaml")
    models_bucket: str = setting("MODELS_BUCKET", "bucket that training writes to")
    # Without these two no event would be accepted: hence required of an environment.
    push_audiences: str = setting(
        "PUSH_AUDIENCES",
        "addresses of this service that identity tokens are made out to, separated by commas",
        default="",
        required=True,
    )
    push_service_accounts: str = setting(
        "PUSH_SERVICE_ACCOUNTS",
        "e-mail addresses of the accounts that Pub/Sub and Eventarc deliver as, separated by commas",
        default="",
        required=True,
    )
    console_service_account: str = setting(
        "CONSOLE_SERVICE_ACCOUNT",
        "e-mail address of the account that the operators' console calls as; the person that it names is believed",
        default="",
    )
    firebase_ml_emulator_host: str = setting(
        "FIREBASE_ML_EMULATOR_HOST", "host:port of a Firebase ML emulator; empty for the real one", default=""
    )
    remote_config_emulator_host: str = setting(
        "REMOTE_CONFIG_EMULATOR_HOST", "host:port of a Remote Config emulator; empty for the real one", default=""
    )
    tick_seconds: float = setting(
        "TICK_SECONDS",
        "how often this service hears a tick: what waits is looked at again then",
        default=60.0,
        minimum=1,
    )
    request_slots: int = setting(
        "REQUEST_SLOTS",
        "how many requests all instances of this service handle at once: a tick publishes what they have time for",
        default=80,
        minimum=1,
    )
    # A lease that is over at once is held by everybody.
    lease_seconds: float = setting(
        "LEASE_SECONDS",
        "how long one instance may work on a release before another takes over",
        default=120.0,
        minimum=1,
    )
