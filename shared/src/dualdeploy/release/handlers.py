"""The events that cloud_deployer and mobile_publisher both take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dualdeploy.contracts import events
from dualdeploy.http.entrypoint import Handler
from dualdeploy.http.ticks import Ticks, parse_advance
from dualdeploy.release.worker import ReleaseWorker


def event_handlers(worker: ReleaseWorker[Any, Any], ticks: Ticks) -> Mapping[str, Handler]:
    """What answers each event, by the event's name."""
    return {
        "training-completed": lambda e: worker.on_training_completed(events.parse_training_completed(e), ticks),
        "advance": lambda e: ticks.on_advance(parse_advance(e)),
        "tick": lambda _: ticks.on_tick(),
    }
