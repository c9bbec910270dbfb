"""infra/terraform, judged by Terraform itself without Google: a stub stands in for the provider."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from stub_provider import StubProvider, Terraform

REPOSITORY = Path(__file__).resolve().parents[3]
PROJECT = "demo-dualdeploy"
DIGEST = "@sha256:" + "0123456789abcdef" * 4
VARIABLES: Mapping[str, Any] = {
    "project": PROJECT,
    "region": "us-central1",
    "images": {
        name: f"us-central1-docker.pkg.dev/{PROJECT}/dualdeploy/{name}{DIGEST}"
        for name in ("trainer", "predictor", "cloud_deployer", "mobile_publisher", "console", "gateway")
    },
    "sources": {name: f"{name}/{'0123456789abcdef' * 4}.zip" for name in ("training_launcher", "job_notifier")},
    "repository": f"projects/{PROJECT}/locations/us-central1/connections/github/repositories/dual-deploy",
    "operators": ["group:ml@example.com"],
    "alert_emails": ["alerts@example.com"],
    "billing_account": "012345-6789AB-CDEF01",
    "firebase_ml": True,
    "automl": True,
    "console": {},
    "gateway": {"origins": ["https://app.example.com"]},
}


@dataclasses.dataclass(frozen=True)
class Resource:
    """One planned resource; `owner` is the outermost module, `values` what it will have."""

    address: str
    type: str
    owner: str
    values: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What Terraform would make of the example environment in an empty project."""

    resources: tuple[Resource, ...]

    def of(self, *types: str) -> list[Resource]:
        return [resource for resource in self.resources if resource.type in types]

    def one(self, type_: str, name: str) -> Mapping[str, Any]:
        """The values of the resource of this type and name."""
        return next(resource.values for resource in self.of(type_) if resource.values["name"] == name)


@pytest.fixture(scope="session")
def topology() -> Mapping[str, Any]:
    text = (REPOSITORY / "infra" / "topology.json").read_text(encoding="utf-8")
    filled = text.replace("${project}", PROJECT).replace("${region}", "us-central1")
    return json.loads(filled)  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Copies of infra/ with a state of their own; returns the environment's folder in a new copy."""
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not installed here")

    def copy() -> Path:
        root = tmp_path_factory.mktemp("repository")
        ignored = shutil.ignore_patterns(".terraform*", "*.tfstate*", "*.tfvars")
        shutil.copytree(REPOSITORY / "infra" / "terraform", root / "infra" / "terraform", ignore=ignored)
        shutil.copytree(REPOSITORY / "infra" / "firebase", root / "infra" / "firebase")
        shutil.copy(REPOSITORY / "infra" / "topology.json", root / "infra")
        environment = root / "infra" / "terraform" / "environments" / "example"
        # The state is in a bucket, and nobody reaches one here.
        (environment / "backend_override.tf").write_text('terraform {\n  backend "local" {}\n}\n')
        return environment

    return copy


@pytest.fixture(scope="session")
def terraform() -> Iterator[Callable[[Path], Terraform]]:
    """Terraform in a folder; what Google computes is unknown until apply, as it is in life."""
    with StubProvider(names=False) as provider:
        yield lambda folder: Terraform(folder, provider)


@pytest.fixture(scope="session")
def plan(workplace: Callable[[], Path]) -> Plan:
    """The plan of the example environment, with names instead of what only Google knows."""
    with StubProvider(names=True) as provider:
        planned = Terraform(workplace(), provider).plan(VARIABLES)
    return Plan(
        tuple(
            Resource(
                change["address"],
                change["type"],
                change["address"].split(".")[1].removesuffix("[0]") if change["address"].startswith("module.") else "",
                change["change"]["after"],
            )
            for change in planned["resource_changes"]
        )
    )


@pytest.fixture(scope="session")
def variables() -> Mapping[str, Any]:
    return VARIABLES
