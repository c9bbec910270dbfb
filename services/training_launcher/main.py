"""Entry point of training_launcher: composes, decides nothing."""

from __future__ import annotations

import os

import flask
import functions_framework

from dualdeploy import events, logs, settings
from dualdeploy.callers import Callers
from dualdeploy.entrypoint import Receiver
from dualdeploy.ledger import Ledger
from dualdeploy.object_store import GcsObjectStore
from dualdeploy.vertex import VertexGateway
from training_launcher.handler import Launcher
from training_launcher.settings import LauncherSettings


def compose() -> Receiver:
    """Everything wired together; Google's clients inside are built at their first use."""
    logs.configure()
    read = settings.load(LauncherSettings, os.environ)
    ledger = Ledger(GcsObjectStore(read.ledger_bucket))
    launcher = Launcher(
        ledger=ledger,
        data=GcsObjectStore(read.data_bucket),
        config=GcsObjectStore(read.config_bucket),
        models=GcsObjectStore(read.models_bucket),
        vertex=VertexGateway(project=read.project, region=read.region, emulator_host=read.vertex_emulator_host),
        settings=read,
    )
    handlers = {
        "object-finalized": lambda e: launcher.on_object_finalized(events.parse_object_finalized(e)),
        "retrain-requested": lambda e: launcher.on_retrain_requested(
            events.parse_retrain_requested(e), event_id=e.event_id
        ),
        "tick": lambda _: launcher.on_clock(),
    }
    return Receiver("training_launcher", handlers, ledger=ledger, project=read.project, callers=Callers.of(read))


# At the start, not at the first event: a wrong environment has to stop the deployment.
_receiver = compose()


# Not @cloud_event: the framework would answer 400 to a malformed event before we could record it, and would drop
# the message id and the delivery attempt of a raw push.
@functions_framework.http
def on_event(request: flask.Request) -> flask.Response:
    """A Cloud Storage finalize event, a retrain request, or a tick of the clock."""
    return _receiver(request)
