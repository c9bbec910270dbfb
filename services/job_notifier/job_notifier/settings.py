"""What job_notifier reads from its environment."""

from __future__ import annotations

import dataclasses

from dualdeploy.settings import CloudSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class NotifierSettings(CloudSettings):
    """Nothing of its own."""
