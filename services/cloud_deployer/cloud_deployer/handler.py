"""From `trained` to `live` on a Vertex AI endpoint, one look-then-act step at a time.

    gating ─► deploying: upload ─► evaluation ─► endpoint ─► deploy
           ─► canary: … (see canary.py) ─► record ─► aliases ─► undeploy ─► live

Where an endpoint takes one model only, replacing.py has the steps between `endpoint` and `canary`.

Every step first looks whether it is already done, so repeating any of them is harmless. Ids are derived from the run:
the model is `dualdeploy-<dataset>`, the version carries the run id as its alias, and the deployed model's id
is a number made of run and release.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections.abc import Callable, Sequence

from cloud_deployer import canary, hygiene, serving
from cloud_deployer.canary import Rollout, Shifting, TrafficMoved, give_up, rollout_of, to_step, with_rollout
from cloud_deployer.console_metrics import SCHEMA_URI, classification_metrics
from cloud_deployer.gating import Gating
from cloud_deployer.live_evaluation import LiveEvaluation
from cloud_deployer.model_card import ModelCards
from cloud_deployer.replacing import Replacing
from cloud_deployer.settings import DeployerSettings
from dualdeploy import clock as clocks
from dualdeploy import dataset_config
from dualdeploy.branches import OperationFailed, await_operation, record_live
from dualdeploy.clock import Clock
from dualdeploy.dataset_config import DatasetConfig
from dualdeploy.errors import CannotEverSucceed, ModelAsleep, RejectedByGoogle, ResourceMissing, UnusableResult
from dualdeploy.ledger import Branch, Ledger, Run, State, dataset_of
from dualdeploy.monitoring import Monitoring
from dualdeploy.object_store import ObjectStore
from dualdeploy.release_request import ReleaseRequest
from dualdeploy.vertex import (
    DATASET_LABEL,
    REVISION_LABEL,
    RUN_LABEL,
    SNAPSHOT_LABEL,
    Deployment,
    Endpoint,
    Evaluation,
    ModelSpec,
    ModelVersion,
    Vertex,
)

log = logging.getLogger(__name__)

#: What services/predictor listens on; it reads them from AIP_* variables that Vertex AI makes of these.
PREDICT_ROUTE, HEALTH_ROUTE, PORT = "/predict", "/health", 8080

#: Aliases in the Model Registry, besides the run id, which every version keeps.
CANDIDATE, PREVIOUS = "candidate", "previous"

Step = Callable[[Branch, Run, DatasetConfig], Branch | None]
ReleaseStep = Callable[[Branch, Run], Branch | None]


class CloudDeployer:
    """`advance` is what `BranchWorker` drives; everything it touches is handed to it."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        config: ObjectStore,
        models: ObjectStore,
        vertex: Vertex,
        monitoring: Monitoring,
        settings: DeployerSettings,
        clock: Clock = clocks.utc_now,
    ) -> None:
        self._ledger = ledger
        self._config = config
        self._models = models
        self._vertex = vertex
        self._settings = settings
        self._clock = clock
        self._shifting = Shifting(
            vertex=vertex,
            monitoring=monitoring,
            models=models,
            operation_limit_seconds=settings.operation_limit_seconds,
            clock=clock,
        )
        self._replacing = Replacing(
            ledger=ledger,
            vertex=vertex,
            shifting=self._shifting,
            operation_limit_seconds=settings.operation_limit_seconds,
            clock=clock,
        )
        self._rollout_steps = self._shifting.steps | self._replacing.steps
        self._cards = ModelCards(ledger=ledger, models=models, revision=settings.git_revision)
        self._evaluation = LiveEvaluation(ledger=ledger, models=models, vertex=vertex, settings=settings, clock=clock)
        self._gating = Gating(
            ledger=ledger,
            models=models,
            shifting=self._shifting,
            cards=self._cards,
            evaluation=self._evaluation,
            clock=clock,
        )
        #: Until the rollout begins, each step reads the configuration; from then on the plan in the branch counts.
        self._deploying: dict[str, Step] = {
            "upload": self._upload,
            "evaluation": self._import_evaluation,
            "endpoint": self._create_endpoint,
            "deploy": self._deploy,
        }
        self._releasing: dict[str, ReleaseStep] = {
            "record": self._record,
            "aliases": self._move_aliases,
            "undeploy": self._undeploy,
        }

    def advance(self, branch: Branch, run: Run) -> Branch | None:
        """See `dualdeploy.branches.Advance`."""
        if branch.step in self._releasing:
            return self._releasing[branch.step](branch, run)
        if branch.step not in canary.WAY_BACK and (why := ReleaseRequest.abort_of(branch)):
            return self._abort(branch, run, why)
        if branch.step in self._rollout_steps:
            return self._shift(branch)
        # The configuration as it is now: a redeploy is how a changed gate or machine takes effect.
        config = dataset_config.read(self._config, branch.dataset)
        if branch.state is State.GATING:
            return self._gating.judge(branch, run, config)
        return self._deploying[branch.step](branch, run, config)

    def on_end(self, branch: Branch, run: Run) -> None:
        """Leave the registry as the release left the world: no candidate that is none, and a card that is true."""
        if branch.state is not State.LIVE and "model_version" in branch.facts:
            version = self._vertex.find_model_version(model_id_of(branch.dataset), branch.run_id)
            if version and CANDIDATE in version.aliases:
                self._alias(version, add=[], remove=[CANDIDATE])
        self._write_card(branch, run)

    def _write_card(self, branch: Branch, run: Run) -> None:
        try:
            result = self._gating.result(run.run_id)
        except UnusableResult as exc:
            log.warning("%s gets no model card: %s", run.run_id, exc)
            return
        self._cards.write(branch, run, result)

    def _shift(self, branch: Branch) -> Branch | None:
        try:
            return self._rollout_steps[branch.step](branch)
        except ModelAsleep as exc:
            return self._replacing.wait(branch, exc)
        except TrafficMoved:
            raise
        except CannotEverSucceed as exc:
            if branch.step in canary.WAY_BACK:
                raise
            # Whatever it is, the candidate must not keep its traffic.
            return give_up(branch, f"{type(exc).__name__}: {exc}")

    def _abort(self, branch: Branch, run: Run, why: str) -> Branch:
        if branch.state is State.GATING:
            self._evaluation.call_off(branch, run)
            # Nothing else was begun; a rollout in the facts is that of an earlier release, which may well be serving.
            return branch.moved(State.FAILED, at=self._clock(), note=why)
        if canary.FACT in branch.facts:
            return give_up(branch, why)
        return branch.moved(State.ROLLED_BACK, at=self._clock(), note=why)

    # Deploying -------------------------------------------------------------------------------------------------

    def _upload(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch | None:
        model_id = model_id_of(config.dataset)
        if not branch.operation and hygiene.is_removing(self._ledger, branch.dataset):
            # The version, the endpoint or the deployed model that this release would find is perhaps just going.
            return None
        version = self._vertex.find_model_version(model_id, run.run_id)
        if version:
            self._alias(version, add=[CANDIDATE])
            return to_step(branch.with_facts(model=version.name, model_version=version.version), "evaluation")
        spec = ModelSpec(
            model_id=model_id,
            display_name=model_id,
            artifact_uri=str(branch.facts["saved_model"]),
            image=self._settings.predictor_image,
            predict_route=PREDICT_ROUTE,
            health_route=HEALTH_ROUTE,
            port=PORT,
            environment={"MODEL_VERSION": run.run_id},
            labels=self._labels(run),
            aliases=[run.run_id],
            description=f"{run.run_id}: {run.reason}"[:200],
        )
        return self._await(
            branch,
            start=lambda: self._vertex.start_upload(spec),
            there=lambda: self._vertex.find_model_version(model_id, run.run_id) is not None,
            what=f"upload to {model_id}",
        )

    def _labels(self, run: Run) -> dict[str, str]:
        """A label value has at most 63 characters: half of a SHA-256 in hex is enough to tell snapshots apart."""
        labels = {DATASET_LABEL: run.dataset, RUN_LABEL: run.run_id, SNAPSHOT_LABEL: run.snapshot.digest()[:32]}
        return labels | ({REVISION_LABEL: self._settings.git_revision} if self._settings.git_revision else {})

    def _import_evaluation(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch:
        """Show in the console what was measured, and leave the model card, before any traffic moves."""
        result = self._gating.result(run.run_id)
        version = self._vertex.find_model_version(model_id_of(config.dataset), run.run_id)
        if version is None:
            raise ResourceMissing(f"the version of {run.run_id} was deleted from {model_id_of(config.dataset)}")
        try:
            if not self._vertex.has_evaluation(version, run.run_id):
                measured = classification_metrics(result.metrics, result.labels)
                self._vertex.import_evaluation(version, Evaluation(run.run_id, SCHEMA_URI, measured))
        except RejectedByGoogle as exc:
            # It is there to be looked at; no release depends on it.
            log.error("the console does not show the figures of %s: %s", version.versioned_name, exc)  # noqa: TRY400
        self._cards.write(branch, run, result)
        return to_step(branch, "endpoint")

    def _create_endpoint(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch | None:
        endpoint_id = config.serving.endpoint
        endpoint = self._vertex.find_endpoint(endpoint_id)
        if endpoint:
            serving.check_kind(config.serving, endpoint)
            if endpoint.request_logging != serving.request_logging(config.serving):
                self._vertex.set_request_logging(endpoint, serving.request_logging(config.serving))
            return to_step(branch.with_facts(endpoint=endpoint.name, endpoint_dns=endpoint.dns), "deploy")
        labels = {DATASET_LABEL: config.dataset}
        return self._await(
            branch,
            start=lambda: self._vertex.start_create_endpoint(
                endpoint_id, display_name=endpoint_id, labels=labels, dedicated=config.serving.dedicated
            ),
            there=lambda: self._vertex.find_endpoint(endpoint_id) is not None,
            what=f"create endpoint {endpoint_id}",
        )

    def _deploy(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch | None:
        """Deploy without traffic, except as the first model of an endpoint, which nobody else could serve for."""
        if canary.FACT not in branch.facts:
            plan = self._plan(branch, config)
            return to_step(with_rollout(branch, plan), "vacate" if plan.in_place else "deploy")
        if not branch.operation and hygiene.is_removing(self._ledger, branch.dataset):
            # Again, now that the janitor can read the plan: of the two, one sees the other and gives way.
            return None
        rollout = rollout_of(branch)
        endpoint = self._shifting.endpoint(rollout.endpoint)
        if rollout.candidate in endpoint.deployed_ids:
            branch = branch.with_facts(deployed_model=rollout.candidate)
            shares = ", ".join(map(str, rollout.limits.steps))
            note = f"deployed as {rollout.candidate}; goes to {shares} % of the traffic"
            first = "baseline" if len(rollout.limits.steps) > 1 else "shift"
            return branch.moved(State.CANARY, at=self._clock(), note=note, step=first)
        deployment = self._deployment(branch, config, rollout.candidate)
        # Without a split the present one stays. One that was decided before minutes of waiting would undo, without
        # an etag to notice it, what another release or somebody by hand has done since.
        traffic = {} if rollout.before else {deployed.id: 0 for deployed in endpoint.deployed} | rollout.split(-1)
        return self._await(
            branch,
            start=lambda: self._vertex.start_deploy(rollout.endpoint, deployment, traffic=traffic),
            there=lambda: rollout.candidate in self._shifting.endpoint(rollout.endpoint).deployed_ids,
            what=f"deploy to {rollout.endpoint}",
        )

    def _plan(self, branch: Branch, config: DatasetConfig) -> Rollout:
        """Fix how this release gets its traffic, and what the traffic was before, while nothing is changed yet."""
        endpoint = self._shifting.endpoint(str(branch.facts["endpoint"]).rsplit("/", 1)[-1])
        deployment = self._deployment(branch, config, deployed_id_of(branch))
        if in_place := self._replacing.plan(branch, endpoint, config.serving, deployment):
            bake = config.serving.canary.bake if in_place.former and ReleaseRequest.of(branch).canary else 0.0
            alone = config.serving.canary.model_copy(update={"steps": (100,), "bake": bake, "monitoring": None})
            return Rollout(endpoint=endpoint.id, candidate=deployment.id, limits=alone, in_place=in_place)
        candidate = self._warm(branch, endpoint) or deployment.id
        serving = {key: share for key, share in endpoint.traffic.items() if share}
        before = serving if serving.keys() - {candidate} else {}
        limits = config.serving.canary
        if not before or not ReleaseRequest.of(branch).canary:
            limits = limits.model_copy(update={"steps": (100,), "bake": 0.0, "monitoring": None})
        return Rollout(
            endpoint=endpoint.id,
            candidate=candidate,
            before=before,
            limits=limits,
            keep_previous=config.serving.keep_previous,
            cool_down=config.serving.cool_down,
        )

    def _deployment(self, branch: Branch, config: DatasetConfig, deployed_id: str) -> Deployment:
        model = f"{branch.facts['model']}@{branch.facts['model_version']}"
        return serving.deployment(config.serving, deployed_id=deployed_id, model=model, run_id=branch.run_id)

    def _warm(self, branch: Branch, endpoint: Endpoint) -> str:
        """What a rollback finds still deployed (`cool_down`, `keep_previous`): only its traffic was taken away."""
        if ReleaseRequest.of(branch).kind != "rollback":
            return ""
        version = str(branch.facts["model_version"])
        for deployed in endpoint.deployed:
            if deployed.display_name == branch.run_id and deployed.version == version:
                return deployed.id
        return ""

    # Live ------------------------------------------------------------------------------------------------------

    def _record(self, branch: Branch, run: Run) -> Branch:
        facts = {
            key: branch.facts[key]
            for key in ("model", "model_version", "endpoint", "endpoint_dns", "deployed_model", "accuracy")
        }
        if in_place := rollout_of(branch).in_place:
            # For the release that replaces this one, should it have to bring it back.
            facts["deployment"] = dataclasses.asdict(in_place.deployment)
        record_live(self._ledger, branch, run, facts=facts, clock=self._clock)
        return to_step(branch, "aliases")

    def _move_aliases(self, branch: Branch, run: Run) -> Branch:
        """Say in the Model Registry, and in the card of what was replaced, what the live record says."""
        try:
            self._tell_what_is_live(branch)
        except CannotEverSucceed as exc:
            # The release is out: whatever people then see elsewhere, calling it failed would be a lie.
            log.error("not everybody is told that %s is live: %s", branch.run_id, exc)  # noqa: TRY400
        return to_step(branch, "undeploy")

    def _tell_what_is_live(self, branch: Branch) -> None:
        found = self._ledger.read_live(branch.dataset, "cloud")
        model_id = model_id_of(branch.dataset)
        releases = {"live": found.document.current, PREVIOUS: found.document.previous} if found else {}
        for alias, release in releases.items():
            version = self._vertex.find_model_version(model_id, release.run_id) if release else None
            if version and alias not in version.aliases:
                self._alias(version, add=[alias], remove=[CANDIDATE])
        if previous := releases.get(PREVIOUS):
            replaced = self._ledger.read_branch(previous.run_id, "cloud").document
            self._write_card(replaced, self._ledger.read_run(previous.run_id))

    def _alias(self, version: ModelVersion, *, add: Sequence[str], remove: Sequence[str] = ()) -> None:
        try:
            self._vertex.change_aliases(version, add=add, remove=remove)
        except RejectedByGoogle as exc:
            # Aliases tell people what is what; no release depends on them.
            log.error("the aliases of %s are not as they should be: %s", version.versioned_name, exc)  # noqa: TRY400

    def _undeploy(self, branch: Branch, run: Run) -> Branch | None:
        """Take down what was replaced before, one after the other; it has no traffic any more. Only what is ours.

        What was replaced just now stays for its cool-down, or for good; then it is the janitor's.
        """
        rollout = rollout_of(branch)
        endpoint = self._shifting.endpoint(rollout.endpoint)
        keep = {rollout.candidate, self._kept_warm(branch, rollout)}
        replaced = [
            deployed.id
            for deployed in endpoint.deployed
            if deployed.id not in keep and dataset_of(deployed.display_name) == branch.dataset
        ]
        if not replaced:
            if rollout.cool_down:
                over = self._clock() + datetime.timedelta(seconds=rollout.cool_down)
                hygiene.look_at(self._ledger, over)
            return branch.moved(State.LIVE, at=self._clock(), note=f"serves all traffic of {rollout.endpoint}")
        going = str(branch.facts.get("undeploying", ""))
        if branch.operation and going not in replaced:
            # That one is gone: the next has an operation, and attempts, of its own.
            return branch.changed(operation="", operation_since="", attempts=0)
        if not branch.operation:
            going = replaced[0]
        try:
            return self._await(
                branch.with_facts(undeploying=going),
                # Without a split: refused should it have got traffic since, and nobody's split is overwritten.
                start=lambda: self._vertex.start_undeploy(rollout.endpoint, going, traffic={}),
                there=lambda: going not in self._shifting.endpoint(rollout.endpoint).deployed_ids,
                what=f"undeploy {going}",
            )
        except (OperationFailed, RejectedByGoogle) as exc:
            if going not in self._shifting.endpoint(rollout.endpoint).deployed_ids:
                return branch.changed(operation="", operation_since="", attempts=0)
            # The release is out: whatever is wrong with what it replaced, calling it failed would be a lie.
            log.error("%s stays deployed without traffic, and costs: %s", going, exc)  # noqa: TRY400
            note = f"serves all traffic of {rollout.endpoint}; {going} could not be taken down: {exc}"
            return branch.moved(State.LIVE, at=self._clock(), note=note)

    def _kept_warm(self, branch: Branch, rollout: Rollout) -> str:
        live = self._ledger.read_live(branch.dataset, "cloud")
        previous = live.document.previous if live else None
        is_kept = bool(previous and (rollout.keep_previous or rollout.cool_down))
        return str(previous.facts.get("deployed_model", "")) if previous and is_kept else ""

    # Inside ----------------------------------------------------------------------------------------------------

    def _await(
        self, branch: Branch, *, start: Callable[[], str], there: Callable[[], bool], what: str
    ) -> Branch | None:
        return await_operation(
            branch,
            look=self._shifting.look,
            start=start,
            there=there,
            clock=self._clock,
            limit_seconds=self._settings.operation_limit_seconds,
            what=what,
        )


def model_id_of(dataset: str) -> str:
    """One Model Registry entry for each data set; every run is a version of it."""
    return f"dualdeploy-{dataset}"


def deployed_id_of(branch: Branch) -> str:
    """The id of what a release deploys, made of run and release."""
    return serving.deployed_id(f"{branch.run_id}/{branch.release}")
