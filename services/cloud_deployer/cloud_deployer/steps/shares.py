"""How a deployed model gets its traffic, share by share, each proven by probes.

The plan is in the release: a configuration that is changed (or broken) meanwhile cannot strand traffic. Each step first
looks at the endpoint. Whoever changed the split by hand has the last word (`TrafficMoved`).
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping, Sequence

from cloud_deployer import traffic
from cloud_deployer.probes import judge, judge_monitored, judged, max_requests, probe
from cloud_deployer.release import CloudRelease, Rollout, Tally, Watched
from cloud_deployer.steps.plan import note_way_back
from cloud_deployer.world import World
from dualdeploy import clock as clocks
from dualdeploy.errors import ModelAsleep, RetryLater, UnusableResult
from dualdeploy.google.monitoring import SHORTEST_PERIOD, Served
from dualdeploy.google.vertex import Endpoint
from dualdeploy.release.gate import Verdict
from dualdeploy.release.route import Again, Back, Forward, Stay, Turn, Wait

log = logging.getLogger(__name__)

#: A new split takes a moment to be seen everywhere: so long a candidate may stay without an answer.
REACHABLE_WITHIN_SECONDS = 600.0

#: So long an endpoint may leave every probe without an answer before its silence ends a rollout.
SILENT_SECONDS = 300.0

#: So long a model may wake up: machine, image and model take minutes.
WAKE_SECONDS = 1200.0


class TrafficMoved(UnusableResult):
    """Someone changed the split by hand: it is theirs now, and is not taken back behind their back."""


def deploy(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Deploy the candidate without traffic, beside what serves."""
    rollout = release.plan
    endpoint = world.endpoint(rollout.endpoint)
    if rollout.candidate in endpoint.deployed_ids:
        shares = ", ".join(map(str, rollout.limits.steps))
        note = f"deployed as {rollout.candidate}; goes to {shares} % of the traffic"
        return Forward(release.changed(deployed_model=rollout.candidate), note=note)
    if rollout.candidate != rollout.deployment.id:
        # What was kept for a rollback was taken down by hand.
        rollout = rollout.changed(candidate=rollout.deployment.id)
        note_way_back(release, world, rollout)
        return Stay(release.changed(rollout=rollout))
    return world.operate_on_endpoint(
        release,
        # Without a split the present one stays. One that was decided before minutes of waiting would undo, without an
        # etag to notice it, what someone by hand has done since.
        start=lambda: world.vertex.start_deploy(rollout.endpoint, rollout.deployment.to_vertex(), traffic={}),
        there=lambda: rollout.candidate in world.endpoint(rollout.endpoint).deployed_ids,
        what=f"deploy to {rollout.endpoint}",
    )


