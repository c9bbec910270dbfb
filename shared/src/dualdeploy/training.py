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
    image: str = "image"
    label: str = "class"


class TrainingParameters(_Document):
    architecture: str
    weights: str = "none"
    image_size: int
    epochs: int
    batch_size: int = 32
    learning_rate: float = 0.001
    seed: int = 0
    max_bad_records: float = 0.01


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


class Artifacts(_Document):
    saved_model: str
    pixels_model: str
    keras: str
    metrics: str
    golden: str
    labels: str


class ClassMetrics(_Document):
    precision: float
    recall: float
    f1: float
    examples: int


class Metrics(_Document):
    """Measured on the held-out examples; `confusion[true][predicted]` counts them."""

    accuracy: float = Field(ge=0, le=1)
    loss: float
    examples: int = Field(ge=1)
    per_class: Mapping[str, ClassMetrics] = {}
    confusion: tuple[tuple[int, ...], ...] = ()


class DataUsed(_Document):
    train_examples: int
    eval_examples: int
    split: Literal["named", "hash"] = "named"
    skipped_records: int = 0


class TrainingResult(_Document):
    """What one training job left behind; durations in seconds."""

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


def parse_result(data: bytes, *, source: str) -> TrainingResult:
    """Read a result document. Raises UnusableResult that lists every fault."""
    try:
        return TrainingResult.model_validate_json(data)
    except pydantic.ValidationError as exc:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
        raise UnusableResult(f"{source} is not a training result of version 1: {faults}") from exc


def artifact_directory(run_id: str, target: str) -> str:
    """Folder of one job's artifacts inside the models bucket, without a trailing slash."""
    return f"runs/{run_id}/{target}"


def job_name(run_id: str, target: str) -> str:
    return f"{artifact_directory(run_id, target)}/job.json"


def result_name(run_id: str, target: str) -> str:
    """Not under `runs/`: a bucket notification filters by prefix, and a job writes hundreds of objects there."""
    return f"results/{run_id}/{target}.json"


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
