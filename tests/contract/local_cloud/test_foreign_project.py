"""Somebody else's project on the local cloud: nothing of ours is on its path but `local_cloud`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import requests

from local_cloud.cloud import Ports
from local_cloud.environment_file import read_environment

REPOSITORY = Path(__file__).resolve().parents[3]
PACKAGE = REPOSITORY / "infra" / "local_cloud"
#: Without `site` nothing that is installed for development is found: packages are in one folder, ours are not.
PYTHON = [sys.executable, "-S"]


def environment_without_ours(**more: str) -> dict[str, str]:
    own = ("PYTHONPATH", "LOCAL_CLOUD", "STORAGE_", "PUBSUB_", "VERTEX_", "GOOGLE_", "PYTEST_", "COV_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return {**kept, "PYTHONPATH": os.pathsep.join([sysconfig.get_path("purelib"), str(PACKAGE / "src")]), **more}


def first_of_free_ports(count: int) -> int:
    """Where so many ports in a row are free at this moment."""
    for first in range(21000, 31000, 100):
        with contextlib.ExitStack() as probes, contextlib.suppress(OSError):
            for port in range(first, first + count):
                probe = probes.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                probe.bind(("127.0.0.1", port))
            return first
    raise AssertionError("the machine has no free ports")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return shutil.copytree(REPOSITORY / "tests" / "fixtures" / "foreign_project", tmp_path / "mail filter")


@pytest.fixture
def running(project: Path) -> Iterator[Mapping[str, str]]:
    """`local-cloud serve` in the project's folder; what it wrote for clients."""
    first = first_of_free_ports(30)
    command = [*PYTHON, "-m", "local_cloud", "serve", "--topology", "topology.json"]
    command += ["--ports", str(first), "--environment-file", "cloud.env"]
    serving = subprocess.Popen(
        command, cwd=project, env=environment_without_ours(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert serving.stdout is not None
        said = serving.stdout.readline()
        assert "local cloud ready" in said, serving.communicate()
        yield {**read_environment(project / "cloud.env"), "FIRST_PORT": str(first)}
        serving.send_signal(signal.SIGTERM)
        _, errors = serving.communicate(timeout=30)
        assert serving.returncode == 0, errors
        assert not (project / "cloud.env").exists()
    finally:
        serving.kill()
        serving.communicate()


def test_it_learns_registers_deploys_two_versions_and_predicts(running: Mapping[str, str], project: Path) -> None:
    hidden = "import importlib.util as u; print([name for name in ('dualdeploy', 'support') if u.find_spec(name)])"
    ours = subprocess.run(
        [*PYTHON, "-c", hidden], env=environment_without_ours(), capture_output=True, text=True, check=True
    )
    assert ours.stdout.strip() == "[]"

    done = subprocess.run(
        [*PYTHON, "filter.py"],
        cwd=project,
        env=environment_without_ours(**running),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["states"] == ["JOB_STATE_SUCCEEDED"] * 2
    assert said["versions"] == said["answered_by"] == ["1", "2"]
    assert said["split"] == [40, 60]
    # The second version holds "noon" for a bad word. 24 of 60 on average, with a deviation of less than 4.
    assert set(said["answers"]) == {"good bad", "bad bad"}
    assert 6 <= said["answers"]["bad bad"] <= 42
    # Ports are where a project has them in its settings.
    ports = Ports.fixed(int(running["FIRST_PORT"]))
    assert running["LOCAL_CLOUD_ADDRESS"] == f"127.0.0.1:{ports.control}"
    assert running["STORAGE_EMULATOR_HOST"] == f"http://127.0.0.1:{ports.storage}"
    assert running["PUBSUB_EMULATOR_HOST"] == f"127.0.0.1:{ports.pubsub}"
    assert running["VERTEX_EMULATOR_HOST"] == f"127.0.0.1:{ports.vertex}"
    # And a person sees all of it in a browser.
    page = requests.get(f"http://{running['LOCAL_CLOUD_ADDRESS']}/", timeout=10)
    assert page.headers["Content-Type"].startswith("text/html")
    for text in (said["endpoint"], "60 %", "JOB_STATE_SUCCEEDED", "mail-filter-mails", "python judge.py"):
        assert text in page.text
    assert "<script" not in page.text


def test_every_example_of_the_readme_runs_by_the_fixture_for_pytest(tmp_path: Path) -> None:
    examples = shutil.copytree(PACKAGE / "examples", tmp_path / "examples")
    (examples / "pytest.ini").write_text("[pytest]\naddopts = --disable-socket --allow-hosts=127.0.0.1\n")
    done = subprocess.run(
        [*PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(examples)],
        cwd=examples,
        env=environment_without_ours(),
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    asked = {path.stem for path in examples.glob("*.py")} - {"conftest", "test_examples", "shop", "train", "predict"}
    assert f"{len(asked) + 1} passed" in done.stdout
