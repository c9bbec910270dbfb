"""Vertex AI as the services use it: jobs, the Model Registry, endpoints, long-running operations.

Google's GAPIC clients (`google.cloud.aiplatform_v1`) over REST, imported on first use: they cost about a second and
100 MB, which an event that needs no Vertex AI must not pay. The high-level `google.cloud.aiplatform` costs twice that.
No method waits for a long-running operation: `start_*` returns its name, `operation` looks at it later.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from dualdeploy import lazily
from dualdeploy.errors import (
    DualDeployError,
    NoCapacity,
    PermissionSpreads,
    RejectedByGoogle,
    ResourceMissing,
    ServiceUnavailable,
)
from dualdeploy.google import errors as google_errors
from dualdeploy.google.calls import call

#: Seconds that one HTTP call may take, and seconds after which a failed reading call is not repeated any more.
CALL_TIMEOUT = 15.0
RETRY_DEADLINE = 10.0

#: Clients of dedicated endpoints that one instance keeps, however many data sets it serves.
MOST_PREDICTION_CLIENTS = 32

#: Labels that mark what is ours and tell which run it belongs to. Underscores, because list filters need quotes
#: around hyphens.
RUN_LABEL = "dualdeploy_run"
TARGET_LABEL = "dualdeploy_target"
DATASET_LABEL = "dualdeploy_dataset"
#: Which attempt a training job belongs to: from 1, one more after each job that Vertex AI could not place.
ATTEMPT_LABEL = "dualdeploy_attempt"
#: Which entry of `training.<target>.capacity` it was asked for as: from 0.
ENTRY_LABEL = "dualdeploy_entry"
#: Digest of the data, and commit of the code that brought it out: for people who look into the registry.
SNAPSHOT_LABEL = "dualdeploy_snapshot"
REVISION_LABEL = "dualdeploy_revision"

Result = TypeVar("Result")


class JobOutcome(enum.StrEnum):
    """What a Vertex AI `JobState` means to us."""

    UNFINISHED = "unfinished"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


#: https://cloud.google.com/vertex-ai/docs/reference/rest/v1/JobState. PARTIALLY_SUCCEEDED belongs to batch jobs.
OUTCOME_BY_STATE: Mapping[str, JobOutcome] = {
    "JOB_STATE_SUCCEEDED": JobOutcome.SUCCEEDED,
    "JOB_STATE_PARTIALLY_SUCCEEDED": JobOutcome.SUCCEEDED,
    "JOB_STATE_FAILED": JobOutcome.FAILED,
    "JOB_STATE_EXPIRED": JobOutcome.FAILED,
    "JOB_STATE_CANCELLED": JobOutcome.CANCELLED,
}


@dataclasses.dataclass(frozen=True)
class CustomJobSpec:
    """So many `replicas` of one training container, on machines of one kind. `timeout` and `wait` in seconds,
    `disk_gb` of each machine's boot disk in gigabytes.

    `strategy` is `standard`, `spot` or `flex_start`; with the last, Vertex AI waits so long for the machines itself.
    """

    display_name: str
    image: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    labels: Mapping[str, str]
    machine: str
    accelerator_type: str
    accelerator_count: int
    strategy: str
    timeout: float
    output_directory: str
    wait: float = 0.0
    service_account: str = ""
    replicas: int = 1
    disk_gb: int = 100


@dataclasses.dataclass(frozen=True)
class Job:
    """`state` is Vertex AI's own name; times are None until they happened; `error_code` is one of google.rpc."""

    name: str
    state: str
    labels: Mapping[str, str]
    error: str = ""
    error_code: int = 0
    created: datetime.datetime | None = None
    started: datetime.datetime | None = None
    ended: datetime.datetime | None = None

    @property
    def outcome(self) -> JobOutcome:
        return OUTCOME_BY_STATE.get(self.state, JobOutcome.UNFINISHED)

    @property
    def is_queued(self) -> bool:
        """Whether Vertex AI has it, and no machine for it yet. One whose machines were taken away is queued again while
        Vertex AI looks for others, up to six times: https://cloud.google.com/vertex-ai/docs/training/use-spot-vms
        """
        return self.state in {"JOB_STATE_QUEUED", "JOB_STATE_PENDING"} and self.started is None

    @property
    def was_never_placed(self) -> bool:
        """Vertex AI takes a job and tells only then that it has no machine, or fails itself before it has begun."""
        if self.outcome is not JobOutcome.FAILED:
            return False
        failure = self.failure()
        if isinstance(failure, NoCapacity):
            return True
        passes = isinstance(failure, ServiceUnavailable) and not isinstance(failure, PermissionSpreads)
        return (passes or self.state == "JOB_STATE_EXPIRED") and self.started is None

    def failure(self) -> DualDeployError:
        """What the failure of a job that was accepted means: no capacity, for example, is told only then."""
        return google_errors.of_status(self.error_code, self.error, f"Vertex AI, {self.name}")


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """One version of a model: its artifact, and the container that serves it (our own predictor)."""

    model_id: str
    display_name: str
    artifact_uri: str
    image: str
    predict_route: str
    health_route: str
    port: int
    environment: Mapping[str, str]
    labels: Mapping[str, str]
    aliases: Sequence[str]
    description: str = ""


