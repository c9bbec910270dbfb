"""A release on an endpoint that takes one model only: what serves goes first, and comes back if the new one fails.

    deploying: … ─► vacate ─► replace ─► canary: shift (all at once) ─► probe ─► bake ─► record …
                      │          │                          │            │       │
                      └──────────┴──────────────────────────┴────────────┴───────┴─► restore ─► withdraw ─┐
                                                     rolled back ◄─ reinstate ◄───────────────────────────┘
                                                                        └─► clear ─► reinstate

Vertex AI asks for it where a model scales to zero, in both directions: to such a deployment and away from it. Nobody is
served from `vacate` until the new model (or the former one again) is deployed: minutes. Everything else is as with any
rollout: the plan is in the branch, each step first looks, and an operation's name is recorded before it is waited for.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pydantic

from cloud_deployer import canary, hygiene, serving, traffic
from cloud_deployer.canary import InPlace, Rollout, give_up, rollout_of, to_step, with_rollout
from dualdeploy import clock as clocks
from dualdeploy.branches import OperationFailed, await_operation
from dualdeploy.clock import Clock
from dualdeploy.dataset_config import Serving
from dualdeploy.errors import ModelAsleep, RejectedByGoogle
from dualdeploy.ledger import Branch, Ledger, Live, State, dataset_of
from dualdeploy.vertex import DeployedModel, Deployment, Endpoint, Vertex

log = logging.getLogger(__name__)

#: For how many looks, one at each tick of the clock, a model may wake up: machine, image and model take minutes.
WAKE_ATTEMPTS = 20

#: How often the former model is deployed again while Vertex AI refuses or fails: a machine may be missing for a moment.
REINSTATE_ATTEMPTS = 5

#: How often the candidate is sent away again when it is found where the former model shall stand.
RETURNS = 3

_DEPLOYMENT = pydantic.TypeAdapter(Deployment)


class NotAlone(RejectedByGoogle):
    """What scales to zero must be the endpoint's only model, and one of the others is not ours to take down."""


