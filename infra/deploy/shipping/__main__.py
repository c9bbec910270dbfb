"""`python -m shipping {deploy,plan,destroy}`: what Cloud Build runs, where nothing but Python is installed.

For people there is `dualdeploy deploy`, `plan` and `destroy`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from shipping.orders import Order, carry_out
from shipping.tools import CannotShip, Tools


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = vars(_parser().parse_args(argv))
    tools = Tools(rehearsal=given["command"] == "plan", pause_seconds=given.pop("pause_seconds"))
    try:
        carry_out(Order(**given), tools)
    except CannotShip as refused:
        print(f"\n{refused}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shipping", description="Deploys Dual Deploy to Google Cloud.")
    parser.add_argument("command", choices=["deploy", "plan", "destroy"])
    parser.add_argument("--project", default="", help="default: the project of gcloud")
    parser.add_argument("--region", default="", help="default: where it is deployed already, else us-central1")
    parser.add_argument(
        "--service", dest="services", action="append", default=[], help="this one only; may be given several times"
    )
    parser.add_argument("--code-only", action="store_true", help="every service that changed, and no infrastructure")
    parser.add_argument("--packaged", action="store_true", help="take the packages as `make package` left them")
    parser.add_argument("--revision", default="", help="commit of this code: a label of every model version")
    parser.add_argument("--delete-data", action="store_true", help="buckets may be deleted with what is in them")
    parser.add_argument("--confirm", default="", metavar="PROJECT", help="the answer to destroy's question")
    parser.add_argument("--environment", type=Path, default=Order.environment, help="folder of the root module")
    parser.add_argument("--build", type=Path, default=Order.build, help="folder of the packages")
    parser.add_argument("--pause-seconds", type=float, default=60, help="before Google is asked again")
    return parser


if __name__ == "__main__":
    sys.exit(main())
