"""Writes docs/routes.md from the services' own lists: `make routes-table`."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import cloud_deployer.route
import mobile_publisher.route
from dualdeploy.release.route import CLAIM, Loop, Route, Step

HEAD = """# The way of a release, step by step

Made by `make routes-table` of the lists in [cloud_deployer](../services/cloud_deployer/cloud_deployer/route.py) and
[mobile_publisher](../services/mobile_publisher/mobile_publisher/route.py); a test holds it against them.
`make run ID=…`, `GET /runs/<run>` and `GET /status/<dataset>` tell which of these steps a release is at, and what it
waits for there.

Everything after `claim` happens under the release's claim on what serves. Where it says *yields*, a newer release that
waits for nothing but its turn takes the place of this one. Where it says *out*, users have the release already: it
cannot be aborted any more, and a rollback need not wait for the rest.
"""


def rendered() -> str:
    """The whole page."""
    cloud = _section("cloud_deployer", cloud_deployer.route.ROUTES)
    phones = _section("mobile_publisher", mobile_publisher.route.ROUTES)
    return f"{HEAD}\n{cloud}\n{phones}"


def _section(service: str, routes: Mapping[str, Route]) -> str:
    return f"## {service}\n" + "".join(f"\n### {name}\n\n{_table(route)}" for name, route in routes.items())


def _table(route: Route) -> str:
    rows = ["| step | state | the release … | |", "|---|---|---|---|"]
    for part in route.parts:
        if isinstance(part, Loop):
            rows += [_row(step, f"again for {part.each}") for step in part.steps]
        else:
            rows.append(_row(part, ""))
    return "\n".join(rows) + "\n"


def _row(step: Step, remark: str) -> str:
    remarks = [remark, "yields" if step.yields else "", "out" if step.is_out else ""]
    function = "" if step.take is None else f" ([{step.take.__name__}]({_source(step)}))"
    says = f"{step.says}{function}" if step.name != CLAIM else step.says
    return f"| `{step.name}` | {step.state} | {says} | {', '.join(filter(None, remarks))} |"


def _source(step: Step) -> str:
    module = step.take.__module__ if step.take else ""
    package = module.partition(".")[0]
    return f"../services/{package}/{module.replace('.', '/')}.py"


if __name__ == "__main__":
    sys.stdout.write(rendered())
