"""What mobile_publisher reads from its environment."""

from __future__ import annotations

import dataclasses
import datetime

from dualdeploy.settings import CloudSettings, WrongSettings, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublisherSettings(CloudSettings):
    """See each field's description."""

    data_bucket: str = setting("DATA_BUCKET", "bucket that receives TFRecord shards; held-out ones are read again")
    firebase_signer: str = setting(
        "FIREBASE_SIGNER", "service account that signs URLs for Firebase ML; empty for this service's own", default=""
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
    )
    conversion_memory_mb: int = setting(
        "CONVERSION_MEMORY_MB", "memory that converting to TFLite may use, in megabytes; 0 for no limit", default=0
    )
    # An export converts and evaluates in one go, so the branch is held for longer than a step of a deployment.
    lease_seconds: float = setting(
        "LEASE_SECONDS", "how long one instance may work on a branch before another takes over", default=590.0
    )

    def __post_init__(self) -> None:
        try:
            datetime.date.fromisoformat(self.firebase_ml_ends)
        except ValueError as exc:
            raise WrongSettings(f"FIREBASE_ML_ENDS={self.firebase_ml_ends!r} is no day such as 2027-06-15") from exc
