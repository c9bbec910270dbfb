"""Vertex AI's requirements of a custom container, point by point, against the real server, gunicorn and TensorFlow.

Source: https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements; sizes of requests:
https://cloud.google.com/vertex-ai/docs/predictions/choose-endpoint-type (1.5 MB shared, 10 MB dedicated).
"""

from __future__ import annotations

import concurrent.futures
import io
import json
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from local_cloud.faults import Faults
from local_cloud.storage import Storage
from support import odd_images
from support.pictures import b64, picture

pytestmark = pytest.mark.slow

#: What a container finds in its environment beside port, routes and storage URI ("Environment variables").
AIP_VARIABLES = {
    "AIP_ACCELERATOR_TYPE": "",
    "AIP_DEPLOYED_MODEL_ID": "9",
    "AIP_ENDPOINT_ID": "7",
    "AIP_FRAMEWORK": "CUSTOM_CONTAINER",
    "AIP_MACHINE_TYPE": "n1-standard-4",
    "AIP_MODE": "PREDICTION",
    "AIP_MODE_VERSION": "1.0.0",
    "AIP_MODEL_NAME": "",
    "AIP_PROJECT_NUMBER": "123456789",
    "AIP_VERSION_NAME": "",
}

#: The routes that a model gets which names none, for endpoint 7 and deployed model 9.
HEALTH_ROUTE = "/v1/endpoints/7/deployedModels/9"
PREDICT_ROUTE = f"{HEALTH_ROUTE}:predict"


@pytest.fixture(scope="module")
def container(start: Callable[..., Any], models: Path) -> Any:
    """The server with exactly Vertex AI's environment; an empty variable of ours is one that is not set."""
    running = start(
        str(models / "good"),
        **AIP_VARIABLES,
        AIP_HEALTH_ROUTE=HEALTH_ROUTE,
        AIP_PREDICT_ROUTE=PREDICT_ROUTE,
        PREDICTOR_ADDRESS="",
        GOOGLE_CLOUD_PROJECT="",
        MODEL_VERSION="toys-0123456789ab",
    )
    running.health_route = HEALTH_ROUTE
    running.wait_until_ready()
    return running


def predict(container: Any, body: Any, **options: Any) -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **options.pop("headers", {})}
    return requests.post(container.base + PREDICT_ROUTE, data=data, headers=headers, timeout=60, **options)


def test_it_listens_on_every_address_at_the_port_that_it_was_given(container: Any) -> None:
    # 127.0.0.2 is another address of this machine: a server that listens on 127.0.0.1 refuses it.
    port = int(container.base.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.2", port), timeout=10):
        pass


def test_liveness_the_port_opens_while_the_model_loads_and_health_is_not_200_until_it_is_warm(
    start: Callable[..., Any], models: Path
) -> None:
    running = start(str(models / "good"))
    early: list[requests.Response] = []
    while not early or early[-1].status_code != 200:
        asked = time.monotonic()
        answer = running.health()
        if answer is None:
            assert not early, "the port closed again"
            time.sleep(0.02)
            continue
        assert time.monotonic() - asked < 10, "Vertex AI takes no answer in 10 s for an unhealthy one"
        early.append(answer)
        time.sleep(0.02)
    assert {answer.status_code for answer in early[:-1]} == {503}
    reasons = [answer.json()["reason"] for answer in early[:-1]]
    assert any("warming" in reason for reason in reasons) or any("loading the model" in reason for reason in reasons)
    ready = early[-1].json()
    assert list(ready["steps"]) == ["import", "fetch", "load", "warm"]
    assert sum(ready["steps"].values()) <= ready["start_seconds"] + 0.01
    # The first 200 is no promise but a fact: the very next request is answered.
    assert running.predict(json={"instances": [b64(picture("red"))]}).status_code == 200


def test_health_answers_200_on_the_route_that_it_was_given_and_only_there(container: Any) -> None:
    assert requests.get(container.base + HEALTH_ROUTE, timeout=10).status_code == 200
    assert requests.get(container.base + "/health", timeout=10).status_code == 404


def test_health_answers_within_ten_seconds_while_every_place_is_taken(start: Callable[..., Any], models: Path) -> None:
    running = start(str(models / "good"), PREDICTOR_MAX_IN_FLIGHT="2")
    running.wait_until_ready()
    body = {"instances": [b64(picture("blue", size=2400))] * 20}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(running.predict, json=body) for _ in range(8)]
        asked = time.monotonic()
        assert running.health().status_code == 200
        assert time.monotonic() - asked < 10
        statuses = {answer.result().status_code for answer in answers}
    assert statuses <= {200, 429}


@pytest.mark.parametrize("more", [{}, {"parameters": {"top_k": 3}}, {"parameters": None}, {"labels": {"a": "b"}}])
def test_the_body_is_instances_and_perhaps_parameters(container: Any, more: dict[str, Any]) -> None:
    answer = predict(container, {"instances": [b64(picture("red"))], **more})
    assert answer.status_code == 200
    assert answer.json()["predictions"][0]["label"] == "red"


