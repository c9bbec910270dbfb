"""From `trained` to `live` on a Vertex AI endpoint, one look-then-act step at a time.

    gating ─► deploying: upload ─► endpoint ─► deploy ─► record ─► undeploy ─► live

Every step first looks whether it is already done, so repeating any of them is harmless. Ids are derived from the run:
the model is `dualdeploy-<dataset>`, the version carries the run id as its alias, and the deployed model's id
is a number made of run and release.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

from cloud_deployer.settings import DeployerSettings
from dualdeploy import clock as clocks
from dualdeploy import dataset_config, gate, training
from dualdeploy.branches import OperationFailed, await_operation, record_live
from dualdeploy.clock import Clock
from dualdeploy.dataset_config import DatasetConfig
from dualdeploy.errors import RejectedByGoogle, UnusableResult
from dualdeploy.ledger import Branch, Ledger, Run, State, dataset_of
from dualdeploy.object_store import ObjectMissing, ObjectStore
from dualdeploy.vertex import DATASET_LABEL, RUN_LABEL, Deployment, Endpoint, ModelSpec, ResourceMissing, Vertex

log = logging.getLogger(__name__)

#: What services/predictor listens on; it reads them from AIP_* variables that Vertex AI makes of these.
PREDICT_ROUTE, HEALTH_ROUTE, PORT = "/predict", "/health", 8080

Step = Callable[[Branch, Run, DatasetConfig], Branch | None]


class CloudDeployer:
    """`advance` is what `BranchWorker` drives; everything it touches is handed to it."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        config: ObjectStore,
        models: ObjectStore,
        vertex: Vertex,
        settings: DeployerSettings,
        clock: Clock = clocks.utc_now,
    ) -> None:
        self._ledger = ledger
        self._config = config
        self._models = models
        self._vertex = vertex
        self._settings = settings
        self._clock = clock
        self._steps: dict[str, Step] = {
            "upload": self._upload,
            "endpoint": self._create_endpoint,
            "deploy": self._deploy,
            "record": self._record,
            "undeploy": self._undeploy,
        }

    def advance(self, branch: Branch, run: Run) -> Branch | None:
        """See `dualdeploy.branches.Advance`."""
        # The configuration as it is now: a redeploy is how a changed gate or machine takes effect.
        config = dataset_config.read(self._config, branch.dataset)
        if branch.state is State.GATING:
            return self._gate(branch, run, config)
        return self._steps[branch.step](branch, run, config)

    # Gate ------------------------------------------------------------------------------------------------------

    def _gate(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch:
        name = training.result_name(run.run_id, "cloud")
        try:
            result = training.parse_result(self._models.read(name).data, source=self._models.uri(name))
        except ObjectMissing as exc:
            raise UnusableResult(f"{self._models.uri(name)} is gone; train again to bring this run out") from exc
        verdict = gate.judge_cloud(accuracy=result.metrics.accuracy, min_accuracy=config.gates.cloud.min_accuracy)
        branch = branch.with_facts(
            gate=verdict.as_facts(), accuracy=result.metrics.accuracy, saved_model=result.artifacts.saved_model
        )
        if not verdict.passed and not branch.forced:
            return branch.moved(State.REJECTED, at=self._clock(), note=verdict.describe())
        forced = "" if verdict.passed else "forced although "
        return branch.moved(State.DEPLOYING, at=self._clock(), note=forced + verdict.describe(), step="upload")

    # Deploying -------------------------------------------------------------------------------------------------

    def _upload(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch | None:
        model_id = model_id_of(config.dataset)
        version = self._vertex.find_model_version(model_id, run.run_id)
        if version:
            return _to_step(branch.with_facts(model=version.name, model_version=version.version), "endpoint")
        spec = ModelSpec(
            model_id=model_id,
            display_name=model_id,
            artifact_uri=str(branch.facts["saved_model"]),
            image=self._settings.predictor_image,
            predict_route=PREDICT_ROUTE,
            health_route=HEALTH_ROUTE,
            port=PORT,
            environment={"MODEL_VERSION": run.run_id},
            labels={DATASET_LABEL: config.dataset, RUN_LABEL: run.run_id},
            aliases=[run.run_id],
            description=f"{run.run_id}: {run.reason}"[:200],
        )
        return self._await(
            branch,
            start=lambda: self._vertex.start_upload(spec),
            there=lambda: self._vertex.find_model_version(model_id, run.run_id) is not None,
            what=f"upload to {model_id}",
        )

    def _create_endpoint(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch | None:
        endpoint_id = config.serving.endpoint
        endpoint = self._vertex.find_endpoint(endpoint_id)
        if endpoint:
            return _to_step(branch.with_facts(endpoint=endpoint.name, endpoint_dns=endpoint.dns), "deploy")
        labels = {DATASET_LABEL: config.dataset}
        return self._await(
            branch,
            start=lambda: self._vertex.start_create_endpoint(endpoint_id, display_name=endpoint_id, labels=labels),
            there=lambda: self._vertex.find_endpoint(endpoint_id) is not None,
            what=f"create endpoint {endpoint_id}",
        )

    def _deploy(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch | None:
        """Deploy with all traffic in one operation: the split changes when the new model is ready, not before."""
        endpoint = self._endpoint(config)
        deployed_id = deployed_id_of(branch)
        if deployed_id in _deployed_ids(endpoint):
            if endpoint.traffic.get(deployed_id) == 100:
                return _to_step(branch.with_facts(deployed_model=deployed_id), "record")
            raise UnusableResult(
                f"{deployed_id} is on {endpoint.name} but traffic was moved away from it ({dict(endpoint.traffic)});"
                " redeploy to bring it back"
            )
        deployment = Deployment(
            id=deployed_id,
            model=f"{branch.facts['model']}@{branch.facts['model_version']}",
            display_name=run.run_id,
            machine=config.serving.machine,
            min_replicas=config.serving.min_replicas,
            max_replicas=config.serving.max_replicas,
        )
        traffic = {deployed.id: 0 for deployed in endpoint.deployed} | {deployed_id: 100}
        return self._await(
            branch,
            start=lambda: self._vertex.start_deploy(config.serving.endpoint, deployment, traffic=traffic),
            there=lambda: deployed_id in _deployed_ids(self._endpoint(config)),
            what=f"deploy to {config.serving.endpoint}",
        )

    def _record(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch:
        facts = {
            key: branch.facts[key]
            for key in ("model", "model_version", "endpoint", "endpoint_dns", "deployed_model", "accuracy")
        }
        record_live(self._ledger, branch, run, facts=facts, clock=self._clock)
        return _to_step(branch, "undeploy")

    def _undeploy(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch | None:
        """Take down what was replaced, one after the other; it has no traffic any more. Only what is ours."""
        endpoint = self._endpoint(config)
        deployed_id = deployed_id_of(branch)
        replaced = [
            deployed.id
            for deployed in endpoint.deployed
            if deployed.id != deployed_id and dataset_of(deployed.display_name) == branch.dataset
        ]
        if not replaced:
            note = f"serves all traffic of {config.serving.endpoint}"
            return branch.moved(State.LIVE, at=self._clock(), note=note)
        rest = {key: share for key, share in endpoint.traffic.items() if key != replaced[0]}
        try:
            return self._await(
                branch,
                start=lambda: self._vertex.start_undeploy(config.serving.endpoint, replaced[0], traffic=rest),
                there=lambda: replaced[0] not in _deployed_ids(self._endpoint(config)),
                what=f"undeploy {replaced[0]}",
            )
        except (OperationFailed, RejectedByGoogle) as exc:
            if replaced[0] not in _deployed_ids(self._endpoint(config)):
                return branch.changed(operation="", operation_since="")
            # The release is out: whatever is wrong with what it replaced, calling it failed would be a lie.
            log.error("%s stays deployed without traffic, and costs: %s", replaced[0], exc)  # noqa: TRY400
            note = f"serves all traffic of {config.serving.endpoint}; {replaced[0]} could not be taken down: {exc}"
            return branch.moved(State.LIVE, at=self._clock(), note=note)

    # Inside ----------------------------------------------------------------------------------------------------

    def _endpoint(self, config: DatasetConfig) -> Endpoint:
        endpoint = self._vertex.find_endpoint(config.serving.endpoint)
        if endpoint is None:
            raise ResourceMissing(f"endpoint {config.serving.endpoint} was deleted during the deployment")
        return endpoint

    def _await(
        self, branch: Branch, *, start: Callable[[], str], there: Callable[[], bool], what: str
    ) -> Branch | None:
        return await_operation(
            branch,
            look=self._look,
            start=start,
            there=there,
            clock=self._clock,
            limit_seconds=self._settings.operation_limit_seconds,
            what=what,
        )

    def _look(self, name: str) -> tuple[bool, str] | None:
        operation = self._vertex.operation(name)
        return (operation.done, operation.error) if operation else None


def _deployed_ids(endpoint: Endpoint) -> set[str]:
    return {deployed.id for deployed in endpoint.deployed}


def model_id_of(dataset: str) -> str:
    """One Model Registry entry for each data set; every run is a version of it."""
    return f"dualdeploy-{dataset}"


def deployed_id_of(branch: Branch) -> str:
    """A number of at most ten digits (Vertex AI's limit) made of run and release."""
    digest = hashlib.sha256(f"{branch.run_id}/{branch.release}".encode()).digest()
    return str(int.from_bytes(digest[:8], "big") % 9_000_000_000 + 1_000_000_000)


def _to_step(branch: Branch, step: str) -> Branch:
    return branch.changed(step=step, operation="", operation_since="", attempts=0)
