"""Vertex AI on loopback: custom jobs that really run, AutoML, a model registry, endpoints that really serve."""

from local_cloud.vertex.automl import AutoMl
from local_cloud.vertex.images import Image
from local_cloud.vertex.service import Vertex

__all__ = ["ABSENT", "AutoMl", "Image", "Vertex"]

#: What COVERAGE.md names as missing.
ABSENT = (
    (
        "AutoML's own search: the command under `automl` in the topology stands for it. Ours is a modest training"
        " (infra/automl_search), whose phone files are like AutoML's: uint8 in and out, labels in a `dict.txt` inside,"
        " in any order"
    ),
    (
        "AutoML for anything but images with one label each; CSV files, data items, annotations, saved queries,"
        " versions and exports of data sets"
    ),
    "exports but tflite, batch predictions, training pipelines of custom code, base models",
    "quotas of calls a minute, and of deployments of AutoML's models at once",
)
