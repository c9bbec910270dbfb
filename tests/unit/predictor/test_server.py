"""When a thread of the server stays with a connection that it has answered, without a server."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from predictor.server import Worker


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Of a connection: the server's and the client's."""
    server, client = socket.socketpair()
    with server, client:
        yield server, client


@pytest.fixture
def worker() -> Worker:
    made = Worker.__new__(Worker)
    made.alive, made.nr_conns, made.cfg = True, 8, SimpleNamespace(threads=10)
    return made


def connection(sock: socket.socket, read_ahead: bytes = b"") -> Any:
    unreader = SimpleNamespace(buf=io.BytesIO(read_ahead))
    return SimpleNamespace(sock=sock, parser=SimpleNamespace(unreader=unreader))


def test_a_thread_stays_for_the_next_request_of_its_client(worker: Worker, ends: Any) -> None:
    server, client = ends
    client.sendall(b"POST")
    assert worker._asks_again(connection(server)) is True


def test_a_client_who_asks_nothing_is_given_back(worker: Worker, ends: Any) -> None:
    assert worker._asks_again(connection(ends[0])) is False


@pytest.mark.parametrize("change", [{"nr_conns": 9}, {"alive": False}], ids=["others may wait", "the end"])
def test_a_thread_does_not_stay(worker: Worker, ends: Any, change: dict[str, Any]) -> None:
    server, client = ends
    client.sendall(b"POST")
    for name, value in change.items():
        setattr(worker, name, value)
    assert worker._asks_again(connection(server)) is False


def test_what_was_read_ahead_is_left_to_gunicorn(worker: Worker, ends: Any) -> None:
    assert worker._asks_again(connection(ends[0], b"POST")) is False
