"""Cloud Scheduler's stand-in: publishes every schedule of the topology, each on its own topic, on one beat."""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import threading
from collections.abc import Callable, Mapping

from local_cloud.topology import Schedule

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Job:
    """A schedule and what became of it: `problem` says why the last attempt failed."""

    schedule: Schedule
    is_paused: bool = False
    last_attempt: datetime.datetime | None = None
    problem: str = ""


class Scheduler:
    """Publishes every schedule once per `clock_seconds`; the cron text is Google's business.

    `schedules` are by their names on Google Cloud; `publish(topic, data, attributes)` takes a short topic name.
    """

    def __init__(
        self,
        *,
        schedules: Mapping[str, Schedule],
        publish: Callable[[str, bytes, dict[str, str]], object],
        clock_seconds: float,
    ) -> None:
        if clock_seconds <= 0:
            raise ValueError(f"clock_seconds={clock_seconds} must be positive")
        #: By the same names; pausing one is setting `is_paused`.
        self.jobs = {name: Job(schedule) for name, schedule in schedules.items()}
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
            for job in list(self.jobs.values()):
                if not job.is_paused:
                    self._attempt(job)

    def _attempt(self, job: Job) -> None:
        job.last_attempt = datetime.datetime.now(datetime.UTC)
        try:
            self._publish(job.schedule.topic, json.dumps(job.schedule.data).encode(), {})
        except Exception as exc:  # the next beat comes anyway, as with Cloud Scheduler
            job.problem = str(exc)
            logger.exception("schedule %s was not published", job.schedule.name)
        else:
            job.problem = ""
