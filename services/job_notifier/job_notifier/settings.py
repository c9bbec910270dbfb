"""What job_notifier reads from its environment."""

from __future__ import annotations

import dataclasses

from dualdeploy.settings import CloudSettings, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class NotifierSettings(CloudSettings):
    """See each field's description."""

    announce_grace_seconds: float = setting(
        "ANNOUNCE_GRACE_SECONDS",
        "how long the instance that recorded an end has to announce it, before the clock does it in its place",
        default=30.0,
        minimum=0,
    )
