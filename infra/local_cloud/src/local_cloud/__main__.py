"""The command line: `local-cloud serve`, or `python -m local_cloud serve`."""

from __future__ import annotations

import contextlib
import logging
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from local_cloud.cloud import LocalCloud, Ports, StateInUse, load
from local_cloud.environment_file import write_environment
from local_cloud.iam import BindingsError
from local_cloud.pubsub.store import StoreUnusable
from local_cloud.stack import ServiceDidNotStart, Stack
from local_cloud.topology import DEFAULT_PROJECT, DEFAULT_REGION, TopologyError

#: Where `--ports fixed` begins: below the range from which Linux, macOS and Windows choose free ports.
FIRST_FIXED_PORT = 9400
#: Services follow after it, in the order of the topology.
_FIRST_OF_SERVICES = 20
#: What has a sentence for people; everything else is a fault of this program and shows its trace.
_EXPECTED = (TopologyError, BindingsError, StateInUse, StoreUnusable, ServiceDidNotStart, OSError)

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)


class PortChoice(click.ParamType[int]):
    """`free`, `fixed`, or the first of the ports: 0 for any free ones."""

    name = "free|fixed|FIRST"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if value in {"free", "fixed"}:
            return FIRST_FIXED_PORT if value == "fixed" else 0
        if not value.isdecimal() or not 1024 <= int(value) <= 65000:
            self.fail(f"{value!r}: free, fixed, or a port from 1024 to 65000", param, ctx)
        return int(value)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def program() -> None:
    """Google Cloud on this machine, for Google's own clients.

    Storage, Pub/Sub, Eventarc, Vertex AI (jobs, models, endpoints), Firebase ML, Remote Config, Monitoring,
    Scheduler and IAM in one process, on loopback. A custom job really runs as a process, a deployed model
    really is a server, an endpoint really splits its traffic.

    \b
    First:  local-cloud serve                              an empty project; Ctrl-C stops it
    Then:   local-cloud serve --topology topology.json     your buckets, topics, services, images
    Ask it: open the control address in a browser          what there is, and who was refused what

    The README of the package says how a topology is written, and which setting points each client here.
    """


@program.command(short_help="Run a project until Ctrl-C.")
@click.option("--topology", type=_FILE, help="what the project has; default: nothing, clients make it")
@click.option("--bindings", type=_FILE, help="who may do what; default: the topology's, else everyone everything")
@click.option("--state", type=_FOLDER, help="folder that survives restarts; default: one that goes with the process")
@click.option("--project", default="", metavar="ID", help=f"default: the topology's, else {DEFAULT_PROJECT}")
@click.option("--region", default="", metavar="NAME", help=f"default: the topology's, else {DEFAULT_REGION}")
@click.option(
    "--ports",
    type=PortChoice(),
    default="free",
    show_default=True,
    help=f"fixed: the same each time, from {FIRST_FIXED_PORT} on; or the first of them",
)
@click.option("--environment-file", type=_FILE, help="written when everything answers, removed at the end")
@click.option(
    "--clock-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="how often every schedule fires",
)
@click.option("--realistic", is_flag=True, help="keep Google's rates, time-outs and back-offs")
def serve(
    *,
    topology: Path | None,
    bindings: Path | None,
    state: Path | None,
    project: str,
    region: str,
    ports: int,
    environment_file: Path | None,
    clock_seconds: float,
    realistic: bool,
) -> None:
    """Run a project until Ctrl-C, SIGTERM or POST /shutdown.

    Services of the topology that have a command run too, and receive their events; what they print is in the
    folder `logs` of the state. The environment file has KEY=value lines that a shell reads: set -a; source FILE.

    \b
    Examples:
      local-cloud serve
      local-cloud serve --topology topology.json --environment-file cloud.env
      local-cloud serve --topology topology.json --bindings bindings.json --ports fixed --state .cloud
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        with _folder(state) as folder:
            cloud = load(
                topology,
                state_dir=folder / "cloud",
                project=project,
                region=region,
                bindings_file=bindings,
                ports=Ports.fixed(ports) if ports else Ports(),
                clock_seconds=clock_seconds,
                realistic=realistic,
            )
            first = ports + _FIRST_OF_SERVICES
            stack = Stack(cloud, log_folder=folder / "logs", ports=range(first, first + 1000) if ports else ())
            _run(stack, environment_file)
    except _EXPECTED as exc:
        click.echo(f"local-cloud: {exc}", err=True)
        click.get_current_context().exit(2)


def _run(stack: Stack, environment_file: Path | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stack.cloud.control.stop_requested.set())
    try:
        stack.start()
        if environment_file is not None:
            write_environment(environment_file, stack.environment())
        click.echo(_table(stack, environment_file))
        stack.cloud.control.stop_requested.wait()
    finally:
        # Services that start after this must not find addresses that nobody listens on.
        if environment_file is not None:
            environment_file.unlink(missing_ok=True)
        stack.close()


@contextlib.contextmanager
def _folder(state: Path | None) -> Iterator[Path]:
    if state is not None:
        yield state
        return
    with tempfile.TemporaryDirectory(prefix="local-cloud-") as folder:
        yield Path(folder)


def _table(stack: Stack, environment_file: Path | None) -> str:
    cloud: LocalCloud = stack.cloud
    rows = [
        ("status page", f"http://{cloud.control.address}"),
        ("Cloud Storage", f"http://{cloud.storage.address}"),
        ("Pub/Sub", cloud.pubsub.address),
        ("Vertex AI", f"http://{cloud.vertex.address}"),
        ("Firebase ML", f"http://{cloud.firebase_ml.address}"),
        ("Remote Config", f"http://{cloud.remote_config.address}"),
        ("Monitoring", cloud.monitoring.address),
        *((name, f"http://{service.address}") for name, service in stack.services.items()),
        ("project", f"{cloud.topology.project} in {cloud.topology.region}"),
        ("environment", str(environment_file or "(not written, see --environment-file)")),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {value}" for name, value in rows]
    return "\n".join(["local cloud ready; stop it with Ctrl-C", *lines])


def main() -> None:
    """The entry point of `local-cloud`."""
    program(prog_name="local-cloud")


if __name__ == "__main__":
    main()
