"""The values in which our services and Vertex AI understand each other."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Mapping, Sequence
from typing import Any

from dualdeploy.contracts.prediction import Form
from dualdeploy.errors import (
    DualDeployError,
    NoCapacity,
    PermissionSpreads,
    ServiceUnavailable,
)
from dualdeploy.google import errors as google_errors

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


#: On a version of ours: in which forms its predictor takes pictures (`contracts.prediction`). Without it, b64 alone.
FORMS_LABEL, BOTH_FORMS = "dualdeploy_forms", "b64_content"


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
    # Those of a training pipeline: https://cloud.google.com/vertex-ai/docs/reference/rest/v1/PipelineState
    "PIPELINE_STATE_SUCCEEDED": JobOutcome.SUCCEEDED,
    "PIPELINE_STATE_FAILED": JobOutcome.FAILED,
    "PIPELINE_STATE_CANCELLED": JobOutcome.CANCELLED,
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
    def billed_seconds(self) -> float:
        """How long the job ran, as Vertex AI has it; 0 when it never started."""
        return (self.ended - self.started).total_seconds() if self.started and self.ended else 0.0

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
    """`name` is `projects/…/models/<id>`, without a version; `labels` are those of the model and of the version.

    `resources` are what it can be deployed with, in Vertex AI's words (`Model.DeploymentResourcesType`).
    """

    name: str
    version: str
    aliases: Sequence[str]
    artifact_uri: str
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    resources: Sequence[str] = ()

    @property
    def is_automatic(self) -> bool:
        """Whether Google chooses the machines that it serves on, as for AutoML's image models."""
        return "AUTOMATIC_RESOURCES" in self.resources and "DEDICATED_RESOURCES" not in self.resources

    @property
    def forms(self) -> frozenset[Form]:
        """How its pictures may be sent once it is deployed."""
        if self.is_automatic:
            return frozenset({"content"})
        return frozenset({"b64", "content"} if self.labels.get(FORMS_LABEL) == BOTH_FORMS else {"b64"})

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
    `scale_to_zero` it must be alone on a dedicated endpoint, and begins with `min_replicas` machines. With `automatic`
    Google chooses the machines: of the rest, only the number of replicas counts.
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
    automatic: bool = False


@dataclasses.dataclass(frozen=True)
class Operation:
    """A long-running operation: `code` (of google.rpc) and `error` are Google's once it is done and failed.

    `metadata` is what its kind tells besides, as JSON: `genericMetadata.partialFailures` of an import, `outputInfo` of
    an export.
    """

    name: str
    done: bool
    error: str = ""
    code: int = 0
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def partial_failures(self) -> list[str]:
        """What an operation that did not fail could not do all the same; Google tells at most 20 of them."""
        failures = self.metadata.get("genericMetadata", {}).get("partialFailures", [])
        return [str(each.get("message", "")) for each in failures]

    def failure(self, what: str) -> DualDeployError:
        """What its failure means, by the table: after most of them another one may be started."""
        return google_errors.of_status(self.code, self.error, f"Vertex AI, {what}")
