"""What console reads from its environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from dualdeploy.certificates import GOOGLE_CERTS_URL
from dualdeploy.settings import WrongSettings, setting

#: Source: https://cloud.google.com/iap/docs/signed-headers-howto
IAP_KEYS_URL = "https://www.gstatic.com/iap/verify/public_key-jwk"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsoleSettings:
    """See each field's description."""

    project: str = setting("GOOGLE_CLOUD_PROJECT", "id of the Google Cloud project")
    region: str = setting("GOOGLE_CLOUD_REGION", "region of everything, for example us-central1")
    ledger_bucket: str = setting("LEDGER_BUCKET", "bucket that holds the ledger")
    cloud_deployer_url: str = setting("CLOUD_DEPLOYER_URL", "https://… of cloud_deployer")
    mobile_publisher_url: str = setting("MOBILE_PUBLISHER_URL", "https://… of mobile_publisher")
    cloud_run_checks_tokens: bool = setting(
        "CLOUD_RUN_CHECKS_TOKENS",
        "true where only who may invoke this Cloud Run service gets in: its tokens come checked and without signature",
        default=False,
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
    monitoring_emulator_host: str = setting(
        "MONITORING_EMULATOR_HOST", "host:port of an emulator of Cloud Monitoring; empty for the real one", default=""
    )
    google_certs_url: str = setting(
        "GOOGLE_CERTS_URL", "where Google's certificates for identity tokens are", default=GOOGLE_CERTS_URL
    )
    cloud_run_service: str = setting("K_SERVICE", "set by Cloud Run itself", default="")

    def __post_init__(self) -> None:
        """Raises WrongSettings on Cloud Run where a setting would say who everybody is."""
        if self.cloud_run_service and self.person:
            raise WrongSettings("CONSOLE_PERSON is set on Cloud Run, where everyone would be that person: remove it")
        if self.cloud_run_service and self.iap_keys_url != IAP_KEYS_URL:
            raise WrongSettings(f"IAP_KEYS_URL={self.iap_keys_url!r} is not Google's: remove it, the default is")

    @property
    def addresses(self) -> Mapping[str, str]:
        """Of the service of each target, without a slash at the end."""
        return {"cloud": self.cloud_deployer_url.rstrip("/"), "mobile": self.mobile_publisher_url.rstrip("/")}
