"""Entry point of mobile_publisher: composes, decides nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import flask

from dualdeploy import logs, settings
from dualdeploy.google.firebase_ml import FirebaseMlGateway
from dualdeploy.google.object_store import GcsObjectStore
from dualdeploy.google.pubsub import PubSubPublisher
from dualdeploy.google.remote_config import RemoteConfigGateway
from dualdeploy.google.vertex import VertexGateway
from dualdeploy.http.callers import Callers
from dualdeploy.http.entrypoint import Receiver
from dualdeploy.ledger import Ledger
from dualdeploy.ledger.due import Due
from mobile_publisher import signing_key
from mobile_publisher.service import SERVICE, compose
from mobile_publisher.settings import PublisherSettings
from mobile_publisher.storage_channel import StorageChannel
from mobile_publisher.world import World

if TYPE_CHECKING:
    from dualdeploy.contracts.dataset_config import DatasetConfig
    from dualdeploy.contracts.training import ManagedModel
    from dualdeploy.ledger import Run
    from mobile_publisher.release import File
    from mobile_publisher.world import Around


def create_app() -> flask.Flask:
    """The WSGI application; Google's clients inside are built at their first use."""
    logs.configure()
    read = settings.load(PublisherSettings, os.environ)
    ledger = Ledger(GcsObjectStore(read.ledger_bucket))
    service = compose(_world(read, ledger), publisher=PubSubPublisher(read.project), settings=read)
    callers = Callers.of(read)
    receiver = Receiver(SERVICE, service.handlers, ledger=ledger, project=read.project, callers=callers)
    app = flask.Flask(SERVICE)
    app.register_blueprint(service.routes(callers))
    app.add_url_rule("/healthz", "healthz", lambda: receiver(flask.request))
    app.add_url_rule("/events/<name>", "event", lambda name: receiver(flask.request), methods=["POST"])  # noqa: ARG005
    return app


def _world(read: PublisherSettings, ledger: Ledger) -> World:
    models, data = GcsObjectStore(read.models_bucket), GcsObjectStore(read.data_bucket)

    def export(run: Run, config: DatasetConfig, around: Around) -> File | ManagedModel:
        # NumPy and LiteRT: what leads to no export must not pay for them.
        from mobile_publisher.export import export as export_run  # noqa: PLC0415

        return export_run(run, config, models=models, data=data, settings=read, around=around)

    bucket = read.firebase_storage_bucket
    return World(
        ledger=ledger,
        due=Due(SERVICE, ledger, every=read.tick_seconds),
        models=models,
        vertex=VertexGateway(project=read.project, region=read.region, emulator_host=read.vertex_emulator_host),
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
        firebase_ml_ends=read.firebase_ml_ends,
        storage=StorageChannel(models=models, bucket=GcsObjectStore(bucket)) if bucket else None,
    )
