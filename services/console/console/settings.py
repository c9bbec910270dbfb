"""What console reads from its environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from dualdeploy.settings import CallerSettings, MonitoringSettings, WebSettings, WrongSettings, setting

#: Source: https://cloud.google.com/iap/docs/signed-headers-howto
IAP_KEYS_URL = "https://www.gstatic.com/iap/verify/public_key-jwk"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsoleSettings(MonitoringSettings, CallerSettings, WebSettings):
    """See each field's description."""

    cloud_deployer_url: str = setting("CLOUD_DEPLOYER_URL", "https://… of cloud_deployer")
    mobile_publisher_url: str = setting("MOBILE_PUBLISHER_URL", "https://… of mobile_publisher")
    models_bucket: str = setting("MODELS_BUCKET", "bucket with what training made: held-out pictures")
    firebase_storage_bucket: str = setting("FIREBASE_STORAGE_BUCKET", "bucket that phones read, for the simulator")
    firebase_storage_url: str = setting(
        "FIREBASE_STORAGE_URL", "where phones read it", default="https://firebasestorage.googleapis.com"
    )
    gateway_url: str = setting("GATEWAY_URL", "https://… of gateway, which the simulator asks", default="")
    app_check_app: str = setting("APP_CHECK_APP", "app id of Firebase that the simulator asks as", default="")
    app_check_debug_token: str = setting(
        "APP_CHECK_DEBUG_TOKEN", "debug token of that app, which App Check turns into one for the gateway", default=""
    )
    firebase_api_key: str = setting("FIREBASE_API_KEY", "API key of that app, which is not a secret", default="")
    app_check_emulator_host: str = setting(
        "APP_CHECK_EMULATOR_HOST", "host:port of an emulator of App Check; empty for the real one", default=""
    )
    iap_audience: str = setting(
        "IAP_AUDIENCE",
        "/projects/<number>/locations/<region>/services/console where Identity-Aware Proxy stands before it",
        default="",
    )
    iap_keys_url: str = setting("IAP_KEYS_URL", "where Identity-Aware Proxy's public keys are", default=IAP_KEYS_URL)
    person: str = setting(
        "CONSOLE_PERSON",
        "e-mail address of the one person who uses this console where nothing else says who it is; not on Cloud Run",
        default="",
    )

    def __post_init__(self) -> None:
        """Raises WrongSettings on Cloud Run where a setting would say who everyone is."""
        if self.cloud_run_service and self.person:
            raise WrongSettings("CONSOLE_PERSON is set on Cloud Run, where everyone would be that person: remove it")
        if self.cloud_run_service and self.iap_keys_url != IAP_KEYS_URL:
            raise WrongSettings(f"IAP_KEYS_URL={self.iap_keys_url!r} is not Google's: remove it, the default is")

    @property
    def addresses(self) -> Mapping[str, str]:
        """Of the service of each target, without a slash at the end."""
        return {"cloud": self.cloud_deployer_url.rstrip("/"), "mobile": self.mobile_publisher_url.rstrip("/")}
