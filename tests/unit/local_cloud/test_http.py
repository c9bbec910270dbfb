"""The HTTP server: closed when it says so, whatever its connections and workers are doing."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from local_cloud.http import HttpServer


def answer(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


def test_closing_hangs_up_on_connections_that_are_kept_alive() -> None:
    server = HttpServer(answer, name="test").start()
    connection = http.client.HTTPConnection(server.address, timeout=5)
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"ok"
    begun = time.monotonic()
    server.close()

    assert time.monotonic() - begun < 10
    assert connection.sock.recv(1) == b""
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)


def test_closing_twice_and_closing_what_never_started_is_harmless() -> None:
    never = HttpServer(answer, name="test")
    never.close()
    once = HttpServer(answer, name="test").start()
    once.close()
    once.close()


def test_a_port_can_be_taken_over_at_once_and_not_before() -> None:
    first = HttpServer(answer, name="first").start()
    with pytest.raises(OSError, match=f"second cannot listen on 127.0.0.1:{first.port}"):
        HttpServer(answer, name="second", port=first.port)
    first.close()

    HttpServer(answer, name="second", port=first.port).close()


def test_a_worker_that_outlives_its_server_does_no_harm() -> None:
    entered, release = threading.Event(), threading.Event()
    ended = threading.Event()

    def hang(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        entered.set()
        release.wait(10)
        ended.set()
        return answer(environ, start_response)

    server = HttpServer(hang, name="test").start()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=5)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert entered.wait(5)
    server.close()
    release.set()

    # What goes wrong in a thread fails this test through pytest's own unhandled-exception warning.
    assert ended.wait(5)
    assert connection.recv(1) == b""
    connection.close()


def test_a_server_answers_beside_hundreds_of_connections_and_open_files() -> None:
    with contextlib.ExitStack() as opened:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, most), most))
        for _ in range(1024):
            opened.enter_context(Path(os.devnull).open("rb"))
        server = HttpServer(answer, name="crowded").start()
        opened.callback(server.close)
        for _ in range(150):
            connection = http.client.HTTPConnection(server.address, timeout=10)
            opened.callback(connection.close)
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"ok"
