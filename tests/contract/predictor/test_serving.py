"""The serving image's contract with Vertex AI, against the real server, gunicorn and TensorFlow."""

from __future__ import annotations

import base64
import concurrent.futures
import io
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from local_cloud.faults import Faults
from local_cloud.storage import Storage

pytestmark = pytest.mark.slow


def picture(colour: str, kind: str = "PNG", size: int = 32) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(out, kind)
    return out.getvalue()


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def test_a_ready_server_says_so(server: Any) -> None:
    answer = server.health()
    assert answer.status_code == 200
    assert answer.json()["status"] == "ready"
    assert answer.headers["X-Model-Version"] == "toys-0123456789ab"


def test_colours_are_named_in_the_order_they_were_sent(server: Any) -> None:
    sent = [b64(picture("red")), {"image_bytes": b64(picture("lime", "JPEG"))}, b64(picture("blue"))["b64"]]
    answer = server.predict(json={"instances": sent, "parameters": None})
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Model-Version"] == "toys-0123456789ab"
    predictions = answer.json()["predictions"]
    assert [prediction["label"] for prediction in predictions] == ["red", "green", "blue"]
    for prediction in predictions:
        assert set(prediction["probabilities"]) == {"red", "green", "blue"}
        assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert prediction["confidence"] == prediction["probabilities"][prediction["label"]]


def test_more_pictures_than_a_batch_holds_are_answered_in_order(server: Any) -> None:
    colours = ["red", "blue", "lime"] * 5
    answer = server.predict(json={"instances": [b64(picture(colour)) for colour in colours]})
    labels = [prediction["label"] for prediction in answer.json()["predictions"]]
    assert labels == ["red", "blue", "green"] * 5


def test_many_clients_at_once_each_get_their_own_answer(server: Any) -> None:
    colours = ["red", "lime", "blue"] * 8
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = pool.map(lambda colour: server.predict(json={"instances": [b64(picture(colour))]}), colours)
        labels = [answer.json()["predictions"][0]["label"] for answer in answers]
    assert labels == ["red", "green", "blue"] * 8


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"not JSON", "not JSON"),
        (b'{"inputs": []}', "instances"),
        (b'{"instances": ["%%%"]}', "instances[0]: not standard base64"),
        (b'{"instances": [7]}', "instances[0]: a number"),
        (b'{"instances": [' + b"7," * 30 + b"7]}", "at most 20"),
    ],
)
def test_a_wrong_body_is_a_400_that_says_what_to_send(server: Any, body: bytes, says: str) -> None:
    answer = server.predict(data=body)
    assert answer.status_code == 400
    assert says in answer.json()["error"]


def test_pictures_that_break_off_are_named_among_good_ones(server: Any) -> None:
    good, cut = picture("red", "JPEG", size=200), picture("red", "JPEG", size=200)[:-400]
    answer = server.predict(json={"instances": [b64(good)] * 5 + [b64(cut), b64(good)]})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error.startswith("instances[5]:")
    assert error.count("instances[") == 1


def test_a_request_of_eleven_megabytes_is_a_413_and_the_server_lives(server: Any) -> None:
    answer = server.predict(data=b'{"instances": ["' + b"A" * (11 << 20) + b'"]}')
    assert answer.status_code == 413
    assert "10485760 bytes" in answer.json()["error"]
    assert server.health().status_code == 200


def test_a_chunked_request_is_held_to_the_same_limit(server: Any) -> None:
    def chunks() -> Any:
        for _ in range(11):
            yield b"A" * (1 << 20)

    answer = server.predict(data=chunks())
    assert answer.status_code == 413


def test_the_probe_of_the_image_agrees(server: Any) -> None:
    port = server.base.rsplit(":", 1)[1]
    for environ, code in (({"AIP_HTTP_PORT": port}, 0), ({"AIP_HTTP_PORT": port, "AIP_HEALTH_ROUTE": "/no"}, 1)):
        result = subprocess.run(
            [sys.executable, "-m", "predictor.probe"],
            cwd=Path(__file__).parents[3] / "services" / "predictor",
            env=environ,
            check=False,
            timeout=30,
        )
        assert result.returncode == code


