"""What cloud_deployer reads from its environment."""

from __future__ import annotations

import dataclasses
from typing import Literal

from dualdeploy.settings import CloudSettings, MonitoringSettings, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeployerSettings(MonitoringSettings, CloudSettings):
    """See each field's description. The limits are Vertex AI's usual minutes with room to spare."""

    predictor_image: str = setting("PREDICTOR_IMAGE", "container image of services/predictor, by digest")
    # Vertex AI takes minutes for a deployment: a limit below that fails each of them.
    operation_limit_seconds: float = setting(
        "OPERATION_LIMIT_SECONDS",
        "how long an upload, a deployment or an undeployment may take",
        default=3600.0,
        minimum=60,
    )
    trainer_image: str = setting(
        "TRAINER_IMAGE", "container image of services/trainer: measures the live model on new pictures", default=""
    )
    training_service_account: str = setting(
        "TRAINING_SERVICE_ACCOUNT", "e-mail of the account that such a job runs as", default=""
    )
    git_revision: str = setting(
        "GIT_REVISION", "commit that this service was made of: a label of every version, and in its card", default=""
    )
    cleanup: Literal["remove", "report"] = setting(
        "CLEANUP",
        "`report`: the cleanup removes nothing of any data set, and only tells what it would",
        default="remove",
    )
