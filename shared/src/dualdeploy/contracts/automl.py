"""What AutoML takes: limits of Google's for image classification, and where it exists.

Sources: "Quotas and limits" and "Prepare image training data for classification" of Vertex AI's documentation of
22 August 2026, "Locations" for the regions, and `automl_image_classification.AutoMlImageClassificationInputs` of
google-cloud-aiplatform 2.7.0 for types and budgets.
"""

from __future__ import annotations

from typing import Literal

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
LEAST_PICTURES_OF_A_LABEL = 10
MOST_PICTURE_BYTES = 30_000_000
#: JPEG and PNG are all that our own records may hold; GIF, BMP and ICO it would take besides.
FORMATS = ("JPEG", "PNG")

_MODEL_ENDINGS = {"cloud": "_automl", "mobile": "_mobile"}


def model_id(dataset: str, target: str) -> str:
    """Where AutoML's models of a data set are in the Model Registry, each run as a version.

    Apart from the model that our own versions belong to: whether one model may hold both kinds is not written. No name
    of a data set has an underscore, so no other data set has this id. At most 63 characters, as Vertex AI asks.
    """
    return f"dualdeploy-{dataset}{_MODEL_ENDINGS[target]}"
