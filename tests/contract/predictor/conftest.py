"""The real server as a process, with toy models; built once per session."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
HEALTH, PREDICT = "/health", "/v1/endpoints/7/deployedModels/9:predict"


@dataclasses.dataclass
class Server:
    """A running `python -m predictor`, its address and its log."""

    process: subprocess.Popen[bytes]
    base: str
    log: Path
    started: float
    health_route: str = HEALTH

    def health(self) -> requests.Response | None:
        """The health answer, or None while the port is closed."""
        try:
            return requests.get(self.base + self.health_route, timeout=10)
        except requests.ConnectionError:
            return None

    def predict(self, **options: Any) -> requests.Response:
        return requests.post(self.base + PREDICT, timeout=30, **options)

    def wait_until_ready(self) -> float:
        """Seconds from the start of the process to the first 200."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            answer = self.health()
            if answer is not None and answer.status_code == 200:
                return time.monotonic() - self.started
            time.sleep(0.1)
        raise AssertionError(f"not ready in time: {self.log.read_text()}")

    def lines(self) -> list[dict[str, Any]]:
        """Every line on stdout, which must all be JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the toy models `good`, `nan` and `no_labels`."""
    folder = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, str(HERE / "make_toy_model.py"), str(folder)], check=True, timeout=120)
    return folder


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start servers; whatever is still running at the end of the session is ended."""
    with contextlib.ExitStack() as stack:

        def begin(storage_uri: str, **environ: str) -> Server:
            port = _free_port()
            log = tmp_path_factory.mktemp("server") / "log"
            # Ours goes to stdout; what native libraries print to stderr is nobody's to format.
            with log.open("wb") as stream, log.with_name("stderr").open("wb") as errors:
                process = subprocess.Popen(
                    [sys.executable, "-m", "predictor"],
                    stdout=stream,
                    stderr=errors,
                    env=_environment(storage_uri, port) | environ,
                )
            stack.callback(_end, process)
            return Server(process, f"http://127.0.0.1:{port}", log, time.monotonic())

        yield begin


@pytest.fixture(scope="session")
def server(start: Callable[..., Server], models: Path) -> Server:
    """One server with the good model, ready."""
    running = start(str(models / "good"), MODEL_VERSION="toys-0123456789ab", PREDICTOR_MAX_INSTANCES="20")
    seconds = running.wait_until_ready()
    print(f"\npredictor: {seconds:.1f} s from the start of the process to ready")
    return running


def _environment(storage_uri: str, port: int) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": f"{REPOSITORY / 'services' / 'predictor'}{os.pathsep}{REPOSITORY / 'shared' / 'src'}",
        "AIP_STORAGE_URI": storage_uri,
        "AIP_HTTP_PORT": str(port),
        "AIP_HEALTH_ROUTE": HEALTH,
        "AIP_PREDICT_ROUTE": PREDICT,
        "PREDICTOR_ADDRESS": "127.0.0.1",
        "PREDICTOR_MAX_BATCH": "4",
        "GOOGLE_CLOUD_PROJECT": "toys",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
