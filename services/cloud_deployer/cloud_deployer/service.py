"""The service as one object: everything wired together, with whatever stands for Google handed in."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import flask

from cloud_deployer.cleanup import report
from cloud_deployer.cleanup.work import CLEANUP, SWEEP, SWEEP_ALL, Cleanup, Sweep
from cloud_deployer.release import TARGET, CloudRelease, CloudServing
from cloud_deployer.settings import DeployerSettings
from cloud_deployer.steps import retire
from cloud_deployer.target import CloudTarget
from cloud_deployer.world import World
from dualdeploy.google.monitoring import Monitoring
from dualdeploy.google.object_store import ObjectStore
from dualdeploy.google.pubsub import Publisher
from dualdeploy.google.vertex import Vertex
from dualdeploy.http.callers import Callers
from dualdeploy.http.entrypoint import Handler
from dualdeploy.http.ticks import Ticks, Work
from dualdeploy.ledger import Ledger
from dualdeploy.ledger.due import Due
from dualdeploy.release.api import blueprint
from dualdeploy.release.commands import Commands
from dualdeploy.release.handlers import event_handlers
from dualdeploy.release.worker import KIND, ReleaseWorker

SERVICE = "cloud_deployer"


@dataclasses.dataclass(frozen=True)
class Service:
    """What events, ticks and people reach."""

    world: World
    worker: ReleaseWorker[CloudRelease, CloudServing]
    ticks: Ticks
    commands: Commands[CloudRelease, CloudServing]

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the event."""
        return event_handlers(self.worker, self.ticks)

    def routes(self, callers: Callers) -> flask.Blueprint:
        """The HTTP interface."""
        return blueprint(
            SERVICE,
            TARGET,
            self.commands,
            ledger=self.world.ledger,
            serving_kind=CloudServing,
            callers=callers,
            about=functools.partial(report.status, self.world.ledger),
        )


def compose(
    *,
    ledger: Ledger,
    config: ObjectStore,
    models: ObjectStore,
    vertex: Vertex,
    monitoring: Monitoring,
    publisher: Publisher,
    settings: DeployerSettings,
) -> Service:
    """Wire the service together; touches nothing yet."""
    due = Due(SERVICE, ledger, every=settings.tick_seconds)
    world = World(
        ledger=ledger,
        config=config,
        models=models,
        vertex=vertex,
        monitoring=monitoring,
        due=due,
        settings=settings,
    )
    target = CloudTarget(world)
    seconds = settings.lease_seconds
    worker = ReleaseWorker(target, ledger=ledger, config=config, due=due, publisher=publisher, lease_seconds=seconds)
    works: dict[str, Work] = {KIND: worker, CLEANUP: Cleanup(world), SWEEP: Sweep(world)}
    ticks = Ticks(
        works,
        due=due,
        ledger=ledger,
        publisher=publisher,
        lease_seconds=seconds,
        slots=settings.request_slots,
        hourly=(SWEEP_ALL,),
    )
    commands = Commands(
        target,
        worker,
        ledger=ledger,
        due=due,
        nudge=ticks.nudge,
        would_retire=functools.partial(retire.would_take_down, world),
    )
    return Service(world, worker, ticks, commands)