class Replacing:
    """The steps that take the place of a canary's two models; each may be repeated, as those of `Shifting`."""

    def __init__(
        self, *, ledger: Ledger, vertex: Vertex, shifting: canary.Shifting, operation_limit_seconds: float, clock: Clock
    ) -> None:
        self._ledger = ledger
        self._vertex = vertex
        self._shifting = shifting
        self._limit_seconds = operation_limit_seconds
        self._clock = clock
        self.steps = {
            "vacate": self._vacate,
            "replace": self._replace,
            "clear": self._clear,
            "reinstate": self._reinstate,
        }

    def plan(self, branch: Branch, endpoint: Endpoint, wanted: Serving, deployment: Deployment) -> InPlace | None:
        """How this release replaces what serves, None when it need not: then both models can stand side by side.

        What serves goes back as it was deployed, or, when no release in place recorded that, as the configuration asks.
        Raises NotAlone.
        """
        ours = _ours(endpoint, branch, deployment)
        serves = max(
            (one for one in ours if endpoint.traffic.get(one.id)),
            key=lambda one: endpoint.traffic[one.id],
            default=None,
        )
        recorded = self._recorded(branch.dataset, serves)
        if not (wanted.scale_to_zero or (recorded and recorded.scale_to_zero)):
            return None
        strangers = [one.id for one in endpoint.deployed if one not in ours]
        if strangers and wanted.scale_to_zero:
            raise NotAlone(
                f"endpoint {endpoint.id} has a model that is not ours ({', '.join(strangers)}), and what scales to zero"
                " must be alone there: undeploy it, or give the data set another serving.endpoint"
            )
        if serves is None:
            return InPlace(deployment=deployment)
        former = dataclasses.replace(
            recorded or deployment,
            id=_former_id(branch),
            model=f"{serves.model.partition('@')[0]}@{serves.version}",
            display_name=serves.display_name,
        )
        return InPlace(deployment=deployment, former=former, former_id=serves.id)

    def wait(self, branch: Branch, asleep: ModelAsleep) -> Branch | None:
        """The request that wakes a model is dropped: no breach, but it must answer some day."""
        if branch.attempts + 1 >= WAKE_ATTEMPTS:
            return give_up(branch, f"the new model was still asleep at the {WAKE_ATTEMPTS}th look: {asleep}")
        return canary.pause(branch, self._clock)

    # Forward ---------------------------------------------------------------------------------------------------

    def _vacate(self, branch: Branch) -> Branch | None:
        """Take down what is ours, one after the other, what serves as the last."""
        rollout, place = _planned(branch)
        if not branch.operation and hygiene.is_removing(self._ledger, branch.dataset):
            # As when a model is deployed beside another: of the janitor and a release, one gives way.
            return None
        endpoint = self._shifting.endpoint(rollout.endpoint)
        ours = [one.id for one in _ours(endpoint, branch, place.deployment) if one.id != rollout.candidate]
        rest = sorted(ours, key=lambda key: endpoint.traffic.get(key, 0))
        if not rest:
            return to_step(_with(branch, leaving="", leaving_by=""), "replace")
        if place.leaving != rest[0]:
            # Noted before it begins: who must go back then knows that it may be under way although no name says so.
            return to_step(_with(branch, leaving=rest[0], leaving_by=""), "vacate")
        return self._undeploy(branch, endpoint, rest[0])

    def _replace(self, branch: Branch) -> Branch | None:
        """Deploy the candidate with all of the traffic: there is nobody to share it with."""
        rollout, place = _planned(branch)
        if rollout.candidate in self._shifting.endpoint(rollout.endpoint).deployed_ids:
            branch = branch.with_facts(deployed_model=rollout.candidate)
            note = f"deployed as {rollout.candidate}, in place of what served"
            return branch.moved(State.CANARY, at=self._clock(), note=note, step="shift")
        return self._deploy(branch, rollout, place.deployment)

    # Back ------------------------------------------------------------------------------------------------------

    def _reinstate(self, branch: Branch) -> Branch | None:
        """Deploy what served before; the candidate was taken down."""
        rollout, place = _planned(branch)
        endpoint = self._vertex.find_endpoint(rollout.endpoint)
        if endpoint is None:
            return self._nothing_serves(branch, rollout, f"endpoint {rollout.endpoint} was deleted")
        there, former = endpoint.deployed_ids, place.former
        if rollout.candidate in there:
            return self._send_away(branch, rollout, place)
        if former is None:
            return branch.moved(State.ROLLED_BACK, at=self._clock(), note=rollout.breach)
        if former.id in there:
            return self._serves_again(branch, rollout, former)
        if place.former_id in there:
            return self._serves_still(branch, rollout, place)
        return self._deploy_again(branch, rollout, former)

    def _deploy_again(self, branch: Branch, rollout: Rollout, former: Deployment) -> Branch | None:
        """Not at the first refusal is this given up: it is what users wait for."""
        if not branch.operation and branch.operation_since and canary.is_recent(branch, self._clock):
            return None
        try:
            return self._deploy(branch, rollout, former)
        except (OperationFailed, RejectedByGoogle) as exc:
            log.error("%s cannot be deployed again for now: %s", former.display_name, exc)  # noqa: TRY400
            if branch.attempts + 1 >= REINSTATE_ATTEMPTS:
                return self._nothing_serves(branch, rollout, f"it could not be deployed again: {exc}")
            since = clocks.to_text(self._clock())
            return branch.changed(operation="", operation_since=since, attempts=branch.attempts + 1)

    def _serves_still(self, branch: Branch, rollout: Rollout, place: InPlace) -> Branch:
        """Its undeployment never began, or failed; unless it was begun by an instance that died and named nothing."""
        if place.leaving == place.former_id and not place.leaving_by:
            return to_step(branch, "clear")
        return branch.moved(State.ROLLED_BACK, at=self._clock(), note=f"{rollout.breach}; nothing was replaced yet")

    def _send_away(self, branch: Branch, rollout: Rollout, place: InPlace) -> Branch:
        """It could not be taken down, or its deployment was begun by an instance that died, and is through just now."""
        if place.returns < RETURNS:
            return to_step(_with(branch, returns=place.returns + 1), "restore")
        return self._nothing_serves(branch, rollout, f"{rollout.candidate} stands in its place and serves")

    def _clear(self, branch: Branch) -> Branch | None:
        """Whether an undeployment was begun is not known, because its instance died: it is brought to an end."""
        rollout, place = _planned(branch)
        endpoint = self._shifting.endpoint(rollout.endpoint)
        settled = to_step(_with(branch, leaving="", leaving_by=""), "reinstate")
        if place.leaving not in endpoint.deployed_ids:
            return settled
        try:
            return self._undeploy(branch, endpoint, place.leaving)
        except (OperationFailed, RejectedByGoogle) as exc:
            log.warning("%s stays: %s", place.leaving, exc)
            return settled

    def _serves_again(self, branch: Branch, rollout: Rollout, former: Deployment) -> Branch:
        def again(live: Live) -> dict[str, Any]:
            facts = {**live.current.facts, "deployed_model": former.id, "deployment": dataclasses.asdict(former)}
            # The janitor, frozen in the meantime, has perhaps seen that it was away.
            back = {"undeployed_at": "", "undeployed_because": ""}
            return {"current": live.current.model_copy(update={"facts": facts}), **back}

        self._tell_live(branch, again)
        note = f"{rollout.breach}; {former.display_name} was deployed again, as {former.id}"
        return branch.moved(State.ROLLED_BACK, at=self._clock(), note=note)

    def _nothing_serves(self, branch: Branch, rollout: Rollout, why: str) -> Branch:
        """The one end that is not clean, so it is said wherever people look."""
        former = _planned(branch)[1].former
        name = former.display_name if former else "what served"
        note = f"{rollout.breach}; {name} does not serve: {why}; redeploy to bring it back"

        def down(_: Live) -> dict[str, Any]:
            return {"undeployed_at": clocks.to_text(self._clock()), "undeployed_because": note}

        self._tell_live(branch, down)
        log.error("%s", note)
        return branch.moved(State.FAILED, at=self._clock(), note=note)

    def _tell_live(self, branch: Branch, changes: Any) -> None:
        """Change the record of what is live, if it is that of the deployment which this release took down."""
        found = self._ledger.read_live(branch.dataset, branch.target)
        former_id = _planned(branch)[1].former_id
        if found and former_id and str(found.document.current.facts.get("deployed_model", "")) == former_id:
            self._ledger.write_live(found.document.model_copy(update=changes(found.document)), expect=found.generation)

    # Inside ----------------------------------------------------------------------------------------------------

    def _recorded(self, dataset: str, serves: DeployedModel | None) -> Deployment | None:
        live = self._ledger.read_live(dataset, "cloud")
        facts = live.document.current.facts if live else {}
        if serves is None or str(facts.get("deployed_model", "")) != serves.id or "deployment" not in facts:
            return None
        return _DEPLOYMENT.validate_python(facts["deployment"])

    def _deploy(self, branch: Branch, rollout: Rollout, deployment: Deployment) -> Branch | None:
        return await_operation(
            branch,
            look=self._shifting.look,
            start=lambda: self._vertex.start_deploy(rollout.endpoint, deployment, traffic={deployment.id: 100}),
            there=lambda: deployment.id in self._shifting.endpoint(rollout.endpoint).deployed_ids,
            clock=self._clock,
            limit_seconds=self._limit_seconds,
            what=f"deploy {deployment.display_name} to {rollout.endpoint}",
        )

    def _undeploy(self, branch: Branch, endpoint: Endpoint, leaving: str) -> Branch | None:
        # Without a split unless it has a share to give away: nobody's is overwritten, and the last may always go.
        rest = traffic.without(endpoint.traffic, leaving) if endpoint.traffic.get(leaving) else {}
        following = await_operation(
            branch,
            look=self._shifting.look,
            start=lambda: self._vertex.start_undeploy(endpoint.id, leaving, traffic=rest),
            there=lambda: leaving not in self._shifting.endpoint(endpoint.id).deployed_ids,
            clock=self._clock,
            limit_seconds=self._limit_seconds,
            what=f"undeploy {leaving}",
        )
        return _with(following, leaving_by=following.operation) if following and following.operation else following


def _planned(branch: Branch) -> tuple[Rollout, InPlace]:
    rollout = rollout_of(branch)
    if rollout.in_place is None:
        raise RuntimeError(f"{branch.run_id} is at {branch.step} without a plan for it")
    return rollout, rollout.in_place


def _with(branch: Branch, **changes: object) -> Branch:
    rollout, place = _planned(branch)
    return with_rollout(branch, rollout.model_copy(update={"in_place": place.model_copy(update=changes)}))


def _ours(endpoint: Endpoint, branch: Branch, deployment: Deployment) -> list[DeployedModel]:
    """Versions of the model that is being released, named after runs of its data set: what is taken down serves users,
    so a name alone is not enough."""
    return [
        one
        for one in endpoint.deployed
        if dataset_of(one.display_name) == branch.dataset and _model_id(one.model) == _model_id(deployment.model)
    ]


def _model_id(name: str) -> str:
    """Vertex AI writes the project as a number or by its id, and the version or none."""
    return name.rsplit("/", 1)[-1].partition("@")[0]


def _former_id(branch: Branch) -> str:
    """As `handler.deployed_id_of`, of another text: what goes back is deployed by this release, not by its own."""
    return serving.deployed_id(f"{branch.run_id}/{branch.release}/former")
