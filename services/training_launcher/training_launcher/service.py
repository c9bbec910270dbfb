"""The service as one object: everything wired together, with whatever stands for Google handed in."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

from dualdeploy.contracts import events
from dualdeploy.google.automl import AutoML
from dualdeploy.google.object_store import ObjectStore
from dualdeploy.google.pubsub import Publisher
from dualdeploy.google.vertex import Vertex
from dualdeploy.http.entrypoint import Handler
from dualdeploy.http.ticks import Ticks, Work, parse_advance
from dualdeploy.ledger import Ledger
from dualdeploy.ledger.due import Due
from training_launcher import modules
from training_launcher.arrivals import ARRIVALS, Arrivals
from training_launcher.claiming import LAUNCH, Claiming
from training_launcher.configurations import CONFIG, SWEEP, SWEEP_ALL, Configurations, Sweep
from training_launcher.custom_jobs import CustomJobs
from training_launcher.data_sets import DataSets
from training_launcher.handler import Launcher
from training_launcher.jobs import Jobs
from training_launcher.launching import Launching
from training_launcher.managed_data import DATASET, ManagedDatas, Unneeded
from training_launcher.methods import Method, Methods, Nothing
from training_launcher.pipelines import Pipelines
from training_launcher.schedules import SCHEDULE, Schedules
from training_launcher.settings import LauncherSettings
from training_launcher.superseding import Superseding

SERVICE = "training_launcher"


@dataclasses.dataclass(frozen=True)
class Service:
    """What events and ticks reach."""

    launcher: Launcher
    ticks: Ticks

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the event."""
        return {
            "object-finalized": lambda e: self.launcher.on_object_finalized(events.parse_object_finalized(e)),
            "config-finalized": lambda e: self.launcher.on_config_finalized(
                events.parse_object_finalized(e), self.ticks
            ),
            "retrain-requested": lambda e: self.launcher.on_retrain_requested(
                events.parse_retrain_requested(e), event_id=e.event_id
            ),
            "advance": lambda e: self.ticks.on_advance(parse_advance(e)),
            "tick": lambda _: self.ticks.on_tick(),
        }


def compose(
    *,
    ledger: Ledger,
    data: ObjectStore,
    config: ObjectStore,
    models: ObjectStore,
    vertex: Vertex,
    automl: AutoML,
    publisher: Publisher,
    settings: LauncherSettings,
) -> Service:
    """Wire the service together; touches nothing yet."""
    due, data_sets = Due(SERVICE, ledger, every=settings.tick_seconds), DataSets(ledger)

    def nudge(key: str) -> None:
        # Made last: it knows every kind of work, and two of them claim runs.
        ticks.nudge(key)

    claiming = Claiming(
        ledger=ledger, due=due, data_sets=data_sets, nudge=nudge, pin=functools.partial(modules.pinned, store=config)
    )
    arrivals = Arrivals(
        ledger=ledger,
        config=config,
        data=data,
        claiming=claiming,
        data_sets=data_sets,
        bucket=settings.data_bucket,
    )
    launcher = Launcher(
        ledger=ledger,
        data=data,
        config=config,
        due=due,
        arrivals=arrivals,
        claiming=claiming,
        data_sets=data_sets,
        settings=settings,
    )
    managed = ManagedDatas(ledger=ledger, models=models, vertex=vertex, automl=automl, due=due, settings=settings)
    launching = Launching(
        ledger=ledger,
        data=data,
        methods=Methods(
            custom=Method(
                Jobs(CustomJobs(ledger=ledger, models=models, vertex=vertex, settings=settings), ledger=ledger),
                needs=Nothing(),
            ),
            automl=Method(
                Jobs(Pipelines(ledger=ledger, automl=automl, data=managed, settings=settings), ledger=ledger),
                needs=managed,
            ),
        ),
        due=due,
        data_sets=data_sets,
        superseding=Superseding(ledger=ledger, due=due, data_sets=data_sets),
        settings=settings,
    )
    of_configuration = functools.partial(arrivals.record, kind="configuration")
    schedules = Schedules(
        ledger=ledger,
        config=config,
        data_sets=data_sets,
        retrain=launcher.retrain,
        record=functools.partial(arrivals.record, kind="retrain-schedule"),
    )
    works: dict[str, Work] = {
        ARRIVALS: arrivals,
        LAUNCH: launching,
        DATASET: Unneeded(ledger=ledger, automl=automl, due=due),
        SCHEDULE: schedules,
        CONFIG: Configurations(config=config, due=due, data_sets=data_sets, record=of_configuration),
        SWEEP: Sweep(config=config, due=due, record=of_configuration),
    }
    ticks = Ticks(
        works,
        due=due,
        ledger=ledger,
        publisher=publisher,
        lease_seconds=settings.lease_seconds,
        slots=settings.request_slots,
        hourly=[SWEEP_ALL],
    )
    return Service(launcher, ticks)
