"""Serving a WSGI application on loopback from a background thread, on a free port unless told otherwise.

Google's clients send no token to an emulator, so who calls is told by the port: each caller has one of their own.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import waitress
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer

from local_cloud.iam import OWNER

LOOPBACK = "127.0.0.1"

#: Waitress accepts no connection beyond it, without a word.
_MOST_CONNECTIONS = 10_000

#: Where an application finds who calls, as a member of IAM policies (`serviceAccount:…`).
CALLER = "local_cloud.caller"


class HttpServer:
    """One WSGI application behind waitress, with a port for each of `callers`.

    `port` and `address` are those of the first caller, `addresses` those of all; known from construction on.
    """

    def __init__(
        self, application: Any, *, name: str, port: int = 0, threads: int = 16, callers: Sequence[str] = (OWNER,)
    ) -> None:
        # Bound here, not by waitress, which leaks its sockets when the port is taken.
        listeners = [_bound(name, port), *(_bound(name, 0) for _ in callers[1:])]
        ports = [str(listener.getsockname()[1]) for listener in listeners]
        self.addresses: Mapping[str, str] = {
            caller: f"{LOOPBACK}:{own}" for caller, own in zip(callers, ports, strict=True)
        }
        # A socket map of its own: without it every waitress server of the process shares one loop.
        self._sockets: dict[int, Any] = {}
        self._server: Any = waitress.create_server(
            _naming_callers(application, dict(zip(ports, callers, strict=True))),
            sockets=listeners,
            threads=threads,
            map=self._sockets,
            ident=None,
            max_request_body_size=4 << 30,
            inbuf_overflow=32 << 20,
            clear_untrusted_proxy_headers=False,
            # Each caller's port counts as a connection, and select() cannot watch a descriptor above 1023.
            connection_limit=_MOST_CONNECTIONS,
            asyncore_use_poll=True,
        )
        # A worker that outlives its server wakes the loop by writing to a descriptor that is closed by then, and
        # may belong to somebody's database by now.
        self._waking = threading.Lock()
        self._hung_up = False
        self._listening = [each for each in self._sockets.values() if isinstance(each, BaseWSGIServer)]
        for each in self._listening:
            each.pull_trigger = self._wake
        self.port = int(ports[0])
        self.address = f"{LOOPBACK}:{self.port}"
        self._thread = threading.Thread(target=self._server.run, name=f"http-{name}", daemon=True)

    def start(self) -> HttpServer:
        self._thread.start()
        return self

    def close(self) -> None:
        """Let running requests answer, then hang up on everybody, also on connections kept alive."""
        self._server.task_dispatcher.shutdown(cancel_pending=True, timeout=1)
        if not self._thread.is_alive():  # a server may be closed before it was started, or twice
            self._hang_up()
            return
        # Only the loop's own thread may touch its sockets, and it ends when there are none left.
        self._wake(self._hang_up)
        self._thread.join(timeout=5)

    def _wake(self, and_do: Callable[[], None] | None = None) -> None:
        with self._waking:
            if not self._hung_up:
                # One loop serves all ports, and any of its triggers wakes it.
                self._listening[0].trigger.pull_trigger(and_do)

    def _hang_up(self) -> None:
        with self._waking:
            self._hung_up = True
        for connection in list(self._sockets.values()):
            # A channel's handle_close also wakes a worker that waits for its slow reader; the rest only closes.
            if isinstance(connection, HTTPChannel):
                connection.handle_close()
            else:
                connection.close()


def _naming_callers(application: Any, callers: Mapping[str, str]) -> Any:
    """The application, told at each request who calls."""

    def named(environ: dict[str, Any], start_response: Any) -> Any:
        environ[CALLER] = callers[environ["SERVER_PORT"]]
        return application(environ, start_response)

    return named


def free_port() -> int:
    """A loopback port that nobody listens on, for a child process that is told its port before it starts."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """So many different ones."""
    with contextlib.ExitStack() as probes:
        found = [probes.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) for _ in range(count)]
        for probe in found:
            probe.bind((LOOPBACK, 0))
        return [probe.getsockname()[1] for probe in found]


def _bound(name: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # A server that was just stopped leaves its port in TIME_WAIT, which is no reason to refuse the next one.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError as exc:
        listener.close()
        hint = "is another local cloud running?"
        raise OSError(exc.errno, f"{name} cannot listen on {LOOPBACK}:{port}: {exc.strerror}; {hint}") from exc
    return listener
