"""The local cloud together with the services of its topology, each a process of its own."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import logging
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
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
#: What a service answers that has no such route.
_HAS_NO_HEALTH_ROUTE = frozenset({404, 405, 501})
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
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log_file: Path,
        inherited: Mapping[str, str] | None = None,
        port: int = 0,
    ) -> None:
        self.name = name
        self.address = f"{LOOPBACK}:{port or free_port()}"
        self._folder = folder
        self._command = list(command)
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
                raise self._did_not_start("did not become healthy in time")
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
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code in _HAS_NO_HEALTH_ROUTE  # it listens, which is all that Cloud Run asks by itself
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
        self._started = time.monotonic()
        return Process(
            self._command,
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
    """A local cloud and services of its topology; `environment` points clients and scripts at both.

    `services` run (default: those with a command in the topology); all together have `start_limit_seconds` to become
    healthy. `ports` are theirs in the same order, any free ones without them.
    """

    def __init__(
        self,
        cloud: LocalCloud,
        *,
        log_folder: Path,
        services: Iterable[str] | None = None,
        ports: Iterable[int] = (),
        python: str = sys.executable,
        start_limit_seconds: float = START_LIMIT_SECONDS,
    ) -> None:
        self.cloud = cloud
        self.services: dict[str, ServiceProcess] = {}
        deployed = cloud.topology.deployed
        self._starting = list(services if services is not None else [k for k, each in deployed.items() if each.command])
        self._ports = dict(zip(self._starting, ports, strict=False))
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
        # Each is told where the others are, also those that start after it.
        self._ports |= {name: free_port() for name in self._starting if name not in self._ports}
        for name in self._starting:
            self.services[name] = self._process(name)
        self._wait_until_healthy()
        for name, process in self.services.items():
            self._serve(name, process)
        return self

    def deploy(self, name: str, **variables: str | None) -> None:
        """A new revision of a service with other variables; None takes one away.

        Raises ServiceDidNotStart when it is not healthy in time; the revision before it then goes on serving, as on
        Cloud Run.
        """
        process = self._process(name, variables)
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

    def folder_of(self, name: str) -> Path:
        """Where a service's command runs."""
        topology = self.cloud.topology
        return topology.local.root / topology.deployed[name].folder

    def command_of(self, name: str) -> Sequence[str]:
        """What starts a service; HOST and PORT are in its environment."""
        return self.cloud.topology.deployed[name].command

    def variables_of(self, name: str) -> Mapping[str, str]:
        """What a deployment would set on a service, for this project."""
        topology = self.cloud.topology
        return {
            **self.cloud.environment(self.cloud.iam.member(name.replace("_", "-"))),
            # One refused request for each bucket and each missing object, which nothing comes of.
            "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA": "true",
            **self._urls(),
            "PUSH_SERVICE_ACCOUNTS": topology.caller_of(name),
            **{f"{image.upper()}_IMAGE": topology.image_uri(image) for image in topology.images},
        }

    def _process(self, name: str, variables: Mapping[str, str | None] | None = None) -> ServiceProcess:
        given = {**self.variables_of(name), **(variables or {})}
        inherited = {
            **os.environ,
            "PATH": os.pathsep.join([self._bin, os.environ.get("PATH", "")]),
            **self.cloud.python_path(),
            "PYTHONUNBUFFERED": "1",
        }
        return ServiceProcess(
            name,
            self.folder_of(name),
            self.command_of(name),
            environment={key: value for key, value in given.items() if value is not None},
            log_file=self._log_folder / f"{name}.log",
            inherited=inherited,
            # A later revision runs beside the one before, and so elsewhere.
            port=0 if name in self.services else self._ports.get(name, 0),
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
        first = {name: f"{LOOPBACK}:{port}" for name, port in self._ports.items()}
        running = {name: service.address for name, service in self.services.items()}
        return {f"{name.upper()}_URL": f"http://{address}" for name, address in {**first, **running}.items()}
