"""Entry point of console: composes, decides nothing."""

from __future__ import annotations

import os

import flask

from console.deployers import HttpDeployers
from console.service import compose
from console.settings import ConsoleSettings
from dualdeploy import logs, settings
from dualdeploy.google.monitoring import MonitoringGateway
from dualdeploy.google.object_store import GcsObjectStore


def create_app() -> flask.Flask:
    """The WSGI application; Google's clients inside are built at their first use."""
    logs.configure()
    read = settings.load(ConsoleSettings, os.environ)
    emulator = read.monitoring_emulator_host
    service = compose(
        ledger=GcsObjectStore(read.ledger_bucket, call_timeout=5.0, retry_deadline=5.0),
        deployers=HttpDeployers(read.addresses),
        monitoring=MonitoringGateway(project=read.project, emulator_host=emulator, call_timeout=3.0),
        models=GcsObjectStore(read.models_bucket, call_timeout=5.0, retry_deadline=5.0),
        settings=read,
    )
    return service.app()
