"""Whether anyone asks the model that serves, and what it costs while no one does."""

from __future__ import annotations

import datetime
import logging

from cloud_deployer.cleanup.report import Idle
from cloud_deployer.release import CloudServed, DeploymentPlan
from dualdeploy import clock as clocks
from dualdeploy.contracts import prices
from dualdeploy.contracts.dataset_config import Serving
from dualdeploy.errors import RejectedByGoogle, RetryLater
from dualdeploy.google.monitoring import Monitoring
from dualdeploy.google.vertex import Endpoint

log = logging.getLogger(__name__)

#: What a month has on average; an endpoint is paid for by day and by night.
HOURS_PER_MONTH = 730

#: How long before a model is recorded as live its last probes may lie.
PROBED_WITHIN = datetime.timedelta(days=1)


class Watch:
    """Asks Cloud Monitoring; without an answer nothing is called idle."""

    def __init__(self, monitoring: Monitoring, *, region: str) -> None:
        self._monitoring = monitoring
        self._region = region

    def look(self, endpoint: Endpoint, served: CloudServed, serving: Serving, *, now: datetime.datetime) -> Idle | None:
        """Told when no one asked the live model of `endpoint` for `serving.idle_after`, all of which it was there.

        What scales to zero costs nothing while no one asks: there is nothing to tell. Where Cloud Monitoring does not
        even know the probes of the model's own release, the metric is missing, which says nothing.
        """
        if serving.idle_after is None or serving.scale_to_zero:
            return None
        since = now - datetime.timedelta(seconds=serving.idle_after)
        if clocks.from_text(served.since) > since:
            return None
        released = clocks.from_text(served.since) - PROBED_WITHIN
        try:
            if self._is_asked(endpoint, served, since=since, until=now):
                return None
            is_seen = self._is_asked(endpoint, served, since=released, until=now)
        except (RetryLater, RejectedByGoogle) as exc:
            # Everything else is tidied all the same; whether it is idle is asked again in an hour.
            log.warning("whether %s is idle is not known: %s", endpoint.id, exc)
            return None
        if not is_seen:
            log.warning(
                "whether %s is idle is not known: Cloud Monitoring has no request of %s, not even its probes",
                endpoint.id,
                served.deployed_model,
            )
            return None
        usd, price = monthly_usd(serving, served, region=self._region)
        return Idle(endpoint=endpoint.id, since=clocks.to_text(since), usd_per_month=usd, price=price)

    def _is_asked(
        self, endpoint: Endpoint, served: CloudServed, *, since: datetime.datetime, until: datetime.datetime
    ) -> bool:
        seen = self._monitoring.served(endpoint.id, served.deployed_model, since=since, until=until)
        return bool(seen.requests or seen.errors)


def monthly_usd(serving: Serving, served: CloudServed, *, region: str) -> tuple[float | None, str]:
    """What the smallest number of replicas costs, None if a price is unknown, and where the figure comes from."""
    if served.deployment and served.deployment.automatic:
        return None, "Google chooses the machines of what AutoML trained; its price an hour is not in our table"
    accelerator = serving.accelerator
    return _monthly_usd(
        region=region,
        machine=serving.machine,
        accelerator=accelerator.type if accelerator else "",
        count=accelerator.count if accelerator else 0,
        replicas=serving.min_replicas,
    )


def monthly_usd_of(deployment: DeploymentPlan, *, region: str) -> float | None:
    """The same of what was deployed, whatever is configured now; None if a price is unknown."""
    return _monthly_usd(
        region=region,
        machine=deployment.machine,
        accelerator=deployment.accelerator_type,
        count=deployment.accelerator_count,
        replicas=0 if deployment.scale_to_zero else deployment.min_replicas,
    )[0]


def _monthly_usd(*, region: str, machine: str, accelerator: str, count: int, replicas: int) -> tuple[float | None, str]:
    hour, source = prices.table().hour(
        use="serving", region=region, machine=machine, accelerator=accelerator, count=count
    )
    return round(hour * replicas * HOURS_PER_MONTH, 2) if hour is not None else None, f"{replicas} x {source}"
