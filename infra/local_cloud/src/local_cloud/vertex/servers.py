"""Model servers: a deployed model really is a process of its serving container, watched and restarted."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import urllib3

from local_cloud.http import LOOPBACK, free_port
from local_cloud.vertex.errors import failed_precondition
from local_cloud.vertex.processes import Process

_HEALTH_TIMEOUT_SECONDS = 10.0
_FIRST_HEALTH_CHECKS_SECONDS = 0.05
_HEALTH_INTERVAL_SECONDS = 1.0

#: Google stops routing after four unhealthy answers in a row, and goes on asking.
_UNHEALTHY_AFTER = 4

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0
_STOP_GRACE_SECONDS = 3.0


@dataclasses.dataclass(frozen=True)
class ServerSpec:
    """How a model server is started; the port comes on top, a new one for each start."""

    command: list[str]
    folder: Path
    environment: Mapping[str, str]
    health_route: str
    predict_route: str
    log: Path


class ModelServer:
    """One deployed model's process; `address` is where predictions go while it is healthy."""

    def __init__(self, spec: ServerSpec, *, pool: urllib3.PoolManager, restarts_first_failure: bool) -> None:
        self.spec = spec
        self._pool = pool
        self._restarts_first_failure = restarts_first_failure
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._ready = threading.Condition()
        self._address: str | None = None
        self._has_been_ready = False
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._supervise, name="model-server", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str | None:
        """host:port while the server answers its health checks, else None."""
        return self._address

    def wait_until_ready(self, seconds: float, stop: threading.Event) -> bool:
        """Wait for the first healthy answer; False when `stop` is set first.

        Raises:
            ApiError: FAILED_PRECONDITION, in Google's words, when the server ends or takes too long.
        """
        deadline = time.monotonic() + seconds
        with self._ready:
            while not stop.is_set():
                if self._failure is not None:
                    raise failed_precondition(
                        f"Model server exited unexpectedly. Model server logs can be found at {self.spec.log}.\n"
                        f"{self._failure}"
                    )
                if self._has_been_ready:
                    return True
                if time.monotonic() >= deadline:
                    raise failed_precondition(
                        f"Model server never became ready within {seconds:g} s: {self.spec.health_route} did not"
                        f" answer 200. Model server logs can be found at {self.spec.log}."
                    )
                self._ready.wait(0.1)
        return False

    def close(self) -> None:
        """End the process, giving it a moment to finish what it answers."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout=_STOP_GRACE_SECONDS + 10)

    def _supervise(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._closing.is_set():
            was_ready, last_words = self._serve()
            if not self._has_been_ready and not self._restarts_first_failure and not self._closing.is_set():
                with self._ready:
                    self._failure = last_words
                    self._ready.notify_all()
                return
            pause = _FIRST_PAUSE_SECONDS if was_ready else min(pause * 2, _LONGEST_PAUSE_SECONDS)
            self._closing.wait(pause)

    def _serve(self) -> tuple[bool, str]:
        """One life of the server: whether it was ever healthy, and how it ended."""
        try:
            process, port = self._start()
        except OSError as error:
            return False, f"The container could not be started: {error}"
        try:
            was_ready = self._watch(process, f"{LOOPBACK}:{port}")
        finally:
            self._set_address(None)
            process.end(_STOP_GRACE_SECONDS)
        return was_ready, f"Exit code {process.exit_code}. {process.tail}"

    def _start(self) -> tuple[Process, int]:
        port = free_port()
        environment = {**self.spec.environment, "AIP_HTTP_PORT": str(port)}
        process = Process(
            self.spec.command,
            folder=self.spec.folder,
            environment=environment,
            log=self.spec.log,
            on_exit=self._wake.set,
        )
        return process, port

    def _watch(self, process: Process, address: str) -> bool:
        """Check the server's health until it ends or is closed; True when it was healthy once."""
        unhealthy, was_ready = 0, False
        while not self._closing.is_set() and process.exit_code is None:
            if self._is_healthy(address):
                unhealthy, was_ready = 0, True
                self._set_address(address)
            else:
                unhealthy += 1
                if unhealthy >= _UNHEALTHY_AFTER:
                    self._set_address(None)
            self._wake.wait(_HEALTH_INTERVAL_SECONDS if was_ready else _FIRST_HEALTH_CHECKS_SECONDS)
            self._wake.clear()
        return was_ready

    def _is_healthy(self, address: str) -> bool:
        try:
            answer = self._pool.request(
                "GET", f"http://{address}{self.spec.health_route}", timeout=_HEALTH_TIMEOUT_SECONDS, retries=False
            )
        except urllib3.exceptions.HTTPError:
            return False
        return answer.status == 200

    def _set_address(self, address: str | None) -> None:
        with self._ready:
            self._address = address
            self._has_been_ready = self._has_been_ready or address is not None
            self._ready.notify_all()


class ModelServers:
    """The running servers by (endpoint name, deployed model id)."""

    def __init__(self) -> None:
        self.pool = urllib3.PoolManager(num_pools=50, maxsize=16, retries=False)
        self._lock = threading.Lock()
        self._servers: dict[tuple[str, str], ModelServer] = {}
        self._closed = False

    def start(self, key: tuple[str, str], spec: ServerSpec, *, restarts_first_failure: bool) -> ModelServer:
        """Start a server, replacing one that a given-up operation may have left."""
        self.stop(key)
        server = ModelServer(spec, pool=self.pool, restarts_first_failure=restarts_first_failure)
        with self._lock:
            closed = self._closed
            if not closed:
                self._servers[key] = server
        if closed:
            server.close()
        return server

    def get(self, key: tuple[str, str]) -> ModelServer | None:
        with self._lock:
            return self._servers.get(key)

    def stop(self, key: tuple[str, str]) -> None:
        with self._lock:
            server = self._servers.pop(key, None)
        if server is not None:
            server.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            servers = list(self._servers.values())
            self._servers.clear()
        closers = [threading.Thread(target=server.close) for server in servers]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join()
        self.pool.clear()
