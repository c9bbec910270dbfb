"""What training_launcher reads from its environment."""

from __future__ import annotations

import dataclasses

from dualdeploy.settings import CloudSettings, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class LauncherSettings(CloudSettings):
    """See each field's description."""

    data_bucket: str = setting("DATA_BUCKET", "bucket that receives TFRecord shards")
    trainer_image: str = setting("TRAINER_IMAGE", "container image of services/trainer, by digest")
    training_service_account: str = setting(
        "TRAINING_SERVICE_ACCOUNT", "e-mail of the account that training jobs run as", default=""
    )
    launch_limit_seconds: float = setting(
        "LAUNCH_LIMIT_SECONDS",
        "how long a job is asked for again while Vertex AI has no quota or capacity for it, before it is given up",
        default=86_400.0,
        minimum=0,
    )
