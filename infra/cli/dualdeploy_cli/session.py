"""What commands work with: the project, or the running local cloud, and ways to Google. Tests give their own."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dualdeploy_cli.exits import Refused

if TYPE_CHECKING:
    from dualdeploy.clock import Clock
    from dualdeploy.google.firebase_ml import HostedModels
    from dualdeploy.google.object_store import ObjectStore
    from dualdeploy.google.pubsub import Publisher
    from dualdeploy.google.vertex import Vertex
    from shipping.orders import Order
    from shipping.tools import Tools

#: infra/cli/dualdeploy_cli/session.py, seen from the root of a checkout.
CHECKOUT = Path(__file__).resolve().parents[3]


def _bucket(name: str) -> ObjectStore:
    from dualdeploy.google.object_store import GcsObjectStore

    return GcsObjectStore(name)


def _hosted_models(project: str) -> HostedModels:
    from dualdeploy.google.firebase_ml import FirebaseMlGateway

    host = os.environ.get("FIREBASE_ML_EMULATOR_HOST", "")
    return FirebaseMlGateway(project=project, signs=False, emulator_host=host)


def _vertex(project: str, region: str) -> Vertex:
    from dualdeploy.google.vertex import VertexGateway

    return VertexGateway(project=project, region=region, emulator_host=os.environ.get("VERTEX_EMULATOR_HOST", ""))


def _publisher(project: str) -> Publisher:
    from dualdeploy.google.pubsub import PubSubPublisher

    return PubSubPublisher(project)


def _ship(order: Order, tools: Tools, answer: Callable[[str], str]) -> Mapping[str, str]:
    from shipping.orders import carry_out

    return carry_out(order, tools, answer=answer)


def _now() -> Clock:
    from dualdeploy.clock import utc_now

    return utc_now


@dataclasses.dataclass
class Session:
    """One call of the program. Google's clients read their variables from `environ`, as does everything here."""

    checkout: Path = CHECKOUT
    #: Where a running local cloud says its addresses.
    environment_file: Path = CHECKOUT / "build" / "local_cloud.env"
    environ: MutableMapping[str, str] = dataclasses.field(default_factory=lambda: os.environ)
    bucket: Callable[[str], ObjectStore] = _bucket
    hosted_models: Callable[[str], HostedModels] = _hosted_models
    vertex: Callable[[str, str], Vertex] = _vertex
    publisher: Callable[[str], Publisher] = _publisher
    ship: Callable[[Order, Tools, Callable[[str], str]], Mapping[str, str]] = _ship
    clock: Callable[[], Clock] = _now
    #: Seconds before a service is asked again; the next pause is twice as long.
    backoff: float = 0.5

    def project(self, named: str) -> str:
        """The named project, else that of the running local cloud, else GOOGLE_CLOUD_PROJECT."""
        if named:
            return named
        self._enter_local_cloud()
        found = self.environ.get("GOOGLE_CLOUD_PROJECT", "")
        if not found:
            raise click.UsageError(
                "which project? Give --project my-project (PROJECT=… for make), or start a local cloud: dualdeploy up"
            )
        return found

    def bucket_name(self, kind: str, project: str) -> str:
        """Of the ledger, the configurations (`config`) or the phones (`mobile`): <project>-<kind> unless a variable
        says otherwise for a project that was not named."""
        if project:
            return f"{project}-{kind}"
        found = self.project("")
        return self.environ.get(f"{kind.upper()}_BUCKET") or f"{found}-{kind}"

    @property
    def is_local(self) -> bool:
        """Whether what is asked is a local cloud."""
        return bool(self.environ.get("LOCAL_CLOUD_ADDRESS"))

    def _enter_local_cloud(self) -> None:
        if not self.environment_file.exists():
            return
        from dualdeploy_demo.supervisor import is_running
        from local_cloud.environment_file import read_environment

        variables = read_environment(self.environment_file)
        if "LOCAL_CLOUD_PID" in variables and not is_running(self.environment_file):
            raise Refused("the local cloud has ended without being asked: dualdeploy down, then dualdeploy up")
        self.environ.update(variables)


pass_session = click.make_pass_decorator(Session, ensure=True)
