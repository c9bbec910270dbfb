"""The local cloud together with our services, each a process of its own started by its production command."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from local_cloud.cloud import LocalCloud
from local_cloud.http import LOOPBACK
from local_cloud.vertex.processes import Process

log = logging.getLogger(__name__)

#: Seconds for a service to answer its health route; the first start after an installation compiles bytecode.
START_LIMIT_SECONDS = 90.0
RESTART_SECONDS = 0.5


class ServiceDidNotStart(RuntimeError):
    """A service ended or never became healthy; the message ends with what it said last."""


class ServiceProcess:
    """One service behind one port; started again when it dies, as Cloud Run would."""

    def __init__(self, name: str, folder: Path, *, environment: Mapping[str, str], log_file: Path) -> None:
        self.name = name
        self.address = f"{LOOPBACK}:{_free_port()}"
        self._folder = folder
        self._environment = {**environment, "HOST": LOOPBACK, "PORT": self.address.rsplit(":", 1)[1]}
        self._log_file = log_file
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._process = self._start()

    def wait_until_healthy(self) -> None:
        """Raises ServiceDidNotStart."""
        deadline = time.monotonic() + START_LIMIT_SECONDS
        while time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError),  # not listening yet, or not healthy yet
                urllib.request.urlopen(f"http://{self.address}/healthz", timeout=10) as answer,
            ):
                if answer.status == 200:
                    return
            time.sleep(0.1)
        raise ServiceDidNotStart(
            f"{self.name} is not healthy after {START_LIMIT_SECONDS:.0f} s; see {self._log_file}\n{self._process.tail}"
        )

    def kill(self) -> None:
        """As `kill -9`; it is started again."""
        self._process.kill()

    def ask_to_stop(self) -> None:
        self._closing.set()

    def close(self) -> None:
        self._closing.set()
        with self._lock:
            self._process.end(grace_seconds=5)

    def _start(self) -> Process:
        # The Procfile is what buildpacks run in production, through a shell, with PORT set.
        command = procfile_command(self._folder / "Procfile")
        return Process(
            ["/bin/sh", "-c", f"exec {command}"],
            folder=self._folder,
            environment=self._environment,
            log=self._log_file,
            on_exit=self._exited,
        )

    def _exited(self) -> None:
        if self._closing.wait(RESTART_SECONDS):
            return
        log.warning("%s ended and is started again; see %s", self.name, self._log_file)
        with self._lock:
            if not self._closing.is_set():
                self._process = self._start()


class Stack:
    """A local cloud and every service of its topology; `environment` points clients and scripts at both."""

    def __init__(self, cloud: LocalCloud, *, repository: Path, log_folder: Path, python: str = sys.executable) -> None:
        self.cloud = cloud
        self.services: dict[str, ServiceProcess] = {}
        self._repository = repository
        self._log_folder = log_folder
        self._bin = str(Path(python).parent)

    def start(self) -> Stack:
        """Start the cloud, then all services at once; on return every one is healthy and receives its events."""
        self.cloud.start()
        for name, service in self.cloud.topology.services.items():
            self.services[name] = ServiceProcess(
                name,
                self._repository / service.folder,
                environment=self._service_environment(),
                log_file=self._log_folder / f"{name}.log",
            )
        for service_process in self.services.values():
            service_process.wait_until_healthy()
            self.cloud.register_service(service_process.name, service_process.address)
        return self

    def close(self) -> None:
        """Stop the cloud with everything that it runs, then the services. Closing twice is harmless.

        In this order no event is delivered to a service that is already gone.
        """
        self.cloud.close()
        for service in self.services.values():
            service.ask_to_stop()
        closing = [threading.Thread(target=service.close) for service in self.services.values()]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()

    def environment(self) -> dict[str, str]:
        """The cloud's variables, and `<SERVICE>_URL` for each service."""
        urls = {f"{name.upper()}_URL": f"http://{service.address}" for name, service in self.services.items()}
        return {**self.cloud.environment(), **urls}

    def _service_environment(self) -> dict[str, str]:
        """What Terraform sets on a service, for this project."""
        topology = self.cloud.topology
        repository = f"{topology.region}-docker.pkg.dev/{topology.project}/dualdeploy"
        python_path = [str(self._repository / "shared" / "src"), os.environ.get("PYTHONPATH", "")]
        return {
            **os.environ,
            **self.cloud.environment(),
            "PATH": os.pathsep.join([self._bin, os.environ.get("PATH", "")]),
            "PYTHONPATH": os.pathsep.join(filter(None, python_path)),
            "PYTHONUNBUFFERED": "1",
            **{f"{name.upper()}_IMAGE": f"{repository}/{name}:local" for name in topology.images},
        }


def procfile_command(path: Path) -> str:
    """The command of the `web` process."""
    for line in path.read_text(encoding="utf-8").splitlines():
        kind, _, command = line.partition(":")
        if kind.strip() == "web" and command.strip():
            return command.strip()
    raise ValueError(f"{path} has no line that begins with web:")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
