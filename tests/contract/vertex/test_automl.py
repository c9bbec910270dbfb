"""AutoML's rules, delays and refusals: what it says no to, what fails later, and what it counts."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import google.api_core.exceptions as google_errors
import pytest
from google.cloud import aiplatform_v1
from google.protobuf import struct_pb2

from cloud_deployer import deployments
from dualdeploy.contracts import prediction
from dualdeploy.contracts.dataset_config import Serving
from dualdeploy.errors import RejectedByGoogle
from dualdeploy.google.vertex import Operation, VertexGateway
from local_cloud.api import ApiError
from local_cloud.vertex import automl
from local_cloud.vertex.datasets import check_size
from mobile_publisher import on_device
from support import automl_data
from support.automl_data import COLOURS, ML_USE, line, picture

SPLIT = {f"{name}_filter": f"labels.{ML_USE}={name}" for name in ("training", "validation", "test")}
FINAL = {
    aiplatform_v1.PipelineState.PIPELINE_STATE_SUCCEEDED,
    aiplatform_v1.PipelineState.PIPELINE_STATE_FAILED,
    aiplatform_v1.PipelineState.PIPELINE_STATE_CANCELLED,
}


class Automl:
    """Short forms of what most tests begin with."""

    def __init__(self, cloud: Any) -> None:
        self.cloud = cloud

    def dataset(self, **fields: Any) -> str:
        wanted = {"display_name": "flowers", "metadata_schema_uri": automl.DATASET_SCHEMA, **fields}
        created = self.cloud.datasets.create_dataset(parent=self.cloud.parent, dataset=wanted)
        return self.cloud.finish(created).name

    def import_lines(self, dataset: str, lines: list[Mapping[str, Any]], name: str = "import.jsonl") -> Any:
        """The operation of an import, as it is."""
        with self.cloud.bucket("automl") as bucket:
            uri = automl_data.upload_lines(bucket, f"{dataset.rsplit('/', 1)[-1]}/{name}", lines)
        return self.import_uris(dataset, uri)

    def import_uris(self, dataset: str, *uris: str) -> Any:
        config = {"gcs_source": {"uris": list(uris)}, "import_schema_uri": automl.IMPORT_SCHEMA}
        return self.cloud.datasets.import_data(name=dataset, import_configs=[config])

    def filled(self, made: Any = None) -> str:
        """A data set with pictures."""
        dataset = self.dataset()
        folder = dataset.rsplit("/", 1)[-1]
        with self.cloud.bucket("automl") as bucket:
            lines = automl_data.upload(bucket, folder, list(made or automl_data.pictures()))
        self.cloud.finish(self.import_lines(dataset, lines))
        return dataset

    def count(self, dataset: str) -> int:
        return self.cloud.datasets.get_dataset(name=dataset).data_item_count

    def pipeline(self, dataset: str, **fields: Any) -> aiplatform_v1.TrainingPipeline:
        inputs = {"modelType": "CLOUD", "budgetMilliNodeHours": 8000, **fields.pop("inputs", {})}
        value = struct_pb2.Value()
        value.struct_value.update({key: each for key, each in inputs.items() if each is not ...})
        config = {"dataset_id": dataset.rsplit("/", 1)[-1], "filter_split": SPLIT, **fields.pop("config", {})}
        return aiplatform_v1.TrainingPipeline(
            **{
                "display_name": "flowers",
                "training_task_definition": automl.DEFINITION,
                "training_task_inputs": value,
                "input_data_config": {key: each for key, each in config.items() if each is not None},
                "model_to_upload": {"display_name": "flowers"},
                **fields,
            }
        )

    def create(self, dataset: str, **fields: Any) -> aiplatform_v1.TrainingPipeline:
        return self.cloud.pipelines.create_training_pipeline(
            parent=self.cloud.parent, training_pipeline=self.pipeline(dataset, **fields)
        )

    def train(self, dataset: str, **fields: Any) -> str:
        return self.create(dataset, **fields).name

    def ended(self, name: str, seconds: float = 60.0) -> aiplatform_v1.TrainingPipeline:
        deadline = time.monotonic() + seconds
        while (pipeline := self.get(name)).state not in FINAL:
            assert time.monotonic() < deadline, f"{name} is still {pipeline.state.name}"
            time.sleep(0.03)
        return pipeline

    def get(self, name: str) -> aiplatform_v1.TrainingPipeline:
        return self.cloud.pipelines.get_training_pipeline(name=name)

    def model(self, dataset: str, **fields: Any) -> str:
        """The name of a trained model, with its version."""
        pipeline = self.ended(self.train(dataset, **fields))
        assert pipeline.state.name == "PIPELINE_STATE_SUCCEEDED", pipeline.error.message
        return f"{pipeline.model_to_upload.name}@{pipeline.model_to_upload.version_id}"

    def deploy(self, endpoint: str, model: str, **fields: Any) -> Any:
        split = fields.pop("split", {"0": 100})
        deployed = {"model": model, "automatic_resources": {"min_replica_count": 1}, **fields}
        return self.cloud.finish(
            self.cloud.endpoints.deploy_model(
                endpoint=endpoint,
                deployed_model={key: each for key, each in deployed.items() if each is not None},
                traffic_split=split,
            )
        ).deployed_model.id

    def export(self, model: str, export_format: str, prefix: str = "gs://automl/exports") -> Any:
        config = {"export_format_id": export_format, "artifact_destination": {"output_uri_prefix": prefix}}
        return self.cloud.models.export_model(name=model, output_config=config)


@pytest.fixture(scope="module")
def ml(cloud: Any) -> Automl:
    return Automl(cloud)


@pytest.fixture(scope="module")
def flowers(ml: Automl) -> str:
    """A data set that can be learned from."""
    return ml.filled()


@pytest.fixture(scope="module")
def cloud_model(ml: Automl, flowers: str) -> str:
    return ml.model(flowers, model_id="refusals-cloud")


@pytest.fixture(scope="module")
def mobile_model(ml: Automl, flowers: str) -> str:
    inputs = {"modelType": "MOBILE_TF_LOW_LATENCY_1", "budgetMilliNodeHours": 1000}
    return ml.model(flowers, model_id="refusals-mobile", inputs=inputs)


# --- what is refused at once -----------------------------------------------------------------------------------------

#: What CreateTrainingPipeline refuses: the fields, Google's status, and a part of what it says.
PIPELINES: Mapping[str, tuple[dict[str, Any], type[Exception], str]] = {
    "unknown definition": (
        {"training_task_definition": automl.DEFINITION.replace("image_classification", "tables")},
        google_errors.BadRequest,
        "training_task_definition",
    ),
    "unknown model type": ({"inputs": {"modelType": "MOBILE_1"}}, google_errors.BadRequest, "MOBILE_1"),
    "an input that AutoML has not": ({"inputs": {"budget": 1}}, google_errors.BadRequest, "'budget'"),
    "several labels each": ({"inputs": {"multiLabel": True}}, google_errors.BadRequest, "multiLabel"),
    "a cloud budget too small": (
        {"inputs": {"budgetMilliNodeHours": 7999}},
        google_errors.BadRequest,
        "from 8000 to 800000",
    ),
    "a cloud budget too large": (
        {"inputs": {"budgetMilliNodeHours": 800_001}},
        google_errors.BadRequest,
        "from 8000 to 800000",
    ),
    "a mobile budget too small": (
        {"inputs": {"modelType": "MOBILE_TF_VERSATILE_1", "budgetMilliNodeHours": 500}},
        google_errors.BadRequest,
        "from 1000 to 100000",
    ),
    "a mobile budget too large": (
        {"inputs": {"modelType": "MOBILE_TF_HIGH_ACCURACY_1", "budgetMilliNodeHours": 100_001}},
        google_errors.BadRequest,
        "from 1000 to 100000",
    ),
    "half a milli node hour": (
        {"inputs": {"budgetMilliNodeHours": 8000.5}},
        google_errors.BadRequest,
        "whole number",
    ),
    "an unknown data set": ({"config": {"dataset_id": "17"}}, google_errors.NotFound, "datasets/17"),
    "a data set by its full name": (
        {"config": {"dataset_id": "projects/p/locations/l/datasets/1"}},
        google_errors.BadRequest,
        "dataset_id",
    ),
    "a split of tables": (
        {"config": {"filter_split": None, "predefined_split": {"key": "set"}}},
        google_errors.BadRequest,
        "predefinedSplit",
    ),
    "an unknown filter": (
        {"config": {"filter_split": {**SPLIT, "test_filter": "labels.mine=test"}}},
        google_errors.BadRequest,
        "testFilter",
    ),
    "a parent with a version": ({"parent_model": "refusals-cloud@1"}, google_errors.NotFound, "refusals-cloud@1"),
    "an unknown parent": ({"parent_model": "nobody"}, google_errors.NotFound, "models/nobody"),
    "a parent of custom models": ({"parent_model": "custom"}, google_errors.BadRequest, "not trained by"),
    "a model id that is taken": ({"model_id": "refusals-cloud"}, google_errors.Conflict, "refusals-cloud"),
    "a model id that cannot be one": ({"model_id": "2fast"}, google_errors.BadRequest, "2fast"),
    "an alias that cannot be one": (
        {"model_to_upload": {"display_name": "flowers", "version_aliases": ["1"]}},
        google_errors.BadRequest,
        "alias",
    ),
    "a model without a name": ({"model_to_upload": {}}, google_errors.BadRequest, "display_name"),
    "a label in capitals": ({"labels": {"run": "A"}}, google_errors.BadRequest, "'A'"),
}


@pytest.fixture(scope="module")
def custom_model(cloud: Any) -> str:
    return cloud.upload("custom")


@pytest.mark.parametrize("case", PIPELINES)
def test_a_training_that_google_refuses_is_refused(
    ml: Automl, flowers: str, cloud_model: str, custom_model: str, case: str
) -> None:
    fields, error, text = PIPELINES[case]
    before = len(list(ml.cloud.pipelines.list_training_pipelines(parent=ml.cloud.parent)))
    with pytest.raises(error, match=text):
        ml.train(flowers, **fields)
    assert len(list(ml.cloud.pipelines.list_training_pipelines(parent=ml.cloud.parent))) == before


IMAGE = base64.b64encode(picture(COLOURS["daisy"], 7)).decode()
#: What a prediction of AutoML is refused for: the instances, the parameters and a part of the text.
PREDICTIONS: Mapping[str, tuple[list[Any], dict[str, Any], str]] = {
    "another form": ([{"b64": IMAGE}], {}, "content"),
    "a form of both": ([{"content": IMAGE, "b64": IMAGE}], {}, '"b64"'),
    "two instances": ([{"content": IMAGE}, {"content": IMAGE}], {}, "must be 1"),
    "not one instance": ([], {}, "instances"),
    "plain text": (["daisy"], {}, "content"),
    "not base64": ([{"content": "§"}], {}, "base64"),
    "not a picture": ([{"content": base64.b64encode(b"%PDF-1.7").decode()}], {}, "not an image"),
    "a threshold above 1": ([{"content": IMAGE}], {"confidenceThreshold": 1.5}, "from 0 to 1"),
    "more than 1.5 MB": ([{"content": "A" * 1_600_000}], {}, "1.500MB"),
}


@pytest.fixture(scope="module")
def endpoint(ml: Automl, cloud_model: str) -> str:
    name = ml.cloud.endpoint("automl-refusals")
    ml.deploy(name, cloud_model, id="7")
    return name


@pytest.mark.parametrize("case", PREDICTIONS)
def test_a_prediction_that_google_refuses_is_refused(ml: Automl, endpoint: str, case: str) -> None:
    instances, parameters, text = PREDICTIONS[case]
    values = [struct_pb2.Value() for _ in instances]
    for value, instance in zip(values, instances, strict=True):
        if isinstance(instance, str):
            value.string_value = instance
        else:
            value.struct_value.update(instance)
    settings = struct_pb2.Value()
    settings.struct_value.update(parameters)
    with pytest.raises(google_errors.BadRequest, match=text):
        ml.cloud.predictions.predict(endpoint=endpoint, instances=values, parameters=settings)


#: What a deployment is refused for: the model, the endpoint's fields, the deployed model's, and a part of the text.
DEPLOYMENTS: Mapping[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "a dedicated endpoint": ("cloud", {"dedicated_endpoint_enabled": True}, {}, "dedicated Endpoint"),
    "a machine of one's own": (
        "cloud",
        {},
        {
            "automatic_resources": None,
            "dedicated_resources": {"machine_spec": {"machine_type": "n1-standard-2"}, "min_replica_count": 1},
        },
        "'dedicated_resources' is not supported for Model",
    ),
    "an edge model": ("mobile", {}, {}, "edge model"),
    "a custom model": ("custom", {}, {}, "'automatic_resources' is not supported for Model"),
}


@pytest.mark.parametrize("case", DEPLOYMENTS)
def test_a_deployment_that_google_refuses_is_refused(
    ml: Automl, cloud_model: str, mobile_model: str, custom_model: str, case: str
) -> None:
    model, endpoint, fields, text = DEPLOYMENTS[case]
    name = ml.cloud.endpoint(**endpoint)
    named = {"cloud": cloud_model, "mobile": mobile_model, "custom": custom_model}
    with pytest.raises(google_errors.BadRequest, match=text):
        ml.deploy(name, named[model], **fields)
    assert not ml.cloud.endpoints.get_endpoint(name=name).deployed_models


#: What an export is refused for: the model, the format, the folder, and a part of the text.
EXPORTS: Mapping[str, tuple[str, str, str, str]] = {
    "a cloud model": ("cloud", "tflite", "gs://automl/exports", "in format `tflite` is not supported"),
    "no format": ("mobile", "", "gs://automl/exports", "in format `` is not supported"),
    "a format of custom models": (
        "mobile",
        "custom-trained",
        "gs://automl/exports",
        "in format `custom-trained` is not supported",
    ),
    "a folder elsewhere": ("mobile", "tflite", "automl/exports", "output_uri_prefix"),
}


@pytest.mark.parametrize("case", EXPORTS)
def test_an_export_that_google_refuses_is_refused(ml: Automl, cloud_model: str, mobile_model: str, case: str) -> None:
    model, export_format, prefix, text = EXPORTS[case]
    with pytest.raises(google_errors.BadRequest, match=text):
        ml.export({"cloud": cloud_model, "mobile": mobile_model}[model], export_format, prefix)


def test_an_export_into_a_bucket_that_is_not_there_fails(ml: Automl, mobile_model: str) -> None:
    with pytest.raises(google_errors.NotFound, match="gs://nowhere-at-all"):
        ml.cloud.finish(ml.export(mobile_model, "tflite", "gs://nowhere-at-all/exports"))


def test_a_data_set_of_another_kind_is_refused(ml: Automl) -> None:
    with pytest.raises(google_errors.BadRequest, match="metadata_schema_uri"):
        ml.dataset(metadata_schema_uri=automl.DATASET_SCHEMA.replace("image", "video"))
    several = automl.IMPORT_SCHEMA.replace("single", "multi")
    config = {"gcs_source": {"uris": ["gs://automl/a"]}, "import_schema_uri": several}
    with pytest.raises(google_errors.BadRequest, match="import_schema_uri"):
        ml.cloud.datasets.import_data(name=ml.dataset(), import_configs=[config])


def test_another_region_has_no_automl(new_cloud: Callable[..., Any]) -> None:
    cloud = new_cloud(region="europe-west1")
    parent = cloud.parent.replace("us-central1", "europe-west1")
    dataset = {"display_name": "flowers", "metadata_schema_uri": automl.DATASET_SCHEMA}
    with pytest.raises(google_errors.BadRequest, match="europe-west4, us-central1"):
        cloud.datasets.create_dataset(parent=parent, dataset=dataset)
    with pytest.raises(google_errors.BadRequest, match="europe-west4, us-central1"):
        cloud.pipelines.create_training_pipeline(parent=parent, training_pipeline=Automl(cloud).pipeline("datasets/1"))


def test_a_custom_model_and_one_of_automl_share_an_endpoint(ml: Automl, cloud_model: str, custom_model: str) -> None:
    name = ml.cloud.endpoint("automl-shared")
    ml.cloud.deploy(name, custom_model, "1", split={"0": 100})
    ml.deploy(name, cloud_model, id="2", split={"1": 100, "0": 0})
    value = struct_pb2.Value()
    value.struct_value.update({"content": IMAGE, "mimeType": "image/png"})
    for share, deployed, field in ((0, "1", "MODEL_LABEL"), (100, "2", "displayNames")):
        ml.cloud.endpoints.update_endpoint(
            endpoint={"name": name, "traffic_split": {"1": 100 - share, "2": share}},
            update_mask={"paths": ["traffic_split"]},
        )
        answer = ml.cloud.predictions.predict(endpoint=name, instances=[value])
        assert answer.deployed_model_id == deployed
        assert field in answer.predictions[0]


# --- what our own services see ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gateway(cloud: Any) -> VertexGateway:
    _, project, _, region = cloud.parent.split("/")
    return VertexGateway(project=project, region=region, emulator_host=cloud.vertex.address)


def done(gateway: VertexGateway, operation: str) -> Operation:
    deadline = time.monotonic() + 30
    while not ((found := gateway.operation(operation)) and found.done):
        assert time.monotonic() < deadline
        time.sleep(0.03)
    return found


def test_our_gateway_deploys_and_asks_what_automl_trained(gateway: VertexGateway, cloud_model: str) -> None:
    version = gateway.find_model_version(*cloud_model.rsplit("/", 1)[-1].split("@"))
    assert version is not None
    assert (version.is_automatic, version.forms) == (True, {"content"})
    done(gateway, gateway.start_create_endpoint("ours", display_name="ours", labels={}, dedicated=False))
    config = Serving(endpoint="ours", dedicated=False)
    deployment = deployments.deployment(config, deployed_id="77", version=version, run_id="flowers-0123456789ab")
    assert not done(gateway, gateway.start_deploy("ours", deployment, traffic={"77": 100})).error
    endpoint = gateway.find_endpoint("ours")
    assert endpoint is not None
    answer = gateway.predict(endpoint, prediction.instance(picture(COLOURS["roses"], 1), "content"))
    assert (answer.deployed_id, prediction.said(answer.prediction).label) == ("77", "roses")
    with pytest.raises(RejectedByGoogle):
        gateway.predict(endpoint, prediction.instance(picture(COLOURS["roses"], 1), "b64"))
    (told,) = (each for each in gateway.find_model_versions(version.name.rsplit("/", 1)[-1]))
    assert told.is_automatic


def test_our_gateway_exports_a_file_that_the_gate_reads(ml: Automl, gateway: VertexGateway, mobile_model: str) -> None:
    operation = done(gateway, gateway.start_export(mobile_model, format_id="tflite", folder="gs://automl/exports/ours"))
    folder = operation.metadata["outputInfo"]["artifactOutputUri"]
    assert folder.startswith("gs://automl/exports/ours/")
    with ml.cloud.bucket("automl") as bucket:
        tflite = bucket.blob(f"{folder.removeprefix('gs://automl/').rstrip('/')}/model.tflite").download_as_bytes()
    classifier = on_device.Classifier(tflite, labels=sorted(COLOURS))
    assert (classifier.input_type, classifier.output_type, classifier.takes_pixels) == ("uint8", "uint8", True)
    examples = [(picture(colour, 5), sorted(COLOURS).index(label)) for label, colour in COLOURS.items()]
    assert on_device.evaluate(tflite, examples, labels=sorted(COLOURS)).accuracy == 1.0


# --- imports ---------------------------------------------------------------------------------------------------------


def metadata(operation: Any) -> Any:
    """What a finished import says of itself."""
    operation.done()
    return operation.metadata.generic_metadata


def test_an_import_counts_pictures_not_lines(ml: Automl) -> None:
    dataset = ml.dataset()
    with ml.cloud.bucket("automl") as bucket:
        names = ("one.png", "copy of one.png", "two.png")
        for name, data in zip(
            names, (b"\x89PNG\r\n\x1a\n1", b"\x89PNG\r\n\x1a\n1", b"\x89PNG\r\n\x1a\n2"), strict=True
        ):
            bucket.blob(f"copies/{name}").upload_from_string(data)
    lines = [line(f"gs://automl/copies/{name}", "daisy", "training") for name in names]
    operation = ml.import_lines(dataset, [*lines, lines[0]])
    ml.cloud.finish(operation)
    assert ml.count(dataset) == 2
    assert not metadata(operation).partial_failures
    ml.cloud.finish(ml.import_lines(dataset, lines))
    assert ml.count(dataset) == 2


def test_a_second_import_changes_neither_the_set_nor_the_label(ml: Automl) -> None:
    dataset = ml.filled()
    with ml.cloud.bucket("automl") as bucket:
        lines = automl_data.upload(bucket, "again", list(automl_data.pictures()))
    ml.cloud.finish(ml.import_lines(dataset, [line(each["imageGcsUri"], "daisy", "test") for each in lines]))
    assert ml.count(dataset) == len(lines)
    pipeline = ml.ended(ml.train(dataset))
    assert pipeline.state.name == "PIPELINE_STATE_SUCCEEDED", pipeline.error.message


#: Lines that are left out, each with a part of the reason.
BAD_LINES: Mapping[str, tuple[Any, str]] = {
    "not JSON": ("{", "not JSON"),
    "not an object": ("[]", "not a JSON object"),
    "without a picture": ({"classificationAnnotation": {"displayName": "daisy"}}, "imageGcsUri"),
    "a picture elsewhere": (line("https://example.com/daisy.png", "daisy"), "imageGcsUri"),
    "a picture that is not there": (line("gs://automl/nowhere.png", "daisy"), "cannot be read"),
    "a picture of WebP": (line("gs://automl/odd.webp", "daisy"), "JPEG, GIF, PNG, BMP or ICO"),
    "a picture that is text": (line("gs://automl/odd.txt", "daisy"), "JPEG, GIF, PNG, BMP or ICO"),
    "a label that is too long": (line("gs://automl/good.png", "d" * 129), "1 to 128"),
    "a label that is a number": (
        {"imageGcsUri": "gs://automl/good.png", "classificationAnnotation": {"displayName": 3}},
        "1 to 128",
    ),
    "a set that is not one": (line("gs://automl/good.png", "daisy", "holdout"), "'holdout'"),
}


@pytest.fixture(scope="module")
def odd_objects(ml: Automl) -> None:
    with ml.cloud.bucket("automl") as bucket:
        bucket.blob("good.png").upload_from_string(picture(COLOURS["daisy"], 1000))
        bucket.blob("odd.webp").upload_from_string(b"RIFF\x10\0\0\0WEBPVP8 ")
        bucket.blob("odd.txt").upload_from_string(b"daisy")


def test_what_cannot_be_imported_is_told_and_the_rest_is_imported(ml: Automl, odd_objects: None) -> None:
    dataset = ml.dataset()
    texts = [each if isinstance(each, str) else json.dumps(each) for each, _ in BAD_LINES.values()]
    with ml.cloud.bucket("automl") as bucket:
        good = json.dumps(line("gs://automl/good.png", "daisy", "training"))
        bucket.blob("bad/lines.jsonl").upload_from_string("\n".join([*texts, good]))
    operation = ml.import_uris(dataset, "gs://automl/bad/*.jsonl")
    ml.cloud.finish(operation)
    assert ml.count(dataset) == 1
    told = [each.message for each in metadata(operation).partial_failures]
    assert len(told) == len(BAD_LINES)
    for name, (_, reason) in BAD_LINES.items():
        assert any(reason in each for each in told), name


def test_at_most_twenty_failures_are_told_and_the_import_succeeds(ml: Automl, odd_objects: None) -> None:
    dataset = ml.dataset()
    missing = [line(f"gs://automl/missing-{number}.png", "daisy") for number in range(30)]
    operation = ml.import_lines(dataset, [line("gs://automl/good.png", "daisy"), *missing])
    ml.cloud.finish(operation)
    assert len(metadata(operation).partial_failures) == 20
    assert ml.count(dataset) == 1


def test_an_import_of_nothing_good_and_one_of_a_missing_file_fail(ml: Automl) -> None:
    dataset = ml.dataset()
    with pytest.raises(google_errors.InvalidArgument, match="No item was imported: 1 failed"):
        ml.cloud.finish(ml.import_lines(dataset, [line("gs://automl/nowhere.png", "daisy")]))
    for uri in ("gs://automl/nowhere.jsonl", "gs://automl/nowhere-*.jsonl"):
        with pytest.raises(google_errors.NotFound, match="nowhere"):
            ml.cloud.finish(ml.import_uris(dataset, uri))
    assert ml.count(dataset) == 0


def test_a_picture_of_more_than_30_mb_is_left_out(ml: Automl, odd_objects: None) -> None:
    with ml.cloud.bucket("automl") as bucket:
        bucket.blob("large.png").upload_from_string(b"\x89PNG\r\n\x1a\n" + bytes(30_000_000))
    operation = ml.import_lines(ml.dataset(), [line("gs://automl/large.png"), line("gs://automl/good.png")])
    ml.cloud.finish(operation)
    (failure,) = metadata(operation).partial_failures
    assert "30000008 bytes; at most 30000000" in failure.message


def test_a_data_set_has_limits() -> None:
    items = [{"label": f"label-{number}"} for number in range(5_001)]
    check_size(items[:5_000])
    with pytest.raises(ApiError, match="5001 labels; at most 5000"):
        check_size(items)
    with pytest.raises(ApiError, match="5000 items; at most 4999"):
        check_size(items[:5_000], most_items=4_999)


# --- trainings -------------------------------------------------------------------------------------------------------

#: What is found out only when the training runs: the pictures, and a part of the error.
UNTRAINABLE: Mapping[str, tuple[list[tuple[str, str, bytes]], str]] = {
    "one label": (list(automl_data.pictures({"daisy": COLOURS["daisy"]})), "at least 2 labels"),
    "nine pictures of a label": (
        [
            *automl_data.pictures({"daisy": COLOURS["daisy"]}),
            *automl_data.pictures({"roses": COLOURS["roses"]}, {"training": 7, "validation": 1, "test": 1}),
        ],
        "'roses' has 9 images; at least 10",
    ),
    "a label missing in a set": (
        [
            *automl_data.pictures({"daisy": COLOURS["daisy"]}),
            *automl_data.pictures({"roses": COLOURS["roses"]}, {"training": 10, "validation": 2}),
        ],
        "'roses' has no images in the test set",
    ),
}


@pytest.mark.parametrize("case", UNTRAINABLE)
def test_a_training_fails_for_pictures_that_it_cannot_learn_from(ml: Automl, case: str) -> None:
    made, text = UNTRAINABLE[case]
    pipeline = ml.ended(ml.train(ml.filled(made)))
    assert pipeline.state.name == "PIPELINE_STATE_FAILED"
    assert pipeline.error.code == 3
    assert text in pipeline.error.message
    assert pipeline.start_time
    assert pipeline.end_time >= pipeline.start_time
    # "A failed training is free."
    assert not pipeline.training_task_metadata


def test_a_training_without_a_validation_filter_has_an_empty_set(ml: Automl, flowers: str) -> None:
    config = {"filter_split": {**SPLIT, "validation_filter": "-"}}
    pipeline = ml.ended(ml.train(flowers, config=config))
    assert "no images in the validation set" in pipeline.error.message


def test_a_training_splits_by_fractions_if_it_is_not_told_how(ml: Automl, flowers: str) -> None:
    counts = {"training": 60, "validation": 0, "test": 0}
    model = ml.model(ml.filled(list(automl_data.pictures(counts=counts))), config={"filter_split": None})
    (evaluation,) = ml.cloud.models.list_model_evaluations(parent=model)
    rows = [list(row) for row in evaluation.metrics["confusionMatrix"]["rows"]]
    assert sum(map(sum, rows)) == 18


def test_pictures_must_be_there_until_the_training_has_read_them(ml: Automl) -> None:
    dataset = ml.filled()
    with ml.cloud.bucket("automl") as bucket:
        for blob in bucket.list_blobs(prefix=f"{dataset.rsplit('/', 1)[-1]}/roses"):
            blob.delete()
    pipeline = ml.ended(ml.train(dataset))
    assert pipeline.state.name == "PIPELINE_STATE_FAILED"
    assert "/roses-" in pipeline.error.message


@pytest.mark.parametrize(("model_type", "default"), [("CLOUD", "192000"), ("MOBILE_TF_VERSATILE_1", "24000")])
def test_the_default_budget_is_the_dear_one(ml: Automl, flowers: str, model_type: str, default: str) -> None:
    name = ml.train(flowers, inputs={"modelType": model_type, "budgetMilliNodeHours": None})
    assert ml.get(name).training_task_inputs["budgetMilliNodeHours"] == default
    ml.cloud.pipelines.cancel_training_pipeline(name=name)
    assert ml.ended(name).state in FINAL


def test_a_sixth_training_is_refused_and_cancelled_ones_make_room(new_cloud: Callable[..., Any]) -> None:
    ml = Automl(new_cloud())
    dataset = ml.filled()
    ml.cloud.faults.add({"aiplatform.trainingPipelines.run": ["stall"] * 6})  # the one that waits, too
    running = [ml.train(dataset, labels={"number": str(number)}) for number in range(5)]
    with pytest.raises(google_errors.TooManyRequests, match="quotas are exceeded"):
        ml.train(dataset)
    # One that is being cancelled counts until it has ended.
    ml.cloud.pipelines.cancel_training_pipeline(name=running[4])
    ml.ended(running.pop())
    ml.train(dataset, model_id="waiting")
    with pytest.raises(google_errors.Conflict, match="waiting"):
        ml.train(dataset, model_id="waiting")
    listed = ml.cloud.pipelines.list_training_pipelines(
        request={"parent": ml.cloud.parent, "filter": 'labels.number="2"'}
    )
    assert [each.name for each in listed] == [running[2]]
    for name in running:
        while ml.get(name).state.name != "PIPELINE_STATE_RUNNING":
            time.sleep(0.02)
        with pytest.raises(google_errors.BadRequest, match="cancel it before"):
            ml.cloud.pipelines.delete_training_pipeline(name=name)
        ml.cloud.pipelines.cancel_training_pipeline(name=name)
    pipeline = ml.ended(running[0])
    assert (pipeline.state.name, pipeline.error.code) == ("PIPELINE_STATE_CANCELLED", 1)
    # "A cancelled one is billed."
    assert 0 < int(pipeline.training_task_metadata["costMilliNodeHours"]) <= 8000
    assert not pipeline.model_to_upload.name
    ml.cloud.pipelines.cancel_training_pipeline(name=running[0])
    ml.cloud.finish(ml.cloud.pipelines.delete_training_pipeline(name=running[0]))
    with pytest.raises(google_errors.NotFound):
        ml.get(running[0])


def test_a_training_runs_as_long_as_its_node_hours(new_cloud: Callable[..., Any]) -> None:
    slow = dataclasses.replace(automl_data.QUICK_AUTOML, seconds_per_node_hour=0.15)
    ml = Automl(new_cloud(automl=slow))
    created = ml.create(ml.filled())
    name, seen = created.name, [created.state.name]
    while (pipeline := ml.get(name)).state not in FINAL:
        seen.append(pipeline.state.name)
        time.sleep(0.02)
    assert list(dict.fromkeys([*seen, "PIPELINE_STATE_RUNNING"])) == [
        "PIPELINE_STATE_PENDING",
        "PIPELINE_STATE_RUNNING",
    ]
    # 7.2 node hours, without the time before and after.
    assert (pipeline.end_time - pipeline.start_time).total_seconds() >= 7.2 * 0.15


# --- what goes wrong on command --------------------------------------------------------------------------------------


def test_a_model_may_appear_some_time_after_its_training_succeeded(ml: Automl, flowers: str) -> None:
    with ml.cloud.faults.plan({"aiplatform.models.appear": ["delay:1"]}):
        pipeline = ml.ended(ml.train(flowers))
        name = f"{pipeline.model_to_upload.name}@{pipeline.model_to_upload.version_id}"
        with pytest.raises(google_errors.NotFound):
            ml.cloud.models.get_model(name=name)
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(google_errors.NotFound):
            assert ml.cloud.models.get_model(name=name).training_pipeline == pipeline.name
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_training_fails_on_command_and_an_answer_is_lost(ml: Automl, flowers: str) -> None:
    with ml.cloud.faults.plan(
        {
            "aiplatform.trainingPipelines.run": ["crash"],
            "aiplatform.trainingPipelines.create": ["lost-response"],
        }
    ):
        with pytest.raises(google_errors.ServiceUnavailable):
            ml.train(flowers, labels={"lost": "yes"})
        found = ml.cloud.pipelines.list_training_pipelines(
            request={"parent": ml.cloud.parent, "filter": "labels.lost=yes"}
        )
        (name,) = [each.name for each in found]
        pipeline = ml.ended(name)
    assert (pipeline.state.name, pipeline.error.code) == ("PIPELINE_STATE_FAILED", 13)


def test_operations_of_data_sets_and_exports_fail_on_command(ml: Automl, flowers: str, mobile_model: str) -> None:
    for begin in (
        ml.dataset,
        lambda: ml.cloud.finish(ml.import_lines(flowers, [])),
        lambda: ml.cloud.finish(ml.export(mobile_model, "tflite")),
    ):
        with (
            ml.cloud.faults.plan({"aiplatform.operations.run": ["return-500"]}),
            pytest.raises(google_errors.InternalServerError, match="planned fault"),
        ):
            begin()


def test_a_search_that_breaks_fails_its_training(new_cloud: Callable[..., Any]) -> None:
    broken = dataclasses.replace(automl_data.QUICK_AUTOML.search, command=("python", "-c", "exit('no memory')"))
    ml = Automl(new_cloud(automl=dataclasses.replace(automl_data.QUICK_AUTOML, search=broken)))
    pipeline = ml.ended(ml.train(ml.filled()))
    assert (pipeline.state.name, pipeline.error.code) == ("PIPELINE_STATE_FAILED", 13)
    assert "no memory" in pipeline.error.message


def test_a_restart_forgets_neither_data_sets_nor_trainings_nor_models(new_cloud: Callable[..., Any]) -> None:
    ml = Automl(new_cloud())
    dataset = ml.filled()
    ml.cloud.faults.add({"aiplatform.models.appear": ["delay:1"]})
    late = ml.ended(ml.train(dataset, model_id="late"))
    endpoint = ml.cloud.endpoint()
    ml.deploy(endpoint, ml.model(dataset))
    ml.cloud.faults.add({"aiplatform.trainingPipelines.run": ["stall"]})
    running = ml.train(dataset, model_id="running")
    while ml.get(running).state.name != "PIPELINE_STATE_RUNNING":
        time.sleep(0.02)
    ml.cloud.restart()
    assert ml.count(dataset) == 39
    assert ml.ended(running).state.name == "PIPELINE_STATE_SUCCEEDED"
    deadline = time.monotonic() + 30
    for name in (late.model_to_upload.name, ml.get(running).model_to_upload.name):
        while True:
            assert time.monotonic() < deadline
            with contextlib.suppress(google_errors.NotFound):
                ml.cloud.models.get_model(name=name)
                break
            time.sleep(0.05)
    value = struct_pb2.Value()
    value.struct_value.update({"content": IMAGE})
    while True:
        with contextlib.suppress(google_errors.ServiceUnavailable):
            prediction = ml.cloud.predictions.predict(endpoint=endpoint, instances=[value]).predictions[0]
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert prediction["displayNames"][0] == "daisy"


def test_a_deleted_data_set_cannot_be_learned_from(ml: Automl) -> None:
    dataset = ml.filled()
    name = ml.train(dataset)
    ml.cloud.finish(ml.cloud.datasets.delete_dataset(name=dataset))
    with pytest.raises(google_errors.NotFound):
        ml.cloud.datasets.get_dataset(name=dataset)
    pipeline = ml.ended(name)
    assert pipeline.state.name in {"PIPELINE_STATE_FAILED", "PIPELINE_STATE_SUCCEEDED"}
    if pipeline.state.name == "PIPELINE_STATE_FAILED":
        assert "datasets/" in pipeline.error.message
    with pytest.raises(google_errors.NotFound):
        ml.train(dataset)


def test_the_eleventh_deployed_model_has_no_node(
    new_cloud: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automl, "DEPLOYED_MODELS", 1)
    ml = Automl(new_cloud())
    model = ml.model(ml.filled())
    ml.deploy(ml.cloud.endpoint(), model)
    with pytest.raises(google_errors.ResourceExhausted, match="AutoMLImageClassificationDeployedModelNodes"):
        ml.deploy(ml.cloud.endpoint(), model)
