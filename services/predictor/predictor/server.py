"""gunicorn, configured here and nowhere else: one process, threads, JSON logs, an end that finishes what it began."""

from __future__ import annotations

import logging
import mmap
import os
import sys
from pathlib import Path
from typing import Any

import flask
import gunicorn.app.base
import gunicorn.glogging
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from predictor import loading
from predictor.app import create_app
from predictor.readiness import Readiness
from predictor.settings import PredictorSettings

#: gunicorn's own code for a worker that could not start: the server ends with it instead of trying for ever.
EXIT_CANNOT_SERVE = Arbiter.WORKER_BOOT_ERROR

#: Seconds for requests in progress after SIGTERM.
_GRACE = 30


class Server(gunicorn.app.base.BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """Listens at once; the model loads in the worker, because TensorFlow does not survive a fork.

    `run` does not return: it ends the process, with 0 after SIGTERM and with 3 when the model cannot be served.
    """

    def __init__(self, settings: PredictorSettings) -> None:
        self._settings = settings
        # Shared with the worker that is forked later: did it ever serve?
        self._served = mmap.mmap(-1, 1)
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options().items():
            self.cfg.set(name, value)

    def load(self) -> flask.Flask:
        """Called in the worker, after the port is open."""
        readiness = Readiness()
        self._served[0] = 0
        loading.start(self._settings, readiness, when_ready=self._note_served, when_failed=_end_worker)
        return create_app(self._settings, readiness)

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "bind": f"{self._settings.address}:{self._settings.port}",
            "proc_name": "predictor",
            "workers": 1,
            "worker_class": "gthread",
            "threads": self._settings.threads,
            "worker_connections": 1000,
            # Longer than any load balancer keeps its connections: whoever closes first must not be us.
            "keepalive": 620,
            "graceful_timeout": _GRACE,
            # Of the worker's main loop, not of requests; loading TensorFlow can hold the interpreter for a while.
            "timeout": 120,
            "logger_class": _Logger,
            # A socket file in the home folder, which a container may not be able to write, for a tool nobody runs.
            "control_socket_disable": True,
            "child_exit": self._worker_ended,
        }
        if Path("/dev/shm").is_dir():  # noqa: S108 - a heartbeat file on a disk can block the worker
            options["worker_tmp_dir"] = "/dev/shm"  # noqa: S108
        return options

    def _note_served(self) -> None:
        self._served[0] = 1

    def _worker_ended(self, arbiter: Any, _worker: Any) -> None:
        """A worker that dies while it serves is replaced; one that dies before (memory) would die again."""
        if arbiter.LISTENERS and not self._served[0]:
            raise HaltServer("the worker ended before it could serve", EXIT_CANNOT_SERVE)


class _Logger(gunicorn.glogging.Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's messages go where ours go; its access log stays off, ours knows more."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        self.error_log.setLevel(logging.INFO)


def _end_worker() -> None:
    """End this process now, from whatever thread: TensorFlow may be stuck in another."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_CANNOT_SERVE)