@dataclasses.dataclass(frozen=True)
class ModelVersion:
    """`name` is `projects/…/models/<id>`, without a version; `labels` are those of the model and of the version."""

    name: str
    version: str
    aliases: Sequence[str]
    artifact_uri: str
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def versioned_name(self) -> str:
        return f"{self.name}@{self.version}"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How good a version is, as the console shows it: `metrics` are as the schema at `schema_uri` wants them."""

    display_name: str
    schema_uri: str
    metrics: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class DeployedModel:
    id: str
    model: str
    version: str
    display_name: str


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """`traffic` sums to 100 (or is empty); `dns` is a dedicated endpoint's own host, which may come later than it.

    `etag` changes with every change: a split that was decided on what was read is refused when that is no longer so.
    """

    name: str
    deployed: Sequence[DeployedModel]
    traffic: Mapping[str, int]
    dns: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    etag: str = ""
    request_logging: RequestLogging | None = None
    dedicated: bool = False

    @property
    def id(self) -> str:
        return self.name.rsplit("/", 1)[-1]

    @property
    def deployed_ids(self) -> set[str]:
        return {deployed.id for deployed in self.deployed}


@dataclasses.dataclass(frozen=True)
class Answer:
    """One online prediction of one picture: which deployed model gave it, what it said, and how long it took."""

    deployed_id: str
    prediction: Mapping[str, Any]
    seconds: float


@dataclasses.dataclass(frozen=True)
class RequestLogging:
    """What an endpoint writes to BigQuery: `table` is `bq://project[.dataset[.table]]`, `sampling` a share up to 1."""

    table: str
    sampling: float


@dataclasses.dataclass(frozen=True)
class ScaleToZero:
    """Seconds without a request (`idle`), and since the machine came up (`warm`), before the last one is taken away."""

    idle: float
    warm: float


@dataclasses.dataclass(frozen=True)
class Deployment:
    """How a model version is put on an endpoint; `id` is ours (1 to 10 digits), so repeating it does no harm.

    `targets` are per cents by the name of the metric that replicas are added for (`AutoscalingMetricSpec`). With
    `scale_to_zero` it must be alone on a dedicated endpoint, and begins with `min_replicas` machines.
    """

    id: str
    model: str
    display_name: str
    machine: str
    min_replicas: int
    max_replicas: int
    accelerator_type: str = ""
    accelerator_count: int = 0
    targets: Mapping[str, int] = dataclasses.field(default_factory=dict)
    spot: bool = False
    service_account: str = ""
    container_log: bool = True
    access_log: bool = False
    scale_to_zero: ScaleToZero | None = None


@dataclasses.dataclass(frozen=True)
class Operation:
    """A long-running operation: `code` (of google.rpc) and `error` are Google's once it is done and failed."""

    name: str
    done: bool
    error: str = ""
    code: int = 0

    def failure(self, what: str) -> DualDeployError:
        """What its failure means, by the table: most of them are no reason not to start another one."""
        return google_errors.of_status(self.code, self.error, f"Vertex AI, {what}")


