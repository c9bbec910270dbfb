"""The program: its commands in the order in which people meet them, and what becomes of an error."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from dualdeploy_cli import exits
from dualdeploy_cli.commands import completion, data, firebase, letters, local, networks, predict, releases, runs, ship
from dualdeploy_cli.commands import doctor as doctoring
from dualdeploy_cli.session import CHECKOUT, Session

#: Title → commands, as `dualdeploy --help` shows them.
SECTIONS: Mapping[str, Sequence[click.Command]] = {
    "Try it": (local.demo, local.up, local.demo_data, local.down),
    "Data": (data.shards, data.validate, networks.check_module),
    "Watch": (runs.runs, runs.run, releases.status, doctoring.doctor, predict.predict),
    "Act": (
        releases.retrain,
        releases.redeploy,
        releases.rollback,
        releases.abort,
        releases.hold,
        releases.resume,
        releases.retire,
        letters.replay,
        firebase.firebase_migrate,
    ),
    "Ship": (ship.deploy, ship.plan, ship.destroy),
    "This program": (completion.completion,),
}


class Program(click.Group):
    """Commands in sections; whatever goes wrong ends with one sentence and a documented exit code."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(each.name or "", each.get_short_help_str(limit=200)) for each in commands])

    def invoke(self, ctx: click.Context) -> Any:
        make_importable()
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt as exc:
            raise exits.Stopped("stopped; the same command may be given again") from exc
        except Exception as exc:
            if os.environ.get("DUALDEPLOY_DEBUG"):
                raise
            raise exits.explained(exc) from exc


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 refused or failed, 2 wrong command line, 3 a service does not answer, 4 a fault of "
    "this program. docs/cli.md has everything.",
)
@click.pass_context
def program(ctx: click.Context) -> None:
    """Dual Deploy: two image classifiers kept fresh from one stream of TFRecords.

    Every command works on the project that is named with --project; without it on the local cloud that runs
    (dualdeploy up), else on GOOGLE_CLOUD_PROJECT.

    \b
    First:  dualdeploy demo                       the whole loop on this machine
    Then:   dualdeploy up && dualdeploy runs      a local cloud that stays
    """
    ctx.ensure_object(Session)


for _commands in SECTIONS.values():
    for _command in _commands:
        program.add_command(_command)


def make_importable() -> None:
    """Let commands import what they run of the services; these stay apart, because no process of theirs does this."""
    sys.path += sorted(str(folder) for folder in CHECKOUT.glob("services/*") if str(folder) not in sys.path)


def main() -> None:
    """The entry point of `dualdeploy`."""
    program(prog_name="dualdeploy")
