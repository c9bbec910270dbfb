"""Configuration of one data set: `gs://CONFIG/datasets/<dataset>.yaml`, checked whole before anything uses it.

Every key has a default but `dataset` and `labels`; unknown keys are errors, so a misspelt limit is never silently
the default. All faults are reported together, each with its path.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
import reprlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from dualdeploy.contracts import architectures, automl, cron, dataset_name, machines, yaml_document
from dualdeploy.contracts.example import PRESETS, fault_of_labels
from dualdeploy.contracts.quantization import Quantization
from dualdeploy.contracts.routing import Mode
from dualdeploy.contracts.shards import ShardNames
from dualdeploy.contracts.split import BY_NAMES, SplitRule
from dualdeploy.contracts.training import RECIPES
from dualdeploy.errors import InvalidDatasetConfig

DATASET_NAME = dataset_name.DATASET_NAME

#: Firebase ML refuses other display names (firebase_admin.ml, `_DISPLAY_NAME_PATTERN`).
FIREBASE_NAME = r"^[A-Za-z0-9_-]{1,32}$"

#: Vertex AI's BigQueryDestination: a project, a data set of it, or a table of that; what is not given, Google makes.
BIGQUERY_TABLE = r"^bq://[a-z][a-z0-9.:-]*(\.[A-Za-z0-9_]+){0,2}$"

#: Email address of a service account.
SERVICE_ACCOUNT = r"^[a-z0-9-]+@[a-z0-9.-]+\.gserviceaccount\.com$"

#: A container image by digest; a tag may name another one tomorrow.
IMAGE = re.compile(r"(?!.*//)[a-z0-9][a-z0-9._/:-]*[a-z0-9]@sha256:[0-9a-f]{64}")

#: Vertex AI: an endpoint id given by the user begins with a letter and has at most 63 of `[a-z0-9-]`.
ENDPOINT_ID = r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_CLOCK = re.compile(r"(\d{1,3}):(\d{2})")
_LAST_FOLDERS = re.compile(r"last: [1-9]\d{0,2}", re.ASCII)
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: object) -> float:
    """Seconds of `2m`, `90s`, `1h`, `1d` or a bare number of seconds. Raises ValueError with an example."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    text = str(value).strip()
    match = _DURATION.fullmatch(text)
    if clock := _CLOCK.fullmatch(text):
        count = int(clock[1]) * 60 + int(clock[2])
        raise ValueError(f"may be hours or minutes: write {count}m or {count}s")
    if not match:
        raise ValueError("must be a duration such as 90s, 2m, 1h or 1d")
    return float(match[1]) * _UNIT_SECONDS[match[2]]


Duration = Annotated[float, pydantic.BeforeValidator(parse_duration)]
TimeLimit = Annotated[Duration, Field(gt=0.0)]


def parse_snapshot(value: object) -> str:
    """`all`, `latest_folder`, or `last: N` also as the mapping `{last: N}`. Raises ValueError with all three."""
    last = value.get("last") if isinstance(value, Mapping) and value.keys() == {"last"} else None
    text = f"last: {last}" if isinstance(last, int) and not isinstance(last, bool) else value
    if text in ("all", "latest_folder") or (isinstance(text, str) and _LAST_FOLDERS.fullmatch(text)):
        return str(text)
    raise ValueError("must be all, latest_folder or {last: N} with N from 1 to 999")


SnapshotRule = Annotated[str, pydantic.BeforeValidator(parse_snapshot)]


def _rise_to_everything(value: tuple[int, ...]) -> tuple[int, ...]:
    if list(value) != sorted(set(value)) or value[-1] != 100:
        raise ValueError("must rise and end with 100, such as [5, 25, 50, 100]")
    return value