def baseline(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """How the models that serve do, before the candidate has any traffic."""
    rollout = release.plan
    endpoint = world.endpoint(rollout.endpoint)
    _check_split(endpoint, rollout, allowed=[rollout.split(-1)])
    golden, wanted = world.golden(release), rollout.limits.answers
    tally = probe(world.vertex, endpoint, golden, candidate="", tally=Tally(), wanted=wanted, form=rollout.form)
    if tally.failures < tally.requests:
        return Forward(release.with_plan(baseline=tally))
    # Not one answer: either no one is served at this moment, or we cannot see it. Both forbid an experiment.
    why = f"{rollout.endpoint} to answer a probe, even before the new model has traffic: {tally.first_failure}"
    why += " (redeploy with canary: false goes on regardless)"
    return Wait(release, why, limit=SILENT_SECONDS, kind="baseline")


def shift(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Give the candidate its next share. Vertex AI changes the split at once: there is no operation."""
    rollout = release.plan
    endpoint = world.endpoint(rollout.endpoint)
    wanted = rollout.split(rollout.index)
    # Without any split no one is served: giving it back takes nothing from anyone.
    allowed = [rollout.split(rollout.index - 1), wanted, *([] if rollout.before else [{}])]
    _check_split(endpoint, rollout, allowed=allowed)
    if not traffic.same(endpoint.traffic, wanted):
        world.vertex.set_traffic(endpoint, complete(endpoint, wanted))
        log.info("%s has %d %% of %s", rollout.candidate, rollout.share, rollout.endpoint)
    return Forward(release.with_plan(shifted_at=clocks.to_text(world.clock()), tally=Tally()))


def probe_candidate(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Ask until enough is known about the candidate; one slice of time in each step that is recorded."""
    rollout = release.plan
    try:
        tally = _asked(release, world, rollout.tally)
    except ModelAsleep as exc:
        return _asleep(release, exc)
    if judged(tally) >= rollout.limits.answers:
        verdict = judge(tally, rollout.limits, before=rollout.baseline)
        if not verdict.passed:
            return Back(release, _why(rollout, verdict, tally))
        figures = {"share": rollout.share, "requests": tally.requests, **verdict.as_facts()}
        return Forward(release.with_plan(tally=tally, passed=(*rollout.passed, figures)))
    if tally.requests < max_requests(rollout.share, rollout.limits.answers):
        return Stay(release.with_plan(tally=tally))
    why = f"at {rollout.share} % the new model answered {len(tally.candidate_seconds)} of {tally.requests} probes"
    if world.seconds_since(rollout.shifted_at) < REACHABLE_WITHIN_SECONDS:
        # Asked anew in a minute: a new split takes a moment to be seen.
        return Wait(release.with_plan(tally=Tally()), f"the new split to be seen: {why}")
    return Back(release, f"{why}, {rollout.limits.answers} are needed")


def bake(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Hold the share and keep asking; a breach at any look ends the rollout."""
    rollout = release.plan
    if rollout.limits.bake > 0 and (rollout.before or rollout.in_place):
        try:
            tally = _asked(release, world, Tally())
        except ModelAsleep as exc:
            return _asleep(release, exc)
        verdict = judge(tally, rollout.limits, before=rollout.baseline)
        if judged(tally) >= rollout.limits.answers and not verdict.passed:
            return Back(release, _why(rollout, verdict, tally))
    if rollout.limits.monitoring and rollout.before:
        return _monitored(release, world, rollout.limits.monitoring)
    if world.seconds_since(rollout.shifted_at) < rollout.limits.bake:
        return _baking(release, world)
    return _passed(release)


def _baking(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """The time that is left of the share; asked again each minute."""
    rollout = release.plan
    until = clocks.from_text(rollout.shifted_at) + datetime.timedelta(seconds=rollout.limits.bake)
    wait = f"{rollout.share} % of the traffic to prove itself until {clocks.to_text(until)}"
    return Wait(release, wait, at=min(until, world.clock() + datetime.timedelta(minutes=1)))


def _monitored(release: CloudRelease, world: World, limits: Watched) -> Turn[CloudRelease]:
    """What Cloud Monitoring saw at this share: a breach ends the rollout at any look, silence is no approval."""
    rollout, seen = release.plan, _seen(release, world)
    age = world.seconds_since(rollout.shifted_at)
    verdict = judge_monitored(seen, limits)
    if not verdict.passed:
        return Back(release, f"at {rollout.share} % of the traffic, Cloud Monitoring: {verdict.describe()}")
    if verdict.not_judged:
        missing = "; ".join(verdict.not_judged)
        if age < rollout.limits.bake + limits.wait:
            return Wait(release, f"Cloud Monitoring to show the new model's traffic ({missing})")
        why = f"at {rollout.share} % of the traffic Cloud Monitoring had no data for {age:.0f} s"
        return Back(release, f"{why} ({missing}): that is not an approval")
    if age < rollout.limits.bake:
        return _baking(release, world)
    last = {**rollout.passed[-1], "monitoring": {"requests": seen.requests, **verdict.as_facts()}}
    return _passed(release.with_plan(passed=(*rollout.passed[:-1], last)))


def _seen(release: CloudRelease, world: World) -> Served:
    rollout = release.plan
    if world.seconds_since(rollout.shifted_at) < SHORTEST_PERIOD:
        return Served(0, 0)
    since = clocks.from_text(rollout.shifted_at)
    try:
        return world.monitoring.served(rollout.endpoint, rollout.candidate, since=since, until=world.clock())
    except RetryLater as exc:
        # The same as nothing to be seen: it is waited for, not forever.
        log.warning("%s cannot be looked at: %s", rollout.candidate, exc)
        return Served(0, 0)


def _passed(release: CloudRelease) -> Turn[CloudRelease]:
    """This share is proven: on to the next one, or out."""
    if release.plan.is_last_share:
        return Forward(release)
    return Again(release.with_plan(index=release.plan.index + 1))


# Inside --------------------------------------------------------------------------------------------------------


def _asked(release: CloudRelease, world: World, tally: Tally) -> Tally:
    rollout = release.plan
    endpoint = world.endpoint(rollout.endpoint)
    _check_split(endpoint, rollout, allowed=[rollout.split(rollout.index)])
    golden, wanted = world.golden(release), rollout.limits.answers
    return probe(
        world.vertex,
        endpoint,
        golden,
        candidate=rollout.candidate,
        tally=tally,
        wanted=wanted,
        form=rollout.form,
    )


def _asleep(release: CloudRelease, asleep: ModelAsleep) -> Turn[CloudRelease]:
    """The request that wakes a model is dropped: no breach, but it must answer some day."""
    return Wait(release, f"the new model to wake up: {asleep}", limit=WAKE_SECONDS, kind="asleep")


def _check_split(endpoint: Endpoint, rollout: Rollout, *, allowed: Sequence[Mapping[str, int]]) -> None:
    if any(traffic.same(endpoint.traffic, split) for split in allowed):
        return
    raise TrafficMoved(
        f"{rollout.candidate} is on {endpoint.name} but traffic was moved away from it ({dict(endpoint.traffic)},"
        f" not {dict(allowed[-1])}); redeploy to bring it back"
    )


def complete(endpoint: Endpoint, split: Mapping[str, int]) -> dict[str, int]:
    """The split with a 0 for everyone else who is deployed, so that it says what is meant."""
    return {deployed.id: split.get(deployed.id, 0) for deployed in endpoint.deployed}


def _why(rollout: Rollout, verdict: Verdict, tally: Tally) -> str:
    failure = f" (first failure: {tally.first_failure})" if tally.first_failure else ""
    return f"at {rollout.share} % of the traffic: {verdict.describe()}{failure}"
