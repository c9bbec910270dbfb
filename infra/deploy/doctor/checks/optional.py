"""Products of Google's that only some data sets need."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from doctor.checks import buckets
from doctor.examination import Look
from dualdeploy.contracts.dataset_config import DatasetConfig

#: By the variable of Terraform that turns a product on: whether a data set needs it.
_NEEDS: Mapping[str, Callable[[DatasetConfig], bool]] = {
    "firebase_ml": lambda config: "firebase-ml" in config.publishing.channels,
    "staged_rollouts": lambda config: config.publishing.rollout is not None,
    "automl": lambda config: config.training.method == "automl",
}


def users(look: Look, variable: str) -> list[str]:
    """The data sets that need what this variable of Terraform turns on."""
    return [each.dataset for each in buckets.usable(look) if _NEEDS[variable](each)]


def is_needed(look: Look, variable: str) -> bool:
    """Whether anything needs what a variable turns on; what none turns on (empty) is always needed."""
    return not variable or bool(users(look, variable))
