"""`python -m local_cloud serve`: one process that is ready when it says so and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A serving process and the environment it wrote."""
    environment_file = tmp_path / "build" / "local_cloud.env"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "local_cloud", "serve"),
            *("--state", str(tmp_path / "state"), "--environment-file", str(environment_file)),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 30
        while not environment_file.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "not ready after 30 s"
            time.sleep(0.05)
        lines = environment_file.read_text(encoding="utf-8").splitlines()
        yield process, dict(line.split("=", 1) for line in lines)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "POST /shutdown"])
def test_it_is_ready_when_its_environment_is_written_and_stops_cleanly(
    serving: tuple[subprocess.Popen[str], dict[str, str]], tmp_path: Path, how: str
) -> None:
    process, environment = serving
    health = requests.get(f"http://{environment['LOCAL_CLOUD_ADDRESS']}/healthz", timeout=5)
    assert health.status_code == 200
    if how.startswith("SIG"):
        process.send_signal(signal.Signals[how])
    else:
        requests.post(f"http://{environment['LOCAL_CLOUD_ADDRESS']}/shutdown", timeout=5).raise_for_status()
    output, errors = process.communicate(timeout=20)

    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert "local cloud ready" in output
    assert environment["STORAGE_EMULATOR_HOST"] in output
    assert not (tmp_path / "build" / "local_cloud.env").exists()
