"""How the server serves, starts, fails and ends, against the real server, gunicorn and TensorFlow."""

from __future__ import annotations

import concurrent.futures
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from support.pictures import b64, picture

pytestmark = pytest.mark.slow


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


def test_a_request_with_nothing_but_broken_pictures_is_a_400_that_names_them(server: Any) -> None:
    answer = server.predict(json={"instances": [b64(picture("red", "JPEG", size=200)[:-400])]})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("instances[0]:")


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


def test_every_log_line_is_json_until_a_graceful_end(start: Callable[..., Any], models: Path) -> None:
    running = start(str(models / "good"))
    while running.health() is None:
        time.sleep(0.02)
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
    body = {"instances": [b64(picture("blue", size=2400))] * 8}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(running.predict, json=body) for _ in range(8)]
        time.sleep(1)  # all eight are accepted, none of the long ones is answered
        running.process.send_signal(signal.SIGTERM)
        statuses = [answer.result().status_code for answer in answers]
    assert statuses == [200] * 8
    assert running.process.wait(timeout=20) == 0
    with pytest.raises(requests.ConnectionError):
        running.predict(json=body)


def test_in_the_middle_of_a_rush_every_request_is_answered_or_refused_and_none_is_cut_off(
    start: Callable[..., Any], models: Path
) -> None:
    running = start(str(models / "good"))
    running.wait_until_ready()
    body = {"instances": [b64(picture("blue", size=600))] * 2}

    def ask_until_refused() -> list[str]:
        told = []
        while told[-1:] != ["refused"]:
            try:
                told.append(str(running.predict(json=body, headers={"Connection": "close"}).status_code))
            except requests.ConnectionError as exc:
                told.append("refused" if "Connection refused" in str(exc) else str(exc))
        return told

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        clients = [pool.submit(ask_until_refused) for _ in range(12)]
        time.sleep(2)
        running.process.send_signal(signal.SIGTERM)
        told = [answer for client in clients for answer in client.result()]
    assert running.process.wait(timeout=20) == 0
    assert set(told) == {"200", "refused"}
    assert told.count("200") > 24, "it was no rush"


def test_more_kept_connections_than_threads_are_answered_alike(start: Callable[..., Any], models: Path) -> None:
    # Three threads for six clients who ask again at once: none may hold a thread while another waits.
    running = start(str(models / "good"), PREDICTOR_MAX_IN_FLIGHT="1")
    running.wait_until_ready()
    until = time.monotonic() + 3

    def ask_again_and_again(_: int) -> int:
        answers = 0
        with requests.Session() as session:
            while time.monotonic() < until:
                assert session.get(running.base + running.health_route, timeout=10).status_code == 200
                answers += 1
        return answers

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = sorted(pool.map(ask_again_and_again, range(6)))
    assert answers[0] > sum(answers) / len(answers) / 4, answers


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("absent", "no saved_model.pb"),
        ("no_labels", "no signature ['labels']"),
        ("nan", "NaN or infinity"),
        ("scores", "and probabilities to 1: end it with a softmax"),
        ("garbage", "is not a SavedModel"),
        ("writes", "the model uses the operator WriteFile (in __inference_"),
    ],
)
def test_a_model_that_cannot_be_served_ends_the_process_with_the_reason(
    start: Callable[..., Any], models: Path, model: str, says: str
) -> None:
    running = start(str(models / model))
    assert running.process.wait(timeout=60) == 3
    critical = [line["message"] for line in running.lines() if line["severity"] == "CRITICAL"]
    assert len(critical) == 1
    assert says in critical[0]
    assert not (models / "written").exists()


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
    _until_health_is(running, 503)
    running.wait_until_ready()
    assert running.predict(json={"instances": [b64(picture("lime"))]}).status_code == 200


def test_a_worker_without_a_supervisor_ends_however_often_it_is_asked(start: Callable[..., Any], models: Path) -> None:
    running = start(str(models / "good"))
    running.wait_until_ready()
    running.process.kill()

    def ask_for(seconds: float) -> None:
        until = time.monotonic() + seconds
        with requests.Session() as session:
            while time.monotonic() < until:
                session.get(running.base + running.health_route, timeout=10)

    with pytest.raises(requests.ConnectionError, match="refused"):
        ask_for(20)


def _kill_worker(running: Any, expected: int = 1) -> None:
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
    assert len(children) == expected
    subprocess.run(["kill", "-KILL", children[0]], check=True)


def _until_health_is(running: Any, status: int) -> None:
    deadline = time.monotonic() + 60
    while (answer := running.health()) is None or answer.status_code != status:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_missing_setting_ends_the_process_with_its_name(start: Callable[..., Any]) -> None:
    running = start("", AIP_HTTP_PORT="eighty")
    assert running.process.wait(timeout=30) == 2
    (line,) = running.lines()
    assert "AIP_STORAGE_URI is not set" in line["message"]
    assert "AIP_HTTP_PORT='eighty'" in line["message"]


def test_each_gpu_gets_a_process_and_health_waits_for_all_of_them(start: Callable[..., Any], models: Path) -> None:
    # No GPU is needed to see who is told to use which; TensorFlow without CUDA says that it cannot.
    running = start(str(models / "good"), CUDA_VISIBLE_DEVICES="0,1")
    running.wait_until_ready()
    ready = [line for line in running.lines() if line["message"].startswith("ready after")]
    assert sorted(line["gpu"] for line in ready) == ["0", "1"]
    assert any("cannot use the GPU" in line["message"] for line in running.lines())
    _kill_worker(running, expected=2)
    _until_health_is(running, 503)
    running.wait_until_ready()
    answers = [running.predict(json={"instances": [b64(picture("lime"))]}).status_code for _ in range(8)]
    assert answers == [200] * 8
    gpus = [line["gpu"] for line in running.lines() if line["message"].startswith("ready after")]
    assert len(gpus) == 3
    assert set(gpus) == {"0", "1"}
