"""A project of Google's as far as gcloud and terraform show it, and the commands of `make` run against it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lifecycle import RealTerraform
from made_up_cloud import Cloud
from stub_provider import StubProvider

REPOSITORY = Path(__file__).resolve().parents[3]
PROJECT = "demo-dualdeploy"
SERVICES = ["training_launcher", "job_notifier", "cloud_deployer", "mobile_publisher", "trainer", "predictor"]


@dataclasses.dataclass(frozen=True)
class Ran:
    """How a command ended, and all that it said."""

    code: int
    said: str


#: What a world looked like → how its deployment went, and what it looked like then.
_DEPLOYED: dict[str, tuple[Ran, str]] = {}


class Project:
    """The world of the fake tools, and our program run in it as a process of its own."""

    def __init__(self, folder: Path, permissions_at: str) -> None:
        self._file = folder / "world.json"
        self._folder = folder
        self._permissions_at = permissions_at
        #: The real program, where a test asks for it.
        self.terraform: RealTerraform | None = None
        self.environment = folder / "environment"
        self.environment.mkdir()
        self.build = folder / "build"
        bin_ = folder / "bin"
        bin_.mkdir()
        fake = Path(__file__).with_name("fake_tools.py")
        for tool in ("gcloud", "terraform"):
            program = bin_ / tool
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{fake}" {tool} "$@"\n')
            program.chmod(0o755)
        for service in (*SERVICES, "console", "gateway"):
            self.change_code(service, "first")
        self.facts = {
            "account": "ann@example.com",
            "acted": 0,
            "apis": ["storage.googleapis.com"],
            "billing": True,
            "buckets": {},
            "default_project": "",
            "endpoints": [],
            "fail_apply": {},
            "images": {},
            "locked": False,
            "log": [],
            "login_expired": False,
            "not_ready": [],
            "objects": [],
            "outputs": {},
            "project": PROJECT,
            "refuse": {},
            "resources": {},
            "terraform_version": "1.11.4",
        }

    @property
    def facts(self) -> dict[str, Any]:
        return json.loads(self._file.read_text())  # type: ignore[no-any-return]

    @property
    def cloud(self) -> Cloud:
        """What the real terraform made."""
        assert self.terraform
        return self.terraform.cloud

    @facts.setter
    def facts(self, facts: dict[str, Any]) -> None:
        self._file.write_text(json.dumps(facts))

    def set(self, **facts: Any) -> None:
        self.facts = {**self.facts, **facts}

    def change_code(self, service: str, text: str) -> None:
        """What `make package` would leave of other sources."""
        (self.build / service).mkdir(parents=True, exist_ok=True)
        (self.build / service / "Dockerfile").write_text(text)
        (self.build / f"{service}.zip").write_text(text)

    def commands(self) -> list[list[str]]:
        return self.facts["log"]  # type: ignore[no-any-return]

    def run(self, command: str, *options: str, project: str = PROJECT) -> Ran:
        given = [f"--project={project}"] if project else []
        program = [sys.executable, "-m", "shipping", command, *given, f"--environment={self.environment}"]
        done = subprocess.run(
            [*program, f"--build={self.build}", "--packaged", "--pause-seconds=0", *options],
            env={
                "PATH": f"{self._folder / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin",
                "PYTHONPATH": str(REPOSITORY / "infra" / "deploy"),
                "PYTHONDONTWRITEBYTECODE": "1",
                "FAKE_WORLD": str(self._file),
                "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDRESOURCEMANAGER": self._permissions_at,
                **(self.terraform.environment() if self.terraform else {}),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        return Ran(done.returncode, done.stdout + done.stderr)

    def deployed(self) -> Ran:
        """Everything, brought out to its end; from the same beginning it is done once."""
        beginning = self._file.read_text()
        if beginning not in _DEPLOYED:
            ran = self.run("deploy", "--region=us-central1")
            assert ran.code == 0, ran.said
            _DEPLOYED[beginning] = (ran, self._file.read_text())
        ran, after = _DEPLOYED[beginning]
        self._file.write_text(after)
        return ran


class Permissions(ThreadingHTTPServer):
    """Answers projects.testIamPermissions: everything that is asked for, but what is in `lacking`."""

    def __init__(self) -> None:
        self.lacking: set[str] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert self.path.endswith(":testIamPermissions")
        assert self.headers["Authorization"] == "Bearer token"
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["permissions"]
        lacking = self.server.lacking  # type: ignore[attr-defined]
        body = json.dumps({"permissions": [each for each in asked if each not in lacking]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class calls it so
        pass


@pytest.fixture
def permissions() -> Iterator[Permissions]:
    with Permissions() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def project(tmp_path: Path, permissions: Permissions) -> Project:
    return Project(tmp_path, permissions.address)


@pytest.fixture
def real(project: Project, tmp_path: Path) -> Iterator[Project]:
    """The same project, deployed by the real terraform; its state is in the local cloud's storage."""
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not installed here: what it would really do stays unseen")
    from local_cloud.faults import Faults
    from local_cloud.storage import Storage

    with StubProvider(names=False) as provider, Storage(faults=Faults(), state_dir=tmp_path / "storage") as storage:
        storage.ensure_bucket(f"{PROJECT}-dualdeploy-state", project=PROJECT)
        # What terraform makes, gcloud does not see: packages are copied to a bucket of its world.
        project.set(buckets={f"{PROJECT}-dualdeploy-sources": {"name": f"{PROJECT}-dualdeploy-sources"}})
        project.terraform = RealTerraform(tmp_path, provider, storage.address, PROJECT)
        project.environment = project.terraform.checkout({})
        yield project