class Vertex(Protocol):
    """The part of Vertex AI that the services call; `testing.FakeVertex` is the other implementation.

    Every method raises what `google.errors` makes of Google's answer: RetryLater or RejectedByGoogle.
    """

    def create_custom_job(self, spec: CustomJobSpec) -> Job: ...
    def find_custom_jobs(self, labels: Mapping[str, str]) -> list[Job]: ...
    def get_custom_job(self, name: str) -> Job: ...
    def cancel_custom_job(self, name: str) -> None: ...
    def find_model_version(self, model_id: str, alias: str) -> ModelVersion | None: ...
    def find_model_versions(self, model_id: str) -> list[ModelVersion]: ...
    def start_upload(self, spec: ModelSpec) -> str: ...
    def start_delete_version(self, version: ModelVersion) -> str: ...
    def start_delete_model(self, model_id: str) -> str: ...
    def change_aliases(self, version: ModelVersion, *, add: Sequence[str], remove: Sequence[str] = ()) -> None: ...
    def has_evaluation(self, version: ModelVersion, display_name: str) -> bool: ...
    def import_evaluation(self, version: ModelVersion, evaluation: Evaluation) -> None: ...
    def find_endpoint(self, endpoint_id: str) -> Endpoint | None: ...
    def find_endpoints(self, label: str, value: str = "") -> list[Endpoint]: ...
    def start_delete_endpoint(self, endpoint_id: str) -> str: ...
    def start_create_endpoint(
        self, endpoint_id: str, *, display_name: str, labels: Mapping[str, str], dedicated: bool = True
    ) -> str: ...
    def set_request_logging(self, endpoint: Endpoint, logging: RequestLogging | None) -> None: ...
    def start_deploy(self, endpoint_id: str, deployment: Deployment, *, traffic: Mapping[str, int]) -> str: ...
    def start_undeploy(self, endpoint_id: str, deployed_id: str, *, traffic: Mapping[str, int]) -> str: ...
    def set_traffic(self, endpoint: Endpoint, traffic: Mapping[str, int]) -> None: ...
    def predict(self, endpoint: Endpoint, instance: Mapping[str, Any]) -> Answer: ...
    def operation(self, name: str) -> Operation | None: ...


