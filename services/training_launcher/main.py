"""Entry point of training_launcher: composes, decides nothing."""

from __future__ import annotations

import os

import flask
import functions_framework

from dualdeploy import logs, settings
from dualdeploy.google.automl import AutoMLGateway
from dualdeploy.google.object_store import GcsObjectStore
from dualdeploy.google.pubsub import PubSubPublisher
from dualdeploy.google.vertex import VertexGateway
from dualdeploy.http.callers import Callers
from dualdeploy.http.entrypoint import Receiver
from dualdeploy.ledger import Ledger
from training_launcher.service import SERVICE, compose
from training_launcher.settings import LauncherSettings


def create_receiver() -> Receiver:
    """Everything wired together; Google's clients inside are built at their first use."""
    logs.configure()
    read = settings.load(LauncherSettings, os.environ)
    ledger = Ledger(GcsObjectStore(read.ledger_bucket))
    service = compose(
        ledger=ledger,
        data=GcsObjectStore(read.data_bucket),
        config=GcsObjectStore(read.config_bucket),
        models=GcsObjectStore(read.models_bucket),
        automl=AutoMLGateway(project=read.project, region=read.region, emulator_host=read.vertex_emulator_host),
        vertex=VertexGateway(project=read.project, region=read.region, emulator_host=read.vertex_emulator_host),
        publisher=PubSubPublisher(read.project),
        settings=read,
    )
    return Receiver(SERVICE, service.handlers, ledger=ledger, project=read.project, callers=Callers.of(read))


# At the start, not at the first event: a wrong environment has to stop the deployment.
_receiver = create_receiver()


# Not @cloud_event: the framework would answer 400 to a malformed event before we could record it, and would drop
# the message id and the delivery attempt of a raw push.
@functions_framework.http
def on_event(request: flask.Request) -> flask.Response:
    """A Cloud Storage finalize event, a retrain request, a tick, or something that is due."""
    return _receiver(request)
