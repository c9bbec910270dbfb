"""runs, run: what the ledger says of every run."""

from __future__ import annotations

import click

from dualdeploy_cli import options
from dualdeploy_cli.exits import Refused
from dualdeploy_cli.output import console, emit
from dualdeploy_cli.session import Session, pass_session


@click.command
@options.dataset
@click.option("--most", type=click.IntRange(min=1), default=20, show_default=True, help="how many, newest first")
@options.project
@options.wide
@options.as_json
@pass_session
def runs(session: Session, *, dataset: str, most: int, project: str, wide: bool, as_json: bool) -> None:
    """List runs, newest first: states, costs, and what they wait for.

    Below stand what serves, what costs and stays, and the data and requests that were refused in the last days.

    \b
    Examples:
      dualdeploy runs
      dualdeploy runs --dataset flowers --most 5
      dualdeploy runs --json | jq '.[0].targets[].state'
    """
    from dualdeploy.ledger.overview import Runs
    from dualdeploy_cli.run_tables import print_runs

    reader = Runs(session.bucket(session.bucket_name("ledger", project)), clock=session.clock())
    views = reader.newest(dataset=dataset, most=most)
    if as_json:
        emit(views)
    else:
        print_runs(views, reader, dataset, console(wide=wide), wide=wide)


@click.command
@click.argument("run_id", metavar="RUN")
@options.project
@options.wide
@options.as_json
@pass_session
def run(session: Session, *, run_id: str, project: str, wide: bool, as_json: bool) -> None:
    """Show one run: what it did, when and why, what it costs, and the steps that are left.

    \b
    Examples:
      dualdeploy run flowers-0123456789ab
      dualdeploy run flowers-0123456789ab --links
    """
    from dualdeploy.errors import UnknownRun
    from dualdeploy.ledger.overview import Runs
    from dualdeploy_cli.run_tables import print_run

    reader = Runs(session.bucket(session.bucket_name("ledger", project)), clock=session.clock())
    try:
        view = reader.one(run_id)
    except UnknownRun as exc:
        raise Refused(f"{exc}; dualdeploy runs lists those that there are") from exc
    if as_json:
        emit(view)
    else:
        print_run(view, console(wide=wide), wide=wide)
