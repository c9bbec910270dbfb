"""The local cloud together with our services, each a process of its own started by its production command."""

from __future__ import annotations

import concurrent.futures
import contextlib
import getpass
import http.client
import logging
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from local_cloud.cloud import LocalCloud
from local_cloud.deployed import Revision
from local_cloud.http import LOOPBACK, free_port
from local_cloud.vertex.processes import Process

log = logging.getLogger(__name__)

#: Seconds for all services to answer their health routes; the first start after an installation compiles bytecode.
START_LIMIT_SECONDS = 90.0
#: Seconds for one answer; a server that listens but still loads gives none.
_HEALTH_SECONDS = 3.0
#: Seconds before a service that died is started again: doubling from the first to the last.
FIRST_RESTART_SECONDS, LAST_RESTART_SECONDS = 0.5, 30.0


class ServiceDidNotStart(RuntimeError):
    """A service ended or never became healthy; the message ends with what it said last."""


class RestartPause:
    """How long to wait before each restart; a service that ran for longer than the last pause begins anew."""

    def __init__(self) -> None:
        self._next = FIRST_RESTART_SECONDS

    def after(self, ran_seconds: float) -> float:
        """Seconds to wait now that the service died, having run for `ran_seconds`."""
        pause = FIRST_RESTART_SECONDS if ran_seconds > LAST_RESTART_SECONDS else self._next
        self._next = min(pause * 2, LAST_RESTART_SECONDS)
        return pause


