"""Entry point of mobile_publisher: composes, decides nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import flask

from dualdeploy import events, logs, release_api, settings
from dualdeploy.branches import BranchWorker
from dualdeploy.callers import Callers
from dualdeploy.clock import utc_now
from dualdeploy.dataset_config import DatasetConfig
from dualdeploy.entrypoint import Receiver
from dualdeploy.firebase import FirebaseMlGateway
from dualdeploy.ledger import Ledger, Run
from dualdeploy.object_store import GcsObjectStore
from dualdeploy.pubsub import PubSubPublisher
from dualdeploy.remote_config import RemoteConfigGateway
from mobile_publisher import signing_key
from mobile_publisher.handler import MobilePublisher
from mobile_publisher.settings import PublisherSettings
from mobile_publisher.storage_channel import StorageChannel

if TYPE_CHECKING:
    from mobile_publisher.export import Export


def create_app() -> flask.Flask:
    """The WSGI application; Google's clients inside are built at their first use."""
    logs.configure()
    read = settings.load(PublisherSettings, os.environ)
    ledger = Ledger(GcsObjectStore(read.ledger_bucket))
    worker = BranchWorker(
        "mobile",
        _publisher(read, ledger).advance,
        ledger=ledger,
        publisher=PubSubPublisher(read.project),
        lease_seconds=read.lease_seconds,
        overtakes_rollouts=True,
    )
    callers = Callers.of(read)
    handlers = {
        "training-completed": lambda e: worker.on_training_completed(events.parse_training_completed(e)),
        "tick": lambda _: worker.on_clock(),
    }
    receiver = Receiver("mobile_publisher", handlers, ledger=ledger, project=read.project, callers=callers)
    app = flask.Flask("mobile_publisher")
    app.register_blueprint(
        release_api.blueprint(
            "mobile_publisher",
            "mobile",
            ledger=ledger,
            lease_seconds=read.lease_seconds,
            clock=utc_now,
            callers=callers,
        )
    )
    app.add_url_rule("/events/<name>", "event", lambda name: receiver(flask.request), methods=["POST"])  # noqa: ARG005
    return app


def _publisher(read: PublisherSettings, ledger: Ledger) -> MobilePublisher:
    models, data = GcsObjectStore(read.models_bucket), GcsObjectStore(read.data_bucket)

    def export(run: Run, config: DatasetConfig) -> Export:
        # NumPy and LiteRT: a tick that finds nothing to do must not pay for them.
        from mobile_publisher.export import export as export_run  # noqa: PLC0415

        live = ledger.read_live(run.dataset, "mobile")
        live_file = str(live.document.current.facts.get("tflite", "")) if live else ""
        return export_run(run, config, models=models, data=data, settings=read, live=live_file)

    bucket = read.firebase_storage_bucket
    return MobilePublisher(
        ledger=ledger,
        config=GcsObjectStore(read.config_bucket),
        firebase=FirebaseMlGateway(
            project=read.project,
            signer=read.firebase_signer,
            key=signing_key.reader(read),
            emulator_host=read.firebase_ml_emulator_host,
            iam_emulator_host=read.iam_credentials_emulator_host,
        ),
        remote_config=RemoteConfigGateway(project=read.project, emulator_host=read.remote_config_emulator_host),
        export=export,
        settings=read,
        storage=StorageChannel(models=models, bucket=GcsObjectStore(bucket)) if bucket else None,
    )
