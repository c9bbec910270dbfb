"""Entry point of mobile_publisher: composes, decides nothing."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

import flask

from dualdeploy import events, logs, settings
from dualdeploy.callers import Callers
from dualdeploy.due import Due
from dualdeploy.entrypoint import Receiver
from dualdeploy.firebase import FirebaseMlGateway
from dualdeploy.ledger import Ledger
from dualdeploy.object_store import GcsObjectStore
from dualdeploy.pubsub import PubSubPublisher
from dualdeploy.release.api import blueprint
from dualdeploy.release.commands import Commands
from dualdeploy.release.worker import KIND, ReleaseWorker
from dualdeploy.remote_config import RemoteConfigGateway
from dualdeploy.ticks import Ticks, parse_advance
from mobile_publisher import signing_key
from mobile_publisher.release import MobileServing
from mobile_publisher.settings import PublisherSettings
from mobile_publisher.steps import retire
from mobile_publisher.storage_channel import StorageChannel
from mobile_publisher.target import PhoneTarget
from mobile_publisher.world import TARGET, World

if TYPE_CHECKING:
    from dualdeploy.dataset_config import DatasetConfig
    from dualdeploy.ledger import Run
    from mobile_publisher.release import File

SERVICE = "mobile_publisher"


def create_app() -> flask.Flask:
    """The WSGI application; Google's clients inside are built at their first use."""
    logs.configure()
    read = settings.load(PublisherSettings, os.environ)
    ledger, publisher = Ledger(GcsObjectStore(read.ledger_bucket)), PubSubPublisher(read.project)
    world = _world(read, ledger)
    target, due = PhoneTarget(world), Due(SERVICE, ledger)
    worker = ReleaseWorker(
        target, ledger=ledger, config=world.config, due=due, publisher=publisher, lease_seconds=read.lease_seconds
    )
    ticks = Ticks({KIND: worker}, due=due, ledger=ledger, publisher=publisher, lease_seconds=read.lease_seconds)
    commands = Commands(
        target,
        worker,
        ledger=ledger,
        due=due,
        nudge=ticks.nudge,
        would_retire=functools.partial(retire.preview, world=world),
    )
    callers = Callers.of(read)
    handlers = {
        "training-completed": lambda e: worker.on_training_completed(events.parse_training_completed(e), ticks),
        "advance": lambda e: ticks.on_advance(parse_advance(e)),
        "tick": lambda _: ticks.on_tick(),
    }
    receiver = Receiver(SERVICE, handlers, ledger=ledger, project=read.project, callers=callers)
    app = flask.Flask(SERVICE)
    app.register_blueprint(
        blueprint(SERVICE, TARGET, commands, ledger=ledger, serving_kind=MobileServing, callers=callers)
    )
    app.add_url_rule("/events/<name>", "event", lambda name: receiver(flask.request), methods=["POST"])  # noqa: ARG005
    return app


def _world(read: PublisherSettings, ledger: Ledger) -> World:
    models, data = GcsObjectStore(read.models_bucket), GcsObjectStore(read.data_bucket)

    def export(run: Run, config: DatasetConfig, live: str) -> File:
        # NumPy and LiteRT: what leads to no export must not pay for them.
        from mobile_publisher.export import export as export_run  # noqa: PLC0415

        return export_run(run, config, models=models, data=data, settings=read, live=live)

    bucket = read.firebase_storage_bucket
    return World(
        ledger=ledger,
        config=GcsObjectStore(read.config_bucket),
        firebase=FirebaseMlGateway(
            project=read.project,
            signer=read.firebase_signer,
            key=signing_key.reader(read),
            emulator_host=read.firebase_ml_emulator_host,
        ),
        remote_config=RemoteConfigGateway(project=read.project, emulator_host=read.remote_config_emulator_host),
        export=export,
        firebase_ml_ends=read.firebase_ml_ends,
        storage=StorageChannel(models=models, bucket=GcsObjectStore(bucket)) if bucket else None,
    )
