"""What is deployed in which version, as values; nothing here starts anything."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

#: Modules of Terraform that change when this image does: Vertex AI starts both, on what these services say.
_OWNERS: Mapping[str, frozenset[str]] = {
    "trainer": frozenset({"training_launcher", "cloud_deployer"}),
    "predictor": frozenset({"cloud_deployer"}),
}

#: Products that the chain can do without, by the name of their resource or module in Terraform → what each is called,
#: and how it is switched off in terraform.tfvars. What Google refuses of one of them stops nothing else.
OPTIONAL: Mapping[str, tuple[str, str]] = {
    "automl": ("training by AutoML", "automl = false"),
    "budget": ("the budget", 'billing_account = ""'),
    "delivery": ("the deployment of commits by Cloud Build", 'repository = ""'),
    "console": ("the console for operators", "console = null"),
    "gateway": ("the gateway for apps", "gateway = null"),
    "firebase_ml": ("Firebase ML", "firebase_ml = false"),
    "monitoring": ("alerts and the dashboard", "monitoring = false"),
    "remote_config": ("staged rollouts by Remote Config", "staged_rollouts = false"),
    "security_rules": ("Firebase's rules for phones", "firebase_bucket_linked = false"),
}

#: For what is not built yet and must be named all the same: in a plan, and where everything is taken down.
NOT_BUILT = "0" * 64


@dataclasses.dataclass(frozen=True)
class Deployable:
    """A service, or an image that Vertex AI starts. Functions are shipped as packages, everything else as images."""

    name: str
    is_function: bool

    @property
    def owners(self) -> frozenset[str]:
        """The modules of Terraform that name its version."""
        return _OWNERS.get(self.name, frozenset({self.name}))

    @property
    def kind(self) -> str:
        """The variable of Terraform that names its version."""
        return "sources" if self.is_function else "images"


@dataclasses.dataclass(frozen=True)
class Place:
    """A project and a region, and what things are called there."""

    project: str
    region: str

    @property
    def state_bucket(self) -> str:
        return f"{self.project}-dualdeploy-state"

    @property
    def source_bucket(self) -> str:
        return f"{self.project}-dualdeploy-sources"

    @property
    def builder(self) -> str:
        return f"projects/{self.project}/serviceAccounts/dualdeploy-builder@{self.project}.iam.gserviceaccount.com"

    def image(self, name: str) -> str:
        return f"{self.region}-docker.pkg.dev/{self.project}/dualdeploy/{name}"


def read_topology(file: Path, place: Place) -> Mapping[str, Any]:
    text = file.read_text(encoding="utf-8").replace("${project}", place.project).replace("${region}", place.region)
    return json.loads(text)  # type: ignore[no-any-return]


def deployables(topology: Mapping[str, Any], settings: Mapping[str, Any]) -> Mapping[str, Deployable]:
    """Everything that can be deployed with these settings, by name: what a project does without is not built."""
    services = {name: each["kind"] == "function" for name, each in topology["services"].items()}
    images = [*topology["images"], *(name for name in topology["web_services"] if is_on(settings, name))]
    return {
        name: Deployable(name, is_function)
        for name, is_function in {**services, **dict.fromkeys(images, False)}.items()
    }


def is_on(settings: Mapping[str, Any], name: str) -> bool:
    """Whether an optional service is switched on: by a variable of Terraform that has its name."""
    return settings.get(name) is not None


def settings_of(plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """The variables that a plan was made with, whichever file they stand in."""
    return {name: each.get("value") for name, each in plan.get("variables", {}).items()}


def optional_product(address: str) -> str:
    """The key in OPTIONAL of a resource's product; nothing when everything else needs it."""
    parts = re.sub(r"\[[^\]]*\]", "", address).split(".")
    return next((part for part in parts if part in OPTIONAL), "")


def is_released(configuration: Mapping[str, Any]) -> bool:
    """Whether a deployment of everything has come to its end: only then is there something to change one part of."""
    return bool(configuration) and all(
        version or (name in configuration and not is_on(configuration, name))
        for kind in ("images", "sources")
        for name, version in configuration[kind].items()
    )


def with_versions(configuration: Mapping[str, Any], versions: Iterable[tuple[Deployable, str]]) -> dict[str, Any]:
    """Variables of Terraform that name these versions and leave everything else as it is."""
    changed = {**configuration, "images": dict(configuration["images"]), "sources": dict(configuration["sources"])}
    for each, version in versions:
        changed[each.kind][each.name] = version
    return changed


def changes(plan: Mapping[str, Any]) -> Mapping[str, str]:
    """What a plan of Terraform changes: address → actions, such as `update` or `delete, create`."""
    return {
        change["address"]: ", ".join(change["change"]["actions"])
        for change in plan.get("resource_changes", [])
        if change["change"]["actions"] not in (["no-op"], ["read"])
    }


def outside(changed: Iterable[str], owners: Iterable[str]) -> list[str]:
    """Addresses of a plan that belong to none of these modules."""
    allowed = tuple(f"module.{owner}." for owner in owners)
    return sorted(address for address in changed if not address.startswith(allowed))


def lost_buckets(changed: Mapping[str, str]) -> list[str]:
    """Buckets that a plan deletes, or makes anew and hence empty."""
    return sorted(
        address
        for address, actions in changed.items()
        if ".google_storage_bucket.bucket[" in address and "delete" in actions
    )
