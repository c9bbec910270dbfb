"""What AutoML takes: limits of Google's for image classification, and where it exists.

Sources: "Quotas and limits" and "Prepare image training data for classification" of Vertex AI's documentation of
22 August 2026, "Locations" for the regions, and `automl_image_classification.AutoMlImageClassificationInputs` of
google-cloud-aiplatform 2.7.0 for types and budgets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

import pydantic

from dualdeploy.contracts.training import FeatureNames, ShardSplit
from dualdeploy.errors import UnusableResult

#: Locations with "AutoML for image data"; the data set and its pipelines are in the same one.
REGIONS = ("us-central1", "europe-west4")

#: Only such a model serves on an endpoint, and it cannot be exported.
CloudType = Literal["CLOUD"]
#: Such models are exported, and serve on phones alone.
MobileType = Literal["MOBILE_TF_LOW_LATENCY_1", "MOBILE_TF_VERSATILE_1", "MOBILE_TF_HIGH_ACCURACY_1"]

#: Node hours that may be asked for, least and most. A CLOUD training has eight nodes, a mobile one a single node.
CLOUD_NODE_HOURS = (8.0, 800.0)
MOBILE_NODE_HOURS = (1.0, 100.0)

MOST_LABELS = 5_000
#: Characters of one label.
MOST_LABEL_CHARACTERS = 128
MOST_PICTURES = 1_000_000
#: What a phone sends of a picture to a cloud model whose own input size no one knows: a PNG of so many pixels square
#: has 700 kB at most, and a shared endpoint takes 1.5 MB, in base64.
PIXELS_TO_SEND = 480
LEAST_PICTURES_OF_A_LABEL = 10
MOST_PICTURE_BYTES = 30_000_000

_MODEL_ENDINGS = {"cloud": "_automl", "mobile": "_mobile"}


def model_id(dataset: str, target: str) -> str:
    """Where AutoML's models of a data set are in the Model Registry, each run as a version.

    Apart from the model that our own versions belong to: whether one model may hold both kinds is not written. No name
    of a data set has an underscore, so no other data set has this id. At most 63 characters, as Vertex AI asks.
    """
    return f"dualdeploy-{dataset}{_MODEL_ENDINGS[target]}"


# From shards to a managed data set ---------------------------------------------------------------------------------

#: The name of the resource label of an item that says which set it belongs to, and its values. A later import does not
#: change it.
ML_USE = "aiplatform.googleapis.com/ml_use"
TRAINING, VALIDATION, TEST = SETS = ("training", "validation", "test")

#: Of a picture that is trained on, the set to which AutoML may look while it trains is one in so many.
VALIDATION_ONE_IN = 10

#: What pictures are divided by, as a number: another way of dividing them is another data set.
SPLIT_VERSION = 1

#: In the place of a target, of the job that prepares a data set.
DATA = "data"


class _Document(pydantic.BaseModel):
    """Frozen; unknown keys are ignored, because a newer writer may say more than this reader knows."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=1).encode()


class Preparation(_Document):
    """What `python -m trainer prepare-automl` shall do: `directory` gets the pictures and import files, `result` a
    `Prepared`, last. `key` is of the data and of how they are divided (`content_key`)."""

    v: Literal[1] = 1
    run_id: str
    dataset: str
    key: str
    labels: tuple[str, ...]
    features: FeatureNames = FeatureNames()
    shards: ShardSplit
    max_bad_records: float = 0.01
    directory: str
    result: str


class Prepared(_Document):
    """What came of it: `pictures` different ones, by label and set in `sets`, named by the import `files`.

    `refusal` says why there is nothing to import; `job` is the id by which Vertex AI knows the job that wrote this.
    `duplicates` are records whose picture is one of those, `conflicting` those of them that give it another label.
    """

    v: Literal[1] = 1
    key: str
    refusal: str = ""
    pictures: int = 0
    sets: Mapping[str, Mapping[str, int]] = {}
    files: tuple[str, ...] = ()
    golden: str = ""
    labels: str = ""
    duplicates: int = 0
    conflicting: int = 0
    skipped_records: int = 0
    split: Literal["named", "hash"] = "named"
    job: str = ""

    def count(self, which: str) -> int:
        """Pictures of one set."""
        return sum(each.get(which, 0) for each in self.sets.values())


def parse_prepared(data: bytes, *, source: str) -> Prepared:
    """Raises UnusableResult."""
    try:
        return Prepared.model_validate_json(data)
    except pydantic.ValidationError as exc:
        raise UnusableResult(f"{source} cannot be read: {exc.errors()[0]['msg']}") from exc


def content_key(snapshot_digest: str, config: Mapping[str, Any]) -> str:
    """What makes two data sets of AutoML the same: pictures, labels, and which picture is in which set.

    In hex, and short enough for a label of Google's. `config` is the configuration as a run keeps it.
    """
    data = config.get("data", {})
    how = {key: data.get(key) for key in ("features", "first_label", "split")}
    named = [SPLIT_VERSION, snapshot_digest, config["labels"], how]
    return hashlib.sha256(json.dumps(named, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


def directory(dataset: str, key: str) -> str:
    """Folder of a data set's pictures and import files in the models bucket: what Google's own account reads."""
    return f"automl/{dataset}/{key}"


def preparation_name(dataset: str, key: str, attempt: int) -> str:
    return f"{directory(dataset, key)}/job-{attempt}.json"


def prepared_name(dataset: str, key: str) -> str:
    return f"{directory(dataset, key)}/prepared.json"
