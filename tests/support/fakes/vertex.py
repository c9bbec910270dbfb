"""Vertex AI in memory: jobs and operations end when the test says so."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dualdeploy.contracts.prediction import Form
from dualdeploy.errors import RejectedByGoogle, ResourceConflict, ResourceMissing
from dualdeploy.google.vertex import (
    Answer,
    CustomJobSpec,
    DeployedModel,
    Deployment,
    Endpoint,
    Evaluation,
    Job,
    JobOutcome,
    ModelSpec,
    ModelVersion,
    RequestLogging,
)
from support.fakes.failing import Faults
from support.fakes.operations import FAILED_PRECONDITION, HasOperations, Work

PARENT = "projects/p/locations/l"


@dataclasses.dataclass
class _Model:
    versions: list[ModelVersion] = dataclasses.field(default_factory=list)
    numbers: int = 0


#: What Vertex AI says of a version of ours, and of one that AutoML trained on images.
OURS, AUTOMLS = ("DEDICATED_RESOURCES", "SHARED_RESOURCES"), ("AUTOMATIC_RESOURCES",)


def label_in_picture(deployed: DeployedModel, instance: Mapping[str, Any]) -> Answer:
    """A model that is always right: the pictures of fakes are the bytes of their labels."""
    label = base64.b64decode(instance.get("b64") or instance["content"]).decode()
    return Answer(deployed.id, {"label": label, "confidence": 1.0, "probabilities": {label: 1.0}}, 0.01)


def _as_automl(answer: Answer) -> Answer:
    """What AutoML's models say in its place."""
    label, confidence = answer.prediction["label"], answer.prediction["confidence"]
    said = {"ids": ["77"], "displayNames": [label], "confidences": [confidence]}
    return dataclasses.replace(answer, prediction=said)


