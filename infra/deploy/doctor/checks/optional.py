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
}
#: Roles that are granted for one of them.
_ROLES: Mapping[str, str] = {
    "roles/cloudconfig.admin": "staged_rollouts",
    "roles/firebaseml.admin": "firebase_ml",
    "roles/iam.serviceAccountTokenCreator": "firebase_ml",
}


def users(look: Look, variable: str) -> list[str]:
    """The data sets that need what this variable of Terraform turns on."""
    return [each.dataset for each in buckets.usable(look) if _NEEDS[variable](each)]


def is_needed(look: Look, role: str) -> bool:
    """Whether anything needs a role: those of the whole chain are always needed."""
    return role not in _ROLES or bool(users(look, _ROLES[role]))