class VertexGateway:
    """The real thing, or an emulator of it at `emulator_host` (`host:port`, plain HTTP, no credentials).

    `call_timeout` in seconds, `retry_deadline` too: nothing is repeated after it.
    """

    def __init__(
        self,
        *,
        project: str,
        region: str,
        emulator_host: str = "",
        call_timeout: float = CALL_TIMEOUT,
        retry_deadline: float = RETRY_DEADLINE,
    ) -> None:
        self._parent = f"projects/{project}/locations/{region}"
        self._region = region
        self._emulator_host = emulator_host
        self._call_timeout = call_timeout
        self._retry_deadline = retry_deadline
        self._predictions = functools.lru_cache(maxsize=MOST_PREDICTION_CLIENTS)(self._new_predictions)

    # Jobs ------------------------------------------------------------------------------------------------------

    def create_custom_job(self, spec: CustomJobSpec) -> Job:
        """Not repeated by itself: Vertex AI takes no id from us, so a lost answer is found again by its labels."""
        body = _custom_job(spec)
        created = _call(
            "create a custom job",
            lambda: self._jobs.create_custom_job(parent=self._parent, custom_job=body, **self._patience(repeat=False)),
        )
        return _job(created)

    def find_custom_jobs(self, labels: Mapping[str, str]) -> list[Job]:
        """Jobs with all these labels, oldest first."""
        wanted = " AND ".join(f'labels.{key}="{value}"' for key, value in sorted(labels.items()))
        found = _call(
            f"list custom jobs with {wanted}",
            lambda: list(
                self._jobs.list_custom_jobs(
                    request={"parent": self._parent, "filter": wanted}, **self._patience(repeat=True)
                )
            ),
        )
        jobs = [_job(job) for job in found]
        return sorted(jobs, key=lambda job: (job.created is None, job.created, job.name))

    def get_custom_job(self, name: str) -> Job:
        """`name` is the resource name, or the number alone as log entries carry it."""
        full = name if "/" in name else f"{self._parent}/customJobs/{name}"
        found = _call(
            f"get {full}",
            lambda: self._jobs.get_custom_job(name=full, **self._patience(repeat=True)),
        )
        return _job(found)

    def cancel_custom_job(self, name: str) -> None:
        """Ask for the end of a job; one that has ended meanwhile, or is gone, needs none."""
        try:
            _call(
                f"cancel {name}",
                lambda: self._jobs.cancel_custom_job(name=name, **self._patience(repeat=True)),
            )
        except ResourceMissing:
            return
        except RejectedByGoogle:
            # Vertex AI answers 400 FAILED_PRECONDITION for a job that is no longer running.
            if self.get_custom_job(name).outcome is JobOutcome.UNFINISHED:
                raise

    # Model Registry --------------------------------------------------------------------------------------------

    def find_model_version(self, model_id: str, alias: str) -> ModelVersion | None:
        """The version that carries `alias`, or None when the model or the alias does not exist."""
        name = f"{self._parent}/models/{model_id}@{alias}"
        try:
            model = _call(
                f"get {name}",
                lambda: self._models.get_model(name=name, **self._patience(repeat=True)),
            )
        except ResourceMissing:
            return None
        return _model_version(model)

    def find_model_versions(self, model_id: str) -> list[ModelVersion]:
        """Every version of a model, oldest first; none when there is no such model."""
        name = f"{self._parent}/models/{model_id}"
        try:
            found = _call(
                f"list the versions of {name}",
                lambda: list(self._models.list_model_versions(request={"name": name}, **self._patience(repeat=True))),
            )
        except ResourceMissing:
            return []
        return sorted((_model_version(model) for model in found), key=lambda version: int(version.version))

    def start_delete_version(self, version: ModelVersion) -> str:
        """Vertex AI refuses it for a version that is deployed, and for the one with the alias `default`."""
        operation = _call(
            f"delete {version.versioned_name}",
            lambda: self._models.delete_model_version(name=version.versioned_name, **self._patience(repeat=False)),
        )
        return str(operation.operation.name)

    def start_delete_model(self, model_id: str) -> str:
        """With all of its versions; Vertex AI refuses it while one is deployed."""
        name = f"{self._parent}/models/{model_id}"
        operation = _call(
            f"delete {name}", lambda: self._models.delete_model(name=name, **self._patience(repeat=False))
        )
        return str(operation.operation.name)

    def start_upload(self, spec: ModelSpec) -> str:
        """Upload as the first version of `spec.model_id`, or as a further version when the model exists."""
        parent_model = f"{self._parent}/models/{spec.model_id}"
        request: dict[str, Any] = {"parent": self._parent, "model": _model(spec)}
        try:
            _call(
                f"get {parent_model}",
                lambda: self._models.get_model(name=parent_model, **self._patience(repeat=True)),
            )
            request["parent_model"] = parent_model
        except ResourceMissing:
            request["model_id"] = spec.model_id
        operation = _call(
            f"upload a version of {spec.model_id}",
            lambda: self._models.upload_model(request=request, **self._patience(repeat=False)),
        )
        return str(operation.operation.name)

    def change_aliases(self, version: ModelVersion, *, add: Sequence[str], remove: Sequence[str] = ()) -> None:
        """An alias that is added is taken from the version that had it; what the version does not have stays away."""
        changes = [*add, *(f"-{alias}" for alias in remove if alias in version.aliases)]
        if not changes:
            return
        _call(
            f"change the aliases of {version.versioned_name}",
            lambda: self._models.merge_version_aliases(
                name=version.versioned_name, version_aliases=changes, **self._patience(repeat=True)
            ),
        )

    def has_evaluation(self, version: ModelVersion, display_name: str) -> bool:
        """Whether the version has an evaluation of this name; Vertex AI takes no id of ours for one."""
        found = _call(
            f"list the evaluations of {version.versioned_name}",
            lambda: list(
                self._models.list_model_evaluations(parent=version.versioned_name, **self._patience(repeat=True))
            ),
        )
        return any(evaluation.display_name == display_name for evaluation in found)

    def import_evaluation(self, version: ModelVersion, evaluation: Evaluation) -> None:
        """Not repeated by itself: a second import is a second evaluation. Look with `has_evaluation` first."""
        types = lazily.load("google.cloud.aiplatform_v1.types")
        json_format = lazily.load("google.protobuf.json_format")
        struct_pb2 = lazily.load("google.protobuf.struct_pb2")

        imported = types.ModelEvaluation(
            display_name=evaluation.display_name,
            metrics_schema_uri=evaluation.schema_uri,
            metrics=json_format.ParseDict(dict(evaluation.metrics), struct_pb2.Value()),
        )
        _call(
            f"import an evaluation of {version.versioned_name}",
            lambda: self._models.import_model_evaluation(
                parent=version.versioned_name, model_evaluation=imported, **self._patience(repeat=False)
            ),
        )

    # Endpoints -------------------------------------------------------------------------------------------------

    def find_endpoint(self, endpoint_id: str) -> Endpoint | None:
        name = self._endpoint_name(endpoint_id)
        try:
            endpoint = _call(
                f"get {name}",
                lambda: self._endpoints.get_endpoint(name=name, **self._patience(repeat=True)),
            )
        except ResourceMissing:
            return None
        return _endpoint(endpoint)

    def find_endpoints(self, label: str, value: str = "") -> list[Endpoint]:
        """Every endpoint that has the label, with this value or, if it is empty, with any."""
        wanted = f'labels.{label}="{value}"' if value else f"labels.{label}:*"
        found = _call(
            f"list endpoints with {wanted}",
            lambda: list(
                self._endpoints.list_endpoints(
                    request={"parent": self._parent, "filter": wanted}, **self._patience(repeat=True)
                )
            ),
        )
        return [_endpoint(endpoint) for endpoint in found]

    def start_delete_endpoint(self, endpoint_id: str) -> str:
        """Vertex AI refuses it while anything is deployed there."""
        operation = _call(
            f"delete endpoint {endpoint_id}",
            lambda: self._endpoints.delete_endpoint(
                name=self._endpoint_name(endpoint_id), **self._patience(repeat=False)
            ),
        )
        return str(operation.operation.name)

    def start_create_endpoint(
        self, endpoint_id: str, *, display_name: str, labels: Mapping[str, str], dedicated: bool = True
    ) -> str:
        """Dedicated unless told otherwise: a shared one limits a request to 1.5 MB, less than a photo in base64."""
        types = lazily.load("google.cloud.aiplatform_v1.types")

        endpoint = types.Endpoint(display_name=display_name, labels=dict(labels), dedicated_endpoint_enabled=dedicated)
        operation = _call(
            f"create endpoint {endpoint_id}",
            lambda: self._endpoints.create_endpoint(
                request={"parent": self._parent, "endpoint": endpoint, "endpoint_id": endpoint_id},
                **self._patience(repeat=False),
            ),
        )
        return str(operation.operation.name)

    def start_deploy(self, endpoint_id: str, deployment: Deployment, *, traffic: Mapping[str, int]) -> str:
        """`traffic` is the split afterwards, by deployed model id; the new one goes by its id as the others do. With an
        empty one the split stays as it is then (DeployModelRequest.traffic_split)."""
        client, deployed = self._endpoints, _deployed_model(deployment)
        if deployment.scale_to_zero:
            client, deployed = self._beta_endpoints, _to_zero(deployed, deployment.scale_to_zero)
        # DeployModelRequest: "0" stands for the model that this very call deploys.
        split = {"0" if key == deployment.id else key: share for key, share in traffic.items()}
        operation = _call(
            f"deploy {deployment.model} to {endpoint_id}",
            lambda: client.deploy_model(
                request={
                    "endpoint": self._endpoint_name(endpoint_id),
                    "deployed_model": deployed,
                    "traffic_split": split,
                },
                **self._patience(repeat=False),
            ),
        )
        return str(operation.operation.name)

    def start_undeploy(self, endpoint_id: str, deployed_id: str, *, traffic: Mapping[str, int]) -> str:
        """`traffic` is the split afterwards; with an empty one it stays, and a model that has a share of it is refused
        (but for the last model of an endpoint, which may always go)."""
        operation = _call(
            f"undeploy {deployed_id} from {endpoint_id}",
            lambda: self._endpoints.undeploy_model(
                request={
                    "endpoint": self._endpoint_name(endpoint_id),
                    "deployed_model_id": deployed_id,
                    "traffic_split": dict(traffic),
                },
                **self._patience(repeat=False),
            ),
        )
        return str(operation.operation.name)

    def set_traffic(self, endpoint: Endpoint, traffic: Mapping[str, int]) -> None:
        """Give the endpoint this split, unless it was changed since it was read (ResourceConflict): no operation."""
        types = lazily.load("google.cloud.aiplatform_v1.types")
        field_mask_pb2 = lazily.load("google.protobuf.field_mask_pb2")

        changed = types.Endpoint(name=endpoint.name, etag=endpoint.etag, traffic_split=dict(traffic))
        _call(
            f"split the traffic of {endpoint.id}",
            lambda: self._endpoints.update_endpoint(
                endpoint=changed,
                update_mask=field_mask_pb2.FieldMask(paths=["traffic_split"]),
                **self._patience(repeat=False),
            ),
        )

    def set_request_logging(self, endpoint: Endpoint, logging: RequestLogging | None) -> None:
        """Have the endpoint write a share of its predictions to BigQuery, or stop it: no operation."""
        types = lazily.load("google.cloud.aiplatform_v1.types")
        field_mask_pb2 = lazily.load("google.protobuf.field_mask_pb2")

        config = types.PredictRequestResponseLoggingConfig(enabled=logging is not None)
        if logging:
            config.sampling_rate = logging.sampling
            config.bigquery_destination = types.BigQueryDestination(output_uri=logging.table)
        changed = types.Endpoint(name=endpoint.name, etag=endpoint.etag, predict_request_response_logging_config=config)
        _call(
            f"change the request log of {endpoint.id}",
            lambda: self._endpoints.update_endpoint(
                endpoint=changed,
                update_mask=field_mask_pb2.FieldMask(paths=["predict_request_response_logging_config"]),
                **self._patience(repeat=False),
            ),
        )

    def predict(self, endpoint: Endpoint, instance: Mapping[str, Any]) -> Answer:
        """One picture through the endpoint, as users send it; not repeated, because a failure is what is looked for."""
        json_format = lazily.load("google.protobuf.json_format")
        struct_pb2 = lazily.load("google.protobuf.struct_pb2")

        value = json_format.ParseDict(dict(instance), struct_pb2.Value())
        client = self._predictions(endpoint.dns)
        began = time.perf_counter()
        answer = _call(
            f"predict with {endpoint.id}",
            lambda: client.predict(endpoint=endpoint.name, instances=[value], **self._patience(repeat=False)),
        )
        seconds = time.perf_counter() - began
        predictions = json_format.MessageToDict(type(answer).pb(answer)).get("predictions") or [{}]
        first = predictions[0]
        return Answer(answer.deployed_model_id, first if isinstance(first, Mapping) else {}, seconds)

    def operation(self, name: str) -> Operation | None:
        """The operation as it stands, or None when Vertex AI no longer knows it."""
        try:
            found = self._operation(name)
        except ResourceMissing:
            return None
        code = int(found.error.code)
        return Operation(name, bool(found.done), found.error.message or f"code {code}" if code else "", code)

    # Inside ----------------------------------------------------------------------------------------------------

    def _operation(self, name: str) -> Any:
        json_format = lazily.load("google.protobuf.json_format")

        client = self._endpoints.transport.operations_client

        def get() -> Any:
            return _call(f"get {name}", lambda: client.get_operation(name=name, **self._patience(repeat=True)))

        try:
            return get()
        except json_format.ParseError:
            # Begun through v1beta1 by another instance: its messages can be read once their package is imported.
            self._beta_endpoints  # noqa: B018  # for its effect
            return get()

    def _endpoint_name(self, endpoint_id: str) -> str:
        return f"{self._parent}/endpoints/{endpoint_id}"

    def _patience(self, *, repeat: bool) -> dict[str, Any]:
        """GAPIC clients repeat nothing by themselves, and only reading calls may be repeated."""
        exceptions = lazily.load("google.api_core.exceptions")
        retries = lazily.load("google.api_core.retry")
        transient = retries.if_exception_type(
            exceptions.ServiceUnavailable, exceptions.TooManyRequests, exceptions.BadGateway
        )
        retry = retries.Retry(predicate=transient, initial=0.2, maximum=3.0, timeout=self._retry_deadline)
        return {"timeout": self._call_timeout, "retry": retry if repeat else None}

    @functools.cached_property
    def _jobs(self) -> Any:
        return lazily.load("google.cloud.aiplatform_v1").JobServiceClient(**self._client_arguments())

    @functools.cached_property
    def _models(self) -> Any:
        return lazily.load("google.cloud.aiplatform_v1").ModelServiceClient(**self._client_arguments())

    @functools.cached_property
    def _endpoints(self) -> Any:
        return lazily.load("google.cloud.aiplatform_v1").EndpointServiceClient(**self._client_arguments())

    @functools.cached_property
    def _beta_endpoints(self) -> Any:
        """For what v1 does not have. A second package of its size (a second, 65 MB): only who scales to zero pays."""
        return lazily.load("google.cloud.aiplatform_v1beta1").EndpointServiceClient(**self._client_arguments())

    def _new_predictions(self, dns: str) -> Any:
        """A dedicated endpoint answers at a host of its own only; those that were asked last are kept."""
        return lazily.load("google.cloud.aiplatform_v1").PredictionServiceClient(**self._client_arguments(dns))

    def _client_arguments(self, host: str = "") -> dict[str, Any]:
        if not self._emulator_host:
            return {
                "transport": "rest",
                "client_options": {"api_endpoint": host or f"{self._region}-aiplatform.googleapis.com"},
            }
        # Anonymous on purpose: otherwise a real bearer token would travel over plain HTTP.
        return {
            "transport": "rest",
            "credentials": lazily.load("google.auth.credentials").AnonymousCredentials(),
            "client_options": {"api_endpoint": f"http://{self._emulator_host}"},
        }


