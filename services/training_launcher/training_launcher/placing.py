"""Along `training.<target>.capacity`: how a job's machines are asked for, and when the next entry has its turn."""

from __future__ import annotations

import datetime

from dualdeploy import clock as clocks
from dualdeploy.contracts import dataset_config
from dualdeploy.contracts.dataset_config import AutoMLCloud, AutoMLMobile
from dualdeploy.google.vertex import ENTRY_LABEL, Job
from dualdeploy.ledger import Launch, Placement, Run
from dualdeploy.ledger.spending import Estimate

#: What Vertex AI needs to say that it waited for long enough (`flex_start`), before it is told so.
ITS_OWN_WAIT_SECONDS = 600.0

#: Of the only way of asking there is: the limit of a launch ends it.
_ONE_WAY_SECONDS = 86_400.0

#: What Vertex AI has to get the machines ready that it has: for so long a job is queued in any case.
PREPARING_SECONDS = 600.0


def placement(run: Run, launch: Launch, estimate: Estimate) -> Placement:
    """How the job is asked for now: as recorded, or as the first entry says."""
    return launch.placement or _entry(run, launch.target, estimate, number=0, since=launch.since)


def placement_of(job: Job, run: Run, launch: Launch, estimate: Estimate) -> Placement:
    """How `job` was asked for: one whose creation got no answer may be found when another entry has its turn."""
    present = placement(run, launch, estimate)
    number = int(job.labels.get(ENTRY_LABEL, present.entry))
    if number == present.entry:
        return present
    return _entry(run, launch.target, estimate, number=number, since=present.since)


def following(run: Run, launch: Launch, estimate: Estimate, *, now: datetime.datetime) -> Placement:
    """How it is asked for next: in the same way until the entry's time is over, then as the next says, or the first."""
    present = placement(run, launch, estimate)
    if now < turn_ends(present):
        return present
    number = (present.entry + 1) % _ways(run, launch.target)
    return _entry(run, launch.target, estimate, number=number, since=clocks.to_text(now))


def turn_ends(present: Placement) -> datetime.datetime:
    return clocks.from_text(present.since) + datetime.timedelta(seconds=present.wait)


def queued_until(
    run: Run, launch: Launch, present: Placement, *, now: datetime.datetime, limit: float
) -> datetime.datetime:
    """Until when a job that Vertex AI takes `now`, asked for as `present` says, may wait there: until another way of
    asking has its turn, and not for more than `limit` seconds without a machine in any case; but for as long as it
    takes to prepare one."""
    since = clocks.from_text(launch.no_capacity_since or present.since)
    end = since + datetime.timedelta(seconds=limit)
    if _ways(run, launch.target) > 1:
        end = min(end, turn_ends(present))
    end += datetime.timedelta(seconds=ITS_OWN_WAIT_SECONDS if present.strategy == "flex_start" else 0.0)
    return max(end, now + datetime.timedelta(seconds=PREPARING_SECONDS))


def _ways(run: Run, target: str) -> int:
    training = dataset_config.stored(run.config).training
    return 1 if training.method == "automl" else len(training.of(target).capacity)


def _entry(run: Run, target: str, estimate: Estimate, *, number: int, since: str) -> Placement:
    training = dataset_config.stored(run.config).training
    if training.method == "automl":
        return _nodes(training.automl.of(target), since, estimate.targets[target].usd_per_hour)
    entry = training.of(target).capacity[number]
    priced = estimate.targets[target]
    return Placement(
        entry=number,
        since=since,
        wait=entry.wait,
        machine=entry.machine,
        accelerator=entry.accelerator.type if entry.accelerator else "",
        count=entry.accelerator.count if entry.accelerator else 0,
        strategy=entry.strategy,
        usd_per_hour=priced.by_entry[number] if number < len(priced.by_entry) else priced.usd_per_hour,
    )


def _nodes(wish: AutoMLCloud | AutoMLMobile, since: str, price: float | None) -> Placement:
    """Google chooses what AutoML trains on: there is one way of asking."""
    hours = f"{wish.budget_node_hours:g} node hours"
    return Placement(
        since=since, wait=_ONE_WAY_SECONDS, machine=f"AutoML {wish.model_type}", strategy=hours, usd_per_hour=price
    )