def test_the_answer_is_200_json_with_one_prediction_for_each_instance_in_order(container: Any) -> None:
    colours = ["red", "lime", "blue", "red"]
    answer = predict(container, {"instances": [b64(picture(colour)) for colour in colours]})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    document = answer.json()
    # Vertex AI adds deployedModelId and more beside it: another key of ours would be in their way.
    assert list(document) == ["predictions"]
    assert [prediction["label"] for prediction in document["predictions"]] == ["red", "green", "blue", "red"]
    own, automls = {"label", "confidence", "probabilities", "run"}, {"ids", "displayNames", "confidences"}
    assert all(set(each) == own | automls for each in document["predictions"])
    # Vertex AI passes on no header: which run answered stands in the answer itself.
    assert {each["run"] for each in document["predictions"]} == {"toys-0123456789ab"}


def test_a_shared_endpoints_largest_request_of_one_and_a_half_megabytes_is_answered(container: Any) -> None:
    body = json.dumps({"instances": [b64(noise(600))]}).encode()
    body += b" " * (1_500_000 - len(body))
    answer = predict(container, body)
    assert answer.status_code == 200, answer.text
    assert len(answer.content) < 1_500_000


def test_a_dedicated_endpoints_largest_request_of_ten_megabytes_is_answered(container: Any) -> None:
    body = json.dumps({"instances": [b64(noise(1500))]}).encode()
    assert len(body) > 8_000_000
    answer = predict(container, body + b" " * (10_000_000 - len(body)))
    assert answer.status_code == 200, answer.text


def test_a_larger_request_is_a_413_with_the_limit(container: Any) -> None:
    answer = predict(container, b'{"instances": ["' + b"A" * (11 << 20) + b'"]}')
    assert answer.status_code == 413
    assert "10485760 bytes" in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 400),
        (b"not JSON", 400),
        ({"inputs": []}, 400),
        ({"instances": []}, 400),
        ({"instances": {}}, 400),
        ({"instances": [{"b64": "%%%"}]}, 400),
    ],
)
def test_the_senders_mistakes_are_400_with_a_sentence(container: Any, body: Any, code: int) -> None:
    answer = predict(container, body)
    assert answer.status_code == code
    assert list(answer.json()) == ["error"]


def test_predictions_are_asked_for_with_post_alone(container: Any) -> None:
    answer = requests.get(container.base + PREDICT_ROUTE, timeout=10)
    assert answer.status_code == 405
    assert "POST" in answer.headers["Allow"]


def test_one_broken_instance_fails_neither_its_neighbours_nor_requests_beside_it(container: Any) -> None:
    # Sound outside, so that it reaches the model.
    rotten = odd_images.ROTTEN["png, rows missing"]
    mixed = {"instances": [b64(picture("red")), b64(rotten), b64(picture("blue")), 7, b64(picture("lime"))]}
    alone = {"instances": [b64(picture("lime"))]}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: predict(container, body), [mixed, alone, alone, mixed] * 6))
    assert {answer.status_code for answer in answers} == {200}
    for answer, body in zip(answers, [mixed, alone, alone, mixed] * 6, strict=True):
        predictions = answer.json()["predictions"]
        labels = [prediction.get("label") for prediction in predictions]
        assert labels == (["red", None, "blue", None, "green"] if body is mixed else ["green"])
        if body is mixed:
            assert "cannot be decoded" in predictions[1]["error"]
            assert "a number" in predictions[3]["error"]


def test_the_model_version_and_the_trace_can_be_followed(container: Any) -> None:
    answer = predict(
        container, {"instances": [b64(picture("red"))]}, headers={"X-Cloud-Trace-Context": "deadbeef/1;o=1"}
    )
    assert answer.headers["X-Model-Version"] == "toys-0123456789ab"
    trace = "projects/123456789/traces/deadbeef"
    (line,) = [line for line in container.lines() if line.get("logging.googleapis.com/trace") == trace]
    assert line["severity"] == "INFO"
    assert line["instances"] == 1
    assert line["httpRequest"]["status"] == 200
    assert float(line["httpRequest"]["latency"].removesuffix("s")) > 0


def test_a_model_in_cloud_storage_is_fetched(start: Callable[..., Any], models: Path, tmp_path: Path) -> None:
    with Storage(faults=Faults(), state_dir=tmp_path) as storage:
        storage.ensure_bucket("toys-models", project="toys")
        _upload(storage, models / "good", "runs/toys-0123456789ab/cloud/model")
        running = start(
            "gs://toys-models/runs/toys-0123456789ab/cloud/model", STORAGE_EMULATOR_HOST=f"http://{storage.address}"
        )
        running.wait_until_ready()
        answer = running.predict(json={"instances": [b64(picture("blue"))]})
    assert answer.json()["predictions"][0]["label"] == "blue"


def noise(size: int) -> bytes:
    """A PNG that cannot be compressed: 3 bytes a pixel."""
    out = io.BytesIO()
    Image.frombytes("RGB", (size, size), random.Random(0).randbytes(3 * size * size)).save(out, "PNG")
    return out.getvalue()


def _upload(storage: Storage, folder: Path, prefix: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            answer = requests.post(
                f"http://{storage.address}/upload/storage/v1/b/toys-models/o",
                params={"uploadType": "media", "name": f"{prefix}/{path.relative_to(folder)}"},
                data=path.read_bytes(),
                timeout=10,
            )
            answer.raise_for_status()