def _custom_job(spec: CustomJobSpec) -> Any:
    types = lazily.load("google.cloud.aiplatform_v1.types")
    duration_pb2 = lazily.load("google.protobuf.duration_pb2")

    machine = _machine(spec.machine, spec.accelerator_type, spec.accelerator_count)
    scheduling = types.Scheduling(timeout=duration_pb2.Duration(seconds=int(spec.timeout)))
    if spec.strategy == "spot":
        scheduling.strategy = types.Scheduling.Strategy.SPOT
    elif spec.strategy == "flex_start":
        scheduling.strategy = types.Scheduling.Strategy.FLEX_START
        scheduling.max_wait_duration = duration_pb2.Duration(seconds=int(spec.wait))
    if spec.replicas > 1:
        # Workers that learn together cannot go on without one of them: all start again, from the last checkpoint.
        scheduling.restart_job_on_worker_restart = True

    def pool(replicas: int) -> Any:
        return types.WorkerPoolSpec(
            machine_spec=machine,
            replica_count=replicas,
            disk_spec=types.DiskSpec(boot_disk_type="pd-ssd", boot_disk_size_gb=spec.disk_gb),
            container_spec=types.ContainerSpec(
                image_uri=spec.image,
                args=list(spec.arguments),
                env=[types.EnvVar(name=name, value=value) for name, value in spec.environment.items()],
            ),
        )

    return types.CustomJob(
        display_name=spec.display_name,
        labels=dict(spec.labels),
        job_spec=types.CustomJobSpec(
            # The first pool is the chief and has one machine; Vertex AI names both pools in TF_CONFIG.
            worker_pool_specs=[pool(1), pool(spec.replicas - 1)] if spec.replicas > 1 else [pool(1)],
            scheduling=scheduling,
            service_account=spec.service_account,
            base_output_directory=types.GcsDestination(output_uri_prefix=spec.output_directory),
        ),
    )


