"""The high-level SDK, unmodified; services never import it (two seconds), people at their notebooks do."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from google.cloud import aiplatform


@pytest.fixture
def sdk(cloud: Any) -> Any:
    aiplatform.init(staging_bucket="gs://staging", **cloud.for_sdk())
    return aiplatform


def custom_job(sdk: Any, cloud: Any, *words: str) -> Any:
    pool = {
        "machine_spec": {"machine_type": "n1-standard-4"},
        "replica_count": 1,
        "container_spec": {"image_uri": cloud.trainer, "args": list(words)},
    }
    return sdk.CustomJob(display_name="toy", worker_pool_specs=[pool], labels={"notebook": "yes"})


def test_a_custom_job_is_submitted_listed_and_cancelled(sdk: Any, cloud: Any) -> None:
    job = custom_job(sdk, cloud, "print=here", "sleep=60")
    job.submit()
    cloud.running(job.resource_name)
    assert job.state.name == "JOB_STATE_RUNNING"
    assert [found.resource_name for found in sdk.CustomJob.list(filter="labels.notebook=yes")] == [job.resource_name]
    job.cancel()
    cloud.ended(job.resource_name)
    assert job.state.name == "JOB_STATE_CANCELLED"


def test_a_model_is_uploaded_deployed_asked_and_undeployed(sdk: Any, cloud: Any) -> None:
    model = sdk.Model.upload(
        model_id="notebook",
        display_name="notebook",
        artifact_uri="gs://models/notebook",
        serving_container_image_uri=cloud.predictor,
        serving_container_predict_route="/predict",
        serving_container_health_route="/health",
        serving_container_environment_variables={"MODEL_LABEL": "sdk"},
    )
    assert (model.version_id, list(model.version_aliases)) == ("1", ["default"])
    endpoint = sdk.Endpoint.create(display_name="notebook", endpoint_id="notebook")
    model.deploy(endpoint=endpoint, machine_type="n1-standard-2", traffic_percentage=100)
    answer = endpoint.predict(instances=["daisy"])
    assert answer.predictions[0]["MODEL_LABEL"] == "sdk"
    assert answer.model_version_id == "1"
    endpoint.undeploy_all()
    assert endpoint.list_models() == []
    endpoint.delete()
