"""The program `dualdeploy` in this process, as people call it."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from dualdeploy.clock import Clock
from dualdeploy.google.object_store import ObjectStore
from dualdeploy_cli.program import program
from dualdeploy_cli.session import Session


def session(
    store: ObjectStore | None = None, *, clock: Clock | None = None, environment_file: Path = Path("/nowhere")
) -> Session:
    """One that finds no running local cloud, and `store` as every bucket."""
    made = Session(environment_file=environment_file, backoff=0)
    if store is not None:
        made.bucket = lambda _name: store
        made.environ = {"GOOGLE_CLOUD_PROJECT": "demo", "LEDGER_BUCKET": "ledger"}
    if clock is not None:
        made.clock = lambda: clock
    return made


def call(*arguments: object, given: Session | None = None, width: int = 200, answers: str = "") -> Result:
    """`stdout` and `stderr` apart, `output` as on a terminal of `width` columns."""
    words = [str(argument) for argument in arguments]
    return CliRunner(env={"COLUMNS": str(width)}).invoke(program, words, obj=given or session(), input=answers)


def invoke(*arguments: object, given: Session | None = None, width: int = 200) -> tuple[int, str]:
    """Exit code, and all that a terminal of `width` columns shows."""
    result = call(*arguments, given=given, width=width)
    return result.exit_code, result.output
