"""One order to deploy, plan or destroy, carried out: what `dualdeploy` and Cloud Build have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from shipping import preflight, release, removal
from shipping.deployment import Deployment
from shipping.packages import Packages
from shipping.release import Place
from shipping.terraform import Terraform
from shipping.tools import CannotShip, ToolFailed, Tools

REPOSITORY = Path(__file__).resolve().parents[3]


@dataclasses.dataclass(frozen=True)
class Order:
    """`services`: these and nothing else; `code_only`: every one that changed. `packaged` takes the packages as they
    are in `build`. `confirm` answers the question of destroy. `environment` is the folder of Terraform's root module.
    """

    command: Literal["deploy", "plan", "destroy"]
    project: str = ""
    region: str = ""
    services: Sequence[str] = ()
    code_only: bool = False
    packaged: bool = False
    revision: str = ""
    delete_data: bool = False
    confirm: str = ""
    environment: Path = REPOSITORY / "infra" / "terraform" / "environments" / "example"
    build: Path = REPOSITORY / "build"


def carry_out(order: Order, tools: Tools, *, answer: Callable[[str], str] = input) -> Mapping[str, str]:
    """Returns what changed, or would: Terraform's addresses with what is done to each. Raises CannotShip."""
    project = order.project or tools.look("gcloud", "config", "get", "project")
    if not project:
        raise CannotShip("Name the project: --project my-project (or gcloud config set project my-project)")
    preflight.account(tools)
    place = Place(project, order.region or _deployed_region(project, tools) or "us-central1")
    topology = release.read_topology(REPOSITORY / "infra" / "topology.json", place)
    terraform = Terraform(order.environment, place, tools)
    if order.command == "destroy":
        return removal.destroy(
            place,
            tools,
            topology=topology,
            terraform=terraform,
            delete_data=order.delete_data,
            answer=lambda question: order.confirm or answer(question),
        )
    deployment = Deployment(
        place,
        tools,
        topology=topology,
        terraform=terraform,
        packages=Packages(order.build, make=not order.packaged),
        builds=REPOSITORY / "infra" / "deploy",
        revision=order.revision,
    )
    if order.code_only or order.services:
        return deployment.some([] if order.code_only else order.services)
    return deployment.everything(delete_data=order.delete_data)


def _deployed_region(project: str, tools: Tools) -> str:
    """Where the state is, everything else is; nowhere while that cannot be seen: what is missing, preflight says."""
    bucket = f"gs://{Place(project, '').state_bucket}"
    try:
        found = tools.look("gcloud", "storage", "buckets", "describe", bucket, "--format=value(location)")
    except ToolFailed:
        return ""
    return found.lower()
