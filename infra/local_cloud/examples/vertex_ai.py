"""Vertex AI: a custom job that really runs, a model from it, and an endpoint that splits its traffic between two."""

from __future__ import annotations

import collections
import os
import time

from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform_v1 as vertex
from google.cloud import storage

PROJECT, REGION = os.environ["GOOGLE_CLOUD_PROJECT"], os.environ["GOOGLE_CLOUD_REGION"]
PARENT = f"projects/{PROJECT}/locations/{REGION}"
#: An image is found by its last name, whatever the registry: the topology says which command stands for it.
IMAGES = f"{REGION}-docker.pkg.dev/{PROJECT}/images"
HERE = {
    "transport": "rest",
    "credentials": AnonymousCredentials(),
    "client_options": {"api_endpoint": f"http://{os.environ['VERTEX_EMULATOR_HOST']}"},
}


def main() -> None:
    bucket = storage.Client().bucket(os.environ["DATA_BUCKET"])
    bucket.blob("points.csv").upload_from_string("0,1\n1,3\n2,5\n3,7\n")
    models = [upload(name, train(name, scale)) for name, scale in (("first", 1.0), ("second", 2.0))]

    endpoints = vertex.EndpointServiceClient(**HERE)
    endpoint = endpoints.create_endpoint(parent=PARENT, endpoint={"display_name": "prices"}).result(60).name
    for model, split in ((models[0], {"0": 100}), (models[1], {"0": 50, "": 50})):
        deployed = {
            "model": model,
            "dedicated_resources": {"machine_spec": {"machine_type": "n1-standard-2"}, "min_replica_count": 1},
        }
        # "0" is the model of this request; "" is here the one that was deployed before.
        there = endpoints.get_endpoint(name=endpoint).deployed_models
        traffic = {key or there[0].id: share for key, share in split.items()}
        endpoints.deploy_model(endpoint=endpoint, deployed_model=deployed, traffic_split=traffic).result(60)

    predictions = vertex.PredictionServiceClient(**HERE)
    answers = collections.Counter(
        round(predictions.predict(endpoint=endpoint, instances=[10.0]).predictions[0]) for _ in range(30)
    )
    print("answers for 10:", sorted(answers))


def train(name: str, scale: float) -> str:
    """Run the training container; the folder of what it learned."""
    jobs = vertex.JobServiceClient(**HERE)
    folder = f"gs://{os.environ['MODELS_BUCKET']}/{name}"
    container = {
        "image_uri": f"{IMAGES}/trainer:1",
        "args": ["--data", f"/gcs/{os.environ['DATA_BUCKET']}/points.csv", "--scale", str(scale)],
    }
    machine = {"machine_spec": {"machine_type": "n1-standard-4"}, "replica_count": 1, "container_spec": container}
    job = jobs.create_custom_job(
        parent=PARENT,
        custom_job={
            "display_name": name,
            "job_spec": {
                "worker_pool_specs": [machine],
                "base_output_directory": {"output_uri_prefix": folder},
                "service_account": f"trainer@{PROJECT}.iam.gserviceaccount.com",
            },
        },
    )
    while job.state not in {vertex.JobState.JOB_STATE_SUCCEEDED, vertex.JobState.JOB_STATE_FAILED}:
        time.sleep(0.2)
        job = jobs.get_custom_job(name=job.name)
    if job.state != vertex.JobState.JOB_STATE_SUCCEEDED:
        raise RuntimeError(job.error.message)
    return f"{folder}/model"


def upload(name: str, folder: str) -> str:
    """Register what was learned; the model's name."""
    container = {
        "image_uri": f"{IMAGES}/predictor:1",
        "predict_route": "/predict",
        "health_route": "/health",
        "ports": [{"container_port": 8080}],
    }
    model = {"display_name": name, "artifact_uri": folder, "container_spec": container}
    made = vertex.ModelServiceClient(**HERE).upload_model(parent=PARENT, model=model).result(60)
    return str(made.model)


if __name__ == "__main__":
    main()
