"""One port in front of two servers: each connection goes to the one that speaks its protocol, whole and both ways."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from local_cloud.pubsub.shared_port import SharedPorts

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Echo(socketserver.StreamRequestHandler):
    """Sends its name, and then everything back."""

    def handle(self) -> None:
        self.wfile.write(self.server.name)  # type: ignore[attr-defined]  # set below
        while chunk := self.request.recv(1 << 16):
            self.wfile.write(chunk)


def echo(name: bytes) -> socketserver.ThreadingTCPServer:
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo)
    server.daemon_threads = True
    server.name = name  # type: ignore[attr-defined]  # read above
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


@pytest.fixture
def port() -> Iterator[int]:
    servers = {name: echo(name) for name in (b"grpc", b"http")}
    addresses = {name: f"127.0.0.1:{server.server_address[1]}" for name, server in servers.items()}
    shared = SharedPorts("a test", grpc={"owner": addresses[b"grpc"]}, http={"owner": addresses[b"http"]})
    shared.start()
    yield int(shared.address.rpartition(":")[2])
    shared.close()
    for server in servers.values():
        server.shutdown()
        server.server_close()


def conversation(port: int, *pieces: bytes) -> bytes:
    """Everything that comes back for pieces that are sent one after the other."""
    sent, back = b"".join(pieces), b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:

        def send() -> None:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.05)

        sending = threading.Thread(target=send)
        sending.start()
        while len(back) < len(sent) + 4:
            chunk = connection.recv(1 << 16)
            assert chunk, "hung up early"
            back += chunk
        sending.join()
    return back


@pytest.mark.parametrize(
    ("server", "pieces"),
    [
        (b"grpc", [PREFACE]),
        (b"grpc", [b"P", b"R", b"I" + PREFACE[3:]]),
        (b"http", [b"GET / HTTP/1.1\r\n\r\n"]),
        (b"http", [b"P", b"OST / HTTP/1.1\r\n\r\n"]),
        (b"http", [b"PUT / HTTP/1.1\r\n\r\n" + b"x" * 3_000_000]),
        (b"grpc", [PREFACE + b"\x00" * 3_000_000]),
    ],
)
def test_the_first_bytes_tell_who_serves_a_connection(port: int, server: bytes, pieces: list[bytes]) -> None:
    assert conversation(port, *pieces) == server + b"".join(pieces)


def test_a_client_that_hangs_up_at_once_disturbs_no_other_client(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), timeout=10).close()
    assert conversation(port, PREFACE) == b"grpc" + PREFACE


def test_a_port_that_is_taken_is_refused(port: int) -> None:
    with pytest.raises(OSError, match="is another local cloud running"):
        SharedPorts("a test", grpc={"owner": "127.0.0.1:1"}, http={"owner": "127.0.0.1:1"}, port=port)
