"""What the local cloud cannot have by itself, and what a service tells of its process."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

#: Quotas of Vertex AI in the region by metric, as a new project that asked for them has them.
_CUSTOM_MODEL = "aiplatform.googleapis.com/custom_model"


@dataclasses.dataclass(frozen=True)
class Revision:
    """What runs behind a service. `problem` is why it is not ready, `failed` why its newest revision is not the one
    that serves; both are empty when all is well."""

    uri: str
    environment: Mapping[str, str]
    number: int = 1
    problem: str = ""
    failed: str = ""


@dataclasses.dataclass
class Project:
    """State of the project that has no process behind it here; the control API changes it.

    `quotas` are limits by metric (-1: none), `runs_as` the account that a service runs as where that is not its own, by
    the name of the service. `is_firebase`: whether Firebase was added to it.
    """

    quotas: dict[str, int] = dataclasses.field(
        default_factory=lambda: {
            f"{_CUSTOM_MODEL}_{kind}{what}": limit
            for kind in ("training_", "training_preemptible_", "serving_")
            for what, limit in {"nvidia_t4_gpus": 8, "nvidia_l4_gpus": 8, "cpus": 64}.items()
        }
    )
    runs_as: dict[str, str] = dataclasses.field(default_factory=dict)
    is_firebase: bool = True
