"""How a deployed model gets its traffic, share by share, and loses it again when it does not keep its promise.

    canary: baseline ─► shift ─► probe ─► bake ─┬─► shift (next share) …
                           │       │        │   └─► record (the last share was passed)
                           └───────┴────────┴─────► restore ─► withdraw ─► rolled_back

Everything a step needs stands in the branch: the plan is fixed when the rollout begins, so that a configuration that is
changed (or broken) meanwhile cannot strand traffic. Each step first looks at the endpoint, so repeating it is harmless.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping
from typing import Any

import pydantic

from cloud_deployer import traffic
from cloud_deployer.probes import Golden, Tally, judge, judge_monitored, max_requests, parse_golden, probe
from dualdeploy import clock as clocks
from dualdeploy.branches import OperationFailed, await_operation
from dualdeploy.clock import Clock
from dualdeploy.dataset_config import Canary, Monitored
from dualdeploy.errors import RejectedByGoogle, ResourceMissing, ServiceUnavailable, UnusableResult
from dualdeploy.gate import Verdict
from dualdeploy.ledger import Branch, State
from dualdeploy.monitoring import SHORTEST_PERIOD, Monitoring, Served
from dualdeploy.object_store import ObjectMissing, ObjectStore
from dualdeploy.vertex import Deployment, Endpoint, Vertex

log = logging.getLogger(__name__)

#: A new split takes a moment to be seen everywhere: so long a candidate may stay without an answer.
REACHABLE_WITHIN_SECONDS = 600.0

#: How often the endpoint is asked, one clock tick after the other, before its silence ends a rollout.
BASELINE_ATTEMPTS = 5

#: How often, one clock tick after the other, the old split is asked for before the candidate is taken down without it.
RESTORE_ATTEMPTS = 3

#: What is in a branch's facts under "rollout".
FACT = "rollout"

#: The steps on the way back, which nothing sends back once more; the last two are those of replacing.py.
WAY_BACK = frozenset({"restore", "withdraw", "clear", "reinstate"})


class TrafficMoved(UnusableResult):
    """Somebody changed the split by hand: it is theirs now, and is not taken back behind their back."""


class InPlace(pydantic.BaseModel):
    """A release that takes down what serves before it deploys what shall; `former` is what goes back if it fails.

    `former` has an id of its own, because that of what serves now (`former_id`) was used. Both are empty when nothing
    of ours served. `leaving` is what is just being undeployed, noted before it begins, and `leaving_by` the operation,
    once it is known; `returns` counts how often the candidate was in the way on the way back.
    """

    deployment: Deployment
    former: Deployment | None = None
    former_id: str = ""
    leaving: str = ""
    leaving_by: str = ""
    returns: int = 0


class Rollout(pydantic.BaseModel):
    """One rollout of one release. `before` is the split that was there: empty when nothing else served.

    A candidate that is still deployed may be in it, with a share that somebody gave it by hand.
    """

    endpoint: str
    candidate: str
    before: Mapping[str, int] = {}
    limits: Canary = Canary()
    keep_previous: int = 0
    cool_down: float = 0.0
    index: int = 0
    shifted_at: str = ""
    baseline: Tally = Tally()
    tally: Tally = Tally()
    passed: tuple[Mapping[str, Any], ...] = ()
    breach: str = ""
    in_place: InPlace | None = None

    @property
    def share(self) -> int:
        return self.limits.steps[self.index]

    def split(self, index: int) -> dict[str, int]:
        """The split at a step; before the first one, everything is as it was."""
        if index < 0:
            return dict(self.before) or {self.candidate: 100}
        return traffic.with_share(self.before, self.candidate, self.limits.steps[index])

    @property
    def split_without(self) -> dict[str, int]:
        """The split to go back to; empty when nothing else served."""
        return traffic.without(self.before, self.candidate)


def rollout_of(branch: Branch) -> Rollout:
    return Rollout.model_validate(branch.facts[FACT])


def rollout_in(branch: Branch) -> Rollout | None:
    """The rollout of a branch, None before one is planned."""
    return rollout_of(branch) if FACT in branch.facts else None


def with_rollout(branch: Branch, rollout: Rollout) -> Branch:
    return branch.with_facts(**{FACT: rollout.model_dump(mode="json")})


def to_step(branch: Branch, step: str) -> Branch:
    """The branch at the beginning of another step."""
    return branch.changed(step=step, operation="", operation_since="", attempts=0)


def give_up(branch: Branch, why: str) -> Branch:
    """Send the branch on the way back: traffic first, then the candidate. A running operation is waited for."""
    rollout = rollout_of(branch)
    log.warning("%s goes back: %s", branch.run_id, why)
    return with_rollout(branch, rollout.model_copy(update={"breach": why})).changed(step="restore", attempts=0)


def pause(branch: Branch, clock: Clock) -> Branch | None:
    """Count a look, once a minute at most, however often the clock and events come by."""
    if branch.operation_since and is_recent(branch, clock):
        return None
    return branch.changed(attempts=branch.attempts + 1, operation_since=clocks.to_text(clock()))


def is_recent(branch: Branch, clock: Clock) -> bool:
    """Whether the last look that was counted belongs to this tick of the clock."""
    return (clock() - clocks.from_text(branch.operation_since)).total_seconds() < 30


class Shifting:
    """The steps of a canary, each a function from a branch to the branch as it is to be recorded, or None."""

    def __init__(
        self,
        *,
        vertex: Vertex,
        monitoring: Monitoring,
        models: ObjectStore,
        operation_limit_seconds: float,
        clock: Clock,
    ) -> None:
        self._vertex = vertex
        self._monitoring = monitoring
        self._models = models
        self._limit_seconds = operation_limit_seconds
        self._clock = clock
        self.steps = {
            "baseline": self._baseline,
            "shift": self._shift,
            "probe": self._probe,
            "bake": self._bake,
            "restore": self._restore,
            "withdraw": self._withdraw,
        }

    # Forward ---------------------------------------------------------------------------------------------------

    def _baseline(self, branch: Branch) -> Branch | None:
        """How the models that serve do, before the candidate has any traffic."""
        rollout = rollout_of(branch)
        if not rollout.before:
            return to_step(branch, "shift")
        endpoint = self.endpoint(rollout.endpoint)
        self._check_split(endpoint, rollout, allowed=[rollout.split(-1)])
        tally = probe(
            self._vertex, endpoint, self.golden(branch), candidate="", tally=Tally(), wanted=rollout.limits.answers
        )
        if tally.failures == tally.requests:
            # Not one answer: either nobody is served at this moment, or we cannot see it. Both forbid an experiment.
            if branch.attempts + 1 >= BASELINE_ATTEMPTS:
                why = f"{rollout.endpoint} answers no probe, even before the new model has traffic: "
                return give_up(branch, f"{why}{tally.first_failure} (redeploy with canary: false goes on regardless)")
            return pause(branch, self._clock)
        return to_step(with_rollout(branch, rollout.model_copy(update={"baseline": tally})), "shift")

    def _shift(self, branch: Branch) -> Branch | None:
        """Give the candidate its next share. Vertex AI changes the split at once: there is no operation."""
        rollout = rollout_of(branch)
        endpoint = self.endpoint(rollout.endpoint)
        wanted = rollout.split(rollout.index)
        # Without any split nobody is served: giving it back takes nothing from anybody.
        allowed = [rollout.split(rollout.index - 1), wanted, *([] if rollout.before else [{}])]
        self._check_split(endpoint, rollout, allowed=allowed)
        if not traffic.same(endpoint.traffic, wanted):
            self._vertex.set_traffic(endpoint, _complete(endpoint, wanted))
            log.info("%s has %d %% of %s", rollout.candidate, rollout.share, rollout.endpoint)
        shifted = rollout.model_copy(update={"shifted_at": clocks.to_text(self._clock()), "tally": Tally()})
        return to_step(with_rollout(branch, shifted), "probe")

    def _probe(self, branch: Branch) -> Branch | None:
        """Ask until enough is known about the candidate; one slice of time in each step that is recorded."""
        rollout = rollout_of(branch)
        tally = self._asked(branch, rollout, rollout.tally)
        if tally.judged >= rollout.limits.answers:
            verdict = judge(tally, rollout.limits, before=rollout.baseline)
            if not verdict.passed:
                return give_up(branch, _why(rollout, verdict, tally))
            figures = {"share": rollout.share, "requests": tally.requests, **verdict.as_facts()}
            passed = (*rollout.passed, figures)
            return to_step(with_rollout(branch, rollout.model_copy(update={"tally": tally, "passed": passed})), "bake")
        if tally.requests < max_requests(rollout.share, rollout.limits.answers):
            return with_rollout(branch, rollout.model_copy(update={"tally": tally}))
        if self._age(rollout) < REACHABLE_WITHIN_SECONDS:
            # Asked anew at the next tick: a new split takes a moment to be seen.
            return (
                with_rollout(branch, rollout.model_copy(update={"tally": Tally()})) if rollout.tally.requests else None
            )
        why = f"at {rollout.share} % the new model answered {len(tally.candidate_seconds)} of {tally.requests} probes"
        return give_up(branch, f"{why}, {rollout.limits.answers} are needed")

    def _bake(self, branch: Branch) -> Branch | None:
        """Hold the share and keep asking; a breach at any look ends the rollout."""
        rollout = rollout_of(branch)
        if rollout.limits.bake > 0 and (rollout.before or rollout.in_place):
            tally = self._asked(branch, rollout, Tally())
            verdict = judge(tally, rollout.limits, before=rollout.baseline)
            if tally.judged >= rollout.limits.answers and not verdict.passed:
                return give_up(branch, _why(rollout, verdict, tally))
        if rollout.limits.monitoring and rollout.before:
            return self._monitored(branch, rollout, rollout.limits.monitoring)
        return None if self._age(rollout) < rollout.limits.bake else self._passed(branch, rollout)

    def _monitored(self, branch: Branch, rollout: Rollout, limits: Monitored) -> Branch | None:
        """What Cloud Monitoring saw at this share: a breach ends the rollout at any look, silence is no approval."""
        seen, age = self._seen(rollout), self._age(rollout)
        verdict = judge_monitored(seen, limits)
        if not verdict.passed:
            return give_up(branch, f"at {rollout.share} % of the traffic, Cloud Monitoring: {verdict.describe()}")
        if verdict.not_judged:
            if age < rollout.limits.bake + limits.wait:
                return None
            why = f"at {rollout.share} % of the traffic Cloud Monitoring had no data for {age:.0f} s"
            return give_up(branch, f"{why} ({'; '.join(verdict.not_judged)}): that is no approval")
        if age < rollout.limits.bake:
            return None
        monitored = {**rollout.passed[-1], "monitoring": {"requests": seen.requests, **verdict.as_facts()}}
        return self._passed(branch, rollout.model_copy(update={"passed": (*rollout.passed[:-1], monitored)}))

    def _seen(self, rollout: Rollout) -> Served:
        if self._age(rollout) < SHORTEST_PERIOD:
            return Served(0, 0)
        try:
            return self._monitoring.served(
                rollout.endpoint,
                rollout.candidate,
                since=clocks.from_text(rollout.shifted_at),
                until=self._clock(),
            )
        except ServiceUnavailable as exc:
            # The same as nothing to be seen: it is waited for, not for ever.
            log.warning("%s cannot be looked at: %s", rollout.candidate, exc)
            return Served(0, 0)

    def _passed(self, branch: Branch, rollout: Rollout) -> Branch:
        """This share is proven: on to the next one, or out."""
        branch = with_rollout(branch, rollout)
        if rollout.index + 1 == len(rollout.limits.steps):
            return to_step(branch, "record")
        return to_step(with_rollout(branch, rollout.model_copy(update={"index": rollout.index + 1})), "shift")

    def _asked(self, branch: Branch, rollout: Rollout, tally: Tally) -> Tally:
        endpoint = self.endpoint(rollout.endpoint)
        self._check_split(endpoint, rollout, allowed=[rollout.split(rollout.index)])
        golden = self.golden(branch)
        candidate, wanted = rollout.candidate, rollout.limits.answers
        return probe(self._vertex, endpoint, golden, candidate=candidate, tally=tally, wanted=wanted)

    # Back ------------------------------------------------------------------------------------------------------

    def _restore(self, branch: Branch) -> Branch | None:
        """The split as it was before, then on to taking the candidate down."""
        if branch.operation and self._is_running(branch):
            return None
        rollout = rollout_of(branch)
        endpoint = self._vertex.find_endpoint(rollout.endpoint)
        there = {deployed.id for deployed in endpoint.deployed} if endpoint else set()
        if endpoint is None or rollout.candidate not in there:
            return self._rolled_back(branch, rollout)
        before = rollout.split_without
        # Whoever split the traffic by hand so that the candidate has none has done our work.
        if before and endpoint.traffic.get(rollout.candidate, 0) and before.keys() <= there:
            try:
                self._vertex.set_traffic(endpoint, _complete(endpoint, before))
            except RejectedByGoogle as exc:
                log.error("%s keeps its traffic for now: %s", rollout.candidate, exc)  # noqa: TRY400
                if branch.attempts + 1 < RESTORE_ATTEMPTS:
                    return pause(branch, self._clock)
                # Taking it down moves its traffic too.
                return to_step(branch, "withdraw")
            log.info("traffic of %s is as it was before", rollout.endpoint)
        return to_step(branch, "withdraw")

    def _withdraw(self, branch: Branch) -> Branch | None:
        """Take the candidate down. It must not keep the branch from its end: the janitor finds what stays."""
        rollout = rollout_of(branch)
        endpoint = self._vertex.find_endpoint(rollout.endpoint)
        if endpoint is None or rollout.candidate not in endpoint.deployed_ids:
            return self._rolled_back(branch, rollout)
        share = endpoint.traffic.get(rollout.candidate, 0)
        rest = traffic.without(endpoint.traffic, rollout.candidate) if share else {}
        try:
            return await_operation(
                branch,
                look=self.look,
                start=lambda: self._vertex.start_undeploy(rollout.endpoint, rollout.candidate, traffic=rest),
                there=lambda: rollout.candidate not in self.endpoint(rollout.endpoint).deployed_ids,
                clock=self._clock,
                limit_seconds=self._limit_seconds,
                what=f"undeploy {rollout.candidate}",
            )
        except (OperationFailed, RejectedByGoogle) as exc:
            problem = f"; {rollout.candidate} could not be taken down: {exc}"
            if not rest:
                return self._rolled_back(branch, rollout, problem)
            note = f"{rollout.breach}{problem}; it still has {share} % of {rollout.endpoint}: move them away by hand"
            return branch.moved(State.FAILED, at=self._clock(), note=note)

    def _rolled_back(self, branch: Branch, rollout: Rollout, more: str = "") -> Branch:
        if rollout.in_place:
            return to_step(
                with_rollout(branch, rollout.model_copy(update={"breach": rollout.breach + more})), "reinstate"
            )
        return branch.moved(State.ROLLED_BACK, at=self._clock(), note=rollout.breach + more)

    # Inside ----------------------------------------------------------------------------------------------------

    def golden(self, branch: Branch) -> list[Golden]:
        """The golden pictures of the branch's model. Raises UnusableResult."""
        uri = str(branch.facts["golden"])
        prefix = self._models.uri("")
        if not uri.startswith(prefix):
            raise UnusableResult(f"{uri} is not in {prefix}: the result names a golden set that cannot be read")
        try:
            data = self._models.read(uri.removeprefix(prefix)).data
        except ObjectMissing as exc:
            raise UnusableResult(f"{uri} is gone; train again to bring this run out") from exc
        return parse_golden(data, labels=branch.facts["labels"], source=uri)

    def look(self, name: str) -> tuple[bool, str] | None:
        """(done, error) of an operation, or None when Vertex AI does not know it."""
        operation = self._vertex.operation(name)
        return (operation.done, operation.error) if operation else None

    def _is_running(self, branch: Branch) -> bool:
        found = self.look(branch.operation)
        age = (self._clock() - clocks.from_text(branch.operation_since)).total_seconds()
        return found is not None and not found[0] and age <= self._limit_seconds

    def _age(self, rollout: Rollout) -> float:
        shifted: datetime.datetime = clocks.from_text(rollout.shifted_at)
        return (self._clock() - shifted).total_seconds()

    def endpoint(self, endpoint_id: str) -> Endpoint:
        """The endpoint as it is now. Raises ResourceMissing."""
        endpoint = self._vertex.find_endpoint(endpoint_id)
        if endpoint is None:
            raise ResourceMissing(f"endpoint {endpoint_id} was deleted during the deployment")
        return endpoint

    def _check_split(self, endpoint: Endpoint, rollout: Rollout, *, allowed: list[dict[str, int]]) -> None:
        if any(traffic.same(endpoint.traffic, split) for split in allowed):
            return
        raise TrafficMoved(
            f"{rollout.candidate} is on {endpoint.name} but traffic was moved away from it ({dict(endpoint.traffic)},"
            f" not {allowed[-1]}); redeploy to bring it back"
        )


def _complete(endpoint: Endpoint, split: Mapping[str, int]) -> dict[str, int]:
    """The split with a 0 for everybody else who is deployed, so that it says what is meant."""
    return {deployed.id: split.get(deployed.id, 0) for deployed in endpoint.deployed}


def _why(rollout: Rollout, verdict: Verdict, tally: Tally) -> str:
    failure = f" (first failure: {tally.first_failure})" if tally.first_failure else ""
    return f"at {rollout.share} % of the traffic: {verdict.describe()}{failure}"
