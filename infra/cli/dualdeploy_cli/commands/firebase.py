"""firebase-migrate: bring what Firebase ML hosts to the bucket that phones read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from dualdeploy_cli import options
from dualdeploy_cli.exits import LOG_IN, REFUSED, Unreachable
from dualdeploy_cli.output import console, emit, say
from dualdeploy_cli.session import Session, pass_session

if TYPE_CHECKING:
    from rich.table import Table

    from mobile_publisher.migrate import Migrated


@click.command
@options.project
@click.option("--bucket", default="", metavar="NAME", help="bucket to copy to; default: <project>-mobile")
@options.as_json
@pass_session
def firebase_migrate(session: Session, *, project: str, bucket: str, as_json: bool) -> None:
    """Copy the models that Firebase ML hosts to the bucket that phones read, before hosting ends in June 2027.

    It may be run again: what is there with the same bytes is not copied. A pointer that mobile_publisher moved
    stays. Exits with 1 if one of the models could not be copied.

    \b
    Examples:
      dualdeploy firebase-migrate --project my-project
      dualdeploy firebase-migrate --project my-project --bucket my-mobile --json
    """
    from google.auth.exceptions import GoogleAuthError

    from dualdeploy.errors import DualDeployError
    from mobile_publisher.migrate import BUCKET, Migration

    # firebase_admin announces the end of Firebase ML on every call, and that end is why one is here.
    logging.captureWarnings(capture=True)
    project = session.project(project)
    target = session.bucket(bucket or BUCKET.format(project=project))
    done: list[Migrated] = []
    out = console()
    try:
        for each in Migration(session.hosted_models(project), target, project=project).run():
            done.append(each)
            if not as_json:
                say(f"{each.name}: {each.outcome}: {each.note}", out)
    except (DualDeployError, GoogleAuthError) as exc:
        raise Unreachable(f"the models of {project} cannot be listed: {exc}\nLog in: {LOG_IN}") from exc
    if as_json:
        emit(done)
    else:
        out.print(_table(done) if done else f"Firebase ML does not host a model of {project}.")
    if any(each.outcome == "failed" for each in done):
        raise click.exceptions.Exit(REFUSED)


def _table(done: Sequence[Migrated]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    for column in ("model", "outcome", "version"):
        table.add_column(column, overflow="fold")
    table.add_column("bytes", justify="right")
    for each in done:
        table.add_row(Text(each.name), each.outcome, each.version, f"{each.size_bytes:,}" if each.size_bytes else "")
    return table
