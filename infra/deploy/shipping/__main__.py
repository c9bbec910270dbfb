"""`python -m shipping {deploy,plan,destroy}`: what `make deploy`, `make plan` and `make destroy` run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from shipping import preflight, release, removal
from shipping.deployment import Deployment
from shipping.packages import Packages
from shipping.release import Place
from shipping.terraform import Terraform
from shipping.tools import CannotShip, ToolFailed, Tools

REPOSITORY = Path(__file__).resolve().parents[3]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(argv)
    tools = Tools(rehearsal=options.command == "plan", pause_seconds=options.pause_seconds)
    try:
        _run(options, tools)
    except CannotShip as refused:
        print(f"\n{refused}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace, tools: Tools) -> None:
    project = options.project or tools.look("gcloud", "config", "get", "project")
    if not project:
        raise CannotShip("Name the project: PROJECT=my-project (or gcloud config set project my-project)")
    preflight.account(tools)
    place = Place(project, options.region or _deployed_region(project, tools) or "us-central1")
    topology = release.read_topology(REPOSITORY / "infra" / "topology.json", place)
    terraform = Terraform(Path(options.environment), place, tools)
    if options.command == "destroy":
        removal.destroy(
            place,
            tools,
            topology=topology,
            terraform=terraform,
            delete_data=options.delete_data,
            answer=lambda question: options.confirm or input(question),
        )
        return
    deployment = Deployment(
        place,
        tools,
        topology=topology,
        terraform=terraform,
        packages=Packages(Path(options.build), make=not options.packaged),
        builds=REPOSITORY / "infra" / "deploy",
        revision=options.revision,
    )
    names = list(release.deployables(topology)) if options.code_only else options.service
    if names:
        deployment.some(names)
    else:
        deployment.everything(delete_data=options.delete_data)


def _deployed_region(project: str, tools: Tools) -> str:
    """Where the state is, everything else is; nowhere while that cannot be seen: what is missing, preflight says."""
    bucket = f"gs://{Place(project, '').state_bucket}"
    try:
        found = tools.look("gcloud", "storage", "buckets", "describe", bucket, "--format=value(location)")
    except ToolFailed:
        return ""
    return found.lower()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shipping", description="Deploys Dual Deploy to Google Cloud.")
    parser.add_argument("command", choices=["deploy", "plan", "destroy"])
    parser.add_argument("--project", default="", help="default: the project of gcloud")
    parser.add_argument("--region", default="", help="default: where it is deployed already, else us-central1")
    parser.add_argument("--service", action="append", default=[], help="this one only; may be given several times")
    parser.add_argument("--code-only", action="store_true", help="every service that changed, and no infrastructure")
    parser.add_argument("--packaged", action="store_true", help="take the packages as `make package` left them")
    parser.add_argument("--revision", default="", help="commit of this code: a label of every model version")
    parser.add_argument("--delete-data", action="store_true", help="buckets may be deleted with what is in them")
    parser.add_argument("--confirm", default="", metavar="PROJECT", help="the answer to destroy's question")
    parser.add_argument(
        "--environment", default=str(REPOSITORY / "infra" / "terraform" / "environments" / "example"), help="its folder"
    )
    parser.add_argument("--build", default=str(REPOSITORY / "build"), help="folder of the packages")
    parser.add_argument("--pause-seconds", type=float, default=60, help="before Google is asked again")
    return parser


if __name__ == "__main__":
    sys.exit(main())
