"""Whom AutoML refuses: callers by the permissions of its methods, and itself by those of Google's own account."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import requests

from local_cloud.iam import VERTEX
from local_cloud.vertex import automl
from support import automl_data
from support.accounts import PROJECT, REGION, World, wait_for

LOCATION = f"v1/projects/{PROJECT}/locations/{REGION}"
PROJECT_NAME = f"projects/{PROJECT}"
AGENT_ROLE = "roles/aiplatform.serviceAgent"

#: Every method of AutoML and the permission that it asks, by Google's table of operations.
METHODS: Mapping[str, tuple[str, str, str]] = {
    "datasets.create": ("POST", "datasets", "datasets.create"),
    "datasets.list": ("GET", "datasets", "datasets.list"),
    "datasets.get": ("GET", "datasets/1", "datasets.get"),
    "datasets.patch": ("PATCH", "datasets/1?updateMask=labels", "datasets.update"),
    "datasets.import": ("POST", "datasets/1:import", "datasets.import"),
    "datasets.delete": ("DELETE", "datasets/1", "datasets.delete"),
    "an operation of a data set": ("GET", "datasets/1/operations/2", "datasets.get"),
    "trainingPipelines.create": ("POST", "trainingPipelines", "trainingPipelines.create"),
    "trainingPipelines.list": ("GET", "trainingPipelines", "trainingPipelines.list"),
    "trainingPipelines.get": ("GET", "trainingPipelines/1", "trainingPipelines.get"),
    "trainingPipelines.cancel": ("POST", "trainingPipelines/1:cancel", "trainingPipelines.cancel"),
    "trainingPipelines.delete": ("DELETE", "trainingPipelines/1", "trainingPipelines.delete"),
    "models.export": ("POST", "models/m@1:export", "models.export"),
    "models.evaluations.list": ("GET", "models/m@1/evaluations", "modelEvaluations.list"),
    "models.evaluations.slices.list": ("GET", "models/m@1/evaluations/1/slices", "modelEvaluationSlices.list"),
    "models.evaluations.slices.get": ("GET", "models/m@1/evaluations/1/slices/2", "modelEvaluationSlices.get"),
}


def call(world: World, method: str, path: str, body: Any = None, *, account: str = "owner") -> Any:
    address = world.actor(account).environment["VERTEX_EMULATOR_HOST"]
    url = path if path.startswith("http") else f"http://{address}/{path}"
    return requests.request(method, url, json=body, timeout=30).json()


@pytest.mark.parametrize("case", METHODS)
def test_a_caller_without_the_permission_is_refused(world: World, case: str) -> None:
    method, path, permission = METHODS[case]
    refused = call(world, method, f"{LOCATION}/{path}", {} if method != "GET" else None, account="console")["error"]
    assert (refused["status"], f"'aiplatform.{permission}'" in refused["message"]) == ("PERMISSION_DENIED", True)


def finished(world: World, operation: Mapping[str, Any]) -> Any:
    path = f"v1/{operation['name']}"
    return wait_for(lambda: (found := call(world, "GET", path)).get("done") and found)


@pytest.fixture(scope="module")
def dataset(world: World) -> str:
    """A data set without items."""
    body = {"displayName": "flowers", "metadataSchemaUri": automl.DATASET_SCHEMA}
    name: str = finished(world, call(world, "POST", f"{LOCATION}/datasets", body))["response"]["name"]
    return name


def imported(world: World, dataset: str) -> Any:
    """How an import of a data set's pictures ends."""
    with contextlib.closing(world.actor("owner").client) as client:
        bucket = client.bucket(f"{PROJECT}-models")
        lines = automl_data.upload(bucket, "automl/k", list(automl_data.pictures()))
        uri = automl_data.upload_lines(bucket, "automl/k/import-00000.jsonl", lines)
    config = {"gcsSource": {"uris": [uri]}, "importSchemaUri": automl.IMPORT_SCHEMA}
    return finished(world, call(world, "POST", f"v1/{dataset}:import", {"importConfigs": [config]}))


@contextlib.contextmanager
def without_the_agents_role(world: World) -> Iterator[None]:
    taken = world.cloud.iam.revoke(PROJECT_NAME, AGENT_ROLE, VERTEX)
    assert taken
    try:
        yield
    finally:
        for grant in taken:
            world.cloud.iam.grant(grant)


def test_googles_own_account_reads_the_pictures_and_writes_the_export(world: World, dataset: str) -> None:
    with without_the_agents_role(world):
        assert imported(world, dataset)["error"]["code"] == 7
    assert "response" in imported(world, dataset)
    pipeline = {
        "displayName": "flowers",
        "trainingTaskDefinition": automl.DEFINITION,
        "trainingTaskInputs": {"modelType": "MOBILE_TF_VERSATILE_1", "budgetMilliNodeHours": 1000},
        "inputDataConfig": {"datasetId": dataset.rsplit("/", 1)[-1]},
        "modelToUpload": {"displayName": "flowers"},
        "modelId": "flowers-mobile",
    }
    running = call(world, "POST", f"{LOCATION}/trainingPipelines", pipeline)["name"]

    def state() -> Any:
        found = call(world, "GET", f"v1/{running}")
        return found["state"] if found["state"].endswith(("SUCCEEDED", "FAILED")) else ""

    assert wait_for(state, seconds=15) == "PIPELINE_STATE_SUCCEEDED"
    config = {"exportFormatId": "tflite", "artifactDestination": {"outputUriPrefix": f"gs://{PROJECT}-models/exports"}}

    def export() -> Any:
        path = f"{LOCATION}/models/flowers-mobile@1:export"
        return finished(world, call(world, "POST", path, {"outputConfig": config}))

    with without_the_agents_role(world):
        refused = export()
        assert (refused["error"]["code"], "service-123456789012@gcp-sa-aiplatform" in json.dumps(refused)) == (7, True)
    done = export()
    assert done["metadata"]["outputInfo"]["artifactOutputUri"].startswith(f"gs://{PROJECT}-models/exports/model-")
