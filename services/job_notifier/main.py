"""Entry point of job_notifier: composes, decides nothing."""

from __future__ import annotations

import os

import flask
import functions_framework

from dualdeploy import events, logs, settings
from dualdeploy.callers import Callers
from dualdeploy.entrypoint import Receiver
from dualdeploy.ledger import Ledger
from dualdeploy.object_store import GcsObjectStore
from dualdeploy.pubsub import PubSubPublisher
from dualdeploy.vertex import VertexGateway
from job_notifier.handler import JobNotifier
from job_notifier.settings import NotifierSettings


def compose() -> Receiver:
    """Everything wired together; Google's clients inside are built at their first use."""
    logs.configure()
    read = settings.load(NotifierSettings, os.environ)
    ledger = Ledger(GcsObjectStore(read.ledger_bucket))
    notifier = JobNotifier(
        ledger=ledger,
        models=GcsObjectStore(read.models_bucket),
        vertex=VertexGateway(project=read.project, region=read.region, emulator_host=read.vertex_emulator_host),
        publisher=PubSubPublisher(read.project),
        settings=read,
    )
    handlers = {
        "training-result": lambda e: notifier.on_training_result(events.parse_object_finalized(e)),
        "training-job-log": lambda e: notifier.on_training_job_log(events.parse_training_job_logged(e)),
        "tick": lambda _: notifier.on_clock(),
    }
    return Receiver("job_notifier", handlers, ledger=ledger, project=read.project, callers=Callers.of(read))


# At the start, not at the first event: a wrong environment has to stop the deployment.
_receiver = compose()


@functions_framework.http
def on_event(request: flask.Request) -> flask.Response:
    """A result was written, a job was logged, or time has passed."""
    return _receiver(request)