#: Percentages of a rollout, one after the other.
Shares = Annotated[
    tuple[Annotated[int, Field(ge=1, le=100)], ...],
    Field(min_length=1),
    pydantic.AfterValidator(_rise_to_everything),
]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class _Section(pydantic.BaseModel):
    """Frozen, and strict about keys."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Features(_Section):
    """Names of the features of a `tf.train.Example` that are read; all others are ignored."""

    image: str = "image"
    label: str = "class"
    split: str = "split"


class RetrainSchedule(_Section):
    """When to retrain although nothing arrived: five fields of cron, in a time zone as the IANA names it."""

    cron: str
    time_zone: str = "UTC"

    @pydantic.model_validator(mode="before")
    @classmethod
    def _an_expression_alone_is_enough(cls, document: Any) -> Any:
        return {"cron": document} if isinstance(document, str) else document

    @pydantic.model_validator(mode="after")
    def _is_a_schedule(self) -> RetrainSchedule:
        cron.check(self.cron, self.time_zone)
        return self


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


#: Names of shards with `*`, `?` and `[…]`; one or a list.
NamePatterns = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[^/\s](.*\S)?$")], ...], pydantic.BeforeValidator(_one_or_many)
]


class Data(_Section):
    """Which objects are shards of this data set, and when a batch of them is complete."""

    prefix: str = ""
    shards: NamePatterns = ()
    snapshot: SnapshotRule = "all"
    quiet_period: Duration = 120.0
    split: SplitRule = BY_NAMES
    features: Features = Features()
    first_label: int = Field(default=0, ge=0)
    on_new_data: Literal["queue", "supersede"] = "queue"
    retrain_schedule: RetrainSchedule | None = None
    retrain_every: Annotated[Duration, Field(ge=3600.0)] | None = None
    retrain_force: bool = False

    @property
    def shard_names(self) -> ShardNames:
        return ShardNames(self.prefix, self.shards)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _schema_names_the_features(cls, document: Any) -> Any:
        """`schema` is short for the names that a family of writers uses; what is written beside it counts more."""
        if not isinstance(document, Mapping) or "schema" not in document:
            return document
        rest = {key: value for key, value in document.items() if key != "schema"}
        preset = PRESETS.get(str(document["schema"]))
        if preset is None:
            raise ValueError(f"schema must be one of {', '.join(PRESETS)}, not {document['schema']!r}")
        given = rest.get("features") or {}
        if isinstance(given, Mapping):
            rest["features"] = {"image": preset.image, "label": preset.label, **given}
        return {"first_label": preset.first_label, **rest}

    @property
    def last_folders(self) -> int | None:
        """How many of the last sub-folders make a run; None for everything under the prefix."""
        if self.snapshot == "all":
            return None
        return 1 if self.snapshot == "latest_folder" else int(self.snapshot.removeprefix("last: "))


class Validation(_Section):
    """How much is read before anything is spent: `max_bytes`, as stored, of at most `max_shards` shards."""

    max_bytes: int = Field(default=512_000_000, ge=1_000_000)
    max_shards: int = Field(default=10_000, ge=1)


class Accelerator(_Section):
    type: str = "NVIDIA_TESLA_T4"
    count: int = Field(default=1, ge=1, le=16)


def _machine_fault(machine: str, accelerator: Accelerator | None) -> str:
    """What Vertex AI would refuse after the data was validated, or after the training was paid for."""
    asked = (accelerator.type, accelerator.count) if accelerator else ("", 0)
    return machines.table().fault(machine, *asked)


class Recipe(_Section):
    """How the network learns: keys and defaults of `dualdeploy.contracts.training.Recipe`, which the trainer reads."""

    augmentation: Literal["auto", "standard", "light", "none"] = "auto"
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0, lt=1)
    class_weights: Literal["auto", "none"] = "auto"
    warm_up: float = Field(default=0.15, ge=0, lt=1)
    early_stopping: int = Field(default=8, ge=0)
    head: Literal["steps", "features"] = "steps"
    head_share: Fraction = 0.3
    fine_tuned_share: Fraction = 0.4
    fine_tuning_rate: float = Field(default=0.1, gt=0, le=1)


def _named(value: object) -> object:
    """A recipe's name stands for the keys that make it one."""
    if not isinstance(value, str):
        return value
    if value not in RECIPES:
        raise ValueError(f"must be {', '.join(RECIPES)}, or a section of keys")
    return RECIPES[value]


Strategy = Literal["spot", "standard", "flex_start"]


class Capacity(_Section):
    """One way of asking for a job's machines, and how long it is asked in this way before the next has its turn.

    `machine` and `accelerator` are those of `training.<target>` unless given. With `flex_start`, Vertex AI itself waits
    for the machine, for so long.
    """

    machine: str = ""
    accelerator: Accelerator | None = None
    strategy: Strategy = "standard"
    wait: Annotated[Duration, Field(ge=60.0, le=86400.0)] = 1800.0

    @property
    def fault(self) -> str:
        """Why Vertex AI would refuse it; empty when it would not."""
        fault = _machine_fault(self.machine, self.accelerator)
        if fault or self.strategy != "flex_start":
            return fault
        return machines.table().flex_start_fault(self.accelerator.type if self.accelerator else "")


