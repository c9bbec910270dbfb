"""Entry point of cloud_deployer: composes, decides nothing."""

from __future__ import annotations

import os

import flask

from cloud_deployer import hygiene
from cloud_deployer import janitor as janitors
from cloud_deployer.handler import CloudDeployer
from cloud_deployer.settings import DeployerSettings
from dualdeploy import events, logs, release_api, settings
from dualdeploy.branches import BranchWorker
from dualdeploy.callers import Callers
from dualdeploy.clock import utc_now
from dualdeploy.entrypoint import Receiver
from dualdeploy.ledger import Ledger
from dualdeploy.monitoring import MonitoringGateway
from dualdeploy.object_store import GcsObjectStore
from dualdeploy.pubsub import PubSubPublisher
from dualdeploy.vertex import VertexGateway


def create_app() -> flask.Flask:
    """The WSGI application; Google's clients inside are built at their first use."""
    logs.configure()
    read = settings.load(DeployerSettings, os.environ)
    ledger = Ledger(GcsObjectStore(read.ledger_bucket))
    config = GcsObjectStore(read.config_bucket)
    vertex = VertexGateway(project=read.project, region=read.region, emulator_host=read.vertex_emulator_host)
    monitoring = MonitoringGateway(project=read.project, emulator_host=read.monitoring_emulator_host)
    deployer = CloudDeployer(
        ledger=ledger,
        config=config,
        models=GcsObjectStore(read.models_bucket),
        vertex=vertex,
        monitoring=monitoring,
        settings=read,
    )
    janitor = janitors.Janitor(ledger=ledger, config=config, vertex=vertex, monitoring=monitoring, settings=read)
    worker = BranchWorker(
        "cloud",
        deployer.advance,
        ledger=ledger,
        publisher=PubSubPublisher(read.project),
        lease_seconds=read.lease_seconds,
        on_end=deployer.on_end,
    )
    callers = Callers.of(read)
    handlers = {
        "training-completed": lambda e: worker.on_training_completed(events.parse_training_completed(e)),
        "tick": lambda _: janitors.tick(worker, janitor),
    }
    receiver = Receiver("cloud_deployer", handlers, ledger=ledger, project=read.project, callers=callers)
    app = flask.Flask("cloud_deployer")
    app.register_blueprint(
        release_api.blueprint(
            "cloud_deployer",
            "cloud",
            ledger=ledger,
            lease_seconds=read.lease_seconds,
            clock=utc_now,
            callers=callers,
            about=lambda dataset: hygiene.status(ledger, dataset),
        )
    )
    app.add_url_rule("/events/<name>", "event", lambda name: receiver(flask.request), methods=["POST"])  # noqa: ARG005
    return app
