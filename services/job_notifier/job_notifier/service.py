"""The service as one object: everything wired together, with whatever stands for Google handed in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from dualdeploy.contracts import events
from dualdeploy.google.automl import AutoML
from dualdeploy.google.object_store import ObjectStore
from dualdeploy.google.pubsub import Publisher
from dualdeploy.google.vertex import Vertex
from dualdeploy.http.entrypoint import Handler
from dualdeploy.http.ticks import Ticks, parse_advance
from dualdeploy.ledger import Ledger
from dualdeploy.ledger.due import Due
from job_notifier.handler import JOB, JobNotifier
from job_notifier.settings import NotifierSettings

SERVICE = "job_notifier"


@dataclasses.dataclass(frozen=True)
class Service:
    """What events and ticks reach."""

    notifier: JobNotifier
    ticks: Ticks

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the event."""
        return {
            "training-result": lambda e: self.notifier.on_training_result(events.parse_object_finalized(e), self.ticks),
            "training-job-log": lambda e: self.notifier.on_training_job_log(
                events.parse_training_job_logged(e), self.ticks
            ),
            "advance": lambda e: self.ticks.on_advance(parse_advance(e)),
            "tick": lambda _: self.ticks.on_tick(),
        }


def compose(
    *,
    ledger: Ledger,
    models: ObjectStore,
    vertex: Vertex,
    automl: AutoML,
    publisher: Publisher,
    settings: NotifierSettings,
) -> Service:
    """Wire the service together; touches nothing yet."""
    due = Due(SERVICE, ledger, every=settings.tick_seconds)
    notifier = JobNotifier(
        ledger=ledger, models=models, vertex=vertex, automl=automl, publisher=publisher, due=due, settings=settings
    )
    ticks = Ticks(
        {JOB: notifier},
        due=due,
        ledger=ledger,
        publisher=publisher,
        lease_seconds=settings.lease_seconds,
        slots=settings.request_slots,
    )
    return Service(notifier, ticks)
