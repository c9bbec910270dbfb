"""Entry point of gateway: composes, decides nothing."""

from __future__ import annotations

import os

import flask

from dualdeploy import logs, settings
from dualdeploy.google.object_store import GcsObjectStore
from dualdeploy.ledger import Ledger
from gateway.endpoint import VertexEndpoints
from gateway.service import LEDGER_SECONDS, compose
from gateway.settings import GatewaySettings


def create_app() -> flask.Flask:
    """The WSGI application; Google's clients inside are built at their first use."""
    logs.configure()
    read = settings.load(GatewaySettings, os.environ)
    store = GcsObjectStore(read.ledger_bucket, call_timeout=LEDGER_SECONDS, retry_deadline=LEDGER_SECONDS)
    service = compose(
        ledger=Ledger(store),
        endpoints=VertexEndpoints(region=read.region, emulator_host=read.vertex_emulator_host),
        settings=read,
    )
    return service.app()
