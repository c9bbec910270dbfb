"""A function is installed by Google's buildpack, which asks pip itself to resolve what is in requirements.txt.

Source: https://github.com/GoogleCloudPlatform/buildpacks/blob/main/pkg/python/python.go (`pip install --requirement …`,
without `--no-deps`, unlike our Dockerfiles).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shipping import package

FUNCTIONS = ["training_launcher", "job_notifier"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean environment with a pip of today; older ones than 23.3 cannot resolve a lock with extras and hashes."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        pytest.skip("uv is not installed here; `make setup` puts it into .venv")
    folder = tmp_path_factory.mktemp("buildpack") / "environment"
    subprocess.run([uv, "venv", "--quiet", "--seed", "--python", sys.executable, str(folder)], check=True, timeout=100)
    return folder / "bin" / "pip"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("service", FUNCTIONS)
def test_pip_by_itself_installs_exactly_what_is_locked(service: str, pip: Path, tmp_path: Path) -> None:
    folder, _ = package.package(service, output=tmp_path)
    report = tmp_path / "report.json"
    done = subprocess.run(
        [pip, "install", "--dry-run", "--ignore-installed", "--report", report, "--requirement", "requirements.txt"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    chosen = {normal(each["metadata"]["name"]) for each in json.loads(report.read_text())["install"]}
    lock = (folder / "requirements.txt").read_text(encoding="utf-8")
    locked = {normal(name) for name in re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==", lock, re.MULTILINE)}
    # A lock is universal: what is for another system is left out.
    assert chosen - locked == {"dualdeploy"}
    assert len(locked - chosen) <= 3, locked - chosen
