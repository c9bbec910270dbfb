"""What is shipped, installed alone into a clean environment and started as production starts it.

Nothing of this repository is on the path of what runs here: no PYTHONPATH, no editable install, only the staged folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from dualdeploy_demo.stack import procfile_command
from local_cloud import cloud as clouds
from local_cloud.cloud import LocalCloud
from shipping import package
from support.fakes.callers import AUDIENCE, SENDER

REPOSITORY = Path(__file__).resolve().parents[2]
EVENTS = REPOSITORY / "tests" / "events"
BOOT_LIMIT_SECONDS = 90.0


@dataclasses.dataclass(frozen=True)
class Installed:
    """A staged service and the clean environment that has its requirements, and nothing else."""

    name: str
    folder: Path
    python: Path

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """What a container has: its own PATH and what the deployment sets."""
        path = os.pathsep.join([str(self.python.parent), "/usr/local/bin", "/usr/bin", "/bin"])
        return {
            "PATH": path,
            "HOME": str(self.folder.parent),
            "PYTHONUNBUFFERED": "1",
            # The folder is what is shipped: nothing may be written into it.
            "PYTHONDONTWRITEBYTECODE": "1",
            **variables,
        }


@pytest.fixture(scope="session")
def install(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Installed]:
    """Stage a service and install it with hashes required; the same service is installed once."""
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if uv is None:
        pytest.skip("uv is not installed here; `make setup` puts it into .venv")
    done: dict[str, Installed] = {}

    def run(service: str, *, requirements: Callable[[str], str] = lambda text: text) -> Installed:
        if service not in done:
            base = tmp_path_factory.mktemp(service)
            folder, _ = package.package(service, output=base)
            wanted = folder / "requirements-installed.txt"
            wanted.write_text(requirements((folder / "requirements.txt").read_text()))
            python = base / "environment" / "bin" / "python"
            _run([uv, "venv", "--quiet", "--python", sys.executable, str(base / "environment")], cwd=folder)
            # --no-deps as in the Dockerfiles: the lock is complete or the service does not start.
            options = ["--quiet", "--require-hashes", "--no-deps", "--link-mode", "hardlink"]
            _run([uv, "pip", "install", *options, "--python", str(python), "-r", wanted.name], cwd=folder)
            wanted.unlink()
            done[service] = Installed(service, folder, python)
        return done[service]

    return run


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """Every emulator; no service is registered, so nothing but the tests sends events."""
    with clouds.load(
        REPOSITORY / "infra" / "topology.json", state_dir=tmp_path_factory.mktemp("cloud"), clock_seconds=3600
    ) as running:
        yield running


@dataclasses.dataclass(frozen=True)
class Server:
    """A service that was started by its production command."""

    process: subprocess.Popen[bytes]
    base: str
    log: Path
    token: Callable[[], str]

    def post_event(self, path: str, file: str) -> requests.Response:
        """Send one of tests/events/ as Google sends it."""
        event = json.loads((EVENTS / file).read_text(encoding="utf-8"))
        headers = {**event["headers"], "Authorization": f"Bearer {self.token()}"}
        return requests.post(self.base + path, data=json.dumps(event["body"]), headers=headers, timeout=60)

    def wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + BOOT_LIMIT_SECONDS
        port = int(self.base.rsplit(":", 1)[1])
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.1)
        raise AssertionError(f"does not listen after {BOOT_LIMIT_SECONDS:.0f} s: {self.log.read_text()}")


@pytest.fixture(scope="session")
def boot(tmp_path_factory: pytest.TempPathFactory, cloud: LocalCloud) -> Iterator[Callable[..., Server]]:
    """Start an installed service by its Procfile; whatever still runs at the end of the session is ended."""
    with contextlib.ExitStack() as stack:

        def begin(installed: Installed, variables: Mapping[str, str], command: Sequence[str] = ()) -> Server:
            port = str(free_port())
            log = tmp_path_factory.mktemp("server") / "log"
            with log.open("wb") as stream:
                process = subprocess.Popen(
                    # Procfiles are run by a shell, with PORT set.
                    command or ["/bin/sh", "-c", f"exec {procfile_command(installed.folder / 'Procfile')}"],
                    cwd=installed.folder,
                    env=installed.environment({"HOST": "127.0.0.1", "PORT": port, **variables}),
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            stack.callback(_end, process)
            return Server(process, f"http://127.0.0.1:{port}", log, lambda: cloud.mint.token(SENDER, AUDIENCE))

        yield begin


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def rejected_by(cloud: LocalCloud) -> Callable[[str], list[dict[str, Any]]]:
    """The rejected events of a service, read from the ledger bucket as `gcloud storage cat` would."""

    def read(service: str) -> list[dict[str, Any]]:
        bucket = f"http://{cloud.storage.address}/storage/v1/b/{cloud.topology.buckets['ledger'].name}/o"
        listed = requests.get(bucket, params={"prefix": "rejected/"}, timeout=10).json().get("items", [])
        links = [f"{bucket}/{quote(item['name'], safe='')}?alt=media" for item in listed]
        records = [requests.get(link, timeout=10).json() for link in links]
        return [record for record in records if record["service"] == service]

    return read


def _run(command: Sequence[str], *, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
