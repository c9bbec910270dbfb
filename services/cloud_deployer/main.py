"""Entry point of cloud_deployer: composes, decides nothing."""

from __future__ import annotations

import os

import flask

from cloud_deployer.service import SERVICE, compose
from cloud_deployer.settings import DeployerSettings
from dualdeploy import logs, settings
from dualdeploy.google.monitoring import MonitoringGateway
from dualdeploy.google.object_store import GcsObjectStore
from dualdeploy.google.pubsub import PubSubPublisher
from dualdeploy.google.vertex import VertexGateway
from dualdeploy.http.callers import Callers
from dualdeploy.http.entrypoint import Receiver
from dualdeploy.ledger import Ledger


def create_app() -> flask.Flask:
    """The WSGI application; Google's clients inside are built at their first use."""
    logs.configure()
    read = settings.load(DeployerSettings, os.environ)
    ledger = Ledger(GcsObjectStore(read.ledger_bucket))
    service = compose(
        ledger=ledger,
        config=GcsObjectStore(read.config_bucket),
        models=GcsObjectStore(read.models_bucket),
        vertex=VertexGateway(project=read.project, region=read.region, emulator_host=read.vertex_emulator_host),
        monitoring=MonitoringGateway(project=read.project, emulator_host=read.monitoring_emulator_host),
        publisher=PubSubPublisher(read.project),
        settings=read,
    )
    callers = Callers.of(read)
    receiver = Receiver(SERVICE, service.handlers, ledger=ledger, project=read.project, callers=callers)
    app = flask.Flask(SERVICE)
    app.register_blueprint(service.routes(callers))
    app.add_url_rule("/healthz", "healthz", lambda: receiver(flask.request))
    app.add_url_rule("/events/<name>", "event", lambda name: receiver(flask.request), methods=["POST"])  # noqa: ARG005
    return app
