"""Cloud Monitoring in memory: it saw what the test says."""

from __future__ import annotations

import dataclasses
import datetime

from dualdeploy.google.monitoring import Served
from support.fakes.failing import Faults


class FakeMonitoring:
    """Implements `dualdeploy.google.monitoring.Monitoring`; of a model that is not in `seen`, it saw `otherwise`."""

    def __init__(self, *, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.seen: dict[str, Served] = {}
        self.otherwise = Served(0, 0)
        #: When something was asked in addition, whichever model it was.
        self.times: list[datetime.datetime] = []
        #: Endpoint, deployed model and seconds of each look.
        self.asked: list[tuple[str, str, float]] = []

    def served(
        self, endpoint_id: str, deployed_id: str, *, since: datetime.datetime, until: datetime.datetime
    ) -> Served:
        def looked() -> Served:
            self.asked.append((endpoint_id, deployed_id, (until - since).total_seconds()))
            seen = self.seen.get(deployed_id, self.otherwise)
            return dataclasses.replace(seen, requests=seen.requests + sum(since <= at <= until for at in self.times))

        return self.faults.run("served", looked)