class FakeVertex(HasOperations):
    """Implements `dualdeploy.google.vertex.Vertex`.

    Its kinds of operation: upload, export, create_endpoint, deploy, undeploy, delete_version, delete_model,
    delete_endpoint.
    """

    def __init__(self, *, faults: Faults | None = None, auto_finish: bool = False) -> None:
        super().__init__(faults=faults, auto_finish=auto_finish, first_id=1001)
        self.jobs: dict[str, Job] = {}
        self.job_specs: dict[str, CustomJobSpec] = {}
        self.models: dict[str, _Model] = {}
        self.uploads: list[ModelSpec] = []
        #: What was imported, with the name of the version that it was imported for.
        self.evaluations: list[tuple[str, Evaluation]] = []
        self.endpoints: dict[str, Endpoint] = {}
        #: How each deployed model was asked for, by its id.
        self.deployments: dict[str, Deployment] = {}
        #: How a deployed model answers; a test puts wrong labels, errors and slowness here.
        self.serve: Callable[[DeployedModel, Mapping[str, Any]], Answer] = label_in_picture
        #: Whether a split is refused while a model is deployed or undeployed: what Google does is not recorded.
        self.busy_refuses_split = False
        #: Every traffic split that was ever set, by endpoint.
        self.splits: list[tuple[str, dict[str, int]]] = []
        #: The deployed models that answered a prediction, in order, and those that did not understand it.
        self.answered: list[str] = []
        self.misunderstood: list[str] = []
        #: Writes what an export leaves in its folder, and the formats that a model can be exported as.
        self.export_files: Callable[[str], None] = lambda _folder: None
        self.export_formats = {"tflite", "edgetpu-tflite", "tf-saved-model"}
        self._turns: dict[tuple[str, str], int] = {}

    # What a test does ------------------------------------------------------------------------------------------

    def end_job(
        self, name: str, state: str = "JOB_STATE_SUCCEEDED", *, error: str = "", code: int = FAILED_PRECONDITION
    ) -> None:
        ended = datetime.datetime.now(datetime.UTC)
        self.jobs[name] = dataclasses.replace(
            self.jobs[name], state=state, error=error, error_code=code if error else 0, ended=ended
        )

    def add_managed(self, model_id: str, alias: str, labels: Mapping[str, str]) -> ModelVersion:
        """A version that AutoML trained is there."""
        model = self.models.setdefault(model_id, _Model())
        model.numbers += 1
        aliases = [alias, *([] if model.versions else ["default"])]
        name = f"{PARENT}/models/{model_id}"
        model.versions.append(ModelVersion(name, str(model.numbers), aliases, "", dict(labels), AUTOMLS))
        return model.versions[-1]

    def add_version(self, version: ModelVersion) -> None:
        """A version that was not uploaded: a training left it."""
        self.models.setdefault(version.name.rsplit("/", 1)[-1], _Model()).versions.append(version)

    # The port --------------------------------------------------------------------------------------------------

    def create_custom_job(self, spec: CustomJobSpec) -> Job:
        def created() -> Job:
            with self._lock:
                name = f"{PARENT}/customJobs/{next(self._ids)}"
                now = datetime.datetime.now(datetime.UTC)
                self.jobs[name] = Job(name, "JOB_STATE_RUNNING", dict(spec.labels), created=now)
                self.job_specs[name] = spec
                return self.jobs[name]

        return self.faults.run("create_custom_job", created)

    def find_custom_jobs(self, labels: Mapping[str, str]) -> list[Job]:
        def found() -> list[Job]:
            with self._lock:
                return [job for job in self.jobs.values() if labels.items() <= job.labels.items()]

        return self.faults.run("find_custom_jobs", found)

    def get_custom_job(self, name: str) -> Job:
        full = name if "/" in name else f"{PARENT}/customJobs/{name}"

        def got() -> Job:
            if full not in self.jobs:
                raise ResourceMissing(f"no job {full}")
            return self.jobs[full]

        return self.faults.run("get_custom_job", got)

    def cancel_custom_job(self, name: str) -> None:
        def cancelled() -> None:
            with self._lock:
                if name in self.jobs and self.jobs[name].outcome is JobOutcome.UNFINISHED:
                    self.end_job(name, "JOB_STATE_CANCELLED")

        self.faults.run("cancel_custom_job", cancelled)

    def find_model_version(self, model_id: str, alias: str) -> ModelVersion | None:
        def found() -> ModelVersion | None:
            versions = self.models.get(model_id, _Model()).versions
            # Vertex AI takes a version's number wherever it takes an alias.
            return next((found for found in versions if alias in (*found.aliases, found.version)), None)

        return self.faults.run("find_model_version", found)

    def find_model_versions(self, model_id: str) -> list[ModelVersion]:
        return self.faults.run("find_model_versions", lambda: list(self.models.get(model_id, _Model()).versions))

    def start_delete_version(self, version: ModelVersion) -> str:
        def started() -> str:
            there = self.find(version)
            deployed = (one for endpoint in self.endpoints.values() for one in endpoint.deployed)
            if any((one.model, one.version) == (version.name, version.version) for one in deployed):
                raise RejectedByGoogle(f"{version.versioned_name} is deployed")
            if "default" in there.aliases:
                raise RejectedByGoogle(f"{version.versioned_name} is the default version")
            return self._start("delete_version", "", work)

        def work() -> None:
            model = self.models[version.name.rsplit("/", 1)[-1]]
            model.versions = [other for other in model.versions if other.version != version.version]

        return self.faults.run("start_delete_version", started)

    def start_delete_model(self, model_id: str) -> str:
        def work() -> None:
            self.models.pop(model_id, None)

        def started() -> str:
            name = f"{PARENT}/models/{model_id}"
            if model_id not in self.models:
                raise ResourceMissing(f"no model {model_id}")
            if any(one.model == name for endpoint in self.endpoints.values() for one in endpoint.deployed):
                raise RejectedByGoogle(f"a version of {model_id} is deployed")
            return self._start("delete_model", "", work)

        return self.faults.run("start_delete_model", started)

    def find(self, version: ModelVersion) -> ModelVersion:
        """The version as it is now. Raises ResourceMissing."""
        for other in self.models.get(version.name.rsplit("/", 1)[-1], _Model()).versions:
            if other.version == version.version:
                return other
        raise ResourceMissing(f"no version {version.versioned_name}")

    def start_upload(self, spec: ModelSpec) -> str:
        def work() -> None:
            model = self.models.setdefault(spec.model_id, _Model())
            model.numbers += 1
            number = str(model.numbers)
            name = f"{PARENT}/models/{spec.model_id}"
            # An alias belongs to one version of a model: the newest taker has it.
            model.versions = [
                dataclasses.replace(v, aliases=[a for a in v.aliases if a not in spec.aliases]) for v in model.versions
            ]
            aliases = [*spec.aliases, *([] if model.versions else ["default"])]
            model.versions.append(ModelVersion(name, number, aliases, spec.artifact_uri, dict(spec.labels), OURS))
            self.uploads.append(spec)

        return self.faults.run("start_upload", lambda: self._start("upload", "", work))

    def start_export(self, version: str, *, format_id: str, folder: str) -> str:
        """Each export is a folder of its own; what lies there, `export_files` says."""
        model, _, number = version.partition("@")

        def work() -> Mapping[str, Any]:
            there = f"{folder}/model-{number}/{format_id}/{next(self._ids)}"
            self.export_files(there)
            return {"outputInfo": {"artifactOutputUri": there}}

        def begun() -> str:
            found = self.find(ModelVersion(model, number, (), ""))
            if format_id not in self.export_formats:
                raise RejectedByGoogle(f"400: {found.versioned_name} cannot be exported as {format_id}")
            return self._start("export", "", work)

        return self.faults.run("start_export", begun)

    def change_aliases(self, version: ModelVersion, *, add: Sequence[str], remove: Sequence[str] = ()) -> None:
        def changed() -> None:
            model = self.models[version.name.rsplit("/", 1)[-1]]
            versions = []
            for other in model.versions:
                is_meant = other.version == version.version
                kept = [alias for alias in other.aliases if alias not in add and not (is_meant and alias in remove)]
                versions.append(dataclasses.replace(other, aliases=[*kept, *(add if is_meant else ())]))
            model.versions = versions

        self.faults.run("change_aliases", changed)

    def has_evaluation(self, version: ModelVersion, display_name: str) -> bool:
        wanted = version.versioned_name, display_name
        return self.faults.run(
            "has_evaluation", lambda: wanted in [(name, found.display_name) for name, found in self.evaluations]
        )

    def import_evaluation(self, version: ModelVersion, evaluation: Evaluation) -> None:
        self.faults.run("import_evaluation", lambda: self.evaluations.append((version.versioned_name, evaluation)))

    def find_endpoint(self, endpoint_id: str) -> Endpoint | None:
        def found() -> Endpoint | None:
            endpoint = self.endpoints.get(endpoint_id)
            return dataclasses.replace(endpoint, etag=self._etag(endpoint)) if endpoint else None

        return self.faults.run("find_endpoint", found)

    def find_endpoints(self, label: str, value: str = "") -> list[Endpoint]:
        def found() -> list[Endpoint]:
            labelled = [endpoint for endpoint in self.endpoints.values() if label in endpoint.labels]
            return [endpoint for endpoint in labelled if value in ("", endpoint.labels[label])]

        return self.faults.run("find_endpoints", found)

    def start_delete_endpoint(self, endpoint_id: str) -> str:
        def started() -> str:
            if self._endpoint(endpoint_id).deployed:
                raise RejectedByGoogle(f"endpoint {endpoint_id} has deployed models")
            return self._start("delete_endpoint", endpoint_id, work)

        def work() -> None:
            self.endpoints.pop(endpoint_id, None)

        return self.faults.run("start_delete_endpoint", started)

    def start_create_endpoint(
        self, endpoint_id: str, *, display_name: str, labels: Mapping[str, str], dedicated: bool = True
    ) -> str:
        def started() -> str:
            if endpoint_id in self.endpoints:
                raise ResourceConflict(f"endpoint {endpoint_id} exists")
            return self._start("create_endpoint", endpoint_id, work)

        def work() -> None:
            name, host = f"{PARENT}/endpoints/{endpoint_id}", "localhost" if dedicated else ""
            self.endpoints.setdefault(endpoint_id, Endpoint(name, (), {}, host, dict(labels), dedicated=dedicated))

        return self.faults.run("start_create_endpoint", started)

    def set_request_logging(self, endpoint: Endpoint, logging: RequestLogging | None) -> None:
        def changed() -> None:
            with self._lock:
                current = self._endpoint(endpoint.id)
                if endpoint.etag != self._etag(current):
                    raise ResourceConflict(f"endpoint {endpoint.id} was changed since it was read")
                self.endpoints[endpoint.id] = dataclasses.replace(current, request_logging=logging)

        self.faults.run("set_request_logging", changed)

    def start_deploy(self, endpoint_id: str, deployment: Deployment, *, traffic: Mapping[str, int]) -> str:
        def started() -> str:
            with self._lock:
                endpoint = self._endpoint(endpoint_id)
                if any(deployed.id == deployment.id for deployed in endpoint.deployed):
                    raise ResourceConflict(f"deployed model {deployment.id} exists")
                model, _, number = deployment.model.partition("@")
                self._refuse_kind(endpoint, deployment, self.find(ModelVersion(model, number, (), "")))
                self._refuse_company(endpoint, deployment)
                return self._start("deploy", endpoint_id, work)

        def work() -> None:
            endpoint = self._endpoint(endpoint_id)
            self.deployments[deployment.id] = deployment
            model, _, version = deployment.model.partition("@")
            deployed = DeployedModel(deployment.id, model, version, deployment.display_name)
            there = dataclasses.replace(endpoint, deployed=(*endpoint.deployed, deployed))
            self._split(endpoint_id, there, traffic or endpoint.traffic)

        return self.faults.run("start_deploy", started)

    def start_undeploy(self, endpoint_id: str, deployed_id: str, *, traffic: Mapping[str, int]) -> str:
        def started() -> str:
            endpoint = self._endpoint(endpoint_id)
            if all(deployed.id != deployed_id for deployed in endpoint.deployed):
                raise ResourceMissing(f"no deployed model {deployed_id}")
            if (traffic or endpoint.traffic).get(deployed_id) and len(endpoint.deployed) > 1:
                raise RejectedByGoogle(f"deployed model {deployed_id} has traffic")
            return self._start("undeploy", endpoint_id, work)

        def work() -> None:
            endpoint = self._endpoint(endpoint_id)
            rest = tuple(deployed for deployed in endpoint.deployed if deployed.id != deployed_id)
            stays = {key: share for key, share in (traffic or endpoint.traffic).items() if key != deployed_id}
            # Whoever gave it traffic meanwhile is served by no one: what Google does then is not recorded.
            is_whole = bool(rest) and sum(stays.values()) == 100
            self._split(endpoint_id, dataclasses.replace(endpoint, deployed=rest), stays if is_whole else {})

        return self.faults.run("start_undeploy", started)

    def set_traffic(self, endpoint: Endpoint, traffic: Mapping[str, int]) -> None:
        def split() -> None:
            with self._lock:
                current = self._endpoint(endpoint.id)
                if endpoint.etag != self._etag(current):
                    raise ResourceConflict(f"endpoint {endpoint.id} was changed since it was read")
                if self.busy_refuses_split:
                    self._refuse_busy(endpoint.id)
                self._split(endpoint.id, current, traffic)

        self.faults.run("set_traffic", split)

    def predict(self, endpoint: Endpoint, instance: Mapping[str, Any]) -> Answer:
        def answered() -> Answer:
            with self._lock:
                deployed = self._drawn(self._endpoint(endpoint.id))
                self.answered.append(deployed.id)
                forms = self._forms(deployed)
                if not forms & instance.keys():
                    self.misunderstood.append(deployed.id)
                    raise RejectedByGoogle(f"400: {deployed.id} does not take {sorted(instance)}")
                answer = self.serve(deployed, instance)
                return answer if "b64" in forms else _as_automl(answer)

        return self.faults.run("predict", answered)

    # Inside ----------------------------------------------------------------------------------------------------

    def _endpoint(self, endpoint_id: str) -> Endpoint:
        if endpoint_id not in self.endpoints:
            raise ResourceMissing(f"no endpoint {endpoint_id}")
        return self.endpoints[endpoint_id]

    def _forms(self, deployed: DeployedModel) -> frozenset[Form]:
        """Of a stranger's model, whatever is sent."""
        try:
            return self.find(ModelVersion(deployed.model, deployed.version, (), "")).forms
        except ResourceMissing:
            return frozenset({"b64", "content"})

    def _refuse_kind(self, endpoint: Endpoint, deployment: Deployment, version: ModelVersion) -> None:
        """As Vertex AI: what AutoML trained takes machines of Google's choice, on a shared endpoint."""
        if version.is_automatic is not deployment.automatic:
            kind = "automatic" if deployment.automatic else "dedicated"
            raise RejectedByGoogle(f"{version.versioned_name} does not support {kind} resources: {version.resources}")
        if version.is_automatic and endpoint.dedicated:
            raise RejectedByGoogle(f"endpoint {endpoint.id} is dedicated: AutoML models are not supported")
        if version.is_automatic and (deployment.machine or deployment.service_account):
            raise RejectedByGoogle("a machine and an account are for custom containers")

    def _refuse_company(self, endpoint: Endpoint, deployment: Deployment) -> None:
        """As Vertex AI: what scales to zero is alone, on a dedicated endpoint."""
        if deployment.scale_to_zero and not endpoint.dns:
            raise RejectedByGoogle(f"shared endpoint {endpoint.id}: scale to zero is not supported")
        asked = [self.deployments.get(deployed.id) for deployed in endpoint.deployed]
        if endpoint.deployed and any(each and each.scale_to_zero for each in (deployment, *asked)):
            raise RejectedByGoogle(f"endpoint {endpoint.id}: scale to zero allows one deployed model")

    def _split(self, endpoint_id: str, endpoint: Endpoint, traffic: Mapping[str, int]) -> None:
        """As Vertex AI: shares are of 100, and of models that are there."""
        there = {deployed.id for deployed in endpoint.deployed}
        if (traffic and sum(traffic.values()) != 100) or not traffic.keys() <= there:
            raise RejectedByGoogle(f"traffic_split {dict(traffic)} is none of {sorted(there)}")
        self.endpoints[endpoint_id] = dataclasses.replace(endpoint, traffic=dict(traffic))
        self.splits.append((endpoint_id, dict(traffic)))

    def _drawn(self, endpoint: Endpoint) -> DeployedModel:
        """By turns, as often as its share says: the smooth weighted round robin of nginx, which draws no lots."""
        shares = {deployed: endpoint.traffic.get(deployed.id, 0) for deployed in endpoint.deployed}
        candidates = [deployed for deployed, share in shares.items() if share]
        if not candidates:
            raise RejectedByGoogle(f"endpoint {endpoint.id} has no traffic split")
        for deployed in candidates:
            key = (endpoint.id, deployed.id)
            self._turns[key] = self._turns.get(key, 0) + shares[deployed]
        chosen = max(candidates, key=lambda deployed: self._turns[endpoint.id, deployed.id])
        self._turns[endpoint.id, chosen.id] -= 100
        return chosen

    def _etag(self, endpoint: Endpoint) -> str:
        """Another one after every change, also one that brings back what was there before."""
        changes = sum(1 for endpoint_id, _ in self.splits if endpoint_id == endpoint.id)
        seen = (changes, endpoint.deployed, sorted(endpoint.traffic.items()), sorted(endpoint.labels.items()))
        return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]

    def _start(self, kind: str, subject: str, work: Work) -> str:
        """Begin an operation; of two at the same time on one `subject`, the second is refused."""
        with self._lock:
            self._refuse_busy(subject)
            return self._begin(kind, PARENT, work, subject=subject)

    def _refuse_busy(self, subject: str) -> None:
        if subject and any(not other.done and other.subject == subject for other in self.operations.values()):
            raise ResourceConflict(f"another operation on {subject} is under way")
