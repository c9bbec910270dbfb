"""gunicorn, configured here and nowhere else: a process for each GPU, threads, JSON logs, an end in good order."""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import select
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import flask
import gunicorn.app.base
import gunicorn.glogging
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.workers.gthread import ThreadWorker

from predictor import accelerators, loading
from predictor.app import create_app
from predictor.readiness import Readiness
from predictor.settings import PredictorSettings

#: gunicorn's own code for a worker that could not start: the server ends with it instead of trying for ever.
EXIT_CANNOT_SERVE = Arbiter.WORKER_BOOT_ERROR

#: Seconds that a thread stays with a connection that it has answered: for a client who asks again at once.
_LINGER = 0.01

#: Seconds for requests in progress after SIGTERM.
_GRACE = 30

#: Seconds in which a connection that had begun before the end is completed, or no more.
_HANDSHAKE = 0.05

#: A program for the kernel's socket filter (linux/filter.h): of the packets for a port, it drops those that begin a
#: connection. It loads the byte of flags, keeps SYN and ACK of it, drops what is SYN alone, and lets the rest pass.
_NO_NEW_CONNECTION = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),
        (0x54, 0, 0, 0x12),
        (0x15, 0, 1, 0x02),
        (0x06, 0, 0, 0),
        (0x06, 0, 0, 0xFFFFFFFF),
    )
)
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python has no name for it


class Server(gunicorn.app.base.BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """Listens at once; the model loads in the worker, because TensorFlow does not survive a fork.

    `run` does not return: it ends the process, with 0 after SIGTERM and with 3 when the model cannot be served.
    """

    def __init__(self, settings: PredictorSettings) -> None:
        self._settings = settings
        # One process for each GPU, which sees no other; without a GPU one process, on all cores.
        self._gpus = accelerators.names(os.environ)
        self._place = 0
        # Shared with the workers that are forked later: a byte for each place, 1 once its worker serves.
        self._served = mmap.mmap(-1, max(1, len(self._gpus)))
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options().items():
            self.cfg.set(name, value)

    def load(self) -> flask.Flask:
        """Called in the worker, after the port is open."""
        readiness = Readiness(all_ready=lambda: all(self._served[:]))
        loading.start(self._settings, readiness, when_ready=self._note_served, when_failed=_end_worker)
        return create_app(self._settings, readiness)

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "bind": f"{self._settings.address}:{self._settings.port}",
            "proc_name": "predictor",
            "workers": len(self._served),
            "worker_class": Worker,
            "threads": self._settings.threads,
            "worker_connections": 1000 + self._settings.threads,  # beside those in a thread: kept open, asking nothing
            # Longer than any load balancer keeps its connections: whoever closes first must not be us.
            "keepalive": 620,
            "graceful_timeout": _GRACE,
            # Of the worker's main loop, not of requests; loading TensorFlow can hold the interpreter for a while.
            "timeout": 120,
            "logger_class": _Logger,
            # A socket file in the home folder, which a container may not be able to write, for a tool nobody runs.
            "control_socket_disable": True,
            "pre_fork": self._give_place,
            "post_fork": self._take_place,
            "child_exit": self._worker_ended,
        }
        if Path("/dev/shm").is_dir():  # noqa: S108 - a heartbeat file on a disk can block the worker
            options["worker_tmp_dir"] = "/dev/shm"  # noqa: S108
        return options

    def _give_place(self, arbiter: Any, worker: Any) -> None:
        """In the parent: a worker that replaces another gets its GPU."""
        taken = {running.place for running in arbiter.WORKERS.values()}
        worker.place = next(place for place in range(len(self._served)) if place not in taken)

    def _take_place(self, _arbiter: Any, worker: Any) -> None:
        """In the worker, before TensorFlow is imported."""
        self._place = worker.place
        if self._gpus:
            os.environ[accelerators.VISIBLE] = self._gpus[self._place]

    def _note_served(self) -> None:
        self._served[self._place] = 1

    def _worker_ended(self, arbiter: Any, worker: Any) -> None:
        """A worker that dies while it serves is replaced; one that dies before (memory) would die again."""
        served, self._served[worker.place] = self._served[worker.place], 0
        if arbiter.LISTENERS and not served:
            raise HaltServer("the worker ended before it could serve", EXIT_CANNOT_SERVE)


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """Whoever has connected when the end begins is answered, and whoever comes later is refused at once.

    gunicorn's own worker takes nobody in any more, but leaves the port open while it answers: clients then wait for
    up to the time of grace, only to be cut off.
    """

    def handle(self, conn: Any) -> Any:
        """In a thread of the pool: answer a request, and the next ones of this connection if they follow soon.

        gunicorn's own worker gives the connection back to its main thread after each, which wakes another for the next.
        """
        while (kept := super().handle(conn)) is True and self._asks_again(conn):
            pass
        return kept

    def _asks_again(self, conn: Any) -> bool:
        # Only while every connection has a thread and two are left, for whoever comes meanwhile.
        if not self.alive or self.nr_conns > self.cfg.threads - 2 or conn.parser.unreader.buf.getvalue():
            return False
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        return bool(poll.poll(_LINGER * 1000))

    def is_parent_alive(self) -> bool:
        """Ends this worker when nobody supervises it any more, whoever still asks."""
        supervised: bool = super().is_parent_alive()
        if not supervised:
            self.alive = False
        return supervised

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        if enabled or self.alive:
            return
        closing: list[Any] = self.sockets
        self.sockets: list[Any] = []
        for listener in closing:
            seconds = _HANDSHAKE if _lets_none_begin(listener) else 0.0
            poll = select.poll()
            poll.register(listener, select.POLLIN)
            while poll.poll(seconds * 1000):
                self.accept(listener)
            listener.close()


def _lets_none_begin(listener: socket.socket) -> bool:
    """Let no connection begin at a port that is about to be closed; False where the system has no way to do so.

    The kernel resets those that stand in line when it closes, and one may come between the last look and that. A client
    that begins now begins again after a second, as TCP does, and is refused.
    """
    if sys.platform != "linux":
        return False
    program = ctypes.create_string_buffer(_NO_NEW_CONNECTION, len(_NO_NEW_CONNECTION))
    described = struct.pack("HP", len(_NO_NEW_CONNECTION) // 8, ctypes.addressof(program))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)
    except OSError:  # the kernel of a sandbox has no filters
        return False
    return True


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
