"""The command line: `python -m local_cloud serve | stack | coverage | permissions`.

`serve` is the emulators alone; `stack` is the emulators and our services. `dualdeploy up` leaves a stack running behind
the terminal, and `dualdeploy demo` runs the whole loop on a stack of its own.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from local_cloud import coverage, supervisor, topology
from local_cloud.cloud import DEFAULT_PROJECT, DEFAULT_REGION, LocalCloud, StateInUse, load
from local_cloud.environment_file import write_environment
from local_cloud.iam import BindingsError
from local_cloud.iam import page as permissions_page
from local_cloud.pubsub.store import StoreUnusable
from local_cloud.stack import ServiceDidNotStart
from local_cloud.topology import TopologyError

#: infra/local_cloud/src/local_cloud/__main__.py, seen from the root of a checkout.
_CHECKOUT = Path(__file__).resolve().parents[4]


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return _COMMANDS[options.command](options)
    except (TopologyError, BindingsError, StateInUse, StoreUnusable, ServiceDidNotStart, OSError) as exc:
        print(f"local_cloud: {exc}", file=sys.stderr)
        return 2


def serve(options: argparse.Namespace) -> int:
    """Start everything, write the environment file, and run until a signal or POST /shutdown."""
    cloud = load(
        options.repository,
        state_dir=options.state,
        project=options.project,
        region=options.region,
        topology_file=options.topology,
        bindings_file=options.bindings,
        clock_seconds=options.clock_seconds,
        realistic=options.realistic,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: cloud.control.stop_requested.set())
    environment_file: Path | None = options.environment_file
    try:
        cloud.start()
        if environment_file is not None:
            write_environment(environment_file, cloud.environment())
        print(_table(cloud, environment_file), flush=True)
        cloud.control.stop_requested.wait()
    finally:
        # Services that start after this must not find addresses that nobody listens on.
        if environment_file is not None:
            environment_file.unlink(missing_ok=True)
        cloud.close()
    return 0


def run_stack(options: argparse.Namespace) -> int:
    """Be a stack until a signal comes."""
    return supervisor.run(
        options.repository.resolve(),
        state=options.state.resolve(),
        environment_file=options.environment_file.resolve(),
        clock_seconds=options.clock_seconds,
        realistic=options.realistic,
        leashed=options.leashed,
        bindings=options.bindings,
        web=options.web,
    )


def write_coverage(options: argparse.Namespace) -> int:
    """Write COVERAGE.md, or with --check say whether the committed one is current."""
    repository: Path = options.repository
    described = topology.load(
        options.topology or repository / "infra" / "topology.json", project=DEFAULT_PROJECT, region=DEFAULT_REGION
    )
    path = repository / "infra" / "local_cloud" / "COVERAGE.md"
    page = coverage.page(described, repository)
    if not options.check:
        path.write_text(page, encoding="utf-8")
        return 0
    if path.exists() and path.read_text(encoding="utf-8") == page:
        return 0
    print(f"{path} is not current; run `python -m local_cloud coverage`", file=sys.stderr)
    return 1


def write_permissions(options: argparse.Namespace) -> int:
    """Write the tables of docs/permissions.md, or with --check say whether they are current."""
    repository: Path = options.repository
    path = repository / permissions_page.FILE
    there = path.read_text(encoding="utf-8")
    page = permissions_page.filled(there, repository)
    if not options.check:
        path.write_text(page, encoding="utf-8")
        return 0
    if there == page:
        return 0
    print(f"{path} is not current; run `python -m local_cloud permissions`", file=sys.stderr)
    return 1


def _table(cloud: LocalCloud, environment_file: Path | None) -> str:
    rows = [
        ("Cloud Storage", f"http://{cloud.storage.address}"),
        ("Pub/Sub", cloud.pubsub.address),
        ("Vertex AI", f"http://{cloud.vertex.address}"),
        ("Firebase ML", f"http://{cloud.firebase_ml.address}"),
        ("Monitoring", cloud.monitoring.address),
        ("Remote Config", f"http://{cloud.remote_config.address}"),
        ("control", f"http://{cloud.control.address}"),
        ("project", f"{cloud.topology.project} in {cloud.topology.region}"),
        ("environment", str(environment_file or "(not written, see --environment-file)")),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {value}" for name, value in rows]
    return "\n".join(["local cloud ready; stop it with Ctrl-C", *lines])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="local_cloud", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="run the local cloud until Ctrl-C")
    serving.add_argument("--state", type=Path, required=True, help="folder that survives restarts")
    serving.add_argument("--project", default=DEFAULT_PROJECT)
    serving.add_argument("--region", default=DEFAULT_REGION)
    serving.add_argument("--clock-seconds", type=float, default=2.0, help="how often schedules fire")
    serving.add_argument("--environment-file", type=Path, help="written when ready, such as build/local_cloud.env")
    stacking = commands.add_parser("stack", help="run the local cloud and our services until Ctrl-C")
    stacking.add_argument("--state", type=Path, required=True, help="folder that survives restarts")
    stacking.add_argument("--clock-seconds", type=float, default=2.0, help="how often schedules fire")
    stacking.add_argument("--environment-file", type=Path, required=True, help="written when ready")
    stacking.add_argument("--web", action="store_true", help="with the services that no event reaches")
    stacking.add_argument("--leashed", action="store_true", help="end when standard input ends")
    covering = commands.add_parser("coverage", help="write infra/local_cloud/COVERAGE.md")
    covering.add_argument("--check", action="store_true", help="only say whether it is current")
    permitting = commands.add_parser("permissions", help="write the tables of docs/permissions.md")
    permitting.add_argument("--check", action="store_true", help="only say whether they are current")
    for command in (serving, stacking):
        command.add_argument("--realistic", action="store_true", help="keep Google's rates, time-outs and back-offs")
    for command in (serving, stacking, covering, permitting):
        command.add_argument("--repository", type=Path, default=_CHECKOUT, help="root of the checkout")
    for command in (serving, covering):
        command.add_argument("--topology", type=Path, help="default: infra/topology.json of the repository")
    for command in (serving, stacking):
        command.add_argument("--bindings", type=Path, help="default: infra/bindings.json of the repository")
    return parser


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "serve": serve,
    "stack": run_stack,
    "coverage": write_coverage,
    "permissions": write_permissions,
}

if __name__ == "__main__":
    sys.exit(main())
