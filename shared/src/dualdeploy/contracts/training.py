"""The two documents between the event services and a training job: what to train, and what came of it.

`TrainingJob` is written by training_launcher before the job starts; `TrainingResult` by the trainer as its very last
act, so that its existence means "complete". Both are versioned JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from dualdeploy.errors import UnusableResult

Target = Literal["cloud", "mobile"]
TARGETS: tuple[Target, ...] = ("cloud", "mobile")


Augmentation = Literal["standard", "light", "none"]
Precision = Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"]
Xla = Literal["auto", "on", "off"]


class _Document(pydantic.BaseModel):
    """Frozen; unknown keys are ignored, because a newer writer may say more than this reader knows."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=1).encode()


class ShardReference(_Document):
    """Exactly one version of one shard. `size` in bytes, `crc32c` as Cloud Storage gives it (base64)."""

    uri: str
    generation: Annotated[str, pydantic.BeforeValidator(str)] = ""
    size: int = 0
    crc32c: str = ""


class ShardSplit(_Document):
    """Without `eval` shards, a stable hash of each image decides which examples are held out."""

    train: tuple[ShardReference, ...]
    eval: tuple[ShardReference, ...] = ()


class FeatureNames(_Document):
    """Names of the features that are read, and the number that the first class has in them."""

    image: str = "image"
    label: str = "class"
    split: str = "split"
    first_label: int = 0


#: Recipes that have a name, for `training.<target>.recipe`; docs/training.md has what was measured.
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "whole_base": {"head": "features", "fine_tuned_share": 1.0, "fine_tuning_rate": 0.3}
}


class Recipe(_Document):
    """How the network learns. Shares are of 0..1; docs/training.md says what each does and what was measured.

    `early_stopping` counts epochs of the second half without a lower held-out loss (0: never stop); those about the
    head and fine-tuning only matter for weights other than none. `head`: in which way the new head begins, by the steps
    of the first epochs, or fitted to features that are computed once.
    """

    augmentation: Literal["auto", "standard", "light", "none"] = "auto"
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0, lt=1)
    class_weights: Literal["auto", "none"] = "auto"
    warm_up: float = Field(default=0.15, ge=0, lt=1)
    early_stopping: int = Field(default=8, ge=0)
    head: Literal["steps", "features"] = "steps"
    head_share: float = Field(default=0.3, ge=0, le=1)
    fine_tuned_share: float = Field(default=0.4, ge=0, le=1)
    fine_tuning_rate: float = Field(default=0.1, gt=0, le=1)


class TrainingParameters(_Document):
    architecture: str
    weights: str = "none"
    image_size: int
    epochs: int
    batch_size: int = 32
    learning_rate: float = 0.001
    seed: int = 0
    max_bad_records: float = 0.01
    precision: Precision = "auto"
    xla: Xla = "auto"
    recipe: Recipe = Recipe()

    @property
    def augmentation(self) -> Augmentation:
        """What `auto` means here: a network that learns from scratch has enough to do without much of it."""
        if self.recipe.augmentation == "auto":
            return "light" if self.weights == "none" else "standard"
        return self.recipe.augmentation


class ModuleReference(_Document):
    """Exactly one version of a file that builds a network; `sha256` of its bytes, in hex."""

    uri: str
    generation: Annotated[str, pydantic.BeforeValidator(str)] = ""
    sha256: str


class LiveModel(_Document):
    """The model that serves when a job is launched: measured again on the new job's held-out pictures."""

    run_id: str
    saved_model: str


class OutputLocations(_Document):
    """`directory` receives the artifacts, `result` the result document (last)."""

    directory: str
    result: str


class TrainingJob(_Document):
    """What one training job shall do. Source of every field: the run in the ledger and the data set's configuration."""

    v: Literal[1] = 1
    run_id: str
    dataset: str
    target: Target
    labels: tuple[str, ...]
    features: FeatureNames = FeatureNames()
    shards: ShardSplit
    training: TrainingParameters
    output: OutputLocations
    live: LiveModel | None = None
    #: What `training.architecture` means where it is a module.
    module: ModuleReference | None = None


class Artifacts(_Document):
    """Where everything is; empty or None is what this job did not make, or what is a model that Google keeps.

    Read are `golden`, `saved_model` of the cloud's model and `pixels_model` of the phones', and `answers` where it is
    there: what the model says to each held-out picture (`contracts.answers`). The others are for people.
    """

    saved_model: str = ""
    pixels_model: str = ""
    golden: str
    answers: str | None = None
    keras: str | None = None
    metrics: str | None = None
    labels: str | None = None
    confusion_chart: str | None = None
    curves_chart: str | None = None
    logs: str | None = None


class ManagedModel(_Document):
    """A model that AutoML trained: Google keeps it, it has no files of ours.

    `name` is projects/P/locations/L/models/ID without a version; `type` CLOUD or one of MOBILE_TF_….
    """

    name: str = Field(pattern=r"^projects/[^/]+/locations/[^/]+/models/[^/@]+$")
    version: str = Field(min_length=1)
    type: str = Field(min_length=1)


class ClassMetrics(_Document):
    precision: float
    recall: float
    f1: float
    examples: int

    @classmethod
    def of(cls, right: int, called: int, examples: int) -> ClassMetrics:
        """Of a class with so many `examples`, to which so many pictures were said to belong, and so many rightly.

        One that was never called has precision 0, one without examples recall 0: by convention.
        """
        precision = right / called if called else 0.0
        recall = right / examples if examples else 0.0
        f1 = 2 * precision * recall / (precision + recall) if right else 0.0
        return cls(precision=precision, recall=recall, f1=f1, examples=examples)


