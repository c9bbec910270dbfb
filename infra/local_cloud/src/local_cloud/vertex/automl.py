"""What AutoML for image classification takes and gives: schemas, kinds of models, budgets, requests and answers.

Sources: google.cloud.aiplatform.v1.schema (trainingjob.definition, predict, modelevaluation) for names, ranges and
defaults; Google's pages "AutoML image data", "Quotas and limits", "Locations" and "Get predictions" of August 2026 for
the rest. What no page says is marked [U]; the words of most refusals are ours.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from local_cloud.vertex.bodies import whole_number
from local_cloud.vertex.errors import failed_precondition, invalid_argument
from local_cloud.vertex.images import Image

_SCHEMA = "gs://google-cloud-aiplatform/schema"
DATASET_SCHEMA = f"{_SCHEMA}/dataset/metadata/image_1.0.0.yaml"
IMPORT_SCHEMA = f"{_SCHEMA}/dataset/ioformat/image_classification_single_label_io_format_1.0.0.yaml"
DEFINITION = f"{_SCHEMA}/trainingjob/definition/automl_image_classification_1.0.0.yaml"
METRICS_SCHEMA = f"{_SCHEMA}/modelevaluation/classification_metrics_1.0.0.yaml"

#: "AutoML for image data" on Google's page of locations.
REGIONS = ("europe-west4", "us-central1")

#: Trainings at once, and deployed models, of a project in a region. Source: "Quotas and limits", image classification.
CONCURRENT_TRAININGS = 5
DEPLOYED_MODELS = 10

IMAGES_OF_A_LABEL = 10

#: What an image that is to be classified or learned from begins with.
#: Source: "Prepare image training data"; WebP and TIFF are taken for predictions only.
_TRAINING_FORMATS = (b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"BM", b"\x00\x00\x01\x00")
_PREDICTION_FORMATS = (*_TRAINING_FORMATS, b"II*\x00", b"MM\x00*")

Document = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class AutoMl:
    """What stands for AutoML here: the command that learns, the one that serves, and how long a node hour takes."""

    search: Image
    server: Image
    seconds_per_node_hour: float


@dataclasses.dataclass(frozen=True)
class Kind:
    """A `modelType`: its budgets in milli node hours, and the formats that its models are exported in."""

    least: int
    default: int
    most: int
    formats: tuple[str, ...] = ()


_EDGE = Kind(1_000, 24_000, 100_000, ("tflite", "edgetpu-tflite", "tf-saved-model", "core-ml", "tf-js"))
#: Those that Google's pages name; the schema has more.
KINDS: Mapping[str, Kind] = {
    "CLOUD": Kind(8_000, 192_000, 800_000),
    "MOBILE_TF_LOW_LATENCY_1": _EDGE,
    "MOBILE_TF_VERSATILE_1": _EDGE,
    "MOBILE_TF_HIGH_ACCURACY_1": _EDGE,
}

#: Early stopping ends a training here, as a part of the least budget: a training costs less than it may.
_CONVERGES_AT = 0.9
_INPUTS = frozenset(
    {
        "modelType",
        "budgetMilliNodeHours",
        "disableEarlyStopping",
        "multiLabel",
        "baseModelId",
        "uptrainBaseModelId",
        "tunableParameter",
    }
)


@dataclasses.dataclass(frozen=True)
class Task:
    """The inputs of a training: `budget` and `cost` in milli node hours."""

    model_type: str
    budget: int
    stops_early: bool

    @property
    def kind(self) -> Kind:
        return KINDS[self.model_type]

    @property
    def cost(self) -> int:
        return int(self.kind.least * _CONVERGES_AT) if self.stops_early else self.budget

    @property
    def stop_reason(self) -> str:
        return "MODEL_CONVERGED" if self.stops_early else "BUDGET_REACHED"

    def document(self, given: Mapping[str, Any]) -> Document:
        """The inputs as they are answered: 64-bit numbers are text."""
        return {**given, "modelType": self.model_type, "budgetMilliNodeHours": str(self.budget)}


def task(inputs: object) -> Task:
    """The training that `trainingTaskInputs` ask for.

    Raises:
        ApiError: 400 for inputs that AutoML has not, a budget out of its range, and what is not there here.
    """
    if not isinstance(inputs, Mapping):
        raise invalid_argument("training_task_inputs must be an object.")
    if unknown := sorted(inputs.keys() - _INPUTS):
        raise invalid_argument(f"training_task_inputs: unknown field {unknown[0]!r}.")
    for key in ("multiLabel", "baseModelId", "uptrainBaseModelId", "tunableParameter"):
        if inputs.get(key):
            raise invalid_argument(f"training_task_inputs.{key} is not supported by the local cloud.")
    model_type = inputs.get("modelType") or "CLOUD"
    if model_type not in KINDS:
        raise invalid_argument(f"training_task_inputs.modelType: {model_type!r} is not one of {', '.join(KINDS)}.")
    kind = KINDS[model_type]
    budget = _whole(inputs.get("budgetMilliNodeHours"), "training_task_inputs.budgetMilliNodeHours", kind.default)
    if not kind.least <= budget <= kind.most:
        raise invalid_argument(
            f"training_task_inputs.budgetMilliNodeHours must be from {kind.least} to {kind.most} for model type"
            f" {model_type}, got {budget}."
        )
    return Task(model_type, budget, stops_early=not inputs.get("disableEarlyStopping"))


def _whole(value: object, field: str, default: int) -> int:
    """A whole number in a google.protobuf.Value, where every number is a double."""
    return whole_number(int(value) if isinstance(value, float) and value.is_integer() else value, field, default)


def require_region(region: str) -> None:
    """Raises ApiError where AutoML has no images. The words are ours."""
    if region not in REGIONS:
        raise invalid_argument(
            f"AutoML for image data is not available in region {region}. Regions: {', '.join(REGIONS)}."
        )


def is_trainable(picture: bytes) -> bool:
    """Whether a picture is of a format that AutoML learns from."""
    return picture.startswith(_TRAINING_FORMATS)


# Predictions


@dataclasses.dataclass(frozen=True)
class Question:
    """One prediction that is asked of AutoML: the picture in base64, and what of the answer is wanted."""

    content: str
    threshold: float
    largest: int


def question(request: Mapping[str, Any]) -> Question:
    """The picture of a PredictRequest.

    Raises:
        ApiError: 400 for more than one instance [U: Google's limit for images], another form than AutoML's, or bytes
            that are not a picture.
    """
    instances = request.get("instances") or []
    if len(instances) != 1:
        raise invalid_argument(f"The number of instances must be 1 for this Model, got {len(instances)}.")
    instance = instances[0]
    if not isinstance(instance, Mapping) or not isinstance(instance.get("content"), str):
        raise invalid_argument('Invalid instance: an image is {"content": "<base64>", "mimeType": "image/jpeg"}.')
    if unknown := sorted(instance.keys() - {"content", "mimeType"}):
        raise invalid_argument(f'Invalid instance: Cannot find field "{unknown[0]}".')
    if not _is_picture(instance["content"]):
        raise invalid_argument("Invalid instance: content is not an image in base64.")
    parameters = request.get("parameters") or {}
    threshold = parameters.get("confidenceThreshold", 0.0)
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise invalid_argument(f"parameters.confidenceThreshold must be from 0 to 1, got {threshold!r}.")
    largest = _whole(parameters.get("maxPredictions"), "parameters.maxPredictions", 10)
    return Question(instance["content"], threshold, largest)


def _is_picture(content: str) -> bool:
    try:
        data = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        return False
    return data.startswith(_PREDICTION_FORMATS) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def answer(asked: Question, labels: Sequence[str], ids: Sequence[str], confidences: Sequence[float]) -> Document:
    """The prediction, best first."""
    ranked = sorted(zip(confidences, labels, ids, strict=True), key=lambda each: -each[0])
    chosen = [each for each in ranked if each[0] >= asked.threshold][: asked.largest]
    return {
        "ids": [identity for _, _, identity in chosen],
        "displayNames": [label for _, label, _ in chosen],
        "confidences": [float(confidence) for confidence, _, _ in chosen],
    }


# Models


def supported(model_type: str) -> Document:
    """What a model of AutoML can do, as Vertex AI writes it on the model."""
    return {
        "supportedDeploymentResourcesTypes": ["AUTOMATIC_RESOURCES"],
        "supportedInputStorageFormats": ["jsonl"],
        "supportedOutputStorageFormats": ["jsonl"],
        "supportedExportFormats": [
            {"id": name, "exportableContents": ["ARTIFACT"]} for name in KINDS[model_type].formats
        ],
    }


def refuse_endpoint(model: Mapping[str, Any], endpoint: Mapping[str, Any]) -> None:
    """Raises ApiError for a model that is deployed nowhere, and for an endpoint that AutoML cannot be behind.

    Sources: "Export an AutoML edge model" and "Choose an endpoint type"; the words are ours.
    """
    if KINDS[model["automl"]["modelType"]].formats:
        raise failed_precondition(f"The Model {model['name']} is an edge model: export it, it cannot be deployed.")
    if endpoint.get("dedicatedEndpointEnabled"):
        raise failed_precondition(
            f"AutoML models are not supported on a dedicated Endpoint: {endpoint['name']} is one."
        )