def _deployed_model(deployment: Deployment) -> Any:
    types = lazily.load("google.cloud.aiplatform_v1.types")

    return types.DeployedModel(
        id=deployment.id,
        model=deployment.model,
        display_name=deployment.display_name,
        service_account=deployment.service_account,
        disable_container_logging=not deployment.container_log,
        enable_access_logging=deployment.access_log,
        dedicated_resources=types.DedicatedResources(
            machine_spec=_machine(deployment.machine, deployment.accelerator_type, deployment.accelerator_count),
            min_replica_count=deployment.min_replicas,
            max_replica_count=deployment.max_replicas,
            autoscaling_metric_specs=[
                types.AutoscalingMetricSpec(metric_name=name, target=target)
                for name, target in sorted(deployment.targets.items())
            ],
            spot=deployment.spot,
        ),
    )


def _to_zero(usual: Any, to_zero: ScaleToZero) -> Any:
    """A `DeployedModel` of v1 as one of v1beta1, which has the same fields with the same numbers, and what v1 lacks."""
    types = lazily.load("google.cloud.aiplatform_v1beta1.types")
    duration_pb2 = lazily.load("google.protobuf.duration_pb2")

    deployed = types.DeployedModel.deserialize(type(usual).serialize(usual))
    resources = deployed.dedicated_resources
    resources.initial_replica_count, resources.min_replica_count = resources.min_replica_count, 0
    resources.scale_to_zero_spec = types.DedicatedResources.ScaleToZeroSpec(
        idle_scaledown_period=duration_pb2.Duration(seconds=int(to_zero.idle)),
        min_scaleup_period=duration_pb2.Duration(seconds=int(to_zero.warm)),
    )
    return deployed


