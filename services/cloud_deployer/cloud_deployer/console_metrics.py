"""A model's measured quality in the shape that the Vertex AI console draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dualdeploy.contracts.training import Metrics

#: The schema that ClassificationEvaluationMetrics has in Vertex AI's bucket of schemas.
SCHEMA_URI = "gs://google-cloud-aiplatform/schema/modelevaluation/classification_metrics_1.0.0.yaml"


def classification_metrics(metrics: Metrics, labels: Sequence[str]) -> dict[str, Any]:
    """Log loss, the confusion matrix, and precision and recall of the most probable class.

    A model that always answers one class has no threshold: of `confidenceMetrics` there is the entry that takes
    everything, where micro-averaged precision and recall are both the accuracy.
    """
    classes = metrics.per_class.values()
    macro_f1 = sum(each.f1 for each in classes) / len(classes) if classes else metrics.accuracy
    at_any_confidence = {
        "confidenceThreshold": 0.0,
        "maxPredictions": 1,
        "precision": metrics.accuracy,
        "recall": metrics.accuracy,
        "f1Score": metrics.accuracy,
        "f1ScoreMicro": metrics.accuracy,
        "f1ScoreMacro": macro_f1,
    }
    document: dict[str, Any] = {"logLoss": metrics.loss, "confidenceMetrics": [at_any_confidence]}
    if metrics.confusion:
        specs = [{"id": str(index), "displayName": label} for index, label in enumerate(labels)]
        document["confusionMatrix"] = {"annotationSpecs": specs, "rows": [list(row) for row in metrics.confusion]}
    return document
