"""deploy, plan, destroy: the system in a project of Google Cloud."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from dualdeploy_cli import options
from dualdeploy_cli.output import emit, note
from dualdeploy_cli.session import Session, pass_session

if TYPE_CHECKING:
    from shipping.orders import Order

_region = click.option("--region", default="", metavar="NAME", help="default: where it is deployed, else us-central1")
_project = click.option("--project", default="", metavar="ID", help="default: the project of gcloud")
_delete_data = click.option("--delete-data", is_flag=True, help="buckets may be deleted, with what is in them")


@click.command
@_project
@_region
@click.option("--service", "services", multiple=True, metavar="NAME", help="this one and nothing else; repeatable")
@_delete_data
@options.as_json
@pass_session
def deploy(
    session: Session, *, project: str, region: str, services: tuple[str, ...], delete_data: bool, as_json: bool
) -> None:
    """Bring everything into a project of Google Cloud, or new versions of single services.

    Images are built there; what is built already is not built again. It may be interrupted and started again.

    \b
    Examples:
      dualdeploy deploy --project my-project --region us-central1
      dualdeploy deploy --project my-project --service cloud_deployer
    """
    order = _order(session, "deploy", project=project, region=region, services=services, delete_data=delete_data)
    _carry_out(session, order, as_json=as_json)


@click.command
@_project
@_region
@_delete_data
@options.as_json
@pass_session
def plan(session: Session, *, project: str, region: str, delete_data: bool, as_json: bool) -> None:
    """Show what `dualdeploy deploy` would do and change, without doing it.

    \b
    Examples:
      dualdeploy plan --project my-project
      dualdeploy plan --project my-project --json
    """
    order = _order(session, "plan", project=project, region=region, delete_data=delete_data)
    _carry_out(session, order, as_json=as_json)


@click.command
@_project
@_region
@_delete_data
@click.option("--confirm", default="", metavar="PROJECT", help="the project's name: the answer to the question")
@options.as_json
@pass_session
def destroy(session: Session, *, project: str, region: str, delete_data: bool, confirm: str, as_json: bool) -> None:
    """Take everything down, after asking. Buckets with data stay, unless --delete-data.

    \b
    Examples:
      dualdeploy destroy --project my-project
      dualdeploy destroy --project my-project --delete-data --confirm my-project
    """
    order = _order(session, "destroy", project=project, region=region, delete_data=delete_data, confirm=confirm)
    _carry_out(session, order, as_json=as_json)


def _order(session: Session, command: Literal["deploy", "plan", "destroy"], **given: Any) -> Order:
    from shipping.orders import Order

    return Order(command=command, revision=_revision(session.checkout), **given)


def _revision(checkout: Path) -> str:
    """The commit of this code, which labels every model version; empty outside git."""
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else ""


def _carry_out(session: Session, order: Order, *, as_json: bool) -> None:
    """The steps as they happen: on standard output, or beside the JSON, which says what changed by address."""
    from shipping.tools import Tools

    tools = Tools(rehearsal=order.command == "plan", say=note if as_json else click.echo)
    changes = session.ship(order, tools, lambda question: click.prompt(question.rstrip(": "), err=as_json))
    if as_json:
        emit({"command": order.command, "changes": dict(changes)})