def _machine(machine: str, accelerator: str, count: int) -> Any:
    """A `MachineSpec`. Raises RejectedByGoogle for an accelerator that Vertex AI does not have."""
    types = lazily.load("google.cloud.aiplatform_v1.types")

    spec = types.MachineSpec(machine_type=machine)
    if count:
        if accelerator not in types.AcceleratorType.__members__:
            known = ", ".join(sorted(types.AcceleratorType.__members__))
            raise RejectedByGoogle(f"Vertex AI has no accelerator {accelerator!r}; it has {known}")
        spec.accelerator_type = types.AcceleratorType[accelerator]
        spec.accelerator_count = count
    return spec


def _model(spec: ModelSpec) -> Any:
    types = lazily.load("google.cloud.aiplatform_v1.types")

    return types.Model(
        display_name=spec.display_name,
        description=spec.description,
        artifact_uri=spec.artifact_uri,
        labels=dict(spec.labels),
        version_aliases=list(spec.aliases),
        version_description=spec.description,
        container_spec=types.ModelContainerSpec(
            image_uri=spec.image,
            env=[types.EnvVar(name=name, value=value) for name, value in spec.environment.items()],
            ports=[types.Port(container_port=spec.port)],
            predict_route=spec.predict_route,
            health_route=spec.health_route,
        ),
    )


