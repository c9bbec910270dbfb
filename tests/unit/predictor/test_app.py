"""The HTTP contract, without a server and without TensorFlow."""

from __future__ import annotations

import base64
import concurrent.futures
import dataclasses
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import flask.testing
import pytest

from predictor.app import create_app
from predictor.batching import Batcher
from predictor.readiness import Readiness
from predictor.settings import PredictorSettings

RUN = "flowers-0123456789ab"
SETTINGS = PredictorSettings(
    storage_uri="/models/1",
    health_route="/v1/health",
    predict_route="/v1/endpoints/7/deployedModels/9:predict",
    model_version=RUN,
    max_instances=4,
    max_request_bytes=20_000,
    max_in_flight=1,
    project_number="1234567",
)


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


@pytest.fixture
def client(readiness: Readiness) -> flask.testing.FlaskClient:
    return create_app(SETTINGS, readiness).test_client()


@pytest.fixture
def ready(readiness: Readiness, client: flask.testing.FlaskClient, model: Any) -> flask.testing.FlaskClient:
    readiness.ready(batcher(model))
    return client


def batcher(model: Any, **options: Any) -> Batcher:
    return Batcher(model, **{"parallel": 1, "max_waiting": 4, "max_wait": 0.0, **options})


def send(client: flask.testing.FlaskClient, *items: Any, **options: Any) -> Any:
    return client.post(SETTINGS.predict_route, json={"instances": items}, **options)


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def test_health_is_503_with_the_reason_until_the_model_is_ready(
    client: flask.testing.FlaskClient, readiness: Readiness, model: Any
) -> None:
    readiness.waiting_for("loading the model into TensorFlow")
    before = client.get("/v1/health")
    assert before.status_code == 503
    assert before.json is not None
    assert before.json["reason"] == "loading the model into TensorFlow"
    readiness.took("load", 1.23456)
    readiness.ready(batcher(model))
    after = client.get("/v1/health")
    assert after.status_code == 200
    assert after.json is not None
    assert after.json["status"] == "ready"
    assert after.json["steps"] == {"load": 1.235}


def test_health_is_503_while_the_model_does_not_come_back_from_a_batch(
    client: flask.testing.FlaskClient, readiness: Readiness, model: Any, png: bytes
) -> None:
    readiness.ready(batcher(model, patience=0.05))
    model.gate.clear()
    assert send(client, b64(png)).status_code == 429
    deadline = time.monotonic() + 30
    while (answer := client.get("/v1/health")).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert answer.json is not None
    assert answer.json == {"status": "stuck", "reason": "the model has worked on one batch for 0 s"}
    model.gate.set()
    while client.get("/v1/health").status_code == 503:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert send(client, b64(png)).status_code == 200


def test_predictions_before_that_are_told_to_come_back(client: flask.testing.FlaskClient, png: bytes) -> None:
    answer = send(client, b64(png))
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert "not loaded yet" in answer.json["error"]


def test_an_answer_has_a_prediction_for_each_instance_in_order(
    ready: flask.testing.FlaskClient, png: bytes, jpeg: bytes
) -> None:
    answer = send(ready, b64(png), b64(jpeg), {"image_bytes": b64(png)})
    assert answer.status_code == 200
    assert answer.headers["X-Model-Version"] == RUN
    png_says = {"label": "png", "confidence": 1.0, "probabilities": {"png": 1.0, "jpeg": 0.0}, "run": RUN}
    png_says |= {"ids": ["0", "1"], "displayNames": ["png", "jpeg"], "confidences": [1.0, 0.0]}
    jpeg_says = {"label": "jpeg", "confidence": 0.75, "probabilities": {"png": 0.25, "jpeg": 0.75}, "run": RUN}
    jpeg_says |= {"ids": ["1", "0"], "displayNames": ["jpeg", "png"], "confidences": [0.75, 0.25]}
    assert answer.json == {"predictions": [png_says, jpeg_says, png_says]}


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({}, ["jpeg", "png"]),
        ({"maxPredictions": 1}, ["jpeg"]),
        ({"confidenceThreshold": 0.5}, ["jpeg"]),
        ({"confidenceThreshold": 0.9}, []),
    ],
)
def test_a_client_of_automl_gets_as_much_as_it_asks_for(
    ready: flask.testing.FlaskClient, jpeg: bytes, parameters: dict[str, Any], names: list[str]
) -> None:
    body = {"instances": [{"content": b64(jpeg)["b64"], "mimeType": "image/jpeg"}], "parameters": parameters}
    (prediction,) = ready.post(SETTINGS.predict_route, json=body).json["predictions"]  # type: ignore[index]
    assert prediction["displayNames"] == names
    assert len(prediction["ids"]) == len(prediction["confidences"]) == len(names)
    # Those who read our own form are not kept from anything by it.
    assert (prediction["label"], prediction["confidence"]) == ("jpeg", 0.75)