class Confused(_Document):
    """How many examples of one class were taken for another."""

    label: str
    taken_for: str
    examples: int


#: Up to so many classes metrics hold the whole confusion matrix: it grows with their square.
MOST_CLASSES_IN_A_MATRIX = 200

#: So many pairs of classes that are confused most are listed, however many classes there are.
MOST_CONFUSED = 100


class Metrics(_Document):
    """Measured on the held-out examples; `confusion[true][predicted]` counts them.

    `confusion` is empty with more than `MOST_CLASSES_IN_A_MATRIX` classes; `confused` lists the pairs of classes that
    are taken for each other most often. `top_2`: share whose class is among the two most probable. `calibration_error`:
    by how much confidence and accuracy differ on average (expected calibration error, 15 bins of equal width).
    `latency_seconds`: the median of one picture after the other through the SavedModel, as a file is sent to it, on the
    machine that trained.
    """

    accuracy: float = Field(ge=0, le=1)
    loss: float
    examples: int = Field(ge=1)
    per_class: Mapping[str, ClassMetrics] = {}
    confusion: tuple[tuple[int, ...], ...] = ()
    confused: tuple[Confused, ...] = ()
    top_2: float | None = Field(default=None, ge=0, le=1)
    calibration_error: float | None = Field(default=None, ge=0, le=1)
    images_per_second: float | None = None
    latency_seconds: float | None = None


class LiveMetrics(_Document):
    """The model that was live, on the same held-out pictures; `metrics` is None when `problem` says why not."""

    run_id: str
    saved_model: str
    metrics: Metrics | None = None
    problem: str = ""


class Course(_Document):
    """How training went: epochs planned and trained, the one whose weights were kept, and where it was resumed.

    `replicas` devices of so many `workers` learned together. `images_per_second` is the median over the epochs, None
    without any; `xla`: the step was compiled by it.
    """

    epochs: int
    epochs_trained: int
    best_epoch: int
    resumed_at: tuple[int, ...] = ()
    workers: int = 1
    replicas: int = 1
    precision: str = "float32"
    xla: bool = False
    images_per_second: float | None = None


class DataUsed(_Document):
    train_examples: int
    eval_examples: int
    split: Literal["named", "hash"] = "named"
    skipped_records: int = 0


class TrainingResult(_Document):
    """What one training job left behind; durations in seconds.

    `job` is the id by which Vertex AI knows the job, or the pipeline, that it comes from, empty anywhere else. The
    model is either files (`artifacts`) or `managed`; of what AutoML trained, the `image_size` is not known: 0.
    """

    v: Literal[1] = 1
    run_id: str
    dataset: str
    target: Target
    finished_at: str
    architecture: str
    weights: str = "none"
    image_size: int
    labels: tuple[str, ...]
    artifacts: Artifacts
    metrics: Metrics
    data: DataUsed
    seconds: Mapping[str, float] = {}
    live: LiveMetrics | None = None
    course: Course | None = None
    job: str = ""
    managed: ManagedModel | None = None

    @pydantic.model_validator(mode="after")
    def _is_one_model(self) -> TrainingResult:
        """Of the kind that its target takes."""
        needed = {"cloud": "saved_model", "mobile": "pixels_model"}[self.target]
        if self.managed and (self.artifacts.saved_model or self.artifacts.pixels_model):
            raise ValueError("a result has either managed, or files of a model in artifacts")
        if not self.managed and not getattr(self.artifacts, needed):
            raise ValueError(f"a result for target {self.target} needs artifacts.{needed}, where the model lies")
        return self


def parse_result(data: bytes, *, source: str) -> TrainingResult:
    """Read a result document. Raises UnusableResult that lists every fault."""
    try:
        return TrainingResult.model_validate_json(data)
    except pydantic.ValidationError as exc:
        faults = "; ".join(": ".join(filter(None, (".".join(map(str, e["loc"])), e["msg"]))) for e in exc.errors())
        raise UnusableResult(f"{source} is not a training result of version 1: {faults}") from exc


def artifact_directory(run_id: str, target: str) -> str:
    """Folder of one job's artifacts inside the models bucket, without a trailing slash."""
    return f"runs/{run_id}/{target}"


def job_name(run_id: str, target: str) -> str:
    return f"{artifact_directory(run_id, target)}/job.json"


def result_name(run_id: str, target: str) -> str:
    """Not under `runs/`: a bucket notification filters by prefix, and a job writes hundreds of objects there."""
    return f"results/{run_id}/{target}.json"


def live_evaluation_name(run_id: str, live_run_id: str, *, release: int = 1) -> str:
    """Where `LiveMetrics` of another model on the pictures of `run_id` are written; each release asks anew."""
    return f"{_evaluation(run_id, live_run_id, release)}.json"


def live_evaluation_job_name(run_id: str, live_run_id: str, *, release: int = 1) -> str:
    return f"{_evaluation(run_id, live_run_id, release)}.job.json"


def _evaluation(run_id: str, live_run_id: str, release: int) -> str:
    return f"evaluations/{run_id}/{live_run_id}" + (f"-release-{release}" if release > 1 else "")


def parse_result_name(name: str) -> tuple[str, str] | None:
    """The run id and target of a result object's name, or None when it is none."""
    parts = name.split("/")
    if len(parts) != 3 or parts[0] != "results" or not parts[2].endswith(".json"):
        return None
    target = parts[2].removesuffix(".json")
    return (parts[1], target) if parts[1] and target in TARGETS else None


def as_mapping(document: pydantic.BaseModel) -> dict[str, Any]:
    """A document as plain JSON values, for the ledger and for HTTP answers."""
    return document.model_dump(mode="json")
