"""Entry point of job_notifier: composes, decides nothing."""

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
from job_notifier.service import SERVICE, compose
from job_notifier.settings import NotifierSettings


def create_receiver() -> Receiver:
    """Everything wired together; Google's clients inside are built at their first use."""
    logs.configure()
    read = settings.load(NotifierSettings, os.environ)
    ledger = Ledger(GcsObjectStore(read.ledger_bucket))
    service = compose(
        ledger=ledger,
        models=GcsObjectStore(read.models_bucket),
        automl=AutoMLGateway(project=read.project, region=read.region, emulator_host=read.vertex_emulator_host),
        vertex=VertexGateway(project=read.project, region=read.region, emulator_host=read.vertex_emulator_host),
        publisher=PubSubPublisher(read.project),
        settings=read,
    )
    return Receiver(SERVICE, service.handlers, ledger=ledger, project=read.project, callers=Callers.of(read))


# At the start, not at the first event: a wrong environment has to stop the deployment.
_receiver = create_receiver()


@functions_framework.http
def on_event(request: flask.Request) -> flask.Response:
    """A result was written, a job was logged, a tick, or something that is due."""
    return _receiver(request)