def _model_version(model: Any) -> ModelVersion:
    return ModelVersion(
        name=model.name.split("@", 1)[0],
        version=model.version_id,
        aliases=tuple(model.version_aliases),
        artifact_uri=model.artifact_uri,
        labels=dict(model.labels),
    )


def _endpoint(endpoint: Any) -> Endpoint:
    return Endpoint(
        name=endpoint.name,
        deployed=tuple(
            DeployedModel(deployed.id, deployed.model, deployed.model_version_id, deployed.display_name)
            for deployed in endpoint.deployed_models
        ),
        traffic=dict(endpoint.traffic_split),
        dns=endpoint.dedicated_endpoint_dns,
        labels=dict(endpoint.labels),
        etag=endpoint.etag,
        request_logging=_request_logging(endpoint.predict_request_response_logging_config),
        dedicated=endpoint.dedicated_endpoint_enabled,
    )


def _request_logging(config: Any) -> RequestLogging | None:
    # A double of the wire, a share as people write it: 0.1 must equal 0.1.
    return (
        RequestLogging(config.bigquery_destination.output_uri, round(config.sampling_rate, 6))
        if config.enabled
        else None
    )


def _job(job: Any) -> Job:
    return Job(
        name=job.name,
        # A state that this client library does not know yet arrives as a bare number.
        state=getattr(job.state, "name", str(job.state)),
        labels=dict(job.labels),
        error=job.error.message if job.error else "",
        error_code=int(job.error.code) if job.error else 0,
        created=_moment(job.create_time),
        started=_moment(job.start_time),
        ended=_moment(job.end_time),
    )


def _moment(value: Any) -> datetime.datetime | None:
    return datetime.datetime.fromtimestamp(value.timestamp(), datetime.UTC) if value else None


def _call(what: str, function: Callable[[], Result]) -> Result:
    return call(f"Vertex AI, {what}", function)
