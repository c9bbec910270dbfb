"""AutoML for images through Google's own classes, unmodified: data set, training, evaluation, endpoint, export."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from google.api_core.future.polling import DEFAULT_POLLING

from support import automl_data

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from google.cloud import aiplatform
    from google.cloud.aiplatform import training_jobs

SPLIT = {
    f"{ml_use}_filter_split": f"labels.{automl_data.ML_USE}={ml_use}" for ml_use in ("training", "validation", "test")
}


@pytest.fixture(scope="module")
def sdk(cloud: Any) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        # How often Google's library asks: a training every 5 s, an operation every second and then less.
        patch.setattr(training_jobs, "_JOB_WAIT_TIME", 0.1)
        patch.setattr(DEFAULT_POLLING, "_initial", 0.05)
        patch.setattr(DEFAULT_POLLING, "_maximum", 0.1)
        aiplatform.init(**cloud.for_sdk())
        yield aiplatform


@pytest.fixture(scope="module")
def dataset(sdk: Any, cloud: Any) -> Any:
    with cloud.bucket("pictures") as bucket:
        lines = automl_data.upload(bucket, "sdk", list(automl_data.pictures()))
        uri = automl_data.upload_lines(bucket, "sdk/import-00000.jsonl", lines)
    return sdk.ImageDataset.create(
        display_name="flowers",
        gcs_source=uri,
        import_schema_uri=sdk.schema.dataset.ioformat.image.single_label_classification,
        labels={"snapshot": "s-1"},
    )


def trained(sdk: Any, dataset: Any, model_type: str, budget: int, model_id: str) -> Any:
    job = sdk.AutoMLImageTrainingJob(display_name=model_id, model_type=model_type, labels={"run": model_id})
    model = job.run(
        dataset=dataset,
        model_display_name=model_id,
        model_id=model_id,
        model_version_aliases=["run-1"],
        budget_milli_node_hours=budget,
        **SPLIT,
    )
    assert job.state.name == "PIPELINE_STATE_SUCCEEDED"
    assert [found.resource_name for found in job.list(filter=f"labels.run={model_id}")] == [job.resource_name]
    # The class shows no metadata: what was spent stands in the resource.
    assert 0 < int(job.gca_resource.training_task_metadata["costMilliNodeHours"]) <= budget
    return model


def test_a_data_set_is_made_imported_found_and_deleted(sdk: Any, cloud: Any, dataset: Any) -> None:
    assert dataset.gca_resource.metadata_schema_uri == sdk.schema.dataset.metadata.image
    dataset = sdk.ImageDataset(dataset.resource_name)
    assert dataset.gca_resource.data_item_count == 3 * sum(automl_data.COUNTS.values())
    assert [each.name for each in sdk.ImageDataset.list(filter='labels."snapshot"="s-1"')] == [dataset.name]
    assert sdk.ImageDataset.list(filter='display_name="fl*"') == []
    other = sdk.ImageDataset.create(display_name="other")
    other.update(labels={"a": "b"})
    assert other.labels == {"a": "b"}
    other.delete()
    assert [each.name for each in sdk.ImageDataset.list()] == [dataset.name]


def test_a_cloud_model_is_trained_evaluated_deployed_and_asked(sdk: Any, cloud: Any, dataset: Any) -> None:
    model = trained(sdk, dataset, "CLOUD", 8000, "cloud-flowers")
    assert (model.version_id, sorted(model.version_aliases)) == ("1", ["default", "run-1"])
    assert model.supported_export_formats == {}
    assert [each.name for each in model.supported_deployment_resources_types] == ["AUTOMATIC_RESOURCES"]
    with pytest.raises(ValueError, match="not exportable"):
        model.export_model("tflite", artifact_destination="gs://pictures/exports")

    matrix = model.get_model_evaluation().metrics["confusionMatrix"]
    assert {each["displayName"] for each in matrix["annotationSpecs"]} == set(automl_data.COLOURS)
    assert [[int(number) for number in row] for row in matrix["rows"]] == [[3, 0, 0], [0, 3, 0], [0, 0, 3]]

    endpoint = sdk.Endpoint.create(display_name="automl", endpoint_id="automl")
    model.deploy(endpoint=endpoint, traffic_percentage=100)
    content = base64.b64encode(automl_data.picture(automl_data.COLOURS["roses"], 99)).decode()
    answer = endpoint.predict(
        [{"content": content, "mimeType": "image/png"}], parameters={"confidenceThreshold": 0.0, "maxPredictions": 2}
    )
    prediction = answer.predictions[0]
    assert prediction["displayNames"][0] == "roses"
    assert prediction["confidences"] == sorted(prediction["confidences"], reverse=True)
    assert len(prediction["ids"]) == len(prediction["displayNames"]) == len(prediction["confidences"]) == 2
    assert {each["id"] for each in matrix["annotationSpecs"]} > set(prediction["ids"])
    assert (answer.model_version_id, answer.deployed_model_id) == ("1", endpoint.list_models()[0].id)
    certain = endpoint.predict([{"content": content}], parameters={"confidenceThreshold": 1.0}).predictions[0]
    assert certain == {"ids": [], "displayNames": [], "confidences": []}
    endpoint.undeploy_all()
    endpoint.delete()


def test_a_mobile_model_is_trained_and_exported(sdk: Any, cloud: Any, dataset: Any) -> None:
    model = trained(sdk, dataset, "MOBILE_TF_VERSATILE_1", 1000, "mobile-flowers")
    assert "tflite" in model.supported_export_formats
    first, second = (
        model.export_model(export_format_id="tflite", artifact_destination="gs://pictures/exports/")[
            "artifactOutputUri"
        ]
        for _ in range(2)
    )
    assert first != second
    assert first.startswith("gs://pictures/exports/model-mobile-flowers/tflite/20")
    with cloud.bucket("pictures") as bucket:
        names = [blob.name for blob in bucket.list_blobs(prefix=first.removeprefix("gs://pictures/"))]
        assert [name.rsplit("/", 1)[-1] for name in names] == ["model.tflite"]
        assert bucket.blob(names[0]).download_as_bytes()[4:8] == b"TFL3"
    slices = cloud.models.list_model_evaluation_slices(parent=model.get_model_evaluation().resource_name)
    assert {each.slice_.value for each in slices} == set(automl_data.COLOURS)


def test_a_second_training_makes_a_version_of_its_parent(sdk: Any, dataset: Any) -> None:
    trained(sdk, dataset, "CLOUD", 8000, "parent")
    job = sdk.AutoMLImageTrainingJob(display_name="again", model_type="CLOUD")
    model = job.run(
        dataset=dataset,
        parent_model="parent",
        is_default_version=False,
        model_version_aliases=["run-2"],
        budget_milli_node_hours=8000,
        disable_early_stopping=True,
    )
    assert (model.resource_name.rsplit("/", 1)[-1], model.version_id) == ("parent", "2")
    assert list(model.version_aliases) == ["run-2"]
    assert dict(job.gca_resource.training_task_metadata) == {
        "costMilliNodeHours": "8000",
        "successfulStopReason": "BUDGET_REACHED",
    }