def test_the_port_opens_at_once_and_every_log_line_is_json_until_a_graceful_end(
    start: Callable[..., Any], models: Path
) -> None:
    running = start(str(models / "good"))
    while (early := running.health()) is None:
        time.sleep(0.02)
    assert early.status_code == 503
    assert early.json()["status"] == "loading"
    refused = running.predict(json={"instances": [b64(picture("red"))]})
    assert refused.status_code == 503
    assert refused.headers["Retry-After"] == "1"
    running.wait_until_ready()
    assert running.predict(json={"instances": [b64(picture("red"))]}).status_code == 200
    _ends_after_finishing_what_it_accepted(running)
    lines = running.lines()
    assert {line["severity"] for line in lines} <= {"INFO", "WARNING"}
    statuses = [line["httpRequest"]["status"] for line in lines if "httpRequest" in line]
    assert statuses.count(200) == 9
    assert any(line["message"].startswith("ready after") for line in lines)


def _ends_after_finishing_what_it_accepted(running: Any) -> None:
    body = {"instances": [b64(picture("blue", size=2400))] * 20}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(running.predict, json=body) for _ in range(8)]
        time.sleep(1)  # all eight are accepted, none of the long ones is answered
        running.process.send_signal(signal.SIGTERM)
        statuses = [answer.result().status_code for answer in answers]
    assert statuses == [200] * 8
    assert running.process.wait(timeout=20) == 0
    with pytest.raises(requests.ConnectionError):
        running.predict(json=body)


@pytest.mark.parametrize(
    ("model", "says"),
    [("absent", "no saved_model.pb"), ("no_labels", "no signature ['labels']"), ("nan", "NaN or infinity")],
)
def test_a_model_that_cannot_be_served_ends_the_process_with_the_reason(
    start: Callable[..., Any], models: Path, model: str, says: str
) -> None:
    running = start(str(models / model))
    assert running.process.wait(timeout=60) == 3
    critical = [line["message"] for line in running.lines() if line["severity"] == "CRITICAL"]
    assert len(critical) == 1
    assert says in critical[0]


def test_loading_that_takes_too_long_ends_the_process(start: Callable[..., Any], models: Path) -> None:
    running = start(str(models / "good"), PREDICTOR_LOAD_TIMEOUT="0.5")
    assert running.process.wait(timeout=60) == 3
    assert any("took more than 0.5 s" in line["message"] for line in running.lines())


def test_a_worker_that_is_killed_while_loading_is_not_started_again(start: Callable[..., Any], models: Path) -> None:
    running = start(str(models / "good"))
    while running.health() is None:
        time.sleep(0.02)
    _kill_worker(running)
    assert running.process.wait(timeout=30) == 3
    assert any("before it could serve" in line["message"] for line in running.lines())


def test_a_worker_that_is_killed_while_serving_is_replaced(start: Callable[..., Any], models: Path) -> None:
    running = start(str(models / "good"))
    running.wait_until_ready()
    _kill_worker(running)
    deadline = time.monotonic() + 60
    while (answer := running.health()) is None or answer.status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.wait_until_ready()
    assert running.predict(json={"instances": [b64(picture("lime"))]}).status_code == 200


def _kill_worker(running: Any) -> None:
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
    assert len(children) == 1
    subprocess.run(["kill", "-KILL", children[0]], check=True)


def test_a_missing_setting_ends_the_process_with_its_name(start: Callable[..., Any]) -> None:
    running = start("", AIP_HTTP_PORT="eighty")
    assert running.process.wait(timeout=30) == 2
    (line,) = running.lines()
    assert "AIP_STORAGE_URI is not set" in line["message"]
    assert "AIP_HTTP_PORT='eighty'" in line["message"]


def test_a_model_in_cloud_storage_is_fetched_and_served(
    start: Callable[..., Any], models: Path, tmp_path: Path
) -> None:
    faults = Faults()
    with Storage(faults=faults, state_dir=tmp_path) as storage:
        storage.ensure_bucket("toys-models", project="toys")
        _upload(storage, models / "good", "runs/toys-0123456789ab/cloud/model")
        running = start(
            "gs://toys-models/runs/toys-0123456789ab/cloud/model", STORAGE_EMULATOR_HOST=f"http://{storage.address}"
        )
        running.wait_until_ready()
        answer = running.predict(json={"instances": [b64(picture("blue"))]})
    assert answer.json()["predictions"][0]["label"] == "blue"


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
