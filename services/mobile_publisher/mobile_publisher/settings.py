"""What mobile_publisher reads from its environment."""

from __future__ import annotations

import dataclasses
import datetime
import re

from dualdeploy.settings import CloudSettings, WrongSettings, setting

_OBJECT = re.compile(r"gs://[^/]+/.+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublisherSettings(CloudSettings):
    """See each field's description."""

    data_bucket: str = setting("DATA_BUCKET", "bucket that receives TFRecord shards; held-out ones are read again")
    firebase_signer: str = setting(
        "FIREBASE_SIGNER", "service account that signs URLs for Firebase ML; empty for this service's own", default=""
    )
    iam_credentials_emulator_host: str = setting(
        "IAM_CREDENTIALS_EMULATOR_HOST", "host:port of an IAM Credentials emulator; empty for the real one", default=""
    )
    firebase_key_file: str = setting(
        "FIREBASE_KEY_FILE",
        "file with a service account's key for Firebase ML, which Cloud Run mounts from Secret Manager; not needed",
        default="",
    )
    firebase_credential_uri: str = setting(
        "FIREBASE_CREDENTIAL_URI", "the same key as an object, gs://BUCKET/NAME; Secret Manager is safer", default=""
    )
    firebase_storage_bucket: str = setting(
        "FIREBASE_STORAGE_BUCKET", "bucket of channel firebase-storage; without it that channel is skipped", default=""
    )
    # Google's date for the end of custom model hosting: https://firebase.google.com/docs/ml
    firebase_ml_ends: str = setting(
        "FIREBASE_ML_ENDS", "day (YYYY-MM-DD) from which on channel firebase-ml is skipped", default="2027-06-15"
    )
    conversion_timeout_seconds: float = setting(
        "CONVERSION_TIMEOUT_SECONDS",
        "how long converting to TFLite may take, all variants of a run together",
        default=300.0,
        minimum=1,
    )
    conversion_memory_mb: int = setting(
        "CONVERSION_MEMORY_MB",
        "memory that converting to TFLite may use, in megabytes; 0 for no limit",
        default=0,
        minimum=0,
    )
    # An export converts and evaluates in one go, so the release is held for longer than a step of a deployment.
    lease_seconds: float = setting(
        "LEASE_SECONDS",
        "how long one instance may work on a release before another takes over",
        default=590.0,
        minimum=1,
    )

    def __post_init__(self) -> None:
        if self.firebase_key_file and self.firebase_credential_uri:
            raise WrongSettings(
                "FIREBASE_KEY_FILE and FIREBASE_CREDENTIAL_URI are both set: keep one, better the first"
            )
        if self.firebase_credential_uri and not _OBJECT.fullmatch(self.firebase_credential_uri):
            raise WrongSettings(f"FIREBASE_CREDENTIAL_URI={self.firebase_credential_uri!r} is not gs://BUCKET/NAME")
        try:
            datetime.date.fromisoformat(self.firebase_ml_ends)
        except ValueError as exc:
            raise WrongSettings(f"FIREBASE_ML_ENDS={self.firebase_ml_ends!r} is not a day such as 2027-06-15") from exc
