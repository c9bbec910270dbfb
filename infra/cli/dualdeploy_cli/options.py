"""Options that several commands share, so that one name means one thing everywhere."""

from __future__ import annotations

import click

project = click.option(
    "--project",
    default="",
    metavar="ID",
    help="Google Cloud project; default: the running local cloud, else GOOGLE_CLOUD_PROJECT",
)
region = click.option("--region", default="", metavar="NAME", help="default: where the project is deployed")
as_json = click.option("--json", "as_json", is_flag=True, help="JSON on standard output, for programs")
wide = click.option(
    "--wide", "--links", "wide", is_flag=True, help="full resource names, with links to Google's console; long lines"
)
dataset = click.option("--dataset", default="", metavar="NAME", help="only this data set")
reason = click.option("--reason", default="", metavar="TEXT", help="why; it stands in the run's history")


class Names(click.ParamType[tuple[str, ...]]):
    """`a,b,c`: names, each once."""

    name = "A,B,…"

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in value.split(",") if name.strip())
        if value and (not names or len(set(names)) != len(names)):
            self.fail(f"{value!r}: give each class name once, separated by commas", param, ctx)
        return names


labels = click.option("--labels", type=Names(), default="", help="class names in the order of their indices")
