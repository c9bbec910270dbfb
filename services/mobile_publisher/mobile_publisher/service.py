"""The service as one object: everything wired together, with whatever stands for Google handed in."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import flask

from dualdeploy.contracts import events
from dualdeploy.google.pubsub import Publisher
from dualdeploy.http.callers import Callers
from dualdeploy.http.entrypoint import Handler
from dualdeploy.http.ticks import Ticks
from dualdeploy.release.api import blueprint
from dualdeploy.release.commands import Commands
from dualdeploy.release.handlers import event_handlers
from dualdeploy.release.worker import KIND, ReleaseWorker
from mobile_publisher import routings
from mobile_publisher.release import MobileRelease, MobileServing
from mobile_publisher.settings import PublisherSettings
from mobile_publisher.steps import retire
from mobile_publisher.target import PhoneTarget
from mobile_publisher.world import TARGET, World

SERVICE = "mobile_publisher"


@dataclasses.dataclass(frozen=True)
class Service:
    """What events, ticks and people reach."""

    world: World
    worker: ReleaseWorker[MobileRelease, MobileServing]
    ticks: Ticks
    commands: Commands[MobileRelease, MobileServing]

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the event."""
        return {
            **event_handlers(self.worker, self.ticks),
            "deployment-completed": lambda e: routings.on_deployment(events.parse_deployment_completed(e), self.ticks),
        }

    def routes(self, callers: Callers) -> flask.Blueprint:
        """The HTTP interface."""
        return blueprint(
            SERVICE,
            TARGET,
            self.commands,
            ledger=self.world.ledger,
            serving_kind=MobileServing,
            callers=callers,
            about=functools.partial(routings.status, self.world.ledger),
        )


def compose(world: World, *, publisher: Publisher, settings: PublisherSettings) -> Service:
    """Wire the service together; touches nothing yet."""
    ledger = world.ledger
    target, due = PhoneTarget(world), world.due
    worker = ReleaseWorker(
        target, ledger=ledger, config=world.config, due=due, publisher=publisher, lease_seconds=settings.lease_seconds
    )
    ticks = Ticks(
        {KIND: worker, routings.KIND: routings.Routings(world)},
        due=due,
        ledger=ledger,
        publisher=publisher,
        lease_seconds=settings.lease_seconds,
        slots=settings.request_slots,
    )
    commands = Commands(
        target,
        worker,
        ledger=ledger,
        due=due,
        nudge=ticks.nudge,
        would_retire=functools.partial(retire.preview, world=world),
    )
    return Service(world, worker, ticks, commands)