class ServiceProcess:
    """One service behind one port; once it was healthy it is started again when it dies, as Cloud Run would.

    One that ends before is not: what is wrong with it is as wrong the second time, and its first words say what.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        environment: Mapping[str, str],
        log_file: Path,
        inherited: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.address = f"{LOOPBACK}:{free_port()}"
        self._folder = folder
        # As in Terraform, tokens for the service are made out to its address.
        own = {"HOST": LOOPBACK, "PORT": self.address.rsplit(":", 1)[1]}
        #: What the service was given, without what this machine gives to every process.
        self.variables = {"PUSH_AUDIENCES": f"http://{self.address}", **environment}
        self._environment = {**(inherited or {}), **self.variables, **own}
        self._log_file = log_file
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._was_healthy = False
        self._pause = RestartPause()
        self._process = self._start()

    def wait_until_healthy(self, deadline: float) -> None:
        """Wait until the health route answers; from then on the process is started again when it dies.

        Raises ServiceDidNotStart at `deadline` (monotonic), and as soon as the process ends.
        """
        while not self._closing.is_set():
            left = deadline - time.monotonic()
            healthy = left > 0 and self._is_healthy(timeout=min(left, _HEALTH_SECONDS))
            # Under the lock, so that a process which ends now is either reported here or started again.
            with self._lock:
                if self._process.exit_code is not None:
                    raise self._did_not_start(f"ended with exit code {self._process.exit_code}")
                self._was_healthy = healthy
            if healthy:
                return
            if left <= 0:
                raise self._did_not_start("is not healthy in time")
            self._closing.wait(0.05)

    def problem(self) -> str:
        """Why it does not serve at this moment; empty when it does."""
        if self._closing.is_set() or self._process.exit_code is not None:
            return f"the container ended with exit code {self._process.exit_code}; {self._process.tail}".rstrip("; ")
        return "" if self._is_healthy(timeout=1.0) else f"the container does not answer on {self.address}"

    def _is_healthy(self, timeout: float) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/healthz", timeout=timeout) as answer:
                return bool(answer.status == 200)
        except (OSError, http.client.HTTPException):
            return False  # not listening yet, or not healthy yet

    def _did_not_start(self, what: str) -> ServiceDidNotStart:
        return ServiceDidNotStart(f"{self.name} {what}; see {self._log_file}\n{self._process.tail}")

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
        self._started = time.monotonic()
        return Process(
            ["/bin/sh", "-c", f"exec {command}"],
            folder=self._folder,
            environment=self._environment,
            log=self._log_file,
            on_exit=self._exited,
        )

    def _exited(self) -> None:
        with self._lock:
            if not self._was_healthy:
                return  # whoever waits for it reports it
        while not self._closing.is_set():
            pause = self._pause.after(time.monotonic() - self._started)
            log.warning("%s ended and is started again in %.1f s; see %s", self.name, pause, self._log_file)
            if self._closing.wait(pause):
                return
            with self._lock, contextlib.suppress(OSError):  # no process could be made: after a longer pause, maybe
                if not self._closing.is_set():
                    self._process = self._start()
                return


class Stack:
    """A local cloud and every service of its topology; `environment` points clients and scripts at both.

    All services together have `start_limit_seconds` to become healthy. `web`: those that no event reaches run too.
    """

    def __init__(
        self,
        cloud: LocalCloud,
        *,
        repository: Path,
        log_folder: Path,
        python: str = sys.executable,
        start_limit_seconds: float = START_LIMIT_SECONDS,
        web: bool = False,
    ) -> None:
        self.cloud = cloud
        self.services: dict[str, ServiceProcess] = {}
        self._web = web
        self._repository = repository
        self._log_folder = log_folder
        self._bin = str(Path(python).parent)
        self._start_limit_seconds = start_limit_seconds
        self._numbers: dict[str, int] = {}
        self._failed: dict[str, str] = {}

    def start(self) -> Stack:
        """Start the cloud, then all services at once; on return every one is healthy and receives its events.

        Raises ServiceDidNotStart as soon as a service ends, or when not all are healthy in time.
        """
        self.cloud.start()
        topology = self.cloud.topology
        for name, service in (topology.deployed if self._web else topology.services).items():
            self.services[name] = self._process(name, service.folder)
        self._wait_until_healthy()
        for name, process in self.services.items():
            self._serve(name, process)
        return self

    def deploy(self, name: str, **variables: str | None) -> None:
        """A new revision of a service with other variables; None takes one away.

        Raises ServiceDidNotStart when it is not healthy in time; the revision before it then goes on serving, as on
        Cloud Run.
        """
        process = self._process(name, self.cloud.topology.deployed[name].folder, variables)
        try:
            process.wait_until_healthy(time.monotonic() + self._start_limit_seconds)
        except ServiceDidNotStart as exc:
            process.close()
            self._failed[name] = str(exc)
            raise
        before = self.services.get(name)
        self._failed.pop(name, None)
        self.services[name] = process
        self._serve(name, process)
        if before:
            before.close()

    def delete(self, name: str) -> None:
        """Take a service away; what is sent to it waits, and its subscriptions go on pointing at it."""
        self.cloud.services.pop(name, None)
        self.cloud.revisions.pop(name, None)
        self.services.pop(name).close()

    def _process(self, name: str, folder: str, variables: Mapping[str, str | None] | None = None) -> ServiceProcess:
        given = {**self._service_environment(name), **(variables or {})}
        python_path = [str(self._repository / "shared" / "src"), os.environ.get("PYTHONPATH", "")]
        inherited = {
            **os.environ,
            "PATH": os.pathsep.join([self._bin, os.environ.get("PATH", "")]),
            "PYTHONPATH": os.pathsep.join(filter(None, python_path)),
            "PYTHONUNBUFFERED": "1",
        }
        return ServiceProcess(
            name,
            self._repository / folder,
            environment={key: value for key, value in given.items() if value is not None},
            log_file=self._log_folder / f"{name}.log",
            inherited=inherited,
        )

    def _serve(self, name: str, process: ServiceProcess) -> None:
        """Send the service's events to this process, and tell of it."""
        number = self._numbers[name] = self._numbers.get(name, 0) + 1

        def describe() -> Revision:
            return Revision(
                f"http://{process.address}", process.variables, number, process.problem(), self._failed.get(name, "")
            )

        self.cloud.revisions[name] = describe
        if name in self.cloud.topology.services:
            self.cloud.register_service(name, process.address)

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + self._start_limit_seconds
        # A thread each: one that hangs while it loads must not hide that another is gone.
        threads = concurrent.futures.ThreadPoolExecutor(len(self.services) or 1, thread_name_prefix="stack-start")
        waits = [threads.submit(service.wait_until_healthy, deadline) for service in self.services.values()]
        threads.shutdown(wait=False)
        ended, _ = concurrent.futures.wait(waits, return_when=concurrent.futures.FIRST_EXCEPTION)
        for wait in ended:
            wait.result()

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
        return {**self.cloud.environment(), **self._urls()}

    def _urls(self) -> dict[str, str]:
        return {f"{name.upper()}_URL": f"http://{service.address}" for name, service in self.services.items()}

    def _service_environment(self, name: str) -> dict[str, str]:
        """What Terraform sets on a service, for this project."""
        topology = self.cloud.topology
        repository = f"{topology.region}-docker.pkg.dev/{topology.project}/dualdeploy"
        return {
            **self.cloud.environment(self.cloud.iam.member(name.replace("_", "-"))),
            "TRAINING_SERVICE_ACCOUNT": self.cloud.iam.member("trainer").removeprefix("serviceAccount:"),
            # One refused request for each bucket and each missing object, which nothing comes of.
            "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA": "true",
            "GIT_REVISION": revision_of(self._repository),
            # The console names the person to the services, whose addresses it has; its pages may ask the gateway.
            "CONSOLE_SERVICE_ACCOUNT": self.cloud.iam.member("console").removeprefix("serviceAccount:"),
            "CONSOLE_PERSON": f"{getpass.getuser()}@localhost",
            **self._urls(),
            **({"ALLOWED_ORIGINS": self._urls()["CONSOLE_URL"]} if "console" in self.services else {}),
            "TICK_SECONDS": f"{max(1.0, self.cloud.tick_seconds):g}",
            "PUSH_SERVICE_ACCOUNTS": topology.caller_of(name),
            **{f"{image.upper()}_IMAGE": f"{repository}/{image}:local" for image in topology.images},
        }


def revision_of(repository: Path) -> str:
    """The commit that is checked out; nothing where that cannot be told, as in an unpacked archive."""
    try:
        told = subprocess.run(
            ["git", "-C", str(repository), "rev-parse", "HEAD"],  # the git that people use here
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout.strip()


def procfile_command(path: Path) -> str:
    """The command of the `web` process."""
    for line in path.read_text(encoding="utf-8").splitlines():
        kind, _, command = line.partition(":")
        if kind.strip() == "web" and command.strip():
            return command.strip()
    raise ValueError(f"{path} has no line that begins with web:")
