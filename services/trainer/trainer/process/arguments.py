"""What shall be trained: a job description, flags that override it, or flags alone; checked whole before any work."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from dualdeploy.contracts import architectures, split
from dualdeploy.contracts.shard_folder import look_into
from dualdeploy.contracts.shards import ShardNames
from dualdeploy.contracts.training import TARGETS, TrainingJob, TrainingParameters
from trainer.process.failures import UnusableJob

#: The first argument of what prepares a data set for AutoML, instead of training.
PREPARE = "prepare-automl"

#: What a person gets who names only data and labels: minutes on a laptop, from scratch.
LAPTOP_DEFAULTS: dict[str, dict[str, Any]] = {
    "cloud": {"architecture": "densenet121", "image_size": 48, "epochs": 6, "learning_rate": 0.001},
    "mobile": {"architecture": "mobilenet_v3_small", "image_size": 64, "epochs": 12, "learning_rate": 0.006},
}

#: Flags that override a field of the job's `training` section: flag, type, what it is.
OVERRIDES: tuple[tuple[str, type, str], ...] = (
    ("architecture", str, f"one of {', '.join(architectures.SHORT)}, keras:<Name>, or module:my_network.py"),
    ("weights", str, "none, imagenet, or the file of a saved base without its top (gs://… or a path)"),
    ("image-size", int, "side of the network's input in pixels"),
    ("epochs", int, "passes over the training pictures"),
    ("batch-size", int, "pictures in one step"),
    ("learning-rate", float, "highest learning rate, reached after the warm-up"),
    ("seed", int, "decides initial weights, order and augmentation"),
    ("max-bad-records", float, "share of records that may be unusable, 0 to 1"),
    ("precision", str, "float32, mixed_bfloat16, mixed_float16, or auto: what the accelerator is fastest with"),
    ("xla", str, "on, off, or auto: on for one GPU"),
)

#: The same for its `recipe`; dualdeploy.contracts.training.Recipe has the limits and defaults.
RECIPE_OVERRIDES: tuple[tuple[str, type, str], ...] = (
    ("augmentation", str, "standard, light, none, or auto: light from scratch, else standard"),
    ("label-smoothing", float, "share of the target's probability spread over all classes"),
    ("weight-decay", float, "of AdamW, on kernels only"),
    ("class-weights", str, "auto or none: whether rare classes count more"),
    ("warm-up", float, "share of a phase in which the learning rate rises"),
    ("early-stopping", int, "epochs of the second half without a lower held-out loss that end it; 0: never"),
    (
        "head",
        str,
        "pretrained only: steps, or features: the head is fitted once to what the base makes of the pictures",
    ),
    ("head-share", float, "pretrained only: share of the epochs that trains the head alone"),
    ("fine-tuned-share", float, "pretrained only: share of the base that learns after that"),
    ("fine-tuning-rate", float, "pretrained only: its learning rate, as a share of the highest"),
)


@dataclasses.dataclass(frozen=True)
class Order:
    """A checked job, and how to carry it out: folder for fetched shards, seconds to wait for Cloud Storage."""

    job: TrainingJob
    cache: Path | None
    patience: float


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """The parsed flags, before the job description they may name has been read."""

    target: str
    job: str
    flags: argparse.Namespace


class _Parser(argparse.ArgumentParser):
    """argparse exits with 2; our exit code for a faulty call is decided in failures."""

    def error(self, message: str) -> Any:
        raise UnusableJob(f"{message} (python -m trainer --help lists all flags)")


def parse(argv: Sequence[str] | None) -> CommandLine:
    """Read the command line. Raises UnusableJob; `--help` exits as usual."""
    parser = _Parser(
        prog="python -m trainer",
        description="Train one image classifier from TFRecord shards.",
        epilog="Either --job, or --data with --labels and --output. Flags override the job description. "
        f"`python -m trainer {PREPARE} --job …` prepares a data set for AutoML instead. "
        "Exit codes: 0 done, 64 do not retry, 75 retry later (134 on Vertex AI, which then does), 1 bug.",
        allow_abbrev=False,
    )
    parser.add_argument("--target", choices=TARGETS, required=True, help="which of the two models")
    parser.add_argument("--job", default="", help="job description: gs://…, /gcs/… or a path")
    parser.add_argument("--data", type=Path, help="folder of shards, split by folders or names (train, val, test, …)")
    parser.add_argument("--labels", default="", help="names of the classes by index, comma-separated")
    parser.add_argument("--output", default="", help="folder for the artifacts: gs://…, /gcs/… or a path")
    parser.add_argument("--dataset", default="", help="name in the result (default: the folder's name)")
    parser.add_argument("--image-feature", default="", help="feature with the JPEG or PNG bytes (default image)")
    parser.add_argument("--label-feature", default="", help="feature with the class index or name (default class)")
    parser.add_argument("--first-label", type=int, help="index of the first class in the records (default 0)")
    parser.add_argument("--cache", type=Path, help="keep fetched shards here (default: a temporary folder)")
    parser.add_argument("--evaluate-live", action="store_true", help="train nothing: measure the job's live model")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds to wait for Cloud Storage")
    for name, kind, describes in (*OVERRIDES, *RECIPE_OVERRIDES):
        parser.add_argument(f"--{name}", type=kind, help=describes)
    flags = parser.parse_args(argv)
    return CommandLine(flags.target, flags.job, flags)


def parse_preparation(argv: Sequence[str]) -> tuple[str, float]:
    """What `prepare-automl` is told: the job description, and seconds to wait for Cloud Storage. Raises UnusableJob."""
    parser = _Parser(
        prog=f"python -m trainer {PREPARE}",
        description="Write the pictures of TFRecord shards, and the files by which AutoML imports them.",
        allow_abbrev=False,
    )
    parser.add_argument("--job", required=True, help="job description: gs://… or a path")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds to wait for Cloud Storage")
    flags = parser.parse_args(argv)
    return flags.job, flags.patience


def order(line: CommandLine, document: bytes | None) -> Order:
    """The job that `document` describes, or that the flags describe alone, with the flags' overrides.

    Raises UnusableJob that lists every fault.
    """
    flags = line.flags
    values, faults = _from_flags(flags) if document is None else _from_document(document, line)
    _override(values, flags)
    faults += _faults(values, explained=document is None)
    if faults:
        raise UnusableJob("this job cannot be trained:\n  " + "\n  ".join(faults))
    return Order(TrainingJob.model_validate(values), flags.cache, flags.patience)


def _from_document(document: bytes, line: CommandLine) -> tuple[dict[str, Any], list[str]]:
    try:
        values = pydantic.TypeAdapter(dict[str, Any]).validate_json(document)
    except pydantic.ValidationError as exc:
        raise UnusableJob(f"{line.job} is not a JSON object: {exc.errors()[0]['msg']}") from exc
    faults = [
        f"--{name} belongs to --data, not to --job"
        for name in ("data", "labels", "dataset")
        if getattr(line.flags, name)
    ]
    if values.get("target") != line.target:
        faults.append(f"--target {line.target}, but the job description is for {values.get('target')!r}")
    return values, faults


def _from_flags(flags: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    faults = []
    missing = [f"--{name}" for name in ("data", "labels", "output") if not getattr(flags, name)]
    if missing:
        faults.append(f"{', '.join(missing)} missing: give --job, or all of --data, --labels and --output")
    dataset = flags.dataset or _identifier(flags.data.resolve().name if flags.data else "")
    values: dict[str, Any] = {
        "run_id": f"{dataset}-local",
        "dataset": dataset,
        "target": flags.target,
        "training": dict(LAPTOP_DEFAULTS[flags.target]),
    }
    if flags.labels:
        values["labels"] = [label.strip() for label in flags.labels.split(",")]
    if flags.data:
        values["shards"] = _shards_in(flags.data, faults)
    if flags.output:
        values["output"] = _output(flags.output)
    return values, faults


def _output(location: str) -> dict[str, str]:
    directory = location.rstrip("/")
    return {"directory": directory, "result": f"{directory}/result.json"}


def _shards_in(folder: Path, faults: list[str]) -> dict[str, Any]:
    if not folder.is_dir():
        faults.append(f"--data {folder} is not a folder")
        return {}
    found = look_into(folder, ShardNames())
    if found.fault:
        faults.append(f"--data {folder}: {found.fault}")
    divided = split.divide(found.files)
    faults.extend(f"--data {folder}: {fault.message}: {fault.remedy}" for fault in divided.faults)
    return {
        "train": [{"uri": str(folder / name)} for name in divided.train],
        "eval": [{"uri": str(folder / name)} for name in divided.eval],
    }


def _identifier(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed"


def _override(values: dict[str, Any], flags: argparse.Namespace) -> None:
    training = values.setdefault("training", {})
    features = values.setdefault("features", {})
    recipe = training.setdefault("recipe", {}) if isinstance(training, dict) else {}
    for section, name, value in (
        *((training, name.replace("-", "_"), None) for name, _, _ in OVERRIDES),
        *((recipe, name.replace("-", "_"), None) for name, _, _ in RECIPE_OVERRIDES),
        (features, "image", flags.image_feature),
        (features, "label", flags.label_feature),
        (features, "first_label", flags.first_label),
    ):
        given = getattr(flags, name, None) if value is None else value
        if given not in (None, "") and isinstance(section, dict):
            section[name] = given
    if flags.output:
        values["output"] = _output(flags.output)


def _faults(values: Mapping[str, Any], *, explained: bool) -> list[str]:
    """Everything wrong with a job; `explained`: what is absent has been reported in terms of flags."""
    faults: list[str] = []
    try:
        if not TrainingJob.model_validate(values).shards.train and not explained:
            faults.append("shards.train: there is none")
    except pydantic.ValidationError as exc:
        faults = [
            f"{'.'.join(map(str, error['loc']))}: {error['msg']}"
            for error in exc.errors()
            if not (explained and error["type"] == "missing")
        ]
    labels = values.get("labels")
    if isinstance(labels, list) and all(isinstance(label, str) for label in labels):
        faults += _label_faults(labels)
    # The section on its own as well, so that a fault elsewhere does not hide those in here.
    with contextlib.suppress(pydantic.ValidationError):
        faults += _training_faults(TrainingParameters.model_validate(values.get("training")))
    return faults


def _training_faults(training: TrainingParameters) -> list[str]:
    weights = training.weights
    limits = (
        ("image_size", 32 <= training.image_size <= 1024, "32 to 1024 pixels"),
        ("epochs", training.epochs >= 1, "at least 1"),
        ("batch_size", training.batch_size >= 1, "at least 1"),
        ("learning_rate", 0 < training.learning_rate < 10, "above 0 and below 10"),
        ("seed", 0 <= training.seed < 2**32, "0 to 4294967295"),
        ("max_bad_records", 0 <= training.max_bad_records <= 1, "0 to 1"),
        (
            "weights",
            weights in {"none", "imagenet"} or weights.endswith(".h5"),
            "none, imagenet, or a file that ends in .weights.h5 or .h5",
        ),
    )
    network = {
        "training.architecture": architectures.unknown(training.architecture),
        "training": architectures.misused(
            training.architecture,
            weights=weights,
            image_size=training.image_size,
            fits_head=training.recipe.head == "features",
        ),
    }
    faults = [f"{place}: {fault}" for place, fault in network.items() if fault]
    return faults + [
        f"training.{name}: must be {allowed}, not {getattr(training, name)!r}"
        for name, fine, allowed in limits
        if not fine
    ]


def _label_faults(labels: Sequence[str]) -> list[str]:
    faults = []
    if len(labels) < 2:
        faults.append("labels: at least two are needed to tell anything apart")
    if len(set(labels)) != len(labels):
        faults.append("labels: duplicate label")
    if any(not label.strip() or "\n" in label for label in labels):
        faults.append("labels: one is empty or has a line break")
    return faults
