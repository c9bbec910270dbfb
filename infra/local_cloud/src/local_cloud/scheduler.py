"""Cloud Scheduler's stand-in: publishes every schedule of the topology, each on its own topic, on one beat."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable

from local_cloud.topology import Schedule

logger = logging.getLogger(__name__)


class Scheduler:
    """Publishes every schedule once per `clock_seconds`; the cron text is Google's business.

    `publish(topic, data, attributes)` takes the schedule's short topic name.
    """

    def __init__(
        self,
        *,
        schedules: Iterable[Schedule],
        publish: Callable[[str, bytes, dict[str, str]], object],
        clock_seconds: float,
    ) -> None:
        if clock_seconds <= 0:
            raise ValueError(f"clock_seconds={clock_seconds} must be positive")
        self._schedules = tuple(schedules)
        self._publish = publish
        self._clock_seconds = clock_seconds
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self) -> Scheduler:
        self._thread.start()
        return self

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._closing.wait(self._clock_seconds):
            for schedule in self._schedules:
                try:
                    self._publish(schedule.topic, json.dumps(schedule.data).encode(), {})
                except Exception:  # the next beat comes anyway, as with Cloud Scheduler
                    logger.exception("schedule %s was not published", schedule.name)