def test_a_broken_picture_has_an_error_in_its_place_and_its_neighbours_are_answered(
    ready: flask.testing.FlaskClient, model: Any, png: bytes, jpeg: bytes
) -> None:
    answer = send(ready, b64(png), 5, b64(png + b"CUT"), b64(jpeg))
    assert answer.status_code == 200
    first, second, third, fourth = answer.json["predictions"]
    assert (first["label"], fourth["label"]) == ("png", "jpeg")
    assert second["error"].startswith("a number")
    assert third == {"error": "cut off"}
    # What is no picture never reaches the model.
    assert sum(model.batches) == 3


def test_a_request_with_nothing_to_answer_is_a_400_that_names_every_instance(
    ready: flask.testing.FlaskClient, png: bytes
) -> None:
    answer = send(ready, 5, b64(png + b"CUT"))
    assert answer.status_code == 400
    assert answer.json["error"].startswith("instances[0]: a number")
    assert answer.json["error"].endswith("; instances[1]: cut off")


def test_a_full_queue_is_a_429_that_says_when_to_come_back(readiness: Readiness, model: Any, png: bytes) -> None:
    app = create_app(dataclasses.replace(SETTINGS, max_in_flight=8), readiness)
    queue = batcher(model, max_waiting=2)
    readiness.ready(queue)
    model.gate.clear()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        running = pool.submit(send, app.test_client(), b64(png))
        _until(lambda: model.running == 1)
        waiting = pool.submit(send, app.test_client(), b64(png), b64(png))
        _until(lambda: queue.waiting == 2)
        refused = send(app.test_client(), b64(png))
        model.gate.set()
        assert [running.result(10).status_code, waiting.result(10).status_code] == [200, 200]
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert "2 pictures are waiting" in refused.json["error"]


def test_health_is_503_while_another_process_of_the_server_loads(model: Any) -> None:
    others: list[bool] = []
    readiness = Readiness(all_ready=lambda: bool(others))
    client = create_app(SETTINGS, readiness).test_client()
    readiness.ready(batcher(model))
    waiting = client.get("/v1/health")
    assert waiting.status_code == 503
    assert waiting.json is not None
    assert "another process" in waiting.json["reason"]
    others.append(True)
    assert client.get("/v1/health").status_code == 200


def test_a_request_over_the_limit_is_a_413_with_the_limit(ready: flask.testing.FlaskClient) -> None:
    answer = send(ready, "A" * 20_000)
    assert answer.status_code == 413
    assert "20000 bytes" in answer.json["error"]


def test_a_compressed_body_is_a_415_that_says_so(ready: flask.testing.FlaskClient, png: bytes) -> None:
    answer = send(ready, b64(png), headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415
    assert "compressed" in answer.json["error"]


@pytest.mark.parametrize(("method", "path", "code"), [("GET", SETTINGS.predict_route, 405), ("GET", "/", 404)])
def test_every_other_route_answers_in_the_same_envelope(
    ready: flask.testing.FlaskClient, method: str, path: str, code: int
) -> None:
    answer = ready.open(path, method=method)
    assert answer.status_code == code
    assert answer.json is not None
    assert isinstance(answer.json["error"], str)


def test_a_bug_is_a_500_without_its_details_and_a_log_line_with_them(
    ready: flask.testing.FlaskClient, model: Any, png: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    model.failure = RuntimeError("secret path /srv/model")
    answer = send(ready, b64(png))
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "secret path /srv/model" in caplog.text


def test_more_requests_than_allowed_are_told_to_come_back_and_health_still_answers(
    ready: flask.testing.FlaskClient, model: Any, png: bytes, readiness: Readiness
) -> None:
    model.gate.clear()
    first: list[Any] = []
    thread = threading.Thread(target=lambda: first.append(send(ready.application.test_client(), b64(png))))
    thread.start()
    _until(lambda: model.running == 1)
    refused = send(ready, b64(png))
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "1"
    assert ready.get("/v1/health").status_code == 200
    model.gate.set()
    thread.join(10)
    assert first[0].status_code == 200
    assert send(ready, b64(png)).status_code == 200


def test_every_request_leaves_one_structured_line_but_health_checks_leave_none(
    ready: flask.testing.FlaskClient, png: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "predictor.access")
    ready.get("/v1/health")
    send(ready, b64(png), 5, headers={"X-Cloud-Trace-Context": "0af7/81;o=1"})
    send(ready, 5, headers={"traceparent": "00-4bf9-00f0-01"})
    good, bad = (record for record in caplog.records if record.name == "predictor.access")
    request = vars(good)["httpRequest"]
    assert (request["requestMethod"], request["status"]) == ("POST", 200)
    assert request["latency"].endswith("s")
    assert (vars(good)["instances"], vars(good)["faults"]) == (2, 1)
    assert vars(good)["logging.googleapis.com/trace"] == "projects/1234567/traces/0af7"
    assert vars(bad)["logging.googleapis.com/trace"] == "projects/1234567/traces/4bf9"
    assert vars(good)["model_version"] == RUN
    assert vars(bad)["httpRequest"]["status"] == 400
    assert "instances[0]" in vars(bad)["error"]
    json.dumps([request, vars(bad)["httpRequest"]])


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.002)
