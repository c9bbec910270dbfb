"""doctor: which part of the chain is broken."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from dualdeploy_cli import options
from dualdeploy_cli.exits import REFUSED, UNREACHABLE, Unreachable
from dualdeploy_cli.output import console, emit, note
from dualdeploy_cli.session import Session, pass_session

if TYPE_CHECKING:
    from doctor.reads import Google


@click.command
@options.project
@options.region
@click.option("--all", "everything", is_flag=True, help="list also, one by one, what is in order")
@click.option("--patience", type=float, default=10.0, show_default=True, metavar="SECONDS", help="for one call")
@click.option("--limit", type=float, default=90.0, show_default=True, metavar="SECONDS", help="for everything")
@options.wide
@options.as_json
@pass_session
def doctor(
    session: Session,
    *,
    project: str,
    region: str,
    everything: bool,
    patience: float,
    limit: float,
    wide: bool,
    as_json: bool,
) -> None:
    """Say which part of the chain is broken, and what mends it. Nothing is changed.

    Exits with 0 if nothing is broken, 1 if something is, 3 if not everything could be seen.

    \b
    Examples:
      dualdeploy doctor
      dualdeploy doctor --project my-project --region us-central1 --all
    """
    from doctor import checks
    from doctor.chain import Chain
    from doctor.examination import Look, examine
    from doctor.findings import State
    from doctor.reads import Google, NotSignedIn
    from dualdeploy_cli.doctor_tables import print_findings

    project = session.project(project)
    google = Google(project, environ=session.environ, patience=patience)
    try:
        google.sign_in()
        region = region or session.environ.get("GOOGLE_CLOUD_REGION", "") or _deployed_region(google)
    except NotSignedIn as exc:
        raise Unreachable(f"this machine is not signed in to Google Cloud: {exc}") from exc
    infra = session.checkout / "infra"
    chain = Chain.load(infra / "topology.json", project=project, region=region)
    bindings = json.loads((infra / "bindings.json").read_text(encoding="utf-8"))
    findings = examine(checks.of(Look(chain, google, session.clock()(), bindings)), limit_seconds=limit)
    if as_json:
        emit(findings)
    else:
        print_findings(findings, chain, console(wide=wide), everything=everything, wide=wide)
        if session.is_local:
            note(
                "This is the local cloud: the remedies are for Google Cloud. Here dualdeploy down, then up, repairs it."
            )
    states = {each.state for each in findings}
    if State.BROKEN in states:
        raise click.exceptions.Exit(REFUSED)
    if State.UNSEEN in states:
        raise click.exceptions.Exit(UNREACHABLE)


def _deployed_region(google: Google) -> str:
    """Everything is where the data bucket is."""
    from doctor.reads import CouldNotLook, NotThere

    try:
        bucket = google.get("storage", f"/storage/v1/b/{google.project}-data", needs="storage.buckets.get")
    except (NotThere, CouldNotLook) as exc:
        raise click.UsageError(
            f"which region? Give --region us-central1; the data bucket cannot be asked for it: {exc}"
        ) from exc
    return str(bucket["location"]).lower()
