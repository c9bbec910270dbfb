"""Long-running operations, as Google's generated clients see them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from google.api_core import exceptions, operation
from google.cloud import aiplatform_v1


def url(cloud: Any, name: str, surface: str = "v1") -> str:
    return f"http://{cloud.vertex.address}/{surface}/{name}"


def start(cloud: Any, model_id: str) -> Any:
    return cloud.models.upload_model(
        request={"parent": cloud.parent, "model_id": model_id, "model": {"display_name": "toy"}}
    )


def test_an_operation_is_pending_at_first_and_typed_in_full(cloud: Any) -> None:
    with cloud.faults.plan({"aiplatform.operations.run": ["hang:0.3"]}):
        started = start(cloud, "typed")
        name = started.operation.name
        assert name.startswith(f"{cloud.answered_parent}/models/typed/operations/")
        assert "done" not in requests.get(url(cloud, name), timeout=5).json()
        cloud.finish(started)
    document = requests.get(url(cloud, name, "ui"), timeout=5).json()
    assert document["metadata"]["@type"].endswith("aiplatform.v1.UploadModelOperationMetadata")
    assert document["response"]["@type"].endswith("aiplatform.v1.UploadModelResponse")
    assert started.metadata.generic_metadata.create_time


def test_an_operation_can_be_resumed_by_its_name_alone(cloud: Any) -> None:
    name = start(cloud, "resumed").operation.name
    client = cloud.models.transport.operations_client
    resumed = operation.from_gapic(client.get_operation(name), client, aiplatform_v1.UploadModelResponse, retry=None)
    assert cloud.finish(resumed).model == f"{cloud.answered_parent}/models/resumed"


def test_waiting_returns_as_soon_as_the_operation_is_done(cloud: Any) -> None:
    name = start(cloud, "waited").operation.name
    began = time.monotonic()
    document = requests.post(url(cloud, f"{name}:wait"), json={"timeout": "30s"}, timeout=40).json()
    assert document["done"] is True
    assert time.monotonic() - began < 20


def test_waiting_gives_up_after_its_timeout(cloud: Any) -> None:
    with cloud.faults.plan({"aiplatform.operations.run": ["hang:1"]}):
        started = start(cloud, "slow")
        document = requests.post(
            url(cloud, f"{started.operation.name}:wait"), json={"timeout": "0.2s"}, timeout=20
        ).json()
        assert "done" not in document
        cloud.finish(started)


def test_a_cancelled_operation_does_nothing(cloud: Any) -> None:
    with cloud.faults.plan({"aiplatform.operations.run": ["hang:5"]}):
        started = start(cloud, "cancelled")
        time.sleep(0.2)
        assert requests.post(url(cloud, f"{started.operation.name}:cancel"), timeout=5).json() == {}
    with pytest.raises(exceptions.Cancelled):
        cloud.finish(started)
    with pytest.raises(exceptions.NotFound):
        cloud.models.get_model(name=f"{cloud.parent}/models/cancelled")


def test_an_operation_can_end_with_a_planned_error(cloud: Any) -> None:
    with (
        cloud.faults.plan({"aiplatform.operations.run": ["return-503"]}),
        pytest.raises(exceptions.ServiceUnavailable, match="planned fault"),
    ):
        cloud.finish(start(cloud, "unlucky"))
    cloud.finish(start(cloud, "unlucky"))


def test_operations_are_listed_by_their_resource(cloud: Any) -> None:
    name = start(cloud, "several").operation.name
    listed = requests.get(url(cloud, f"{cloud.parent}/models/several/operations"), timeout=5).json()
    assert [found["name"] for found in listed["operations"]] == [name]


def test_an_unknown_operation_is_not_found(cloud: Any) -> None:
    response = requests.get(url(cloud, f"{cloud.parent}/operations/1"), timeout=5)
    assert (response.status_code, response.json()["error"]["status"]) == (404, "NOT_FOUND")


def test_every_route_answers_a_missing_thing_with_google_s_envelope(new_cloud: Callable[..., Any]) -> None:
    cloud = new_cloud()
    checked = set()
    for row in cloud.vertex.api.operations:
        path = re.sub(r"<any\(v1,[^>]*>", "v1", row.path).replace("<project>", "demo-dualdeploy")
        path = path.replace("<any(models,endpoints,customJobs):collection>", "models")
        path = path.replace("<location>", "us-central1")
        for placeholder in ("job", "model", "endpoint", "evaluation", "operation", "resource"):
            path = path.replace(f"<{placeholder}>", "1")
        response = requests.request(row.method, f"http://{cloud.vertex.address}{path}", json={}, timeout=5)
        if response.status_code != 200:
            error = response.json()["error"]
            assert set(error) - {"details"} == {"code", "message", "status"}, row
            assert error["code"] == response.status_code, row
        checked.add(row.name)
    assert len(checked) == len({row.name for row in cloud.vertex.api.operations})