#: Names that are paths like others: none of them goes up, or is empty.
_MODULE = re.compile(
    r"gs://[a-z0-9][a-z0-9._-]+/modules/(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*\.py"
)


def _known(architecture: str) -> str:
    if fault := architectures.unknown(architecture):
        raise ValueError(fault)
    module = architectures.module_of(architecture)
    if module and not _MODULE.fullmatch(module):
        raise ValueError(
            f"must name a file below modules/ of the configuration bucket, not {module!r}: upload it there"
        )
    return architecture


def _pinned(image: str) -> str:
    if image and not IMAGE.fullmatch(image):
        repository = image.rpartition("://")[2].partition("@")[0]
        name = repository.rpartition(":")[0] if ":" in repository.rpartition("/")[2] else repository
        raise ValueError(
            f"must name an image by its digest, which never becomes another one: write {name or 'REPOSITORY'}@sha256:"
            "<64 hex digits>, as `docker push` says it"
        )
    return image


#: `keras:<Name>`, the short name of one of those, or `module:gs://…`; see `dualdeploy.contracts.architectures`.
Architecture = Annotated[str, pydantic.AfterValidator(_known)]


class TargetTraining(_Section):
    """How one of the two models is trained. Sizes in pixels, `timeout` a duration; without, the pictures decide.

    `image` trains it instead of ours, by the contract of docs/own-container.md. `capacity` is how its machines are
    asked for, one way after the other; first as spot, then as usual if not said.
    """

    image: Annotated[str, pydantic.AfterValidator(_pinned)] = ""
    architecture: Architecture
    weights: Annotated[str, Field(pattern=r"^(none|imagenet|gs://[^/]+/.+)$")] = "imagenet"
    image_size: int = Field(default=224, ge=32, le=1024)
    epochs: int = Field(default=12, ge=1, le=1000)
    batch_size: int = Field(default=32, ge=1, le=4096)
    learning_rate: float = Field(default=0.001, gt=0, lt=10)
    seed: int = Field(default=0, ge=0)
    max_bad_records: Fraction = 0.01
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    xla: Literal["auto", "on", "off"] = "auto"
    recipe: Annotated[Recipe, pydantic.BeforeValidator(_named)] = Recipe()
    machine: str = "n1-standard-8"
    accelerator: Accelerator | None = Accelerator()
    replicas: int = Field(default=1, ge=1, le=32)
    capacity: tuple[Capacity, ...] = Field(
        default=(Capacity(strategy="spot"), Capacity()), min_length=1, max_length=10, validate_default=True
    )
    timeout: Annotated[TimeLimit, Field(le=604800.0)] | None = None

    @pydantic.model_serializer(mode="wrap")
    def _without_a_timeout_that_nobody_wrote(self, write: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Runs keep their configuration, and a service of the version before knows no timeout that is none.
        written: dict[str, Any] = write(self)
        return {key: value for key, value in written.items() if key != "timeout" or value is not None}

    @pydantic.field_validator("capacity")
    @classmethod
    def _capacity_is_of_this_machine(
        cls, value: tuple[Capacity, ...], info: pydantic.ValidationInfo
    ) -> tuple[Capacity, ...]:
        usual = {key: info.data[key] for key in ("machine", "accelerator") if key in info.data}
        return tuple(
            entry.model_copy(update={key: usual[key] for key in usual.keys() - entry.model_fields_set})
            for entry in value
        )

    @pydantic.model_validator(mode="after")
    def _vertex_ai_has_the_machines(self) -> TargetTraining:
        if fault := _machine_fault(self.machine, self.accelerator):
            raise ValueError(fault)
        faults = (f"capacity.{number}: {each.fault}" for number, each in enumerate(self.capacity) if each.fault)
        if fault := "; ".join(faults):
            raise ValueError(fault)
        for number, (each, before) in enumerate(zip(self.capacity[1:], self.capacity, strict=False), start=1):
            # A queued job would lose its place for the same machine.
            if each.model_copy(update={"wait": before.wait}) == before:
                raise ValueError(f"capacity.{number} asks for the same as the entry before it: make one of both")
        return self

    @pydantic.model_validator(mode="after")
    def _the_network_can_be_trained_like_this(self) -> TargetTraining:
        if fault := architectures.misused(
            self.architecture,
            weights=self.weights,
            image_size=self.image_size,
            fits_head=self.recipe.head == "features",
        ):
            raise ValueError(fault)
        return self


class CloudTraining(TargetTraining):
    architecture: Architecture = "densenet121"


class MobileTraining(TargetTraining):
    architecture: Architecture = "mobilenet_v3_small"
    epochs: int = Field(default=20, ge=1, le=1000)


class AutoMLCloud(_Section):
    """What AutoML may spend on the cloud model, in node hours; Google's own default is 192."""

    budget_node_hours: float = Field(default=8.0, ge=automl.CLOUD_NODE_HOURS[0], le=automl.CLOUD_NODE_HOURS[1])
    model_type: automl.CloudType = "CLOUD"


class AutoMLMobile(_Section):
    """What AutoML may spend on the phones' model, in node hours; Google's own default is 24."""

    budget_node_hours: float = Field(default=1.0, ge=automl.MOBILE_NODE_HOURS[0], le=automl.MOBILE_NODE_HOURS[1])
    model_type: automl.MobileType = "MOBILE_TF_VERSATILE_1"


class AutoMLData(_Section):
    """The job that turns shards into pictures which AutoML imports: one machine, no accelerator."""

    machine: str = "e2-standard-4"
    timeout: Annotated[TimeLimit, Field(le=604800.0)] = 21600.0

    @pydantic.model_validator(mode="after")
    def _vertex_ai_has_the_machine(self) -> AutoMLData:
        if fault := _machine_fault(self.machine, None):
            raise ValueError(fault)
        return self


class AutoML(_Section):
    """What counts with `method: automl`, instead of the sections of our own trainer."""

    data: AutoMLData = AutoMLData()
    cloud: AutoMLCloud = AutoMLCloud()
    mobile: AutoMLMobile = AutoMLMobile()

    def of(self, target: str) -> AutoMLCloud | AutoMLMobile:
        """The section of `cloud` or `mobile`."""
        sections: dict[str, AutoMLCloud | AutoMLMobile] = {"cloud": self.cloud, "mobile": self.mobile}
        return sections[target]


class Training(_Section):
    """`method`: our own trainer with `cloud` and `mobile`, or Google's AutoML with `automl`."""

    method: Literal["custom", "automl"] = "custom"
    cloud: CloudTraining = CloudTraining()
    mobile: MobileTraining = MobileTraining()
    automl: AutoML = AutoML()

    def of(self, target: str) -> TargetTraining:
        """The section of `cloud` or `mobile`."""
        return {"cloud": self.cloud, "mobile": self.mobile}[target]

    @property
    def tolerated_bad_records(self) -> float:
        """What the stricter of the two trainers would refuse must not start either of them."""
        return min(self.cloud.max_bad_records, self.mobile.max_bad_records)


class TargetBudget(_Section):
    """What an hour of this target's job costs (overrides our table), and how long it is expected to take.

    Of AutoML's trainings it is what a node hour costs, and their budgets are what they are expected to take.
    """

    usd_per_hour: float | None = Field(default=None, ge=0, lt=100_000)
    expected: TimeLimit | None = None


class Budget(_Section):
    """What the owner allows, in US dollars; without limits, estimates are only recorded."""

    max_usd_per_run: float | None = Field(default=None, gt=0)
    max_usd_per_month: float | None = Field(default=None, gt=0)
    unknown_price: Literal["refuse", "warn"] = "refuse"
    cloud: TargetBudget = TargetBudget()
    mobile: TargetBudget = TargetBudget()
    data: TargetBudget = TargetBudget()

    def of(self, target: str) -> TargetBudget:
        """The section of `cloud` or `mobile`, or of the job that prepares `data` for AutoML."""
        return {"cloud": self.cloud, "mobile": self.mobile, "data": self.data}[target]

    @property
    def is_limited(self) -> bool:
        return self.max_usd_per_run is not None or self.max_usd_per_month is not None


class CloudGate(_Section):
    """What a model must reach before it may serve; regressions against the model that serves, on the same pictures.

    `mode: warn` lets a model that fails go out, and says so in its history.
    """

    mode: Literal["enforce", "warn"] = "enforce"
    min_accuracy: Fraction = 0.0
    max_regression: Fraction | None = 0.01
    max_class_regression: Fraction | None = 0.05
    max_calibration_error: Fraction | None = None
    max_calibration_regression: Fraction | None = None
    max_latency: TimeLimit | None = None
    max_latency_ratio: float | None = Field(default=3.0, gt=0)


class MobileGate(_Section):
    """What a file for phones must reach; a limit that is not given is no rule. Shares from 0 to 1."""

    min_accuracy: Fraction = 0.0
    max_size_mb: float = Field(default=50.0, gt=0)
    max_conversion_loss: Fraction | None = 0.05
    max_class_loss: Fraction | None = None
    max_regression: Fraction | None = None
    min_cloud_agreement: Fraction | None = None
    max_latency_ms: float | None = Field(default=None, gt=0)
    max_memory_mb: float | None = Field(default=None, gt=0)


class Gates(_Section):
    cloud: CloudGate = CloudGate()
    mobile: MobileGate = MobileGate()


class Monitored(_Section):
    """What Cloud Monitoring must have seen of the new model at each share: all of its traffic, not only our probes.

    Missing data is no approval: it is waited for after `bake`, for at most `wait`, and then the rollout goes back.
    """

    max_error_rate: Fraction = 0.05
    max_latency: TimeLimit | None = None
    wait: Annotated[Duration, Field(ge=300.0)] = 600.0


class Canary(_Section):
    """How a new model gets its traffic: percentages that rise to 100, each held for `bake`, each proven by probes.

    `answers`: how many of the golden pictures the new model must have answered at each step. `max_latency` is absolute,
    `max_latency_ratio` against the model that serves, whose p95 `latency_slack` is added to.
    """

    steps: Shares = (5, 25, 50, 100)
    bake: Duration = 300.0
    answers: int = Field(default=10, ge=1, le=100)
    min_agreement: Fraction = 0.9
    max_error_rate: Fraction = 0.1
    max_latency_ratio: float = Field(default=2.0, gt=0)
    latency_slack: Duration = 0.25
    max_latency: TimeLimit | None = None
    monitoring: Monitored | None = None


def _at_least_one_replica(value: object) -> object:
    """Send who wants no machine while nobody asks to where that is said with its price; a bare limit would look odd."""
    if value == 0 and not isinstance(value, bool):
        raise ValueError(
            "must be at least 1. For scaling to zero write serving.scale_to_zero: {idle: 1h} and no min_replicas."
            " Vertex AI then allows one model on the endpoint, so each release takes the old one down first, without a"
            " canary. To have it undeployed after days without a request write serving.idle: undeploy"
        )
    return value


class ScaleToZero(_Section):
    """How long Vertex AI waits before it takes the last machine away (Preview, v1beta1 of the API only).

    `idle`: since the last request; `warm`: since the machine came up. Bounds and defaults are those of
    `DedicatedResources.ScaleToZeroSpec`.
    """

    idle: Annotated[Duration, Field(ge=300.0, le=28800.0)] = 3600.0
    warm: Annotated[Duration, Field(ge=300.0, le=28800.0)] = 3600.0


class Autoscaling(_Section):
    """When replicas are added: above so many per cent of the processors or of the accelerators in use.

    Vertex AI's own target is 60 for each. `requests` is Vertex AI's metric request_count, with the same bounds.
    """

    cpu: int | None = Field(default=None, ge=1, le=100)
    accelerator: int | None = Field(default=None, ge=1, le=100)
    requests: int | None = Field(default=None, ge=1, le=100)


class RequestLog(_Section):
    """Which share of the predictions is written to which table of BigQuery, with picture and answer."""

    table: Annotated[str, Field(pattern=BIGQUERY_TABLE)]
    sampling: float = Field(default=0.1, gt=0, le=1)


class Serving(_Section):
    """The Vertex AI endpoint. `endpoint` is its id; it is the data set's name unless given.

    What was replaced stays deployed without traffic for `cool_down`, or with `keep_previous: 1` until the next release:
    so long a rollback takes seconds, and so long it costs. `keep_versions`: how many of the newest versions the Model
    Registry keeps, besides those that serve or may serve again. `cleanup: report` only tells what it would remove.
    `idle: undeploy` takes down what nobody has asked for `idle_after`; the endpoint and its address stay.
    With `scale_to_zero` a release takes down what serves before it deploys what shall: what contradicts is refused.
    """

    endpoint: Annotated[str, Field(pattern=ENDPOINT_ID)] = ""
    dedicated: bool = True
    machine: str = "n1-standard-4"
    accelerator: Accelerator | None = None
    min_replicas: Annotated[int, pydantic.BeforeValidator(_at_least_one_replica), Field(ge=1)] = 1
    max_replicas: int = Field(default=1, ge=1)
    autoscaling: Autoscaling = Autoscaling()
    spot: bool = False
    service_account: Annotated[str, Field(pattern=SERVICE_ACCOUNT)] | Literal[""] = ""
    container_log: bool = True
    access_log: bool = False
    request_log: RequestLog | None = None
    canary: Canary = Canary()
    keep_previous: int = Field(default=0, ge=0, le=1)
    cool_down: Duration = 3600.0
    keep_versions: int = Field(default=10, ge=1)
    cleanup: Literal["remove", "report"] = "remove"
    idle_after: Annotated[Duration, Field(ge=3600.0)] | None = 604800.0
    idle: Literal["report", "undeploy"] = "report"
    scale_to_zero: ScaleToZero | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _one_model_alone_has_no_shares(cls, document: Any) -> Any:
        """What scaling to zero leaves no choice about need not be written; what is written is looked at below."""
        if not isinstance(document, Mapping) or document.get("scale_to_zero") is None:
            return document
        canary = document.get("canary", {})
        alone = {"steps": (100,), **canary} if isinstance(canary, Mapping) else canary
        return {"cool_down": 0.0, **document, "canary": alone}

    @pydantic.model_validator(mode="after")
    def _scaling_to_zero_contradicts_nothing(self) -> Serving:
        if self.scale_to_zero and (faults := list(self._contradictions())):
            raise ValueError("scale_to_zero does not go with " + ". Nor with ".join(faults))
        return self

    def _contradictions(self) -> Iterator[str]:
        """Source: "Scale To Zero", limitations, in Vertex AI's documentation of autoscaling."""
        alone = "Vertex AI allows one model on such an endpoint"
        if not self.dedicated:
            yield "dedicated: false: Vertex AI refuses it on shared endpoints. Leave dedicated out"
        if self.canary.steps != (100,):
            yield f"canary.steps: {alone}, so nothing can share its traffic. Leave canary.steps out"
        if self.canary.monitoring:
            yield (
                "canary.monitoring: the new model has all of the traffic or none, and no traffic would be waited for"
                " as missing data. Leave canary.monitoring out, probes judge the model"
            )
        if self.keep_previous:
            yield f"keep_previous: 1: {alone}, so none can be kept beside it. Leave keep_previous out"
        if self.cool_down:
            yield f"cool_down: {alone}, so what was replaced cannot stay. Leave cool_down out"
        if self.min_replicas > 1:
            # A run keeps its configuration with every default written out, so 1 says nothing.
            yield f"min_replicas: {self.min_replicas}: the least is 0 machines. Leave min_replicas out"
        if self.idle == "undeploy":
            yield "idle: undeploy: both say what happens without requests. Leave one of them out"

    @pydantic.model_validator(mode="after")
    def _vertex_ai_has_the_machine(self) -> Serving:
        if fault := _machine_fault(self.machine, self.accelerator):
            raise ValueError(fault)
        return self

    @pydantic.model_validator(mode="after")
    def _replicas_are_a_range(self) -> Serving:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas ({self.max_replicas}) is less than min_replicas ({self.min_replicas})")
        if self.autoscaling.accelerator and not self.accelerator:
            raise ValueError("autoscaling.accelerator is a target for accelerators, and serving.accelerator has none")
        if self.autoscaling != Autoscaling() and self.max_replicas == self.min_replicas:
            raise ValueError(f"autoscaling has nothing to scale: min_replicas and max_replicas are {self.min_replicas}")
        return self


class StagedRollout(_Section):
    """Percentages of installations that rise to 100, each but the last held for `bake`."""

    steps: Shares = (10, 50, 100)
    bake: Duration = 86400.0


class Publishing(_Section):
    """How phones get the model. `name` is its Firebase ML display name and its folder in Cloud Storage for Firebase.

    `rollout` is by Remote Config; without it a new version is everybody's at once.
    """

    name: Annotated[str, Field(pattern=FIREBASE_NAME)] = ""
    # Firebase ML is asked for by name: it ends on 15 June 2027, and a project has to be one of Firebase's for it.
    channels: tuple[Literal["firebase-ml", "firebase-storage"], ...] = Field(
        default=("firebase-storage",), min_length=1
    )
    quantization: Quantization = "auto"
    min_app_version: str = ""
    rollout: StagedRollout | None = None

    @pydantic.field_validator("channels")
    @classmethod
    def _channels_are_distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("duplicate channel")
        return value

    @pydantic.model_validator(mode="after")
    def _a_rollout_has_versions_to_choose_from(self) -> Publishing:
        if self.rollout and "firebase-storage" not in self.channels:
            raise ValueError("rollout needs channel firebase-storage: Firebase ML has one published model a name")
        return self


class RoutingWish(_Section):
    """What apps that have both models are told about asking the cloud (`contracts.routing`).

    `max_loss` is against asking the cloud about every picture; it is to hold with `confidence`.
    """

    mode: Mode = "prefer_on_device"
    max_loss: Annotated[float, Field(gt=0.0, le=0.5)] = 0.01
    confidence: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.95
    ask_about: tuple[str, ...] = ()
    max_share: Fraction | None = None


class DatasetConfig(_Section):
    """One data set. The class index of a label is its position in `labels`."""

    dataset: str
    labels: tuple[str, ...] = Field(min_length=2)
    data: Data = Data()
    validation: Validation = Validation()
    training: Training = Training()
    budget: Budget = Budget()
    gates: Gates = Gates()
    serving: Serving = Serving()
    publishing: Publishing = Publishing()
    routing: RoutingWish = RoutingWish()

    @pydantic.field_validator("dataset")
    @classmethod
    def _dataset_is_a_label_value(cls, value: str) -> str:
        if not DATASET_NAME.fullmatch(value):
            raise ValueError(f"must match {DATASET_NAME.pattern} (it becomes part of Vertex AI labels)")
        return value

    @pydantic.field_validator("labels")
    @classmethod
    def _labels_are_distinct_words(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if fault := fault_of_labels(value):
            raise ValueError(fault)
        return value

    @pydantic.field_validator("data")
    @classmethod
    def _prefix_is_inside_the_folder(cls, value: Data, info: pydantic.ValidationInfo) -> Data:
        # The data set of an object is its first folder: finding it must not need a listing of all configurations.
        dataset = info.data.get("dataset")
        inside = value.prefix.startswith(f"{dataset}/") and value.prefix.endswith("/")
        if dataset and not inside:
            raise ValueError(f"prefix must begin with {dataset}/ and end with /")
        # To Cloud Storage these are folders like any other; to whatever makes a path of them they are not.
        if not {"", ".", ".."}.isdisjoint(value.prefix.split("/")[:-1]):
            raise ValueError("prefix must have no empty folder, no . and no ..")
        return value

    @pydantic.field_validator("routing")
    @classmethod
    def _asks_about_labels(cls, value: RoutingWish, info: pydantic.ValidationInfo) -> RoutingWish:
        labels = info.data.get("labels")
        if labels is not None and (unknown := sorted(set(value.ask_about) - set(labels))):
            raise ValueError(f"ask_about names {', '.join(unknown)}: labels are {', '.join(labels)}")
        return value

    @pydantic.model_validator(mode="after")
    def _automl_takes_it(self) -> DatasetConfig:
        if self.training.method == "automl" and (faults := list(self._automl_faults())):
            raise ValueError("training.method: automl does not go with " + ". Nor with ".join(faults))
        return self

    def _automl_faults(self) -> Iterator[str]:
        """What AutoML would refuse after the training was paid for, or pass over without a word."""
        serving, usual = self.serving, Serving()
        if serving.dedicated:
            yield (
                "serving.dedicated: true: Vertex AI serves AutoML models on shared endpoints only. Write dedicated:"
                " false; an endpoint never changes its kind, so if the data set has a dedicated one already, also give"
                f" it another serving.endpoint, such as {_shared_endpoint(serving.endpoint)}"
            )
        ignored = ("machine", "accelerator", "autoscaling", "spot", "service_account", "scale_to_zero")
        for key in ignored:
            if getattr(serving, key) != getattr(usual, key):
                yield f"serving.{key}: Google chooses the machines that AutoML models serve on. Leave {key} out"
        if self.publishing.quantization != "auto":
            yield "publishing.quantization: AutoML makes one file for phones, and in one way. Leave quantization out"
        if len(self.labels) > automl.MOST_LABELS:
            yield f"{len(self.labels)} labels: AutoML takes at most {automl.MOST_LABELS}"
        if long := [label for label in self.labels if len(label) > automl.MOST_LABEL_CHARACTERS]:
            yield f"the label {long[0]!r}: AutoML takes at most {automl.MOST_LABEL_CHARACTERS} characters"

    @pydantic.model_validator(mode="before")
    @classmethod
    def _fill_names_from_the_dataset(cls, document: Any) -> Any:
        name = document.get("dataset") if isinstance(document, Mapping) else None
        if not isinstance(name, str) or not DATASET_NAME.fullmatch(name):
            return document
        filled = dict(document)
        for section, key, value in (
            ("data", "prefix", f"{name}/"),
            ("serving", "endpoint", name),
            ("publishing", "name", _firebase_name(name)),
        ):
            given = filled.get(section)
            if given is None:
                filled[section] = {key: value}
            elif isinstance(given, Mapping):
                filled[section] = {key: value, **given}
        return filled


#: 20,000 names of classes fit; what is larger is something else.
MAX_BYTES = 1 << 20

#: How much of a wrong value a fault quotes.
_SHOWN = reprlib.Repr()
_SHOWN.maxlevel, _SHOWN.maxstring, _SHOWN.maxother = 3, 200, 200


def load(text: bytes | str, *, source: str) -> Any:
    """What a YAML document says, each scalar as its field means it. Raises InvalidDatasetConfig."""
    if len(text) > MAX_BYTES:
        raise InvalidDatasetConfig(f"{source} has {len(text)} bytes, a configuration may have {MAX_BYTES}")
    try:
        return yaml_document.as_meant(yaml_document.load(text), DatasetConfig)
    except yaml_document.FAULTS as exc:
        raise InvalidDatasetConfig(f"{source} is not YAML: {exc}") from exc


# A branch reads its configuration at every step, and a clock at every tick: the same text is looked at once.
@functools.lru_cache(maxsize=64)
def parse(text: bytes | str, *, source: str) -> DatasetConfig:
    """Check a YAML document. Raises InvalidDatasetConfig that lists every fault as `path: what is wrong`."""
    document = load(text, source=source)
    if not isinstance(document, Mapping):
        raise InvalidDatasetConfig(f"{source} must be a mapping that begins with `dataset: <name>`")
    try:
        return DatasetConfig.model_validate(document)
    except pydantic.ValidationError as exc:
        raise InvalidDatasetConfig(f"{source}: {_faults(exc)}") from exc


#: What YAML calls a value where pydantic says a type of Python's.
_IN_YAML = {
    "tuple_type": "must be a list, such as [a, b]",
    "list_type": "must be a list, such as [a, b]",
    "dict_type": "must be a section of keys, such as {{key: value}}",
    "model_type": "must be a section of keys, such as {{key: value}}",
    "too_short": "must be a list of at least {min_length}",
}


def _faults(exc: pydantic.ValidationError) -> str:
    return "; ".join(_fault(error) for error in exc.errors() if not _only_follows(error))


def _only_follows(error: Any) -> bool:
    """Whether a list is called too short because one of its entries, which is told besides, is not counted."""
    return bool(error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"])


def _fault(error: Any) -> str:
    path = ".".join(map(str, error["loc"]))
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] in _IN_YAML:
        message = _IN_YAML[error["type"]].format(**error.get("ctx", {}))
    if error["type"] == "extra_forbidden":
        message = "unknown key (see docs/configuration.md for those that exist)"
    elif not isinstance(error["input"], Mapping):
        message += f", not {_SHOWN.repr(error['input'])}"
    elif error["type"] == "string_type":
        message += ": one with a colon and a space in it stands in quotes"
    return f"{path}: {message}" if path else message


def _firebase_name(dataset: str) -> str:
    """The data set's name, or as much of it as a display name takes, and a digest: two must never become one."""
    if len(dataset) <= 32:
        return dataset
    return f"{dataset[:23]}-{hashlib.sha256(dataset.encode()).hexdigest()[:8]}"


def _shared_endpoint(endpoint: str) -> str:
    """An id that tells what kind of endpoint it is, and still is one."""
    return f"{endpoint[:56].rstrip('-')}-shared"


def object_name(dataset: str) -> str:
    """Where the configuration of `dataset` lies in the config bucket."""
    return f"datasets/{dataset}.yaml"


def stored(document: Mapping[str, Any]) -> DatasetConfig:
    """The configuration that a ledger document carries, whichever version of the services wrote it.

    Keys that this version does not know are passed over. Raises InvalidDatasetConfig when a value cannot be understood.
    """
    try:
        return DatasetConfig.model_validate(document, extra="ignore")
    except pydantic.ValidationError as exc:
        raise InvalidDatasetConfig(
            f"the recorded configuration was written by another version: {_faults(exc)}"
        ) from exc
