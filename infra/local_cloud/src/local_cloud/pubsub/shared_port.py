"""Two protocols on one port, as Google's emulator of Pub/Sub has it: gRPC and, for what speaks HTTP/1.1, REST.

The first bytes of a connection tell: those of gRPC are HTTP/2's preface.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import threading
from collections.abc import Mapping

from local_cloud.http import LOOPBACK

_PREFACE = b"PRI"
_CHUNK = 1 << 16
_CLOSE_SECONDS = 5.0


class SharedPorts:
    """A port for each caller, in front of a gRPC server and an HTTP server ("host:port") of the caller's own.

    `address` is that of the first caller, `addresses` those of all. Raises OSError where `port` is taken.
    """

    def __init__(self, name: str, *, grpc: Mapping[str, str], http: Mapping[str, str], port: int = 0) -> None:
        self._grpc = grpc
        self._http = http
        self._listeners: dict[str, socket.socket] = {}
        try:
            for caller in grpc:
                self._listeners[caller] = _bound(0 if self._listeners else port)
        except OSError as exc:
            self._close_listeners()
            raise OSError(
                exc.errno, f"{name} cannot listen on {LOOPBACK}:{port}: is another local cloud running?"
            ) from exc
        self.addresses: Mapping[str, str] = {
            caller: f"{LOOPBACK}:{listener.getsockname()[1]}" for caller, listener in self._listeners.items()
        }
        self.address = next(iter(self.addresses.values()))
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), name=f"{self._name}-port")
        self._thread.daemon = True
        self._thread.start()
        ready.wait()

    def close(self) -> None:
        """Hang up on everyone. Closing twice, or without a start, is harmless."""
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(_CLOSE_SECONDS)
        self._close_listeners()

    def _close_listeners(self) -> None:
        for listener in self._listeners.values():
            listener.close()

    async def _serve(self, ready: threading.Event) -> None:
        """Accept until `close`; what is connected then is cancelled with the loop."""
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        accepting = [
            await asyncio.start_server(functools.partial(self._accept, caller), sock=listener)
            for caller, listener in self._listeners.items()
        ]
        ready.set()
        await self._stopping.wait()
        for each in accepting:
            each.close()

    async def _accept(self, caller: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await self._join(caller, reader, writer)
        finally:
            writer.close()

    async def _join(self, caller: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.read(_CHUNK)
        # A connection's first bytes may come one by one.
        while head and len(head) < len(_PREFACE) and _PREFACE.startswith(head) and (more := await reader.read(_CHUNK)):
            head += more
        host, _, port = (self._grpc if head.startswith(_PREFACE) else self._http)[caller].rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        far_writer.write(head)
        try:
            # Either end that hangs up ends both.
            pumps = [asyncio.create_task(_pump(reader, far_writer)), asyncio.create_task(_pump(far_reader, writer))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            far_writer.close()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while chunk := await source.read(_CHUNK):
        target.write(chunk)
        await target.drain()


def _bound(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # A server that was just stopped leaves its port in TIME_WAIT, which is no reason to refuse the next one.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError:
        listener.close()
        raise
    return listener
